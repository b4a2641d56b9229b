"""What the Hopper kernels share: shared memory, copies, products and masks of a thread block.

A thread block serves one head of one example. An operand of it, [rows, width], lies in shared memory as
panels of 64, 32 or 16 columns, each as wide as its swizzle. The copy engine sees the panels untiled and
therefore takes any number of rows, and of columns that fill 16 bytes: what lies beyond the array it reads as
zeros and does not write.

Letters: B batch, S positions, N heads, K head width; T, the 64 rows of a tensor core's product; R, the
positions rounded up to T; P, the columns of a panel.
"""

import dataclasses
import functools
import math
import operator
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention.case import Case

T = 64
LAYOUT = plgpu.Layout.WGMMA  # of a tile in registers
AXES = (LAYOUT.reduce(1), LAYOUT.reduce(0))  # of a value for each of its rows, for each of its columns


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel as the copy engine sees it and as the tensor cores do."""

    copied: Any
    tiled: Any

    def at(self, index):
        return Panel(self.copied.at[index], self.tiled.at[index])


@dataclasses.dataclass(frozen=True)
class Block:
    """A thread block of a kernel for a case; `sizes` are the columns that its panels may have."""

    case: Case
    warpgroups: int
    interpret: Any = None
    sizes: tuple[int, ...] = (64, 32, 16)

    @property
    def steps(self):
        """Tiles of queries, and of keys."""
        return -(-self.case.keys // T)

    @property
    def rows(self):
        return self.steps * T

    @property
    def log2_scale(self):
        """Of scores whose power of two is taken."""
        return self.case.scale * math.log2(math.e)

    @property
    def panels(self):
        """(first column, columns) of each; the last one may reach beyond the head."""
        found, start = [], 0
        while start < self.case.width:
            left = -(-(self.case.width - start) // self.sizes[-1]) * self.sizes[-1]
            found.append((start, next(size for size in self.sizes if size <= left)))
            start += found[-1][1]
        return found

    @property
    def is_padded(self):
        """Whether positions that exist may be padding."""
        return self.case.lengths or self.case.kv_len is not None

    def launch(self, kernel, name, out_type, scratch, arrays):
        """The results of a kernel that runs for every head of every example."""
        return plgpu.kernel(
            kernel,
            out_type=out_type,
            scratch_types=scratch,
            grid=(self.case.batch, self.case.heads),
            grid_names=("batch", "head"),
            num_threads=self.warpgroups,
            thread_name="warpgroup",
            # Lane: a panel's two views need layouts that are stated, not inferred.
            compiler_params=plgpu.CompilerParams(
                approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
            ),
            kernel_name=name,
            interpret=self.interpret,
        )(*arrays)

    def turns(self, me):
        """How many tiles are a warpgroup's: each `warpgroups`-th one, from its own index on."""
        return lax.div(self.steps - me + self.warpgroups - 1, self.warpgroups)

    def last(self, step):
        """How many tiles of keys, the first ones, a tile of queries may see."""
        return step + 1 if self.case.causal else self.steps

    def place(self):
        """Indices of example, head and warpgroup."""
        return tuple(lax.axis_index(axis) for axis in ("batch", "head", "warpgroup"))

    def operand(self, *rows):
        """Shared memory for panels of `rows`, which may be several axes.

        A panel's tiles are 8 rows of all its columns, so that its bytes lie as they would untiled, and the
        swizzle goes by address: both views are of the same bytes. The interpreter would keep them apart, so
        there a panel has one view; it does not mind how that is tiled.
        """
        memory = []
        for _, columns in self.panels:
            tiled = self.tile(*rows, columns)
            copied = plgpu.SMEM(tiled.shape, tiled.dtype, transforms=tiled.transforms[1:])
            memory.append(tiled if self.interpret else plgpu.RefUnion(copied, tiled))
        return memory

    def tile(self, *shape):
        """Shared memory of which the tensor cores take products; at most 64 columns."""
        dtype = self.case.dtype
        swizzle = plgpu.SwizzleTransform(shape[-1] * dtype.itemsize)
        return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, shape[-1])), swizzle))

    def views(self, *operands):
        """For each operand its `Panel`s."""
        return [[Panel(x, x) if self.interpret else Panel(*x) for x in memory] for memory in operands]

    def load(self, ref, operand, place, row, barrier):
        """Starts to copy rows of a head from `row` on; what does not exist becomes zero."""
        for panel, window in self._windows(ref, operand, place, row):
            plgpu.copy_gmem_to_smem(window, panel.copied, barrier)

    def store(self, operand, ref, place, row):
        """Starts to copy to rows of a head from `row` on; what does not exist is left out."""
        for panel, window in self._windows(ref, operand, place, row):
            plgpu.copy_smem_to_gmem(panel.copied, window)

    def _windows(self, ref, operand, place, row):
        b, n = place
        zero = 0 * b  # where a slice begins has to be traced if it is to reach beyond the array
        for panel, (column, columns) in zip(operand, self.panels, strict=True):
            rows = pl.ds(row + zero, panel.copied.shape[0])
            yield panel, ref.at[b, rows, n, pl.ds(column + zero, columns)]

    def accumulate(self, multiply, *starts):
        """The arrays in `starts`, each with what `multiply`, given their accumulators, adds to it."""
        if not self.interpret:
            return pl.run_state(lambda accs: multiply(*accs))([plgpu.ACC.init(start) for start in starts])
        # The interpreter's accumulators start at zero.
        added = products(multiply, *(start.shape for start in starts))
        return [start + x for start, x in zip(starts, added, strict=True)]

    def stage(self, columns):
        """Shared memory for `factor`: the interpreter's products take nothing from registers."""
        return plgpu.SMEM((self.warpgroups, T, columns), self.case.dtype) if self.interpret else None

    def factor(self, x_TC, stage, me):
        """A tile as the first factor of a product."""
        if not self.interpret:
            return x_TC
        stage.at[me][...] = x_TC
        plgpu.commit_smem()
        return stage.at[me]

    def limit(self, lengths_ref, b):
        """The number of positions that are not padding."""
        fixed = self.case.keys if self.case.kv_len is None else self.case.kv_len
        return jnp.minimum(lengths_ref[b], fixed) if self.case.lengths else fixed

    def clean(self, operand, start, limit, me):
        """Makes a tile of rows, the first of them at position `start`, zero from position `limit` on.

        Its weight is zero there, and zero times what may lie in padding is not. Each tile is one warpgroup's.
        """
        if isinstance(limit, int) and start + T <= limit:
            return

        @pl.when((me == start // T % self.warpgroups) & (start + T > limit))
        def _():
            for panel in operand:
                x_TP = plgpu.load(panel.tiled, layout=LAYOUT)
                real_TP = start + iota(x_TP.shape, 0) < limit
                panel.tiled[...] = jnp.where(real_TP, x_TP, jnp.zeros_like(x_TP))

    def places(self):
        """Shared memory for `numbered`; None where no mask asks."""
        return plgpu.SMEM((self.warpgroups, self.rows), jnp.int32) if self.case.causal else None

    def numbered(self, places, me):
        """The positions, for a warpgroup. Made in registers they would stay there, where they leave no room:
        backward, a thread would spill up to 61 of them.
        """
        if places is None:
            return None
        for start in range(0, self.rows, T):
            tile_T = start + plgpu.layout_cast(lax.iota(jnp.int32, T), AXES[0])
            places.at[me, pl.ds(start, T)][...] = tile_T
        return places.at[me]

    def weights(self, score, query, key, *, shift, query_axis, **masks):
        """Of a tile of pairs, T x T, whose scores `score` multiplies; `shift` is that of all queries."""
        [s_TT] = self.accumulate(score, -spread(shift.at[pl.ds(query, T)], (T, T), query_axis))
        p_TT = jnp.exp2(s_TT * self.log2_scale)
        seen_TT = self.seen((T, T), query, key, query_axis=query_axis, **masks)
        return p_TT if seen_TT is None else jnp.where(seen_TT, p_TT, 0.0)

    def seen(self, shape, query, key, *, limit, segments, places, query_axis, end):
        """Which pairs count of a tile that begins at positions `query` and `key`; None where all do.

        `end` is where the keys of such tiles end at most.
        """
        case, key_axis = self.case, 1 - query_axis
        tests = []
        if case.lengths or end > limit:
            tests.append(key + iota(shape, key_axis) < limit)
        for values, test in ((places, operator.ge), (segments, operator.eq)):
            if values is not None:
                tests.append(
                    test(
                        *(
                            spread(values.at[pl.ds(start, shape[axis])], shape, axis)
                            for start, axis in ((query, query_axis), (key, key_axis))
                        )
                    )
                )
        return functools.reduce(operator.and_, tests) if tests else None


def products(multiply, *shapes):
    """The float32 arrays of these shapes that `multiply`, given their accumulators, sums up."""

    def scoped(*accs):
        multiply(*accs)
        return [acc[...] for acc in accs]

    return pl.run_scoped(scoped, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


def onto_transpose(operand, rows, other, columns):
    """Multiplies rows of an operand with the transpose of those of another, summed over their panels."""

    def multiply(acc):
        for x, y in zip(operand, other, strict=True):
            plgpu.wgmma(acc, x.tiled.at[rows], y.tiled.at[columns].T)

    return multiply


def onto(factor, operand, rows):
    """Multiplies a factor with rows of each panel of an operand."""

    def multiply(*accs):
        for acc, x in zip(accs, operand, strict=True):
            plgpu.wgmma(acc, factor, x.tiled.at[rows])

    return multiply


def spread(ref, shape, axis):
    """A tile that has the values of its rows or columns from shared memory."""
    return lax.broadcast_in_dim(plgpu.load(ref, layout=AXES[axis]), shape, [axis])


def zeros(block):
    """Of a tile for each panel."""
    return [plgpu.layout_cast(jnp.zeros((T, columns), jnp.float32), LAYOUT) for _, columns in block.panels]


def iota(shape, axis):
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=LAYOUT)


def forgotten(step):
    """Zero, but the compiler does not see that.

    Addresses made with it are computed in every step. The compiler would else keep them in registers from
    before the loop, and products leave none: the backward kernel of 256 positions would spill 70.
    """
    return lax.optimization_barrier(step) - step


def meet(barrier):
    """Waits until every warpgroup has come here."""
    plgpu.barrier_arrive(barrier)
    plgpu.barrier_wait(barrier)
