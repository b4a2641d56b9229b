"""Attention as XLA compiles it: exact, for every case, on every device; it holds all scores.

Letters: B batch, S queries, T keys, N heads, K head width, X = N x K.
"""

import contextlib

import jax
import jax.numpy as jnp

from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.layout import apart, positions_before, together


def refusal(case: Case) -> str | None:
    """None: it serves all."""
    return None


def attend(case: Case, arrays: Arrays):
    """[B, S, X], differentiable."""
    parts = apart(case, arrays)
    return together(case, _attend(case, *parts), parts[3])


def _attend(case, q_BSNK, k_BTNK, v_BTNK, lengths_B, segments_BS):
    mask_BNST = None
    if case.lengths:
        mask_BNST = positions_before(lengths_B, k_BTNK.shape[1])[:, None, None, :]
    if case.segments:
        same_BNST = (segments_BS[:, :, None] == segments_BS[:, None, :])[:, None]
        mask_BNST = same_BNST if mask_BNST is None else mask_BNST & same_BNST
    # TPUs and GPUs round the factors of float32 products unless asked not to.
    exact = jax.default_matmul_precision("highest")
    with exact if case.dtype == jnp.float32 else contextlib.nullcontext():
        return jax.nn.dot_product_attention(
            q_BSNK, k_BTNK, v_BTNK, mask=mask_BNST, is_causal=case.causal, scale=case.scale
        )
