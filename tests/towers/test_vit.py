"""What each option of the ViT, the encoder and the text tower does to what comes out."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.towers.features import features
from mmjax.towers.layers import Encoder
from mmjax.towers.pooling import AttentionPool
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

IMAGE = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)  # 4 patches of 8 pixels
TEXT = np.random.default_rng(1).integers(2, 32, (8, 6), dtype=np.int32)
TEXT[:4, 3:] = 1, 0, 0  # one end, then padding
ENCODER = Encoder(depth=2, heads=2)


def vit(encoder=ENCODER, **fields):
    return ViT(**dict(width=16, patch=8, embed=8, encoder=encoder) | fields)


def text(encoder=ENCODER, **fields):
    return TextTransformer(**dict(vocab=32, length=6, width=16, embed=8, encoder=encoder) | fields)


def params_of(tower, inputs=IMAGE, seed=0):
    """Weights large enough that every part matters."""
    shapes = jax.eval_shape(tower.init, jax.random.key(0), inputs)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 4, shapes)


def applied(tower, params, x, **kwargs):
    return jax.jit(functools.partial(tower.apply, **kwargs))({"params": params}, x)


def of(tower, params, *names):
    """The image tower's parts of these names, and its own result."""
    return jax.jit(lambda params: features(tower, params, IMAGE, names))(params)


def norm(x, params, eps=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + eps) * params["scale"] + params["bias"]


@pytest.mark.parametrize(
    "fields, prefix, rows",
    [
        (dict(), 0, 4),
        (dict(pool="class"), 1, 5),
        (dict(class_token=True, registers=3), 4, 5),
        (dict(positions="sincos2d", registers=1), 1, None),
        (dict(positions="rope", pool="map"), 0, None),
        (dict(positions="learned+rope", pool=AttentionPool(heads=4), class_token=True), 1, 5),
    ],
)
def test_tokens_are_the_patches_whatever_stands_before_them(fields, prefix, rows):
    tower = vit(**fields)
    params = params_of(tower)
    names = ("encoder/block_-1", "tokens")
    found = jax.eval_shape(lambda params: features(tower, params, IMAGE, names), params)
    assert tower.prefix == prefix
    assert found.by_name["encoder/block_-1"].shape == (8, prefix + 4, 16)
    assert found.by_name["tokens"].shape == (8, 4, 16)
    assert found.encoded.embedding_BE.shape == (8, 8)
    assert ("positions" in params) == (rows is not None)
    assert rows is None or params["positions"].shape == (rows, 16)


@pytest.mark.parametrize("option", ["class_token", "registers"])
def test_the_mean_is_of_the_patches_alone(option):
    tower = vit(**{option: 1})
    params = params_of(tower)
    embedding_BE, tokens_BSD = applied(tower, params, IMAGE)
    expected = tokens_BSD.mean(axis=1) @ params["head"]["kernel"]
    np.testing.assert_allclose(embedding_BE, expected, rtol=1e-4, atol=1e-5)


def test_without_a_pool_every_patch_has_an_embedding():
    tower = vit(pool="none", class_token=True)
    params = params_of(tower)
    embedding_BSE, tokens_BSD = applied(tower, params, IMAGE)
    assert embedding_BSE.shape == (8, 4, 8)
    np.testing.assert_allclose(embedding_BSE, tokens_BSD @ params["head"]["kernel"], rtol=1e-4, atol=1e-5)


def test_the_last_norm_may_come_after_the_pool():
    tower = vit(norm_pooled=True, projection="affine")
    params = params_of(tower)
    found = of(tower, params, "encoder/block_-1", "tokens")
    np.testing.assert_array_equal(found.by_name["tokens"], found.by_name["encoder/block_-1"])
    pooled_BD = norm(np.asarray(found.by_name["tokens"]).mean(axis=1), params["norm"])
    expected = pooled_BD @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(found.encoded.embedding_BE, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make, inputs", [(vit, IMAGE), (text, TEXT)], ids=["image", "text"])
def test_a_tower_without_projection_is_as_wide_as_its_embedding(make, inputs):
    tower = make(embed=16, projection="none")
    params = params_of(tower, inputs)
    assert "head" not in params
    assert jax.eval_shape(tower.apply, {"params": params}, inputs).embedding_BE.shape == (8, 16)
    with pytest.raises(ValueError, match="tower's width, 16, but embed=8; use embed=16 or a projection"):
        params_of(make(projection="none"), inputs)


@pytest.mark.parametrize("pool, where", [("last", [5] * 8), ("eos", [3] * 4 + [5] * 4)])
def test_a_text_is_read_at_its_end_or_at_its_last_position(pool, where):
    tower = text(pool=pool, projection="affine")
    params = params_of(tower, TEXT)
    embedding_BE, tokens_BSD = applied(tower, params, TEXT)
    expected = np.asarray(tokens_BSD)[np.arange(8), where] @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(embedding_BE, expected, rtol=1e-4, atol=1e-5)


def test_the_end_of_a_text_is_the_mark_that_the_tower_is_given():
    tower = text(eos=31)
    tokens = np.where(TEXT == 31, 30, TEXT)
    tokens[:, 2] = 31
    params = params_of(tower, tokens)
    embedding_BE, tokens_BSD = applied(tower, params, tokens)
    expected = tokens_BSD[:, 2] @ params["head"]["kernel"]
    np.testing.assert_allclose(embedding_BE, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "map"])
