"""Attention on a TPU of up to 1,024 positions: whole rows of scores, in Pallas.

The backward pass is one kernel, too: it makes scores and weights again, of which the forward pass keeps
nothing, and all three gradients (five products, and no sum across grid steps).

Letters: B batch, S positions, N heads, K head width, X = N x K.
"""

import functools

import einops
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmjax.kernels.attention import tpu_blocks, tpu_kernels
from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.tpu_blocks import Blocks, Kernel

LONGEST, WIDEST = 1024, 256

_VMEM = 100 * 2**20  # bytes, of 128 MiB; the default of 16 MiB is too little from 577 positions on


def refusal(case: Case) -> str | None:
    """Why the kernel cannot serve a case; None: it can."""
    if case.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it computes in bfloat16 or float32, not in {case.dtype}"
    if not case.is_self:
        return f"it wants as many queries as keys, not {case.queries} and {case.keys}"
    if case.keys > LONGEST:
        return f"rows of scores are of up to {LONGEST} keys, not {case.keys}"
    if case.width % 8 or case.width > WIDEST:
        return f"head widths are multiples of 8 up to {WIDEST}, not {case.width}"
    return None


def forward(case: Case, q_BSX, k_BSX, v_BSX, lengths_B, segments_BS, *, interpret):
    """The output; the backward pass needs nothing beside it."""
    blocks = tpu_blocks.blocks(case, "forward")
    arrays = q_BSX, k_BSX, v_BSX
    (y_BSX,) = call("forward", case, blocks, arrays, lengths_B, segments_BS, interpret=interpret)
    return y_BSX, None


def backward(case, q_BSX, k_BSX, v_BSX, lengths_B, segments_BS, y_BSX, kept, gradient_BSX, *, interpret):
    blocks = tpu_blocks.blocks(case, "backward")
    arrays = q_BSX, k_BSX, v_BSX, gradient_BSX
    return call("backward", case, blocks, arrays, lengths_B, segments_BS, interpret=interpret)


def call(kernel: Kernel, case: Case, blocks: Blocks, arrays, lengths_B, segments_BS, *, interpret=False):
    """The output, or the gradients by queries, keys and values; `arrays` are q, k, v and, for those, the
    gradient of the output."""
    results = 1 if kernel == "forward" else 3
    if blocks.apart:
        arrays = [einops.rearrange(x, "b s (n k) -> b n s k", n=case.heads) for x in arrays]
    scalars, scalar_specs = _masks(case, lengths_B, segments_BS)
    spec = _spec(case, blocks)
    body = functools.partial(getattr(tpu_kernels, kernel), case=case, blocks=blocks)
    found = pl.pallas_call(
        body,
        grid=(case.batch, case.heads // blocks.heads),
        in_specs=[*scalar_specs, *[spec] * len(arrays)],
        out_specs=[spec] * results,
        out_shape=[jax.ShapeDtypeStruct(arrays[0].shape, case.dtype)] * results,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_VMEM
        ),
        cost_estimate=_cost(case, len(arrays) + results),
        interpret=interpret,
        name=f"attention_{kernel}",
    )(*scalars, *arrays)
    if blocks.apart:
        found = [einops.rearrange(x, "b n s k -> b s (n k)") for x in found]
    return tuple(found)


def _spec(case: Case, blocks: Blocks):
    if blocks.apart:
        return pl.BlockSpec((None, blocks.heads, case.keys, case.width), lambda b, n: (b, n, 0, 0))
    return pl.BlockSpec((None, case.keys, blocks.heads * case.width), lambda b, n: (b, 0, n))


def _masks(case, lengths_B, segments_BS):
    """Arrays and specs of lengths and segments, those of an example as the last two axes of a block: others
    would have to be multiples of a tile."""
    arrays, specs = [], []
    if case.lengths:
        arrays.append(lengths_B[:, None, None])
        specs.append(pl.BlockSpec((None, 1, 1), lambda b, n: (b, 0, 0), memory_space=pltpu.SMEM))
    if case.segments:
        arrays.append(segments_BS[:, None])
        specs.append(pl.BlockSpec((None, 1, case.keys), lambda b, n: (b, 0, 0)))
    return arrays, specs


def _cost(case, arrays):
    """For XLA's scheduler: two products in the forward pass, with four arrays; five in the backward pass."""
    products = 2 if arrays == 4 else 5
    scores = case.batch * case.heads * case.keys**2
    return pl.CostEstimate(
        flops=2 * products * scores * case.width,
        transcendentals=scores,
        bytes_accessed=arrays * case.batch * case.keys * case.heads * case.width * case.dtype.itemsize,
    )
