"""Attention on Hopper, backward: five products (seven where sums of rows are made of pairs), no atomics, so
that two runs are equal to the bit.

A warpgroup owns tiles of keys and keeps their dK and dV in registers while the tiles of queries pass, scores
and all else transposed. What it finds of dS goes to shared memory, from which the warpgroups in turn make a
tile's dQ, of all keys at once. Scores start from minus the shift that the forward kernel found, and slopes
dP from minus the row's sum (`pallas_gpu_row_sums.py`), so that weights and dS need no further register for
either. Letters as in `pallas_gpu_tiles.py`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention import pallas_gpu_row_sums as row_sums
from mmjax.kernels.attention.pallas_gpu_tiles import (
    T,
    forgotten,
    iota,
    meet,
    onto,
    onto_transpose,
    products,
    spread,
    zeros,
)


def backward(block, q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR, o_BSNK, shift_BNR, do_BSNK):
    """The gradients by queries, keys and values."""
    case, R = block.case, block.rows
    owned = block.steps // block.warpgroups  # tiles of keys of a warpgroup
    of_pairs = row_sums.are_of_pairs(case)
    waits = block.is_padded or of_pairs  # for all tiles of queries before the first

    def kernel(q_ref, k_ref, v_ref, lengths_ref, segments_ref, o_ref, shift_ref, do_ref, *results, **memory):
        b, n, me = block.place()
        q, k, v, o, do = block.views(*(memory[name] for name in ("q", "k", "v", "o", "do")))
        q_barrier, k_barrier, all_barrier, full, free = memory["barriers"]
        segments, shift, delta, ds = (memory[name] for name in ("segments", "shift", "delta", "ds"))
        limit = block.limit(lengths_ref, b)

        @pl.when(me == 0)
        def _():
            if case.segments:
                plgpu.copy_gmem_to_smem(segments_ref.at[b], segments, k_barrier)
            plgpu.copy_gmem_to_smem(shift_ref.at[b, n], shift, k_barrier)
            for ref, x in ((k_ref, k), (v_ref, v)):
                block.load(ref, x, (b, n), 0, k_barrier)
            by_tiles = [(q_ref, q), (do_ref, do)] if of_pairs else [(q_ref, q), (do_ref, do), (o_ref, o)]
            for step in range(block.steps):
                for ref, x in by_tiles:
                    block.load(ref, [p.at(step) for p in x], (b, n), step * T, q_barrier.at[step])

        places = block.numbered(memory["places"], me)
        masked = dict(shift=shift, limit=limit, segments=segments, places=places)
        plgpu.barrier_wait(k_barrier)
        if waits:
            for step in range(block.steps):
                plgpu.barrier_wait(q_barrier.at[step])
        if block.is_padded:
            for step in range(block.steps):
                rows = pl.ds(step * T, T)
                operands = [*(x.at(step) for x in (*q, *do)), *(x.at(rows) for x in (*k, *v))]
                block.clean(operands, step * T, limit, me)
            plgpu.commit_smem()
            meet(all_barrier)
        if of_pairs:
            row_sums.of_pairs(block, me, delta, q, k, v, do, tile=lambda i: i, **masked)
            meet(all_barrier)

        def tile(step, sums):
            """(dK, dV), each of all panels, of every tile of keys owned, with a tile of queries added."""
            if not waits:
                plgpu.barrier_wait(q_barrier.at[step])
            zero = forgotten(step)
            sums_ref = delta.at[pl.ds((step if of_pairs else me) * T, T)]
            if not of_pairs:
                sums_ref[...] = row_sums.of_tiles([x.at(step) for x in o], [x.at(step) for x in do])
            sums = list(sums)
            for i, (dk_TP, dv_TP) in enumerate(sums):
                key = pl.multiple_of((i * block.warpgroups + me + zero) * T, T)
                rows = pl.ds(key, T)
                score, end = onto_transpose(k, rows, q, step), (i + 1) * block.warpgroups * T
                p_TT = block.weights(score, step * T, key, query_axis=1, end=end, **masked)
                weight = block.factor(p_TT.astype(case.dtype), memory["stage"], me)
                dv_TP = block.accumulate(onto(weight, do, step), *dv_TP)
                [slope_TT] = block.accumulate(onto_transpose(v, rows, do, step), -spread(sums_ref, (T, T), 1))
                if i == 0:
                    pl.when(step > 0)(lambda: plgpu.barrier_wait(free))
                ds.at[zero, rows][...] = (p_TT * slope_TT).astype(case.dtype)
                plgpu.commit_smem()
                dk_TP = block.accumulate(onto(ds.at[zero, rows], q, step), *dk_TP)
                sums[i] = (dk_TP, dv_TP)
            turn = lax.rem(step, block.warpgroups)
            plgpu.barrier_arrive(full.at[turn])

            @pl.when(me == turn)
            def _():
                plgpu.barrier_wait(full.at[turn])
                every = pl.ds(pl.multiple_of(zero * T, T), R)
                dq_TP = products(onto(ds.at[zero].T, k, every), *(x.shape for x in sums[0][0]))
                plgpu.barrier_arrive(free)
                for x, dq in zip(o, dq_TP, strict=True):
                    x.tiled.at[step][...] = (dq * case.scale).astype(case.dtype)
                plgpu.commit_smem()
                block.store([x.at(step) for x in o], results[0], (b, n), step * T)

            return tuple(sums)

        sums = lax.fori_loop(0, block.steps, tile, ((zeros(block),) * 2,) * owned)
        meet(all_barrier)  # every dQ has been made of the keys
        for i, (dk_TP, dv_TP) in enumerate(sums):
            key = (i * block.warpgroups + me) * T
            rows = pl.ds(key, T)
            for panels, values, scale in ((k, dk_TP, case.scale), (v, dv_TP, 1.0)):
                for x, value in zip(panels, values, strict=True):
                    if block.is_padded:
                        value = jnp.where(key + iota(value.shape, 0) < limit, value, 0.0)
                    x.tiled.at[rows][...] = (value * scale).astype(case.dtype)
            plgpu.commit_smem()
            for panels, ref in zip((k, v), results[1:], strict=True):
                block.store([x.at(rows) for x in panels], ref, (b, n), key)
        plgpu.wait_smem_to_gmem(0)

    results = [jax.ShapeDtypeStruct(q_BSNK.shape, case.dtype)] * 3
    arrays = (q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR, o_BSNK, shift_BNR, do_BSNK)
    return block.launch(kernel, "attention_backward", results, _memory(block, of_pairs), arrays)


def _memory(block, of_pairs):
    """Shared memory and barriers, by name."""
    case, R, copies = block.case, block.rows, len(block.panels)
    barriers = (
        plgpu.Barrier(num_arrivals=(2 if of_pairs else 3) * copies, num_barriers=block.steps),
        plgpu.Barrier(num_arrivals=2 * copies + 1 + case.segments),
        plgpu.Barrier(num_arrivals=block.warpgroups),
        # A tile's dS is there, for the warpgroup whose turn it is; and its place may be written again.
        plgpu.Barrier(num_arrivals=block.warpgroups, num_barriers=block.warpgroups),
        plgpu.Barrier(),
    )
    return dict(
        q=block.operand(block.steps, T),
        k=block.operand(R),
        v=block.operand(R),
        o=block.operand(block.steps, T),
        do=block.operand(block.steps, T),
        ds=block.tile(1, R, T),
        shift=plgpu.SMEM((R,), jnp.float32),
        delta=plgpu.SMEM((R,), jnp.float32),
        segments=plgpu.SMEM((R,), jnp.int32) if case.segments else None,
        places=block.places(),
        stage=block.stage(T),
        barriers=barriers,
    )
