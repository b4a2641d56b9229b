"""Attention on NVIDIA's Hopper GPUs (H100, H200) for up to 256 positions, in Pallas' Mosaic GPU.

Every tensor is read once and written once, packed as the projections emit it, of any length; scores never
leave a multiprocessor. Kernels: `pallas_gpu_forward.py`, `pallas_gpu_backward.py`; letters as there.
"""

import einops
import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention import devices, pallas_gpu_backward, pallas_gpu_backward_wide, pallas_gpu_forward
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.pallas_gpu_splits import Warpgroups, choose, is_wide
from mmjax.kernels.attention.pallas_gpu_tiles import Block

SINCE = (0, 11, 2)  # the JAX whose Mosaic GPU these kernels are written for
HOPPER = 9.0
LONGEST = 256  # a row of scores in registers
WIDEST = 128
MOST = 65_535  # examples: of a grid's second axis


def refusal(case: Case) -> str | None:
    """Why the kernels cannot serve a case; None: they can."""
    if jax.__version_info__ < SINCE:
        return f"it is written for JAX from {'.'.join(map(str, SINCE))} on, and this is {jax.__version__}"
    capability = devices.cuda_capability()
    if capability not in (None, HOPPER):
        return f"it is made for GPUs of compute capability {HOPPER}, and here is one of {capability}"
    if case.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {case.dtype}"
    if not case.is_self:
        return f"it wants as many queries as keys, of one sequence, not {case.queries} and {case.keys}"
    if case.keys > LONGEST:
        return f"it keeps a row of scores in registers, at most {LONGEST} of them, not {case.keys}"
    if case.width % 8 or not 16 <= case.width <= WIDEST:
        return f"head widths are multiples of 8 from 16 to {WIDEST}, not {case.width}"
    widest = WIDEST if case.keys <= 128 else 112 if case.keys <= 192 else 96
    if case.width > widest:
        return f"shared memory has room for the gradients of heads up to {widest} wide of {case.keys} keys"
    if case.batch > MOST:
        return f"a grid has room for {MOST} examples, not for {case.batch}"
    if case.scale <= 0:
        return f"the scale of scores has to be positive, not {case.scale}"
    return None


def forward(case: Case, arrays: Arrays, *, interpret: bool, split: Warpgroups | None = None):
    """The output, and the shift of every row of scores, [B, N, R]."""
    block = Block(case, (split or choose(case)).forward, _interpreter(interpret))
    o_BSNK, shift_BNR = pallas_gpu_forward.forward(
        block, *_apart(case, *arrays[:3]), arrays.lengths_B, _whole_tiles(block, arrays.segments_BS)
    )
    return einops.rearrange(o_BSNK, "b s n k -> b s (n k)"), shift_BNR


def backward(
    case: Case,
    arrays: Arrays,
    y_BSX,
    shift_BNR,
    gradient_BSX,
    *,
    interpret: bool,
    split: Warpgroups | None = None,
) -> Arrays:
    block = Block(case, (split or choose(case)).backward, _interpreter(interpret), **_panels(case))
    segments_BS = _whole_tiles(block, arrays.segments_BS)
    q_BSNK, k_BSNK, v_BSNK, o_BSNK, do_BSNK = _apart(case, *arrays[:3], y_BSX, gradient_BSX)
    kernel = pallas_gpu_backward_wide if is_wide(case) else pallas_gpu_backward
    gradients = kernel.backward(
        block, q_BSNK, k_BSNK, v_BSNK, arrays.lengths_B, segments_BS, o_BSNK, shift_BNR, do_BSNK
    )
    return Arrays(*(einops.rearrange(x, "b s n k -> b s (n k)") for x in gradients))


def _panels(case):
    # Where dS is a factor in shared memory, the other one wants its swizzle, which is that of 64 columns.
    return {} if is_wide(case) else dict(sizes=(64,))


def _apart(case, *arrays):
    return [einops.rearrange(x, "b s (n k) -> b s n k", n=case.heads) for x in arrays]


def _whole_tiles(block, segments_BS):
    if segments_BS is None:
        return None
    return jnp.pad(segments_BS, ((0, 0), (0, block.rows - block.case.keys)))


def _interpreter(interpret):
    return plgpu.InterpretGPUParams() if interpret else None
