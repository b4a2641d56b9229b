"""Weights and activations as 8-bit integers, against arithmetic in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import quickstart
from mmjax.contrastive.step import init_state
from mmjax.finetune import int8
from mmjax.sharding import path_name
from mmjax.towers.conv import ConvNet
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Encoder
from mmjax.towers.text import BagOfPieces
from mmjax.towers.vit import ViT

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(2, 50, (3, 8)).astype(np.int32)
TOWERS = {
    "vit": (ViT(width=16, patch=8, embed=8, pool="map", encoder=Encoder(depth=2, heads=2)), IMAGES),
    "conv": (ConvNet(widths=(8, 16), hidden=32, embed=8), IMAGES),
    "bag": (BagOfPieces(vocab=50, width=16, embed=8), TOKENS),
}


@functools.cache
def begun(name):
    """A tower, its inputs, and random parameters."""
    tower, inputs = TOWERS[name]
    shapes = jax.eval_shape(tower.init, jax.random.key(0), inputs)["params"]
    rng = np.random.default_rng(1)
    return tower, inputs, jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)


def apply(module, params, inputs):
    return module.apply({"params": params}, inputs)


def embedded(tower, params, inputs, activations=None):
    """Float64 embeddings; None computes with float32 weights."""
    function = functools.partial(apply, tower)
    if activations is not None:
        function, params = int8.computing(function, activations), jax.jit(int8.quantised)(params)
    return np.asarray(jax.jit(function)(params, inputs).embedding_BE, np.float64)


def rounded(x, axes):
    """(whole numbers, scale) in float64, from the definition."""
    x = np.asarray(x, np.float64)
    scale = np.abs(x).max(axis=axes, keepdims=True) / 127
    return np.rint(x / np.where(scale == 0, 1, scale)), scale


@pytest.mark.parametrize(
    "path, shape, scales",
    [
        ("image/patch/kernel", (12, 16), (1, 16)),
        ("image/encoder/blocks/attention/query/kernel", (2, 16, 4, 8), (2, 1, 4, 8)),
        ("image/encoder/blocks/attention/out/kernel", (2, 4, 8, 16), (2, 1, 1, 16)),
        ("image/encoder/block_1/mlp/up/kernel", (16, 32), (1, 32)),
        ("image/stem/kernel", (3, 3, 4, 8), (1, 1, 1, 8)),
        ("text/pieces/embedding", (50, 16), (50, 1)),
    ],
)
def test_each_output_of_each_layer_and_each_row_of_a_table_has_a_scale(path, shape, scales):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tree = functools.reduce(lambda inside, name: {name: inside}, reversed(path.split("/")), x)
    found = jax.tree.leaves(int8.quantised(tree), is_leaf=lambda x: "int8" in x)[0]
    shared = tuple(axis for axis, count in enumerate(scales) if count == 1)
    values, scale = rounded(x, shared)
    assert found["int8"].dtype == np.int8 and found["scale"].shape == scales
    np.testing.assert_array_equal(found["int8"], values)
    np.testing.assert_allclose(found["scale"], scale, rtol=1e-6)


def test_what_weights_stand_for_is_half_a_step_away_at_most():
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    x[:, 3] = 0
    tree = int8.quantised({"head": {"kernel": x}})
    error = np.abs(int8.floats(tree)["head"]["kernel"] - x)
    assert (error <= np.abs(x).max(axis=0) / 254 * (1 + 1e-6)).all() and not error[:, 3].any()


@pytest.mark.parametrize("name", TOWERS)
def test_kernels_and_tables_become_integers_and_all_else_stays(name):
    _, _, params = begun(name)
    found = jax.tree_util.tree_leaves_with_path(jax.eval_shape(int8.quantised, params))
    after = {path_name(path): (x.shape, x.dtype) for path, x in found}
    for key_path, x in jax.tree_util.tree_leaves_with_path(params):
        path = path_name(key_path)
        if path.endswith(("kernel", "embedding")):
            assert after[f"{path}/int8"] == (x.shape, np.int8) and path not in after
        else:
            assert after[path] == (x.shape, np.float32)


def test_what_is_named_to_stay_stays_and_so_does_the_objective():
    kernel = {"kernel": np.ones((2, 2), np.float32)}
    found = int8.quantised(
        {"image": {"head": kernel, "stem": kernel}, "objective": kernel}, keep="image/head"
    )
    assert found["image"]["head"] is not kernel and found["image"]["head"]["kernel"] is kernel["kernel"]
    assert found["objective"]["kernel"] is kernel["kernel"]
    assert found["image"]["stem"]["kernel"]["int8"].dtype == np.int8


@pytest.mark.parametrize("name", TOWERS)
def test_the_integers_are_found_again_in_what_they_stand_for(name):
    once = jax.jit(int8.quantised)(begun(name)[2])
    again = jax.jit(lambda params: int8.quantised(int8.floats(params)))(once)
    for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(x, y, rtol=0 if x.dtype == np.int8 else 2.5e-7)


def test_int8_weights_take_little_over_a_quarter_of_the_bytes():
    cfg = quickstart.get_config()
    params = jax.eval_shape(lambda: init_state(cfg, 8)["params"])
    before, after = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (params, jax.eval_shape(int8.quantised, params))
    )
    assert 0.25 < after / before < 0.26


def test_weights_alone_are_multiplied_in_float32():
    tower, inputs, params = begun("vit")
    expected = embedded(tower, jax.jit(lambda x: int8.floats(int8.quantised(x)))(params), inputs)
    np.testing.assert_allclose(embedded(tower, params, inputs, "none"), expected, rtol=1e-5, atol=1e-5)


def in_integers(module, kernel, x):
    """The module's output for a kernel without a bias, its products those of integers."""
    params = {"kernel": np.float32(kernel), "bias": np.zeros(kernel.shape[-1], np.float32)}
    function = int8.computing(functools.partial(apply, module), "int8")
    return np.asarray(function(int8.quantised(params), x))


