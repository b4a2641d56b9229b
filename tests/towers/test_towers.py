"""What every tower promises, and what the options of each do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sharding import MeshShape, make_mesh, path_name, put_batch
from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Encoder
from mmjax.towers.pooling import AttentionPool
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import BagOfPieces, TextTransformer
from mmjax.towers.vit import ViT

ENCODER = Encoder(depth=2, heads=2)
CAUSAL = Encoder(depth=2, heads=2, causal=True)
VIT = dict(width=16, patch=8, embed=8, encoder=ENCODER)
TEXT = dict(vocab=64, length=12, width=16, embed=8)
IMAGE_TOWERS = {
    "vit": ViT(**VIT),
    "vit_class": ViT(**VIT, pool="class", norm_before=True, patch_bias=False),
    "vit_map": ViT(**VIT, pool="map"),
    "vit_rope": ViT(
        **VIT | {"encoder": ENCODER.clone(qk_norm=True, layer_scale=0.5, activation="gelu")},
        pool=AttentionPool(heads=4),
        positions="learned+rope",
        class_token=True,
        registers=2,
        projection="affine",
    ),
    "vit_fixed": ViT(**VIT, positions="sincos2d", norm_pooled=True),
    "resnet": ResNet(depths=(1, 1), width=8, embed=8),
    "vit_heads": ViT(**VIT | {"encoder": ENCODER.clone(head_width=4, mlp=24, activation="quick_gelu")}),
    "conv": ConvNet(widths=(8, 16), hidden=16, embed=8, dropout=0.5),
}
TEXT_TOWERS = {
    "causal": TextTransformer(**TEXT, encoder=CAUSAL),
    "bidirectional": TextTransformer(**TEXT, encoder=ENCODER, pool="mean"),
    "last": TextTransformer(**TEXT, encoder=ENCODER, pool="last", projection="affine", pad=None),
    "map": TextTransformer(**TEXT, encoder=ENCODER, pool="map"),
    "bag": BagOfPieces(vocab=64, width=16, embed=8),
}
TOWERS = IMAGE_TOWERS | TEXT_TOWERS


@functools.cache
def inputs(name):
    rng = np.random.default_rng(0)
    if name in IMAGE_TOWERS:
        side = 32 if name == "resnet" else 16
        return rng.normal(size=(8, side, side, 3)).astype(np.float32)
    tokens = rng.integers(2, 64, (8, 12), dtype=np.int32)
    for row, length in enumerate(rng.integers(3, 11, 8)):
        tokens[row, length:] = [1, *[0] * (11 - length)]
    return tokens


@functools.cache
def variables(name):
    """Random weights in the shapes of the tower's own: drawing those takes long to compile."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        middle = 1.0 if path_name(path).endswith(("scale", "var")) else 0.0
        return rng.normal(middle, 0.2, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(TOWERS[name].init, jax.random.key(0), inputs(name))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def apply(tower, variables, x):
    return jax.jit(tower.apply)(variables, x)


@functools.cache
def encoded(name):
    with jax.numpy_dtype_promotion("strict"):
        return apply(TOWERS[name], variables(name), inputs(name))


def with_encoder(tower, **fields):
    return tower.clone(encoder=tower.encoder.clone(**fields))


@pytest.mark.parametrize("name", TOWERS)
def test_towers_give_an_embedding_and_tokens(name):
    embedding_BE, tokens_BSD = encoded(name)
    assert embedding_BE.shape == (8, 8)
    assert tokens_BSD.ndim == 3 and len(tokens_BSD) == 8
    assert np.isfinite(embedding_BE).all()


@pytest.mark.parametrize(
    "name", ["vit_class", "vit_map", "vit_rope", "resnet", "conv", "causal", "bidirectional", "bag"]
)
def test_bfloat16_is_for_computation_alone(name):
    tower, x = TOWERS[name], inputs(name)
    low = (
        with_encoder(tower, dtype="bfloat16") if hasattr(tower, "encoder") else tower.clone(dtype="bfloat16")
    )
    assert low.dtype == "bfloat16"
    assert jax.eval_shape(low.init, jax.random.key(0), x) == jax.eval_shape(
        tower.init, jax.random.key(0), x
    )  # float32, too
    out = apply(low, variables(name), x).embedding_BE
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(encoded(name).embedding_BE)
    # bfloat16 keeps 8 bits, and the towers are a dozen operations deep.
    assert np.abs(out.astype(np.float32) - exact).max() < 0.04 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["vit_map", "conv", "causal", "bag"])
def test_embeddings_do_not_depend_on_the_mesh(name):
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        spread = apply(TOWERS[name], variables(name), put_batch(mesh, inputs(name)))
    np.testing.assert_allclose(spread.embedding_BE, encoded(name).embedding_BE, rtol=1e-4, atol=1e-5)


def unscanned(params):
    """The same parameters with one subtree a layer in place of a leading layer axis."""
    return {
        f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(ENCODER.depth)
    }


def test_scan_and_remat_change_neither_outputs_nor_gradients():
    rng = np.random.default_rng(2)
    x_BSD, mask_BS = rng.normal(size=(4, 6, 16)).astype(np.float32), rng.uniform(size=(4, 6)) < 0.7
    params = variables("bidirectional")["params"]["encoder"]

    def value_and_gradient(encoder, params):
        def loss(params):
            return jnp.mean(encoder.apply({"params": params}, x_BSD, mask_BS) ** 2)

        return jax.jit(jax.value_and_grad(loss))(params)

    expected, flat_gradient = value_and_gradient(ENCODER.clone(scan=False), unscanned(params))
    for remat in ("none", "full", "dots"):
        value, gradient = value_and_gradient(ENCODER.clone(remat=remat), params)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
            unscanned(gradient),
            flat_gradient,
        )


