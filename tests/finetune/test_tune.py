"""What of a tower is trained, and how it becomes the tower again."""

import jax
import numpy as np
import pytest

from mmjax.finetune.tune import Full, Lora, Part
from mmjax.sharding import path_name
from mmjax.towers.layers import Encoder
from mmjax.towers.vit import ViT

TOWER = ViT(width=16, patch=8, embed=8, encoder=Encoder(depth=2, heads=2))
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return {"image": jax.jit(TOWER.init)(jax.random.key(0), IMAGES)["params"]}


def paths(tree):
    return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def merged(tune, params, change=0.0):
    """The tower after every trained number was changed by so much."""
    start, fixed = tune.start(params), tune.fixed(params)
    trained = jax.tree.map(lambda x: x + change, tune.begin(jax.random.key(1), start, fixed))
    return trained, tune.merged(trained, fixed)


@pytest.mark.parametrize("tune", [Full(), Part(), Part(pattern="bias$"), Lora()], ids=str)
def test_nothing_changes_at_first_and_no_parameter_is_lost(tune, params):
    jax.tree.map(np.testing.assert_array_equal, merged(tune, params)[1], params)


def test_a_part_is_all_that_is_trained(params):
    trained, after = merged(Part(pattern="bias$"), params, change=1.0)
    assert paths(trained) == {path for path in paths(params) if path.endswith("bias")}
    for path, x in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, after, params)):
        assert np.allclose(x, 1.0 if path_name(path).endswith("bias") else 0.0)
    assert merged(Part(), params)[0] == {}


def test_low_rank_changes_are_trained_of_the_named_kernels_alone(params):
    trained, after = merged(Lora(pattern="(query|up)/kernel$", rank=2), params, change=0.1)
    changed = {
        path_name(path)
        for path, x in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, after, params))
        if np.any(x)
    }
    named = {path for path in paths(params) if path.endswith(("query/kernel", "up/kernel"))}
    assert changed == named
    assert paths(trained) == {f"lora/{path}/{factor}" for path in named for factor in "ab"}


@pytest.mark.parametrize("kernel, axes", [("query/kernel", 1), ("attention/out/kernel", 2), ("up/kernel", 1)])
def test_a_merged_layer_is_the_layer_and_the_low_rank_path_beside_it(kernel, axes, params):
    """y = x W + scale / rank (x A) B in float64, layer by layer."""
    trained, after = merged(Lora(pattern=f"{kernel}$", rank=3, scale=6.0), params, change=0.1)
    (w_LIO,), (merged_LIO,), (a_LIR, b_LRO) = (named(tree, kernel) for tree in (params, after, trained))
    rng = np.random.default_rng(1)
    for layer in range(2):
        inputs = np.prod(w_LIO.shape[1 : 1 + axes])
        x_BI = rng.normal(size=(5, inputs))
        beside = x_BI @ w_LIO[layer].reshape(inputs, -1) + 2.0 * (x_BI @ a_LIR[layer]) @ b_LRO[layer]
        np.testing.assert_allclose(x_BI @ merged_LIO[layer].reshape(inputs, -1), beside, atol=1e-6)


def named(tree, part):
    """Leaves whose path has a part, in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [np.asarray(x, np.float64) for path, x in leaves if f"/{part}" in f"/{path_name(path)}"]


def test_a_convolution_can_be_changed_too():
    kernel = np.ones((3, 3, 4, 5), np.float32)
    trained, after = merged(Lora(pattern="kernel$", rank=1, scale=1.0), {"image": {"kernel": kernel}}, 1.0)
    a, b = trained["lora"]["image"]["kernel"]["a"], trained["lora"]["image"]["kernel"]["b"]
    assert a.shape == (36, 1) and b.shape == (1, 5)
    np.testing.assert_allclose(after["image"]["kernel"].reshape(36, 5), 1 + a @ b, rtol=1e-6)


@pytest.mark.parametrize("tune", [Part(pattern="none"), Lora(pattern="none")], ids=str)
def test_a_pattern_that_names_nothing_is_refused(tune, params):
    with pytest.raises(ValueError, match="tune.pattern='none' matches none of the parameters"):
        merged(tune, params)


def test_impossible_ranks_are_refused():
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        Lora(rank=0)
