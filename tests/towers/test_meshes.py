"""Whatever the mesh: the same loss, the same gradients, for every option of every tower, in training.

One device decides; dropout, dropped patches and skipped branches are drawn alike on any mesh.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.sharding import MeshShape
from mmjax.towers.batch_norm import apply_in_training
from mmjax.towers.conv import ConvNet
from mmjax.towers.extended import Adapters, Extended
from mmjax.towers.layers import Encoder
from mmjax.towers.pooling import AttentionPool
from mmjax.towers.prompts import Border, Tokens
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import BagOfPieces, TextTransformer
from mmjax.towers.vit import ViT

# Kernels of 4,096 numbers and more, which are split; 8 heads of more than the tower's width.
ENCODER = Encoder(depth=2, heads=8, head_width=16)
NOISY = ENCODER.clone(
    qk_norm=True, layer_scale=0.5, drop_path=0.3, dropout=0.1, remat="dots", activation="quick_gelu"
)
VIT = dict(width=32, patch=8, embed=32)
TEXT = dict(vocab=128, length=8, width=32, embed=32)
TOWERS = {
    "vit_all": ViT(
        **VIT,
        encoder=NOISY,
        pool=AttentionPool(heads=4),
        positions="learned+rope",
        class_token=True,
        registers=2,
        patch_dropout=0.5,
        norm_before=True,
        patch_bias=False,
        projection="affine",
    ),
    "vit_mean": ViT(
        **VIT,
        encoder=ENCODER.clone(scan=False, activation="gelu", mlp=96),
        positions="sincos2d",
        class_token=True,
        norm_pooled=True,
    ),
    "vit_map": ViT(**VIT, encoder=ENCODER, pool="map", positions="rope", projection="none"),
    "vit_odd": ViT(**VIT, encoder=ENCODER.clone(heads=3, head_width=64, mlp=100)),  # divide by no tensor
    "vit_class": ViT(**VIT, encoder=ENCODER.clone(remat="full"), pool="class"),
    "vit_none": ViT(**VIT, encoder=ENCODER, pool="none"),
    "vit_extended": Extended(
        tower=ViT(**VIT, encoder=ENCODER),
        # Kernels of 4,096 numbers: these are split, too.
        extras=(Adapters(width=128), Tokens(count=3, deep=True), Border(width=2)),
    ),
    "resnet": ResNet(depths=(1, 2, 1, 1), width=8, embed=32),
    "conv": ConvNet(widths=(16, 32), hidden=32, embed=32, dropout=0.2),
    "text_eos": TextTransformer(**TEXT, encoder=NOISY.clone(causal=True)),
    "text_last": TextTransformer(**TEXT, encoder=ENCODER, pool="last", projection="affine", pad=None),
    "text_mean": TextTransformer(**TEXT, encoder=ENCODER.clone(scan=False), pool="mean", projection="none"),
    "text_map": TextTransformer(**TEXT, encoder=ENCODER, pool="map"),
    "bag": BagOfPieces(vocab=128, width=32, embed=32, dropout=0.2),
}
MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
CASES = [(name, sizes) for name in TOWERS for sizes in MESHES]
# Most options at once, on all axes at once; the others take minutes to compile.
QUICK = [(name, (2, 2, 2)) for name in ("vit_all", "resnet", "text_eos")]
QUICK += [("vit_odd", (1, 1, 8))]


@functools.cache
def inputs(name):
    rng = np.random.default_rng(0)
    if name.startswith(("text", "bag")):
        tokens = rng.integers(2, 128, (8, 8), dtype=np.int32)
        tokens[:5, 4:] = 1, 0, 0, 0
        return tokens
    return rng.normal(size=(8, 32, 32, 3)).astype(np.float32)


@functools.cache
def params(name):
    shapes = jax.eval_shape(TOWERS[name].init, jax.random.key(0), inputs(name))["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        middle = 1.0 if sharding.path_name(path).endswith(("scale", "var")) else 0.0
        return rng.normal(middle, 0.1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def loss_and_gradient(name, params, x):
    def loss(params):
        encoded, _ = apply_in_training(TOWERS[name], params, x, jax.random.key(3))
        z = encoded.embedding_BE
        weights = jnp.cos(jnp.arange(z.size, dtype=jnp.float32)).reshape(z.shape)
        return jnp.mean(z * weights) + jnp.mean(z**2)

    return jax.jit(jax.value_and_grad(loss))(params)


@functools.cache
def alone(name):
    return jax.device_get(loss_and_gradient(name, params(name), inputs(name)))


def check(name, sizes):
    mesh = sharding.make_mesh(MeshShape(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    expected, expected_gradient = alone(name)
    with jax.set_mesh(mesh):
        spread = jax.device_put(params(name), sharding.shardings(mesh, params(name)))
        value, gradient = loss_and_gradient(name, spread, sharding.put_batch(mesh, inputs(name)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))

    def same(path, given, expected):
        # The floor is for what is 0 but for rounding, such as the gradient of a bias before a norm.
        atol = 1e-5 * np.abs(expected).max() + 1e-6 * largest
        name = sharding.path_name(path)
        np.testing.assert_allclose(given, expected, rtol=0, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(same, jax.device_get(gradient), expected_gradient)


@pytest.mark.parametrize("name, sizes", QUICK, ids=str)
def test_loss_and_gradients_do_not_depend_on_the_mesh(name, sizes):
    check(name, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name, sizes", [case for case in CASES if case not in QUICK], ids=str)
def test_nor_do_those_of_any_other_option(name, sizes):
    check(name, sizes)


def test_the_kernels_of_these_towers_are_split_as_those_of_large_ones():
    mesh = sharding.make_mesh(MeshShape(data=1, fsdp=1, tensor=8))
    for name, path in (
        ("vit_all", "encoder/blocks/attention/query/kernel"),
        ("vit_all", "encoder/blocks/mlp/up/kernel"),
        ("vit_odd", "encoder/blocks/attention/query/kernel"),
        ("vit_odd", "encoder/blocks/mlp/down/kernel"),
        ("text_eos", "pieces/embedding"),
    ):
        layout = sharding.shardings(mesh, params(name))
        for step in path.split("/"):
            layout = layout[step]
        assert not layout.is_fully_replicated, path
