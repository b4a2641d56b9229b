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
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.preparation import waves
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


def prepares(case: Case) -> bool:
    """Whether queries and keys are normalised and turned in the kernel."""
    return True


def forward(case: Case, arrays: Arrays, *, interpret):
    """The output; the backward pass needs nothing beside it."""
    blocks = tpu_blocks.blocks(case, "forward")
    (y_BSX,) = call("forward", case, blocks, arrays, interpret=interpret)
    return y_BSX, None


def backward(case: Case, arrays: Arrays, y_BSX, kept, gradient_BSX, *, interpret) -> Arrays:
    blocks = tpu_blocks.blocks(case, "backward")
    *by_qkv, gains_2K = call("backward", case, blocks, arrays, gradient_BSX, interpret=interpret)
    return Arrays(*by_qkv, gains_2K=gains_2K)


def call(kernel: Kernel, case: Case, blocks: Blocks, arrays: Arrays, *gradient_BSX, interpret=False):
    """The output; or, of the gradient of that, those by queries, keys, values and gains."""
    options, option_specs = _options(case, arrays)
    operands = *arrays[:3], *gradient_BSX
    if blocks.apart:
        operands = [einops.rearrange(x, "b s (n k) -> b n s k", n=case.heads) for x in operands]
    spec, results = _spec(case, blocks), 1 if kernel == "forward" else 3
    out_specs = [spec] * results
    out_shape = [jax.ShapeDtypeStruct(operands[0].shape, case.dtype)] * results
    grid = case.batch, case.heads // blocks.heads
    if case.norm and kernel == "backward":
        out_specs.append(pl.BlockSpec((None, None, case.width, 2), lambda b, n: (b, n, 0, 0)))
        out_shape.append(jax.ShapeDtypeStruct((*grid, case.width, 2), jnp.float32))
    found = pl.pallas_call(
        functools.partial(getattr(tpu_kernels, kernel), case=case, blocks=blocks),
        grid=grid,
        in_specs=[*option_specs, *[spec] * len(operands)],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_VMEM
        ),
        cost_estimate=_cost(case, len(operands) + results),
        interpret=interpret,
        name=f"attention_{kernel}",
    )(*options, *operands)
    found, gains = found[:results], found[results:]
    if blocks.apart:
        found = [einops.rearrange(x, "b n s k -> b s (n k)") for x in found]
    if kernel == "forward":
        return tuple(found)
    return *found, gains[0].sum((0, 1)).T if case.norm else None


def _spec(case: Case, blocks: Blocks):
    if blocks.apart:
        return pl.BlockSpec((None, blocks.heads, case.keys, case.width), lambda b, n: (b, n, 0, 0))
    return pl.BlockSpec((None, case.keys, blocks.heads * case.width), lambda b, n: (b, 0, n))


def _options(case, given):
    """Arrays and specs of what the case has of them, in the order in which kernels take them; those of an
    example as the last axes of a block: others would have to be multiples of a tile."""
    arrays, specs = [], []
    if case.lengths:
        arrays.append(given.lengths_B[:, None, None])
        specs.append(pl.BlockSpec((None, 1, 1), lambda b, n: (b, 0, 0), memory_space=pltpu.SMEM))
    if case.segments:
        arrays.append(given.segments_BS[:, None])
        specs.append(pl.BlockSpec((None, 1, case.keys), lambda b, n: (b, 0, 0)))
    if case.norm:
        arrays.append(given.gains_2K.T)
        specs.append(pl.BlockSpec((case.width, 2), lambda b, n: (0, 0)))
    if case.rope:
        arrays.append(waves(given.angles_BSP))
        own = len(given.angles_BSP) > 1  # else they are those of every example
        specs.append(pl.BlockSpec((None, 2, case.width, case.keys), lambda b, n: (b if own else 0, 0, 0, 0)))
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
