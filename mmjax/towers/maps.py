"""Which places of a picture speak for a text: maps of relevance from one backward pass.

Of a `ViT` by gradient-weighted attention (Chefer et al. 2021, arXiv:2103.15679, equations 5, 6 and 10): what
passes between tokens is the attention of each block times its gradient, where that is positive. Of towers
that end in a feature map by its cells times their gradients, summed over channels: Grad-CAM (Selvaraju et al.
2017, arXiv:1610.02391) with the gradient of every cell in place of their mean, since heads here read cells in
their places (Draelos and Carin 2020, arXiv:2011.08891).

Letters: B batch, H W C image, h w map, S positions, T positions attended to, D width, E embedding, N heads,
X = N x head width.
"""

import math
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels.attention import preparation
from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Attention
from mmjax.towers.resnet import ResNet
from mmjax.towers.vit import ViT


def has_maps(tower: nn.Module) -> bool:
    """Whether `relevance` knows how to map this tower."""
    return isinstance(tower, (ConvNet, ResNet)) or (isinstance(tower, ViT) and tower.pool != "none")


def relevance(tower: nn.Module, params, image_BHWC, text_BE):
    """Float32 [B, h, w], 0 or more: how much each place of picture i adds to its cosine with text i.

    Pure: call it within `jax.jit`. The norm of a picture's embedding counts as a constant: its change says
    nothing of the text. A map is as fine as the tower's patches or its last feature map.

    Args:
        text_BE: unit-norm embeddings.
    """
    if isinstance(tower, ViT):
        tower, params = _unrolled(tower, params)

    def run(nudges):
        opened = _Opened(nudges)
        with nn.intercept_methods(opened):
            z_BE = tower.apply({"params": params}, image_BHWC).embedding_BE.astype(jnp.float32)
        norm_B = jax.lax.stop_gradient(jnp.linalg.norm(z_BE, axis=1))
        return jnp.sum(jnp.sum(z_BE * text_BE, axis=1) / jnp.maximum(norm_B, 1e-12)), opened.seen()

    shapes = jax.eval_shape(lambda: run(None)[1])
    slopes, seen = jax.grad(run, has_aux=True)(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    passed = jax.tree.map(lambda x, slope: x.astype(jnp.float32) * slope.astype(jnp.float32), seen, slopes)
    map_BS = _of_vit(tower, passed) if isinstance(tower, ViT) else _positive(passed.tokens.sum(axis=2))
    # Cells and patches go row by row, as many a row as the picture is wide to its height.
    height, width = image_BHWC.shape[1:3]
    rows = round(math.sqrt(map_BS.shape[1] * height / width))
    return einops.rearrange(map_BS, "b (h w) -> b h w", h=rows)


class _Seen(NamedTuple):
    """What was computed on the way, or its slopes."""

    weights: tuple[jax.Array, ...]  # [B, N, S, T] of each attention in order
    tokens: jax.Array  # [B, S, D] that were pooled


class _Opened:
    """Intercepts methods: notes the weights of every attention and the tokens that are pooled, and adds to
    each a nudge, zeros by which one differentiates."""

    def __init__(self, nudges: _Seen | None):
        self._nudges = nudges
        self._weights: list[jax.Array] = []
        self._tokens = None

    def seen(self) -> _Seen:
        return _Seen(tuple(self._weights), self._tokens)

    def __call__(self, next_function, args, kwargs, context):
        if isinstance(context.module, Attention) and context.method_name == "mix":
            return self._mix(context.module.heads, *args, **kwargs)
        if context.method_name == "pooled":
            self._tokens, *others = args
            nudge = 0 if self._nudges is None else self._nudges.tokens
            return next_function(self._tokens + nudge, *others, **kwargs)
        return next_function(*args, **kwargs)

    def _mix(self, heads, query_BSX, key_BTX, value_BTX, *, qk_norm=None, angles=None, cross=False, **masks):
        """Attention of positions that all see each other, as those of pictures do; so does a pool's query."""
        assert all(mask is None for mask in masks.values())
        by_head = (
            einops.rearrange(x, "b s (n k) -> b s n k", n=heads) for x in (query_BSX, key_BTX, value_BTX)
        )
        q_BSNK, k_BTNK, v_BTNK = by_head
        if qk_norm is not None:
            q_BSNK, k_BTNK = (
                preparation.normalised(x) * g for x, g in zip((q_BSNK, k_BTNK), qk_norm, strict=True)
            )
        if angles is not None:
            q_BSNK, k_BTNK = (preparation.turned(x, angles) for x in (q_BSNK, k_BTNK))
        scores_BNST = jnp.einsum("bsnk,btnk->bnst", q_BSNK, k_BTNK, preferred_element_type=jnp.float32)
        weights_BNST = jax.nn.softmax(scores_BNST / math.sqrt(q_BSNK.shape[-1]), axis=-1)
        nudge = 0 if self._nudges is None else self._nudges.weights[len(self._weights)]
        self._weights.append(weights_BNST)
        y_BSNK = jnp.einsum("bnst,btnk->bsnk", (weights_BNST + nudge).astype(v_BTNK.dtype), v_BTNK)
        return einops.rearrange(y_BSNK, "b s n k -> b s (n k)")


def _of_vit(tower: ViT, passed: _Seen):
    """[B, S]: relevance of the patches."""
    through = [_positive(x_BNST).mean(axis=1) for x_BNST in passed.weights]
    batch, tokens, _ = through[0].shape
    # From every token that leaves the encoder (rows) to those that entered it.
    map_BST = jnp.broadcast_to(jnp.eye(tokens), (batch, tokens, tokens))
    for block_BST in through[: tower.encoder.depth]:
        map_BST = map_BST + block_BST @ map_BST
    first, prefix = int(tower.has_class_token), tower.prefix
    if tower.pool == "class":
        return map_BST[:, 0, prefix:]
    # Registers are not pooled.
    left_BST = jnp.concatenate([map_BST[:, :first], map_BST[:, prefix:]], axis=1)
    if tower.pool == "mean":
        pooled_BS = _positive(passed.tokens.sum(axis=2))
    else:
        pooled_BS = through[tower.encoder.depth][:, 0]
    return jnp.einsum("bs,bst->bt", pooled_BS, left_BST)[:, prefix:]


def _positive(x):
    return jnp.maximum(x, 0)


def _unrolled(tower: ViT, params):
    """The tower and its parameters with a block a layer: what a scan computes can be seen only after it."""
    encoder = tower.encoder
    if encoder.scan:
        blocks = params["encoder"]["blocks"]
        layers = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(encoder.depth)}
        params = {**params, "encoder": layers}
    return tower.clone(encoder=encoder.clone(scan=False, remat="none")), params
