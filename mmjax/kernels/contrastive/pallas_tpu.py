"""One device's part on a TPU, of the losses without options: `tiles.py` with its tiles as Pallas kernels.

The kernels are in `pallas_tpu_kernels.py`, and what they gain in docs/exactness.md.

Letters: I rows, J columns, E embedding, V vectors with an entry for each row.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmjax.kernels.contrastive import pallas_tpu_kernels as kernels
from mmjax.kernels.contrastive.pallas_tpu_kernels import LANES, SUBLANES
from mmjax.kernels.contrastive.rules import Rule, Side, Sigmoid, Softmax, SoftmaxStatistics
from mmjax.kernels.contrastive.tiles import cut, fold, put

# Rows and columns of a tile.
_HIGH, _WIDE = 512, 1024
# Numbers of the columns' gradient that stay on the chip while all rows pass by: 8 MiB, and twice that in all.
_HELD = 2**21
# Of the chips' 128 MiB, for all that a kernel holds at once.
_VMEM = 64 * 2**20
# A v5p has two cores, of which a kernel would use one; others were not tried.
_CHIPS = ("TPU v5 lite", "TPU v6 lite")


def serves(chip: str | None, rule: Rule, row: Side, column: Side) -> bool:
    """Whether there is a kernel: for a v5e or v6e, of a rule without options, and for whole vectors.

    Args:
        chip: kind of the devices that this is compiled for, not those that are here; None is not known.
    """
    return (
        chip in _CHIPS
        and rule in (Softmax(), Sigmoid())
        and row.present is None
        and row.norms is None
        and row.z.dtype == column.z.dtype
        and row.z.dtype in (jnp.float32, jnp.bfloat16)
        and row.z.shape[1] <= _HELD // _WIDE
        and all(size % LANES == 0 for size in (*row.z.shape, len(column.z)))
    )


def forward(rule: Rule, widths, row: Side, column: Side, rows, columns, *, interpret=False):
    """As `tiles.forward`, of what `serves`: the whole embeddings alone, so that lists are of one."""

    def some(carry, start, length):
        rows, columns = carry
        here = cut(column, start, length)
        if isinstance(rule, Sigmoid):
            return rows + _losses(row, here, interpret), None
        of_rows, of_columns = _softmax(row, here, interpret)
        columns_J = _merged(rule, cut(columns, start, length), of_columns)
        return _merged(rule, rows, of_rows), put(columns, columns_J, start)

    (rows,), (columns,) = rows, columns
    rows, columns = fold(some, (rows, columns), len(column.z), _held(column))
    return [rows], [columns]


def backward(
    rule: Rule,
    widths,
    row: Side,
    column: Side,
    rows,
    columns,
    d_row: Side,
    d_column: Side,
    *,
    interpret=False,
):
    """As `tiles.backward`, of what `serves`."""
    rows, columns = (tuple(whole for (whole,) in side) for side in (rows, columns))

    def some(carry, start, length):
        d_row, d_column = carry
        here, columns_J = cut((column, columns if rule.columns else None), start, length)
        before = d_row.z, cut(d_column.z, start, length)
        x_IE, bias_I, y_JE = _gradients(rule, row, here, rows, columns_J, before, interpret)
        d_row = d_row._replace(z=x_IE, bias=d_row.bias + bias_I)
        return d_row, d_column._replace(z=put(d_column.z, y_JE, start))

    return fold(some, (d_row, d_column), len(column.z), _held(column))


def _held(column: Side) -> int:
    """Columns for one call of a kernel: whole tiles of them, or all."""
    return min(len(column.z), _HELD // column.z.shape[1] // _WIDE * _WIDE)


def _merged(rule, found, more):
    return rule.merge(jax.tree.map(lambda *parts: jnp.stack(parts), found, more))


def _indices(row: Side, column: Side):
    """Those of rows and columns, for comparisons: from the first row on, where float32 counts exactly."""
    return [(side.index - row.index[0]).astype(jnp.float32) for side in (row, column)]


def _sizes(row: Side, column: Side):
    return math.gcd(len(row.z), _HIGH), math.gcd(len(column.z), _WIDE)


def _call(kernel, row, column, *, of_rows=(), of_columns=(), more=(), more_specs=(), interpret, **options):
    """`kernel` for all tiles: every column for the first rows, then for the next.

    Args:
        of_rows, of_columns: vectors that it needs beside the rows' scale and bias.
    """
    (high, wide), width = _sizes(row, column), row.z.shape[1]
    row_IV = jnp.stack([row.scale, row.bias, *of_rows], axis=1)
    arrays, specs = (
        [row.z, column.z, row_IV],
        [
            pl.BlockSpec((high, width), lambda i, j: (i, 0)),
            pl.BlockSpec((wide, width), lambda i, j: (j, 0)),
            pl.BlockSpec((high, row_IV.shape[1]), lambda i, j: (i, 0)),
        ],
    )
    if of_columns:
        arrays.append(jnp.stack(of_columns))
        specs.append(pl.BlockSpec((len(of_columns), wide), lambda i, j: (0, j)))
    return pl.pallas_call(
        kernel,
        grid=(len(row.z) // high, len(column.z) // wide),
        in_specs=[*specs, *more_specs],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        interpret=interpret,
        **options,
    )(*arrays, *more)


def _softmax(row: Side, column: Side, interpret):
    """`SoftmaxStatistics` of these rows and columns, not finished."""
    (high, _), rows, columns = _sizes(row, column), len(row.z), len(column.z)
    of_row, of_column = pltpu.VMEM((high, LANES), jnp.float32), pltpu.VMEM((SUBLANES, columns), jnp.float32)
    found_I2, found_2J = _call(
        kernels.softmax_kernel,
        *(row, column),
        out_specs=[
            pl.BlockSpec((high, 2), lambda i, j: (i, 0)),
            pl.BlockSpec((2, columns), lambda i, j: (0, 0)),
        ],
        out_shape=[_float32(rows, 2), _float32(2, columns)],
        scratch_shapes=[of_row, of_row, of_column, of_column],
        name="contrastive_softmax",
        interpret=interpret,
    )
    return SoftmaxStatistics(found_I2[:, 0], found_I2[:, 1]), SoftmaxStatistics(*found_2J)


def _losses(row: Side, column: Side, interpret):
    """The sum of each row's sigmoid losses, [I]."""
    high, _ = _sizes(row, column)
    row_I, column_J = _indices(row, column)
    losses_I1 = _call(
        kernels.sigmoid_kernel,
        *(row, column),
        of_rows=[row_I],
        of_columns=[column_J],
        out_specs=pl.BlockSpec((high, 1), lambda i, j: (i, 0)),
        out_shape=_float32(len(row.z), 1),
        scratch_shapes=[pltpu.VMEM((high, LANES), jnp.float32)],
        name="contrastive_sigmoid",
        interpret=interpret,
    )
    return losses_I1[:, 0]


