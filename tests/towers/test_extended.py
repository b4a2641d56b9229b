"""What is put into a tower from outside: where its parameters are, and what the tower then computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.sharding import path_name
from mmjax.towers.conv import ConvNet
from mmjax.towers.extended import Adapters, Extended, extended
from mmjax.towers.layers import Encoder
from mmjax.towers.prompts import Border, Context, Tokens
from mmjax.towers.text import BagOfPieces, TextTransformer
from mmjax.towers.vit import ViT

ENCODER = Encoder(depth=2, heads=2, remat="dots")
TOWERS = {
    "vit": ViT(width=16, patch=8, embed=8, encoder=ENCODER, pool="class", positions="learned+rope"),
    "unrolled": ViT(width=16, patch=8, embed=8, encoder=ENCODER.clone(scan=False)),
    "conv": ConvNet(widths=(4, 8), hidden=8, embed=8),
    "text": TextTransformer(vocab=32, length=8, width=16, embed=8, encoder=ENCODER),
    "bag": BagOfPieces(vocab=32, width=16, embed=8),
}
IMAGE = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
TEXTS = np.array([[2, 3, 4, 5, 6, 1, 0, 0], [2, 7, 7, 9, 1, 0, 0, 0]], np.int32)


def inputs(name):
    return TEXTS if name in ("text", "bag") else IMAGE


@functools.cache
def begun(name, extras):
    """(a tower with extras, its parameters)."""
    tower = Extended(tower=TOWERS[name], extras=extras)
    return tower, jax.jit(tower.init)(jax.random.key(0), inputs(name))["params"]


def by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def without(params, extra):
    """The parameters of the tower alone."""
    if not isinstance(params, dict):
        return params
    return {name: without(x, extra) for name, x in params.items() if name not in extra}


def embedding(tower, params, x, **kwargs):
    return jax.jit(lambda p, x: tower.apply({"params": p}, x, **kwargs))(params, x).embedding_BE


def changed(params, part):
    """With other numbers where a path has `part`."""
    rng = np.random.default_rng(2)

    def other(path, x):
        return x + rng.normal(0, 0.3, x.shape).astype(x.dtype) if part in path_name(path) else x

    return jax.tree_util.tree_map_with_path(other, params)


@pytest.mark.parametrize("name, place", [*((name, "beside") for name in TOWERS), ("conv", "behind")])
def test_adapters_change_nothing_at_first_and_then_do(name, place):
    tower, params = begun(name, (Adapters(width=3, place=place),))
    plain = without(params, ("adapter",))
    expected = embedding(TOWERS[name], plain, inputs(name))
    np.testing.assert_array_equal(embedding(tower, params, inputs(name)), expected)
    later = embedding(tower, changed(params, "/adapter/"), inputs(name))
    assert np.abs(later - expected).max() > 1e-3


def test_adapters_are_in_every_block_of_a_transformer():
    _, scanned = begun("vit", (Adapters(width=3),))
    shapes = {p: x.shape for p, x in by_path(scanned).items() if "/adapter/reduce/kernel" in p}
    assert shapes == {
        f"encoder/blocks/{part}/adapter/reduce/kernel": (2, 16, 3) for part in ("attention", "mlp")
    }
    _, unrolled = begun("unrolled", (Adapters(width=3),))
    found = {p.partition("/adapter")[0] for p in by_path(unrolled) if "/adapter/" in p}
    assert found == {f"encoder/block_{i}/{part}" for i in (0, 1) for part in ("attention", "mlp")}
    # What was drawn differs from layer to layer.
    kernel = by_path(scanned)["encoder/blocks/mlp/adapter/reduce/kernel"]
    assert not np.allclose(kernel[0], kernel[1])


def test_an_adapter_of_a_bag_is_a_bottleneck_beside_its_mlp():
    tower, params = begun("bag", (Adapters(width=3),))
    params = jax.tree.map(np.asarray, changed(params, "/adapter/"))
    pieces = params["pieces"]["embedding"][TEXTS] * (TEXTS != 0)[..., None]
    x = pieces.sum(axis=1) / np.sqrt((TEXTS != 0).sum(axis=1))[:, None]
    y = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)

    def layer(x, name, part):
        return x @ part[name]["kernel"] + part[name]["bias"]

    def mlp(x, part, names):
        return layer(np.asarray(nn.gelu(layer(x, names[0], part))), names[1], part)

    y = y * params["norm"]["scale"] + params["norm"]["bias"]
    adapter = mlp(y, params["mlp"]["adapter"], ("reduce", "expand"))
    expected = layer(x + mlp(y, params["mlp"], ("up", "down")) + adapter, "head", params)
    np.testing.assert_allclose(embedding(tower, params, TEXTS), expected, rtol=1e-4, atol=1e-5)


class Convolved(nn.Module):
    """Nothing but a convolution."""

    @nn.compact
    def __call__(self, image_BHWC):
        return nn.Conv(4, (3, 3), name="conv_1")(image_BHWC)


def test_an_adapter_of_a_convolution_is_one_of_1_x_1():
    """Every cell by itself, with two dense layers."""
    tower = Extended(tower=Convolved(), extras=(Adapters(width=2),))
    params = jax.jit(tower.init)(jax.random.key(0), IMAGE)["params"]
    other = changed(params, "/adapter/")
    before, after = (jax.jit(tower.apply)({"params": p}, IMAGE) for p in (params, other))
    reduce, expand = (other["conv_1"]["adapter"][name] for name in ("reduce", "expand"))
    hidden = np.asarray(nn.gelu(IMAGE @ np.asarray(reduce["kernel"]) + reduce["bias"]))
    expected = hidden @ np.asarray(expand["kernel"]) + expand["bias"]
    np.testing.assert_allclose(after - before, expected, rtol=1e-4, atol=1e-5)


def test_a_border_is_added_to_the_pixels_at_the_edge_alone():
    tower, params = begun("conv", (Border(width=3),))
    params |= {name: x + 0.5 for name, x in params.items() if name.startswith("border")}
    framed = IMAGE + 0.5
    framed[:, 3:-3, 3:-3] = IMAGE[:, 3:-3, 3:-3]
    plain = without(params, ("border_rows", "border_columns"))
    expected = embedding(TOWERS["conv"], plain, framed)
    np.testing.assert_allclose(embedding(tower, params, IMAGE), expected, rtol=1e-5, atol=1e-6)
    size = sum(x.size for p, x in by_path(params).items() if "border" in p)
    assert size == 3 * (16 * 16 - 10 * 10)


@pytest.mark.parametrize("name", ["vit", "unrolled"])
def test_tokens_beside_the_patches_are_attended_to(name):
    """One block whose keys and values are patches and prompts, by the encoder on both side by side."""
    tower, params = begun(name, (Tokens(count=3),))
    x_BSD = np.random.default_rng(1).normal(size=(2, 5, 16)).astype(np.float32)
    encoder, own = TOWERS[name].encoder, params["encoder"]
    prompts_BPD = np.broadcast_to(own["prompts"], (2, 3, 16))
    plain = {"params": without(own, ("prompts",))}
    expected = jax.jit(encoder.apply)(plain, np.concatenate([x_BSD, prompts_BPD], axis=1))[:, :5]
    found = jax.jit(Extended(tower=encoder, extras=tower.extras).apply)({"params": own}, x_BSD)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    shapes = jax.eval_shape(lambda: tower.apply({"params": params}, IMAGE))
    assert shapes.tokens_BSD.shape == (2, 4, 16)


def test_deep_tokens_are_each_blocks_own():
    """The blocks one after the other, the last tokens of each replaced before it."""
    tower, params = begun("unrolled", (Tokens(count=3, deep=True),))
    encoder = Extended(tower=TOWERS["unrolled"].encoder, extras=tower.extras)
    first = jax.jit(encoder.tower.clone(depth=1).apply)
    own = changed(params["encoder"], "prompts")
    x_BSD = np.random.default_rng(1).normal(size=(2, 4, 16)).astype(np.float32)
    expected = x_BSD
    for i in range(2):
        one = {"block_0": without(own[f"block_{i}"], ("prompts",))}
        prompts_BPD = np.broadcast_to(own[f"block_{i}"]["prompts"], (2, 3, 16))
        both = np.concatenate([expected, prompts_BPD], axis=1)
        expected = first({"params": one}, both)[:, :4]
    found = jax.jit(encoder.apply)({"params": own}, x_BSD)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    _, scanned = begun("vit", (Tokens(count=3, deep=True),))
    assert by_path(scanned)["encoder/blocks/prompts"].shape == (2, 3, 16)
    assert "encoder/prompts" not in by_path(scanned)


@pytest.mark.parametrize("name", ["text", "bag"])
def test_context_takes_the_place_of_pieces(name):
    """Vectors of the table, learned to be so, say what its pieces say."""
    tower, params = begun(name, (Context(length=2, first=1),))
    assert params["context"].shape == (2, 16)
    params = params | {"context": params["pieces"]["embedding"][np.array([11, 12])]}
    plain, other = without(params, ("context",)), TEXTS.copy()
    other[:, 1:3] = 11, 12
    expected = embedding(TOWERS[name], plain, other)
    np.testing.assert_allclose(embedding(tower, params, TEXTS), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: tower.apply({"params": p}, TEXTS).embedding_BE[:, 0].sum()))(params)
    assert np.all(np.abs(gradient["context"]).max(axis=1) > 0)


def test_several_extras_are_together_in_a_tower():
    tower = extended(extended(TOWERS["vit"], (Adapters(width=3),)), (Border(width=2), Adapters(width=3)))
    assert tower == Extended(tower=TOWERS["vit"], extras=(Adapters(width=3), Border(width=2)))
    paths = by_path(jax.eval_shape(tower.init, jax.random.key(0), IMAGE)["params"])
    assert "border_rows" in paths and "encoder/blocks/mlp/adapter/expand/bias" in paths
    with pytest.raises(ValueError, match="has .*Adapters.width=3.* already; Adapters.width=4"):
        extended(tower, (Adapters(width=4),))


@pytest.mark.parametrize(
    "name, extra, message",
    [
        ("conv", Tokens(), "Tokens.* finds no place in ConvNet: it has head/bias"),
        ("vit", Adapters(parts="none"), "parts='none'.* finds no place in ViT"),
        ("text", Tokens(), "are for pictures, not for texts"),
        ("bag", Border(), "needs pictures of more than 8 pixels a side, but the tower's inputs are \\[8\\]"),
        ("vit", Border(width=8), "needs pictures of more than 16 pixels a side"),
    ],
)
def test_an_extra_without_a_place_is_refused(name, extra, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Extended(tower=TOWERS[name], extras=(extra,)).init, jax.random.key(0), inputs(name))


@pytest.mark.parametrize(
    "make", [lambda: Adapters(width=0), lambda: Border(width=0), lambda: Tokens(count=0)]
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ValueError, match="=0 must be 1 or more"):
        make()


def test_bfloat16_towers_have_bfloat16_adapters():
    tower = Extended(
        tower=TOWERS["vit"].clone(encoder=ENCODER.clone(dtype="bfloat16")),
        extras=(Adapters(width=3), Tokens(count=2), Border(width=2)),
    )
    params = jax.eval_shape(tower.init, jax.random.key(0), IMAGE)["params"]
    found = jax.eval_shape(lambda p: tower.apply({"params": p}, IMAGE), params)
    assert found.tokens_BSD.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
