"""Attention on Hopper, backward, for heads whose gradients do not fit the registers all at once.

In two sweeps, so that scores and slopes are made twice, seven products in all, nine where sums of rows are
made of pairs: first the tiles of queries, one by one, against all keys for dQ; then the tiles of keys against
all queries for dK and dV. A warpgroup needs nothing of what another one finds: two runs are equal to the bit.
Letters: `pallas_gpu_tiles.py`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention import pallas_gpu_row_sums as row_sums
from mmjax.kernels.attention.pallas_gpu_tiles import T, iota, meet, onto, onto_transpose, spread, zeros


def backward(block, q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR, o_BSNK, shift_BNR, do_BSNK):
    """The gradients by queries, keys and values."""
    case, R = block.case, block.rows
    of_pairs = row_sums.are_of_pairs(case)

    def kernel(
        q_ref, k_ref, v_ref, lengths_ref, segments_ref, delta_ref, shift_ref, do_ref, *results, **memory
    ):
        b, n, me = block.place()
        q, k, v, do, dq = block.views(*(memory[name] for name in ("q", "k", "v", "do", "dq")))
        segments, shift, delta = (memory[name] for name in ("segments", "shift", "delta"))
        copied, all_barrier = memory["barriers"]
        limit = block.limit(lengths_ref, b)

        @pl.when(me == 0)
        def _():
            if case.segments:
                plgpu.copy_gmem_to_smem(segments_ref.at[b], segments, copied)
            for ref, x in ((shift_ref, shift),) if of_pairs else ((shift_ref, shift), (delta_ref, delta)):
                plgpu.copy_gmem_to_smem(ref.at[b, n], x, copied)
            for ref, x in ((q_ref, q), (k_ref, k), (v_ref, v), (do_ref, do)):
                block.load(ref, x, (b, n), 0, copied)

        places = block.numbered(memory["places"], me)
        masked = dict(shift=shift, limit=limit, segments=segments, places=places)
        plgpu.barrier_wait(copied)
        if block.is_padded:
            for start in range(0, R, T):
                rows = pl.ds(start, T)
                block.clean([x.at(rows) for x in (*q, *k, *v, *do)], start, limit, me)
            plgpu.commit_smem()
            meet(all_barrier)

        if of_pairs:
            row_sums.of_pairs(block, me, delta, q, k, v, do, tile=lambda i: pl.ds(i * T, T), **masked)

        def weights(query, key, query_axis):
            """Weights of a tile of pairs, and dS, that is to be scaled; `query_axis` is where queries lie."""
            pairs, at = ((q, k), (do, v)), (pl.ds(query, T), pl.ds(key, T))
            if query_axis:
                pairs, at = [pair[::-1] for pair in pairs], at[::-1]
            score, slope = (onto_transpose(x, at[0], y, at[1]) for x, y in pairs)
            p_TT = block.weights(score, query, key, query_axis=query_axis, end=R, **masked)
            [slope_TT] = block.accumulate(slope, -spread(delta.at[pl.ds(query, T)], (T, T), query_axis))
            return p_TT.astype(case.dtype), (p_TT * slope_TT).astype(case.dtype)

        def queries(turn, _):
            tile = turn * block.warpgroups + me
            query = pl.multiple_of(tile * T, T)

            def add(step, dq_TP):
                key = pl.multiple_of(step * T, T)
                _, ds_TT = weights(query, key, 0)
                factor = block.factor(ds_TT, memory["stage"], me)
                return block.accumulate(onto(factor, k, pl.ds(key, T)), *dq_TP)

            dq_TP = lax.fori_loop(0, block.last(tile), add, zeros(block))
            plgpu.wait_smem_to_gmem(0)  # of the tile before
            mine = [x.at(me) for x in dq]
            for x, value in zip(mine, dq_TP, strict=True):
                x.tiled[...] = (value * case.scale).astype(case.dtype)
            plgpu.commit_smem()
            block.store(mine, results[0], (b, n), query)

        def keys(turn, _):
            tile = turn * block.warpgroups + me
            key = pl.multiple_of(tile * T, T)

            def add(step, sums):
                query = pl.multiple_of(step * T, T)
                p_TT, ds_TT = weights(query, key, 1)
                found = []
                for values, x_TT, x in zip(sums, (ds_TT, p_TT), (q, do), strict=True):
                    factor = block.factor(x_TT, memory["stage"], me)
                    found.append(block.accumulate(onto(factor, x, pl.ds(query, T)), *values))
                return found

            first = tile if case.causal else 0
            sums = lax.fori_loop(first, block.steps, add, [zeros(block), zeros(block)])
            rows = pl.ds(key, T)  # of keys and values nobody else needs them any more
            for panels, values, scale in zip((k, v), sums, (case.scale, 1.0), strict=True):
                for x, value in zip(panels, values, strict=True):
                    is_real = key + iota(value.shape, 0) < limit
                    x.tiled.at[rows][...] = jnp.where(is_real, value * scale, 0.0).astype(case.dtype)
            plgpu.commit_smem()
            for panels, ref in zip((k, v), results[1:], strict=True):
                block.store([x.at(rows) for x in panels], ref, (b, n), key)

        lax.fori_loop(0, block.turns(me), queries, None)
        meet(all_barrier)
        lax.fori_loop(0, block.turns(me), keys, None)
        plgpu.wait_smem_to_gmem(0)

    scratch = dict(
        q=block.operand(R),
        k=block.operand(R),
        v=block.operand(R),
        do=block.operand(R),
        dq=block.operand(block.warpgroups, T),
        shift=plgpu.SMEM((R,), jnp.float32),
        delta=plgpu.SMEM((R,), jnp.float32),
        segments=plgpu.SMEM((R,), jnp.int32) if case.segments else None,
        places=block.places(),
        stage=block.stage(T),
        barriers=(
            plgpu.Barrier(num_arrivals=4 * len(block.panels) + 1 + (not of_pairs) + case.segments),
            plgpu.Barrier(num_arrivals=block.warpgroups),
        ),
    )
    results = [jax.ShapeDtypeStruct(q_BSNK.shape, case.dtype)] * 3
    delta_BNR = None if of_pairs else row_sums.of_arrays(block, o_BSNK, shift_BNR, do_BSNK)
    arrays = (q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR, delta_BNR, shift_BNR, do_BSNK)
    return block.launch(kernel, "attention_backward_wide", results, scratch, arrays)
