"""Attention on NVIDIA's Hopper GPUs (H100, H200) for up to 256 positions, in Pallas' Mosaic GPU.

Every tensor is read once and written once, packed as the projections emit it, of any length; scores never
leave a multiprocessor. Kernels: `pallas_gpu_forward.py`, `pallas_gpu_backward.py`; letters as there.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention import pallas_gpu_backward, pallas_gpu_forward
from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.pallas_gpu_tiles import Block, T

SINCE = (0, 11, 2)  # the JAX whose Mosaic GPU these kernels are written for
LONGEST = 256  # a row of scores in registers
WIDEST = 128


class Warpgroups(NamedTuple):
    """Of 128 threads each, in a thread block of either kernel."""

    forward: int
    backward: int


def refusal(case: Case) -> str | None:
    """Why the kernels cannot serve a case; None: they can."""
    if jax.__version_info__ < SINCE:
        return f"it is written for JAX from {'.'.join(map(str, SINCE))} on, and this is {jax.__version__}"
    if jax.default_backend() == "gpu" and jax.local_devices()[0].compute_capability != "9.0":
        return (
            f"it is made of instructions of Hopper GPUs, and here is a {jax.local_devices()[0].device_kind}"
        )
    if case.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {case.dtype}"
    if not case.is_self:
        return f"it wants as many queries as keys, not {case.queries} and {case.keys}"
    if case.keys > LONGEST:
        return f"it keeps a row of scores in registers, at most {LONGEST} of them, not {case.keys}"
    if case.width % 8 or not 16 <= case.width <= WIDEST:
        return f"head widths are multiples of 8 from 16 to {WIDEST}, not {case.width}"
    if case.width > 64 and case.keys > LONGEST // 2:
        return f"the gradients of heads wider than 64 fit up to {LONGEST // 2} keys, not {case.keys}"
    if case.scale <= 0:
        return f"the scale of scores has to be positive, not {case.scale}"
    return None


def choose(case: Case) -> Warpgroups:
    """How a case is split. By rule: none of this has been measured on a GPU yet.

    Forward, one warpgroup where another thread block fits on the same multiprocessor, whose copies then run
    while this one computes; else two. Backward, a tile of keys for each as long as registers last.
    """
    steps = -(-case.keys // T)
    operands = 3 * steps * T * case.width * 2
    return Warpgroups(
        forward=1 if steps == 1 or operands < 110_000 else 2, backward=2 if steps == 4 else steps
    )


def forward(
    case: Case,
    q_BSX,
    k_BSX,
    v_BSX,
    lengths_B,
    segments_BS,
    *,
    interpret: bool,
    split: Warpgroups | None = None,
):
    """The output, and the shift of every row of scores, [B, N, R]."""
    block = Block(case, (split or choose(case)).forward, _interpreter(interpret))
    o_BSNK, shift_BNR = pallas_gpu_forward.forward(
        block, *_apart(case, q_BSX, k_BSX, v_BSX), lengths_B, _whole_tiles(block, segments_BS)
    )
    return einops.rearrange(o_BSNK, "b s n k -> b s (n k)"), shift_BNR


def backward(
    case: Case,
    q_BSX,
    k_BSX,
    v_BSX,
    lengths_B,
    segments_BS,
    y_BSX,
    shift_BNR,
    gradient_BSX,
    *,
    interpret: bool,
    split: Warpgroups | None = None,
):
    """The gradients by queries, keys and values."""
    # Panels of one width: both factors of a product want the same swizzle, and dS has that of 64 columns.
    block = Block(case, (split or choose(case)).backward, _interpreter(interpret), sizes=(64,))
    q_BSNK, k_BSNK, v_BSNK, o_BSNK, do_BSNK = _apart(case, q_BSX, k_BSX, v_BSX, y_BSX, gradient_BSX)
    gradients = pallas_gpu_backward.backward(
        block, q_BSNK, k_BSNK, v_BSNK, lengths_B, _whole_tiles(block, segments_BS), o_BSNK, shift_BNR, do_BSNK
    )
    return tuple(einops.rearrange(x, "b s n k -> b s (n k)") for x in gradients)


def _apart(case, *arrays):
    return [einops.rearrange(x, "b s (n k) -> b s n k", n=case.heads) for x in arrays]


def _whole_tiles(block, segments_BS):
    if segments_BS is None:
        return None
    return jnp.pad(segments_BS, ((0, 0), (0, block.rows - block.case.keys)))


def _interpreter(interpret):
    return plgpu.InterpretGPUParams() if interpret else None