def test_padding_counts_where_the_tower_has_no_mark_for_it_and_nowhere_else(pool):
    longer = np.pad(TEXT, ((0, 0), (0, 2)))
    for pad in (0, None):
        tower = text(pool=pool, pad=pad, length=8)
        params = params_of(tower, longer)
        short, long = (applied(tower, params, t).embedding_BE for t in (TEXT, longer))
        assert np.allclose(short, long, atol=1e-5) == (pad == 0)


def test_normalised_queries_and_keys_do_not_feel_the_size_of_their_kernels():
    for qk_norm in (True, False):
        tower = vit(ENCODER.clone(qk_norm=qk_norm))
        params = params_of(tower)
        larger = jax.tree_util.tree_map_with_path(
            lambda path, x: 3 * x if {"query", "key"} & {step.key for step in path} else x, params
        )
        run = jax.jit(tower.apply)
        before, after = (run({"params": p}, IMAGE).embedding_BE for p in (params, larger))
        assert np.allclose(before, after, rtol=1e-3, atol=1e-4) == qk_norm


def test_branches_scaled_to_nothing_leave_what_came_in():
    tower = vit(ENCODER.clone(layer_scale=0.0), norm_before=True)
    params = jax.jit(tower.init)(jax.random.key(0), IMAGE)["params"]
    found = of(tower, params, "norm_before", "encoder/block_-1")
    np.testing.assert_array_equal(found.by_name["encoder/block_-1"], found.by_name["norm_before"])
    gain = params["encoder"]["blocks"]["gain_attention"]
    assert gain.shape == (2, 16)


def test_the_width_of_heads_is_free_and_otherwise_divides_the_towers():
    params = params_of(vit(ENCODER.clone(heads=3, head_width=4, mlp=20)))
    blocks = params["encoder"]["blocks"]
    assert blocks["attention"]["query"]["kernel"].shape == (2, 16, 3, 4)
    assert blocks["mlp"]["up"]["kernel"].shape == (2, 16, 20)
    with pytest.raises(ValueError, match="a width of 16 does not divide over 3 heads"):
        params_of(vit(ENCODER.clone(heads=3)))


def test_rotary_positions_need_heads_of_whole_pairs_along_both_axes():
    with pytest.raises(ValueError, match="a head width that divides by 4, got 2"):
        params_of(vit(ENCODER.clone(heads=8), positions="rope"))


@pytest.mark.parametrize("scan", [True, False])
def test_stochastic_depth_skips_branches_of_late_blocks_in_training_alone(scan):
    encoder = Encoder(depth=2, heads=2, drop_path=0.5, scan=scan)
    x_BSD = np.random.default_rng(2).normal(size=(256, 3, 8)).astype(np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), x_BSD)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 4, shapes)
    first = encoder.clone(depth=1)
    inside = variables["params"]
    inside = {"blocks": jax.tree.map(lambda p: p[:1], inside["blocks"])} if scan else inside
    once = np.asarray(applied(first, inside, x_BSD, train=True, rngs={"dropout": jax.random.key(1)}))
    run = jax.jit(lambda key: encoder.apply(variables, x_BSD, train=True, rngs={"dropout": key}))
    twice = np.asarray(run(jax.random.key(2)))
    # A first block never skips; of the second, each of two branches is skipped by half of the examples.
    skipped_B = np.abs(twice - once).max(axis=(1, 2)) < 1e-4
    assert abs(skipped_B.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 256)
    quiet, in_evaluation = (
        jax.jit(e.apply)(variables, x_BSD) for e in (encoder.clone(drop_path=0.0), encoder)
    )
    np.testing.assert_array_equal(in_evaluation, quiet)
    # What stays is scaled up for what is skipped: with both branches the step is twice the first branch's.
    assert not np.allclose(twice, quiet, atol=1e-2)


@pytest.mark.parametrize("positions", ["learned", "learned+rope"])
def test_patch_dropout_keeps_the_class_token_and_the_places_of_the_patches(positions):
    encoder = Encoder(depth=1, heads=2)
    tower = vit(encoder, positions=positions, pool="class", norm_before=True, patch_dropout=0.25)
    params = params_of(tower)
    x_BSD = of(tower, params, "norm_before").by_name["norm_before"]
    whole = jax.jit(encoder.apply)
    angles_BSP = angles(positions)
    possible = []
    for kept in itertools.combinations(range(1, 5), 3):
        mask_BS = jnp.isin(jnp.arange(5), jnp.array((0, *kept)))[None].repeat(8, axis=0)
        y_BSD = whole({"params": params["encoder"]}, x_BSD, mask_BS, angles_BSP=angles_BSP)
        possible.append(norm(np.asarray(y_BSD[:, 0]), params["norm"]) @ params["head"]["kernel"])
    run = jax.jit(lambda key: tower.apply({"params": params}, IMAGE, train=True, rngs={"dropout": key}))
    chosen = set()
    for seed in range(3):
        embedding_BE, tokens_BSD = run(jax.random.key(seed))
        assert tokens_BSD.shape == (8, 3, 16)
        distance_4B = np.abs(np.stack(possible) - embedding_BE).max(axis=2)
        np.testing.assert_array_less(distance_4B.min(axis=0), 1e-4)
        chosen |= set(distance_4B.argmin(axis=0))
    assert chosen == set(range(4))
    whole_picture = jax.eval_shape(tower.apply, {"params": params}, IMAGE)
    assert whole_picture.tokens_BSD.shape == (8, 4, 16)


def angles(positions):
    """[1, 5, 4]: of a class token without a place and 2 x 2 patches, counted from 1; heads are 8 wide."""
    if positions == "learned":
        return None
    places = [(0, 0), (1, 1), (2, 1), (1, 2), (2, 2)]  # column, row
    return jnp.array([[[x, x / 100, y, y / 100] for x, y in places]])
