"""A CLIP of tiny transformers, for tests that compile gradients many times.

Its weights are drawn by NumPy, and its kernels have the 4,096 numbers from which on a mesh splits them.
"""

import dataclasses
import functools
import math

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmjax import sharding
from mmjax.contrastive import accumulation
from mmjax.contrastive.step import init_state
from mmjax.sharding import MeshShape
from mmjax.towers import Encoded
from mmjax.towers.batch_norm import BatchNorm
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

SIZE, LENGTH, VOCAB = 16, 4, 128
ENCODER = Encoder(depth=2, heads=8, head_width=16)
_MIDDLES = {"log_scale": 2.5, "scale": 1.0, "bias": 0.0}  # of what is drawn, by the end of its path


class Linear(nn.Module):
    """One dense layer, after dropout or batch norm: a tower that compiles fast."""

    dropout: float = 0.0
    is_normed: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        x_BD = jnp.reshape(inputs, (len(inputs), -1)).astype(jnp.float32)
        if self.is_normed:
            x_BD = BatchNorm(name="norm")(x_BD[:, None, None], train=train)[:, 0, 0]
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return Encoded(nn.Dense(8, name="head")(x_BD), x_BD[:, None])


def linear(batch_size=16, *, image=None, **fields):
    """A config of linear towers."""
    return config(batch_size, towers={"image": image or Linear(), "text": Linear()}, **fields)


def config(batch_size=16, *, encoder=ENCODER, patch_dropout=0.0, **fields):
    base = debugrun.config()
    towers = {
        "image": ViT(width=32, patch=8, embed=16, encoder=encoder, patch_dropout=patch_dropout),
        "text": TextTransformer(
            vocab=VOCAB, length=LENGTH, width=32, embed=16, encoder=encoder.clone(causal=True)
        ),
    }
    parts = dict(
        data=dataclasses.replace(base.data, batch_size=batch_size),
        preprocess=dataclasses.replace(base.preprocess, size=SIZE),
        tokenizer=dataclasses.replace(base.tokenizer, length=LENGTH),
    )
    return dataclasses.replace(base, **{"towers": towers, **parts, **fields})


def batch(rows=16):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8),
        "text": rng.integers(2, VOCAB, (rows, LENGTH), dtype=np.int32),
        "id": np.arange(rows, dtype=np.int32),
    }


def params(cfg):
    shapes = jax.eval_shape(lambda: init_state(cfg, 8))["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        middle = _MIDDLES.get(sharding.path_name(path).rpartition("/")[2], 0.0)
        return np.asarray(middle + rng.normal(0, 0.1, leaf.shape), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def mesh_of(sizes):
    shape = MeshShape(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
    return sharding.make_mesh(shape, devices=jax.devices()[: math.prod(sizes)])


def compiled(cfg, params, batch, mesh=None):
    """`accumulation.value_and_grad` of a config, compiled: takes parameters, a batch and a key."""
    function = jax.jit(functools.partial(accumulation.value_and_grad, cfg))
    if mesh is None:
        return function.lower(params, batch, jax.random.key(0)).compile()
    with jax.set_mesh(mesh):
        return function.lower(*spread(params, batch, mesh), jax.random.key(0)).compile()


def spread(params, batch, mesh):
    layout = sharding.shardings(mesh, params)
    return jax.device_put(params, layout), sharding.put_batch(mesh, batch)


def value_and_grad(cfg, params, batch, key, mesh=None):
    """((value, aux), gradient) as NumPy arrays."""
    function = compiled(cfg, params, batch, mesh)
    if mesh is not None:
        params, batch = spread(params, batch, mesh)
    return jax.device_get(function(params, batch, key))


def distance(tree, other):
    """Norm of the difference of two trees over the norm of the second."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))
    squares = [
        (np.sum((np.float64(one) - np.float64(two)) ** 2), np.sum(np.float64(two) ** 2)) for one, two in pairs
    ]
    difference, size = np.sqrt(np.sum(squares, axis=0))
    return difference / size
