"""For implementations that want heads apart and know nothing of padding: from packed arrays and back.

Letters: B batch, S queries, T keys, N heads, K head width, X = N x K.
"""

import einops
import jax.numpy as jnp

from mmjax.kernels.attention.case import Arrays, Case


def apart(case: Case, arrays: Arrays):
    """q_BSNK, k_BTNK, v_BTNK, lengths_B and segments_BS, without padding, or with zeros where it is.

    Padding is cleared, not masked alone: 0 x NaN would be NaN, in a product or in its gradient. Lengths are
    then within the arrays.
    """
    q_BSX, k_BTX, v_BTX, lengths_B, segments_BS, *_ = arrays
    if case.kv_len is not None:
        k_BTX, v_BTX = k_BTX[:, : case.kv_len], v_BTX[:, : case.kv_len]
        if case.is_self:
            q_BSX = q_BSX[:, : case.kv_len]
            segments_BS = segments_BS[:, : case.kv_len] if case.segments else None
    if case.lengths:
        lengths_B = jnp.clip(lengths_B, 0, k_BTX.shape[1])
        real_BT1 = positions_before(lengths_B, k_BTX.shape[1])[..., None]
        k_BTX, v_BTX = jnp.where(real_BT1, k_BTX, 0), jnp.where(real_BT1, v_BTX, 0)
        if case.is_self:
            q_BSX = jnp.where(real_BT1, q_BSX, 0)
    heads = [einops.rearrange(x, "b s (n k) -> b s n k", n=case.heads) for x in (q_BSX, k_BTX, v_BTX)]
    return *heads, lengths_B, segments_BS


def together(case: Case, y_BSNK, lengths_B):
    """[B, S, X], with zeros where padding is; `lengths_B` as `apart` gives them."""
    y_BSX = einops.rearrange(y_BSNK, "b s n k -> b s (n k)")
    if case.lengths and case.is_self:
        y_BSX = jnp.where(positions_before(lengths_B, y_BSX.shape[1])[..., None], y_BSX, 0)
    padding = case.queries - y_BSX.shape[1]
    return jnp.pad(y_BSX, ((0, 0), (0, padding), (0, 0))) if padding else y_BSX


def positions_before(lengths_B, positions: int):
    """bool [B, positions]: True before each example's length."""
    return jnp.arange(positions) < lengths_B[:, None]
