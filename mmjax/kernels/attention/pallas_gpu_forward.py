"""Attention on Hopper, forward.

Keys, values and queries of a head are copied to shared memory. A warpgroup takes a tile of queries at a time,
holds its scores against all keys in registers and normalises them there. Letters as in `pallas_gpu_tiles.py`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention.pallas_gpu_tiles import AXES, T, forgotten, meet, onto, onto_transpose, products


def forward(block, q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR):
    """The output, and for every query the logarithm of its sum of exponentials over `scale`, [B, N, R].

    That is the shift which makes of scores the logarithms of weights: infinite where a query sees no key.
    """
    case, R = block.case, block.rows

    def kernel(q_ref, k_ref, v_ref, lengths_ref, segments_ref, o_ref, shift_ref, **memory):
        b, n, me = block.place()
        q, k, v = block.views(memory["q"], memory["k"], memory["v"])
        q_barrier, k_barrier, v_barrier, all_barrier = memory["barriers"]
        segments, shift = memory["segments"], memory["shift"]
        limit = block.limit(lengths_ref, b)

        @pl.when(me == 0)
        def _():
            if case.segments:
                plgpu.copy_gmem_to_smem(segments_ref.at[b], segments, k_barrier)
            block.load(k_ref, k, (b, n), 0, k_barrier)
            for step in range(block.steps):
                block.load(q_ref, [x.at(step) for x in q], (b, n), step * T, q_barrier.at[step])
            block.load(v_ref, v, (b, n), 0, v_barrier)

        masks = dict(limit=limit, segments=segments, places=block.numbered(memory["places"], me))
        plgpu.barrier_wait(k_barrier)
        plgpu.barrier_wait(v_barrier)
        if block.is_padded:
            for start in range(0, R, T):
                block.clean([x.at(pl.ds(start, T)) for x in v], start, limit, me)
            plgpu.commit_smem()
            meet(all_barrier)

        def tile(turn, _):
            step = turn * block.warpgroups + me
            every = pl.ds(pl.multiple_of(forgotten(turn) * T, T), R)
            plgpu.barrier_wait(q_barrier.at[step])

            [s_TR] = products(onto_transpose(q, step, k, every), (T, R))
            seen_TR = block.seen((T, R), step * T, 0, query_axis=0, end=R, **masks)
            if seen_TR is not None:
                s_TR = jnp.where(seen_TR, s_TR, -jnp.inf)
            top_T = s_TR.max(axis=1)
            top_T = jnp.where(top_T == -jnp.inf, 0.0, top_T)  # of a query that sees no key
            top_TR = lax.broadcast_in_dim(top_T * block.log2_scale, (T, R), [0])
            p_TR = jnp.exp2(s_TR * block.log2_scale - top_TR)
            sum_T = p_TR.sum(axis=1)
            p_TR = block.factor(p_TR.astype(case.dtype), memory["stage"], me)

            o_TP = products(onto(p_TR, v, every), *((T, columns) for _, columns in block.panels))
            at_T = step * T + plgpu.layout_cast(lax.iota(jnp.int32, T), AXES[0])
            is_real_T = (at_T < limit) & (sum_T > 0)
            shift.at[step][...] = jnp.where(is_real_T, top_T + jnp.log2(sum_T) / block.log2_scale, jnp.inf)
            for x, o in zip(q, o_TP, strict=True):
                is_real, whole = (lax.broadcast_in_dim(y, o.shape, [0]) for y in (is_real_T, 1 / sum_T))
                x.tiled.at[step][...] = jnp.where(is_real, o * whole, 0.0).astype(case.dtype)
            plgpu.commit_smem()
            block.store([x.at(step) for x in q], o_ref, (b, n), step * T)
            plgpu.copy_smem_to_gmem(shift.at[step], shift_ref.at[b, n, pl.ds(step * T, T)])

        lax.fori_loop(0, block.turns(me), tile, None)
        plgpu.wait_smem_to_gmem(0)

    copies = len(block.panels)
    barriers = (
        plgpu.Barrier(num_arrivals=copies, num_barriers=block.steps),
        plgpu.Barrier(num_arrivals=copies + case.segments),
        plgpu.Barrier(num_arrivals=copies),
        plgpu.Barrier(num_arrivals=block.warpgroups),
    )
    scratch = dict(
        q=block.operand(block.steps, T),
        k=block.operand(R),
        v=block.operand(R),
        shift=plgpu.SMEM((block.steps, T), jnp.float32),
        segments=plgpu.SMEM((R,), jnp.int32) if case.segments else None,
        places=block.places(),
        stage=block.stage(R),
        barriers=barriers,
    )
    results = [
        jax.ShapeDtypeStruct(q_BSNK.shape, case.dtype),
        jax.ShapeDtypeStruct((case.batch, case.heads, R), jnp.float32),
    ]
    arrays = (q_BSNK, k_BSNK, v_BSNK, lengths_B, segments_BR)
    return block.launch(kernel, "attention_forward", results, scratch, arrays)
