"""Attention on a TPU of up to 8,192 positions: whole rows of scores, in Pallas.

The backward pass is one kernel, too: it makes scores and weights again, of which the forward pass keeps
nothing, and all three gradients in five products. Up to 1,024 positions a grid step has all queries of its
heads, and nothing is summed across steps. From there on the queries stream past keys and values, which stay
in VMEM; a row of scores is still whole, so that no softmax has to be mended, and the gradients by keys and
values are summed in VMEM, in an order that is always the same.

Letters: B batch, S positions, N heads, K head width, X = N x K.
"""

import dataclasses
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

LONGEST, WIDEST = 8192, 256

_VMEM = 100 * 2**20  # bytes, of 128 MiB; the default of 16 MiB is too little from 577 positions on


def refusal(case: Case) -> str | None:
    """Why the kernel cannot serve a case; None: it can."""
    if case.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it computes in bfloat16 or float32, not in {case.dtype}"
    if not case.is_self:
        return f"it wants as many queries as keys, of one sequence, not {case.queries} and {case.keys}"
    if case.keys > LONGEST:
        return f"rows of scores are of up to {LONGEST} keys, not {case.keys}"
    if case.width % 8 or case.width > WIDEST:
        return f"head widths are multiples of 8 up to {WIDEST}, not {case.width}"
    return None


def prepares(case: Case) -> bool:
    """Whether queries and keys are normalised and turned in the kernel. Where queries stream it would do so
    with the keys for every step again."""
    return not tpu_blocks.is_streamed(case)


def forward(case: Case, arrays: Arrays, *, interpret):
    """The output; the backward pass needs nothing beside it."""
    case = _left(case)
    (y_BSX,) = call("forward", case, tpu_blocks.blocks(case, "forward"), arrays, interpret=interpret)
    return y_BSX, None


def backward(case: Case, arrays: Arrays, y_BSX, kept, gradient_BSX, *, interpret) -> Arrays:
    case = _left(case)
    blocks = tpu_blocks.blocks(case, "backward")
    *by_qkv, gains_2K = call("backward", case, blocks, arrays, gradient_BSX, interpret=interpret)
    return Arrays(*by_qkv, gains_2K=gains_2K)


def _left(case: Case) -> Case:
    """What is left to be done of a case."""
    return case if prepares(case) else dataclasses.replace(case, norm=False, rope=False)


def call(kernel: Kernel, case: Case, blocks: Blocks, arrays: Arrays, *gradient_BSX, interpret=False):
    """The output; or, of the gradient of that, those by queries, keys, values and gains."""
    options, option_specs = _options(case, blocks, arrays)
    operands = *arrays[:3], *gradient_BSX
    if blocks.apart:
        operands = [einops.rearrange(x, "b s (n k) -> b n s k", n=case.heads) for x in operands]
    query, key = _spec(case, blocks, blocks.step), _spec(case, blocks)
    ins, outs = [query, key, key, query], [query, key, key]
    ins, outs = ins[: len(operands)], outs[: 1 if kernel == "forward" else 3]
    shapes = [jax.ShapeDtypeStruct(operands[0].shape, case.dtype)] * len(outs)
    cost = _cost(case, len(ins) + len(outs))
    grid = case.batch, case.heads // blocks.heads
    if case.norm and kernel == "backward":
        outs.append(pl.BlockSpec((None, None, case.width, 2), lambda b, n: (b, n, 0, 0)))
        shapes.append(jax.ShapeDtypeStruct((*grid, case.width, 2), jnp.float32))
    order, scratch = ("parallel", "parallel"), []
    if blocks.step is not None:
        grid, order = (*grid, pl.cdiv(case.keys, blocks.step)), (*order, "arbitrary")
        if kernel == "backward":
            sums = (2, blocks.heads, case.width, tpu_blocks.positions(case))
            scratch.append(pltpu.VMEM(sums, jnp.float32))
    found = pl.pallas_call(
        functools.partial(getattr(tpu_kernels, kernel), case=case, blocks=blocks),
        grid=grid,
        in_specs=[*option_specs, *ins],
        out_specs=outs,
        out_shape=shapes,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=_VMEM),
        cost_estimate=cost,
        interpret=interpret,
        name=f"attention_{kernel}",
    )(*options, *operands)
    found, sums = found[:3], found[3:]
    if blocks.apart:
        found = [einops.rearrange(x, "b n s k -> b s (n k)") for x in found]
    if kernel == "forward":
        return tuple(found)
    return *found, sums[0].sum((0, 1)).T if case.norm else None


def _spec(case: Case, blocks: Blocks, step: int | None = None):
    """Of the heads of a grid step: so many of their positions, those of the step; None: all of them."""
    size = case.keys if step is None else step

    def where(b, n, *steps):
        place = 0 if step is None else steps[0]
        return (b, n, place, 0) if blocks.apart else (b, place, n)

    if blocks.apart:
        return pl.BlockSpec((None, blocks.heads, size, case.width), where)
    return pl.BlockSpec((None, size, blocks.heads * case.width), where)


def _options(case, blocks, given: Arrays):
    """Arrays and specs of what the case has of them, in the order in which kernels take them; those of an
    example as the last axes of a block: others would have to be multiples of a tile."""
    arrays, specs = [], []
    if case.lengths:
        arrays.append(given.lengths_B[:, None, None])
        specs.append(pl.BlockSpec((None, 1, 1), lambda b, *_: (b, 0, 0), memory_space=pltpu.SMEM))
    if case.segments:
        arrays.append(given.segments_BS[:, None])
        specs.append(pl.BlockSpec((None, 1, case.keys), lambda b, *_: (b, 0, 0)))
        if blocks.step is not None:
            arrays.append(arrays[-1])
            specs.append(pl.BlockSpec((None, 1, blocks.step), lambda b, n, step: (b, 0, step)))
    if case.norm:
        arrays.append(given.gains_2K.T)
        specs.append(pl.BlockSpec((case.width, 2), lambda b, *_: (0, 0)))
    if case.rope:
        arrays.append(waves(given.angles_BSP))
        own = len(given.angles_BSP) > 1  # else they are those of every example
        shape = (None, 2, case.width, case.keys)
        specs.append(pl.BlockSpec(shape, lambda b, *_: (b if own else 0, 0, 0, 0)))
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
