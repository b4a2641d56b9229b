"""Queries and keys before their product: normalised in every head, then turned by angles of their positions.

For implementations that do not do so themselves. In float32, with one rounding at the end.

Letters: B batch, S queries, T keys, N heads, K head width, P pairs of K, X = N x K; 2 is queries and keys.
"""

import einops
import jax.numpy as jnp
from jax import lax

from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.layout import positions_before

EPS = 1e-6  # below the root of a normalised head's variance


def prepared(case: Case, arrays: Arrays) -> Arrays:
    """The arrays with queries and keys as their product wants them. No gradient goes to angles.

    Padding is cleared: what it holds would come back in the gradient, as 0 x NaN.
    """
    if not case.norm and not case.rope:
        return arrays
    angles_BSP = lax.stop_gradient(arrays.angles_BSP) if case.rope else None
    q_BSX, k_BTX = (
        _prepared(case, x_BSX, arrays.gains_2K[i] if case.norm else None, angles_BSP)
        for i, x_BSX in enumerate((_queries(case, arrays), _cleared(case, arrays.k_BTX, arrays.lengths_B)))
    )
    return arrays._replace(q_BSX=q_BSX, k_BTX=k_BTX, gains_2K=None, angles_BSP=None)


def _prepared(case, x_BSX, gain_K, angles_BSP):
    x_BSNK = einops.rearrange(x_BSX, "b s (n k) -> b s n k", n=case.heads).astype(jnp.float32)
    if gain_K is not None:
        x_BSNK = normalised(x_BSNK) * gain_K
    if angles_BSP is not None:
        x_BSNK = turned(x_BSNK, angles_BSP)
    return einops.rearrange(x_BSNK, "b s n k -> b s (n k)").astype(x_BSX.dtype)


def _queries(case, arrays):
    # Those of another sequence all count: masks are of keys.
    return _cleared(case, arrays.q_BSX, arrays.lengths_B) if case.is_self else arrays.q_BSX


def _cleared(case, x_BSX, lengths_B):
    if case.kv_len is not None:
        x_BSX = jnp.where(jnp.arange(case.keys)[:, None] < case.kv_len, x_BSX, 0)
    if case.lengths:
        x_BSX = jnp.where(positions_before(lengths_B, case.keys)[..., None], x_BSX, 0)
    return x_BSX


def normalised(x):
    """Of mean 0 and variance 1 along the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + EPS)


def turned(x_BSNK, angles_BSP):
    """Neighbours in K as points of the plane, turned by their angle."""
    cos_BSNP, sin_BSNP = (wave(angles_BSP)[:, :, None, :] for wave in (jnp.cos, jnp.sin))
    x_BSNP, y_BSNP = x_BSNK[..., 0::2], x_BSNK[..., 1::2]
    pairs = [x_BSNP * cos_BSNP - y_BSNP * sin_BSNP, y_BSNP * cos_BSNP + x_BSNP * sin_BSNP]
    return jnp.stack(pairs, axis=-1).reshape(x_BSNK.shape)


def waves(angles_BSP):
    """[B, 2, K, S]: cosines, and sines with the sign by which a feature's neighbour counts."""
    cos_BSP, sin_BSP = jnp.cos(angles_BSP), jnp.sin(angles_BSP)
    pairs = jnp.stack([cos_BSP, cos_BSP], -1), jnp.stack([-sin_BSP, sin_BSP], -1)
    return jnp.stack([einops.rearrange(x, "b s p two -> b (p two) s") for x in pairs], axis=1)