def _gradients(rule: Rule, row: Side, column: Side, rows, columns, before, interpret):
    """The gradients of rows and columns `before` with those of these tiles, and that of the rows' biases."""
    if isinstance(rule, Sigmoid):
        row_I, column_J = _indices(row, column)
        slope, of_rows, of_columns = kernels.sigmoid_slope, [row_I, rows[1]], [column_J]
    else:
        slope = kernels.softmax_slope
        of_rows, of_columns = ([x[0].peak, x[0].log_sum, x[1].log_sum] for x in (rows, columns))
    (high, wide), width = _sizes(row, column), row.z.shape[1]
    by_row, last = pl.BlockSpec((high, width), lambda i, j: (i, 0)), len(column.z) // wide - 1
    # What columns have so far comes in with the first rows, and is not fetched again.
    once = pl.BlockSpec((wide, width), lambda i, j: (jnp.where(i == 0, j, last), 0))
    x_IE, bias_I1, y_JE = _call(
        functools.partial(kernels.slope_kernel, slope),
        *(row, column),
        of_rows=of_rows,
        of_columns=of_columns,
        more=before,
        more_specs=[by_row, once],
        out_specs=[
            by_row,
            pl.BlockSpec((high, 1), lambda i, j: (i, 0)),
            pl.BlockSpec(column.z.shape, lambda i, j: (0, 0)),
        ],
        out_shape=[_float32(*row.z.shape), _float32(len(row.z), 1), _float32(*column.z.shape)],
        scratch_shapes=[pltpu.VMEM((high, LANES), jnp.float32)],
        input_output_aliases={4: 0, 5: 2},
        name="contrastive_slope",
        interpret=interpret,
    )
    return x_IE, bias_I1[:, 0], y_JE


def _float32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
