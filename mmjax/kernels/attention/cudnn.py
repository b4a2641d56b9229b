"""Attention of NVIDIA's cuDNN, through JAX: of bfloat16 and float16, of any length.

Letters: B batch, S positions, N heads, K head width, X = N x K.
"""

import jax
import jax.numpy as jnp

from mmjax.kernels.attention import devices
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.layout import unpadded

_AMPERE, _HOPPER = 8.0, 9.0


def refusal(case: Case) -> str | None:
    """Why cuDNN cannot serve a case; None: it can."""
    if case.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {case.dtype}"
    if case.segments:
        return "segment_ids need a mask as large as the scores, which it wants of even lengths"
    if not case.is_self:
        return f"it wants as many queries as keys, not {case.queries} and {case.keys}"
    # JAX asks the device when it traces.
    capability = devices.cuda_capability()
    if capability is None or capability < _AMPERE:
        return "it needs an NVIDIA GPU of compute capability 8.0 or later, which is not here"
    widest = 128 if capability < _HOPPER else 256
    if case.width % 8 or case.width > widest:
        return f"head widths are multiples of 8 up to {widest} here, not {case.width}"
    return None


def forward(case: Case, arrays: Arrays, *, interpret: bool):
    """The output, and JAX's own function from its gradient to those of queries, keys and values."""
    return jax.vjp(lambda *qkv: unpadded(_attend, case, Arrays(*qkv, *arrays[3:])), *arrays[:3])


def backward(case: Case, arrays: Arrays, y_BSX, pull, gradient_BSX, *, interpret: bool) -> Arrays:
    return Arrays(*pull(gradient_BSX))


def _attend(case, q_BSNK, k_BSNK, v_BSNK, lengths_B, _):
    # Of an example without positions all is cleared afterwards; here it has one, for a sum of nothing is 0.
    lengths_B = jnp.maximum(lengths_B, 1) if case.lengths else None
    return jax.nn.dot_product_attention(
        q_BSNK,
        k_BSNK,
        v_BSNK,
        is_causal=case.causal,
        scale=case.scale,
        query_seq_lengths=lengths_B,
        key_value_seq_lengths=lengths_B,
        implementation="cudnn",
    )