@pytest.mark.parametrize("name", [name for name in TEXT_TOWERS if name != "last"])
def test_padding_does_not_change_a_text(name):
    longest = int((inputs(name) != 0).sum(axis=1).max())
    assert longest < 12
    short = apply(TOWERS[name], variables(name), inputs(name)[:, :longest])
    np.testing.assert_allclose(short.embedding_BE, encoded(name).embedding_BE, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["causal", "bidirectional"])
def test_a_causal_tower_sees_no_later_token_and_a_bidirectional_one_does(name):
    tokens = np.full((8, 12), 5, np.int32)
    changed = tokens.copy()
    changed[:, 8] = 7
    run = jax.jit(TOWERS[name].apply)
    before, after = (run(variables(name), t).tokens_BSD[:, :8] for t in (tokens, changed))
    assert np.allclose(before, after) == (name == "causal")


def test_causal_tower_pools_the_end_of_text():
    end_B = (inputs("causal") == 1).argmax(axis=1)
    pooled_BD = np.asarray(encoded("causal").tokens_BSD)[np.arange(8), end_B]
    head = variables("causal")["params"]["head"]["kernel"]
    np.testing.assert_allclose(pooled_BD @ head, encoded("causal").embedding_BE, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bag", "causal"])
def test_a_bag_of_pieces_is_blind_to_order_and_a_transformer_is_not(name):
    swapped = inputs(name).copy()
    swapped[:, :2] = swapped[:, 1::-1]
    other = apply(TOWERS[name], variables(name), swapped).embedding_BE
    assert np.allclose(encoded(name).embedding_BE, other, atol=1e-5) == (name == "bag")


def test_patches_are_read_as_a_strided_convolution():
    """Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1: window and stride are `patch`."""
    run = functools.partial(TOWERS["vit"].apply, capture_intermediates=True, mutable="intermediates")
    _, found = jax.jit(run)(variables("vit"), inputs("vit"))
    patch = variables("vit")["params"]["patch"]
    expected = jax.lax.conv_general_dilated(
        inputs("vit"),
        patch["kernel"].reshape(8, 8, 3, 16),
        (8, 8),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    (patches,) = found["intermediates"]["patch"]["__call__"]
    np.testing.assert_allclose(patches, expected.reshape(8, 4, 16) + patch["bias"], rtol=1e-4, atol=1e-5)


def test_dropout_needs_training_and_a_key():
    tower, weights, image = TOWERS["conv"], variables("conv"), inputs("conv")
    quiet = apply(tower, weights, image).embedding_BE
    np.testing.assert_array_equal(quiet, encoded("conv").embedding_BE)
    run = jax.jit(lambda key: tower.apply(weights, image, train=True, rngs={"dropout": key}).embedding_BE)
    noisy = [run(jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.allclose(noisy[0], noisy[2]) and not np.allclose(noisy[0], quiet)


def test_dropout_of_a_bag_hides_whole_pieces():
    tower = TOWERS["bag"].clone(dropout=0.5)
    run = jax.jit(lambda key: tower.apply(variables("bag"), inputs("bag"), train=True, rngs={"dropout": key}))
    kept_BSD = np.asarray(run(jax.random.key(0)).tokens_BSD)
    hidden_BS = (kept_BSD == 0).all(axis=2)
    # What stays is scaled up for what is hidden.
    np.testing.assert_allclose(
        kept_BSD[~hidden_BS], 2 * np.asarray(encoded("bag").tokens_BSD)[~hidden_BS], rtol=1e-6
    )
    assert abs(hidden_BS.mean() - 0.5) < 4 * np.sqrt(0.25 / hidden_BS.size)


@pytest.mark.parametrize("stem, stride", [(8, 4), (4, 4), (6, 2), (3, 1), (2, 1)])
def test_the_stem_is_a_strided_convolution(stem, stride):
    tower = ConvNet(widths=(8,), depth=0, stem=stem, stride=stride, hidden=16, embed=8)
    start = jax.jit(tower.init)(jax.random.key(0), inputs("conv"))
    cells = stem // stride
    kernel = np.asarray(start["params"]["stem"]["kernel"]).reshape(cells, cells, stride, stride, 3, 8)
    window = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(stem, stem, 3, 8)
    _, found = jax.jit(functools.partial(tower.apply, capture_intermediates=True))(start, inputs("conv"))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        inputs("conv"), window, (stride, stride), "SAME", dimension_numbers=numbers
    )
    (given,) = found["intermediates"]["stem"]["__call__"]
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_a_stem_of_part_of_a_stride_is_refused():
    with pytest.raises(ValueError, match="stem=6 must be a multiple of stride=4"):
        jax.eval_shape(ConvNet(stem=6).init, jax.random.key(0), inputs("conv"))


@pytest.mark.parametrize(
    "tower", [ViT(**(VIT | dict(patch=7))), ConvNet(stem=5, stride=5)], ids=["vit", "conv"]
)
def test_image_sizes_that_do_not_divide_are_refused(tower):
    with pytest.raises(ValueError, match="16x16 pixels does not divide .* multiples of"):
        jax.eval_shape(tower.init, jax.random.key(0), inputs("vit"))


def test_texts_that_are_too_long_are_refused():
    tower = TextTransformer(**(TEXT | dict(length=8)), encoder=CAUSAL)
    with pytest.raises(ValueError, match="texts of 12 tokens, but the tower has length=8"):
        jax.eval_shape(tower.init, jax.random.key(0), inputs("causal"))