@pytest.mark.parametrize("module", [Dense(6), nn.Dense(6)], ids=["ours", "flax"])
def test_a_dense_layer_sums_products_of_integers(module):
    rng = np.random.default_rng(0)
    x_BSI, kernel_IO = rng.normal(size=(3, 4, 20)).astype(np.float32), rng.normal(size=(20, 6))
    (x_int, x_scale), (kernel_int, kernel_scale) = rounded(x_BSI, -1), rounded(np.float32(kernel_IO), 0)
    expected = x_int @ kernel_int * x_scale * kernel_scale
    np.testing.assert_allclose(in_integers(module, kernel_IO, x_BSI), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_sums_products_of_integers(stride):
    rng = np.random.default_rng(0)
    x_BHWC, kernel_HWCO = rng.normal(size=(2, 7, 7, 4)).astype(np.float32), rng.normal(size=(3, 3, 4, 5))
    x_int, x_scale = rounded(x_BHWC, (1, 2, 3))
    kernel_int, kernel_scale = rounded(np.float32(kernel_HWCO), (0, 1, 2))
    windows = np.lib.stride_tricks.sliding_window_view(x_int, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    expected = np.einsum("bhwcij,ijco->bhwo", windows, kernel_int) * x_scale * kernel_scale
    module = nn.Conv(5, (3, 3), (stride, stride), padding="VALID")
    np.testing.assert_allclose(in_integers(module, kernel_HWCO, x_BHWC), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, products", [("vit", 14), ("conv", 8), ("bag", 3)])
def test_every_product_with_weights_is_one_of_integers(name, products):
    """Of a scanned encoder that is one for each of its six kernels, whatever its depth."""
    tower, inputs, params = begun(name)
    function = int8.computing(functools.partial(apply, tower), "int8")
    text = function.lower(jax.eval_shape(int8.quantised, params), inputs).as_text()
    found = re.findall(r"stablehlo\.(?:dot_general|convolution).*: \((.*?)\) ->", text)
    assert sum("xi8>" in types for types in found) == products


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_says_almost_the_same_in_integers(name):
    tower, inputs, params = begun(name)
    expected = embedded(tower, params, inputs)
    for activations in ("none", "int8"):
        found = embedded(tower, params, inputs, activations)
        assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_integers_are_found_of_a_tower_in_bfloat16():
    """What is rounded to bfloat16 on the way are activations, not the weights."""
    module = nn.Conv(4, (2, 2), padding="VALID", dtype=jnp.bfloat16)
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(-127, 128, (2, 4, 4, 3)).astype(np.float32), rng.normal(size=(2, 2, 3, 4))
    x[:, 0, 0, 0] = 127
    float32 = in_integers(nn.Conv(4, (2, 2), padding="VALID"), kernel, x)
    found = in_integers(module, kernel, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, float32.astype(jnp.bfloat16))


@pytest.mark.parametrize("name", ["vit", "conv"])
def test_an_example_does_not_depend_on_its_batch(name):
    tower, inputs, params = begun(name)
    loud = np.concatenate([inputs[:1], 50 * inputs[1:]])
    alone, beside = (embedded(tower, params, x, "int8")[0] for x in (inputs, loud))
    np.testing.assert_allclose(alone, beside, rtol=1e-5, atol=1e-6)


def test_layers_that_are_scanned_say_what_unrolled_ones_say():
    tower, inputs, params = begun("vit")
    blocks = params["encoder"]["blocks"]
    apart = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(2)}
    unrolled = tower.clone(encoder=Encoder(depth=2, heads=2, scan=False))
    expected = embedded(unrolled, params | {"encoder": apart}, inputs, "int8")
    np.testing.assert_allclose(embedded(tower, params, inputs, "int8"), expected, rtol=1e-4, atol=1e-5)
