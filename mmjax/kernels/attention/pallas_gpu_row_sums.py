"""What a row of dS subtracts from its slopes dP: their mean, by the row's weights.

That is dO x O (Dao et al. 2022, arXiv:2205.14135, appendix B.2), of tensors that are there already, but O is
rounded. By that gradients by queries and keys are half as far off again as they need be where a query sees
two keys, and a sixth at five. For so few the mean is made of weights and slopes, in two products more, and O
is not read. Letters as in `pallas_gpu_tiles.py`.
"""

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention.pallas_gpu_tiles import AXES, LAYOUT, T, onto_transpose, products

HANDFUL = 16  # keys


def are_of_pairs(case):
    """Whether they have to be made of weights and slopes."""
    keys = case.keys if case.kv_len is None else case.kv_len
    return case.lengths or case.segments or keys < HANDFUL


def of_pairs(block, me, delta, q, k, v, do, *, tile, **masked):
    """Stores them to `delta`, [R], for the tiles of queries that are a warpgroup's.

    `tile` makes of a tile's index the one that it has in `q` and `do`; `masked` is for `Block.weights`.
    """

    def of_tile(turn, _):
        step = turn * block.warpgroups + me

        def add(i, sum_T):
            rows, key = tile(step), pl.multiple_of(i * T, T)
            score, slope = (onto_transpose(x, rows, y, pl.ds(key, T)) for x, y in ((q, k), (do, v)))
            p_TT = block.weights(score, step * T, key, query_axis=0, end=block.rows, **masked)
            [slope_TT] = products(slope, (T, T))
            return sum_T + (p_TT * slope_TT).sum(axis=1)

        zero_T = plgpu.layout_cast(jnp.zeros((T,), jnp.float32), AXES[0])
        delta.at[pl.ds(step * T, T)][...] = lax.fori_loop(0, block.last(step), add, zero_T)

    lax.fori_loop(0, block.turns(me), of_tile, None)


def of_tiles(o, do):
    """Those of a tile of queries, of panels of its output and of the gradient by it."""
    sums = []
    for pair in zip(o, do, strict=True):
        o_TP, do_TP = (plgpu.load(x.tiled, layout=LAYOUT).astype(jnp.float32) for x in pair)
        sums.append((o_TP * do_TP).sum(axis=1))
    return sum(sums)


def of_arrays(block, o_BSNK, shift_BNR, do_BSNK):
    """[B, N, R], by XLA, where shared memory has no room for O."""
    delta_BNS = jnp.einsum("bsnk,bsnk->bns", o_BSNK, do_BSNK, preferred_element_type=jnp.float32)
    delta_BNR = jnp.pad(delta_BNS, ((0, 0), (0, 0), (0, block.rows - block.case.keys)))
    return jnp.where(jnp.isinf(shift_BNR), 0.0, delta_BNR)  # the gradient of padding may be NaN
