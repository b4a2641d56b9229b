"""One device's part: all pairs of its rows with the columns that are here, a tile of logits at a time.

No tile outlives its turn; what stays is of the size of the embeddings. Letters: I rows, J columns, E
embedding.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from mmjax.kernels.contrastive.rules import Side, logits, product

# Logits of a tile. Below the least, loops cost more than they compute; the most are 64 MiB of float32.
_LEAST, _MOST = 2**18, 2**24


def tile_sizes(rows: int, columns: int, width: int) -> tuple[int, int]:
    """Rows and columns of a tile: as square as they go, of at most half as many numbers as the rows'
    embeddings have (so memory grows linearly), in powers of two."""
    area = 2 ** int(math.log2(min(max(rows * width / 2, _LEAST), _MOST)))
    high = min(rows, 2 ** int(math.log2(area) / 2))
    return high, min(columns, area // 2 ** int(math.log2(high)))


def forward(rule, row: Side, column: Side, rows, columns):
    """The statistics so far, `rows` and `columns`, with those of every pair of `row` and `column`."""
    high, wide = tile_sizes(len(row.z), len(column.z), row.z.shape[1])

    def over_columns(carry, j, wide):
        rows, columns = carry
        column_J = cut(column, j, wide)

        def over_rows(carry, i, high):
            rows, columns_J = carry
            row_I = cut(row, i, high)
            rows_I, columns_J = rule.add(
                cut(rows, i, high), columns_J, logits(row_I, column_J), row_I, column_J
            )
            return put(rows, rows_I, i), columns_J

        rows, columns_J = fold(over_rows, (rows, cut(columns, j, wide)), len(row.z), high)
        return rows, put(columns, columns_J, j)

    return fold(over_columns, (rows, columns), len(column.z), wide)


def no_gradient(side: Side) -> Side:
    """Zeros for the gradients of a side, in the dtype that they are summed in; None where there is none."""
    zeros = [None if x is None else jnp.zeros(x.shape, _wide(x)) for x in (side.z, side.scale, side.bias)]
    return Side(*zeros)


def backward(rule, row: Side, column: Side, rows, columns, d_row: Side, d_column: Side):
    """`d_row` and `d_column`, gradients so far, with those of every pair.

    Args:
        rows, columns: (finished statistics, their gradients) of each.
        d_row, d_column: as from `no_gradient`. `d_row.z` lacks its factor, the row's scale; see `rescale`.
    """
    high, wide = tile_sizes(len(row.z), len(column.z), row.z.shape[1])

    def over_columns(carry, j, wide):
        d_row, d_column = carry
        column_J, columns_J = cut(column, j, wide), cut(columns, j, wide)

        def over_rows(carry, i, high):
            d_row, d_z_JE = carry
            row_I, rows_I = cut(row, i, high), cut(rows, i, high)
            slope_IJ = rule.slope(rows_I, columns_J, logits(row_I, column_J), row_I, column_J)
            d_I = cut(d_row, i, high)
            d_I = d_I._replace(
                # As narrow as the embeddings: float32 slopes would multiply at float32's pace.
                z=d_I.z + product(slope_IJ.astype(column_J.z.dtype), column_J.z),
                bias=d_I.bias + jnp.sum(slope_IJ, axis=1),
            )
            scaled_IJ = (slope_IJ * row_I.scale[:, None]).astype(row_I.z.dtype)
            return put(d_row, d_I, i), d_z_JE + product(scaled_IJ.T, row_I.z)

        d_row, d_z_JE = fold(over_rows, (d_row, cut(d_column.z, j, wide)), len(row.z), high)
        return d_row, d_column._replace(z=put(d_column.z, d_z_JE, j))

    return fold(over_columns, (d_row, d_column), len(column.z), wide)


def rescale(row: Side, d_row: Side) -> Side:
    """The gradients of rows, complete: scale's and embedding's from what `backward` summed."""
    return d_row._replace(
        scale=jnp.sum(row.z.astype(d_row.z.dtype) * d_row.z, axis=1), z=row.scale[:, None] * d_row.z
    )


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def fold(body, carry, size: int, step: int):
    """`carry = body(carry, start, length)` over `size` entries, `step` at a time, the rest at the end."""
    whole = size // step
    carry = lax.fori_loop(0, whole, lambda k, carry: body(carry, k * step, step), carry)
    return body(carry, whole * step, size % step) if size % step else carry


def cut(tree, start, length):
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, length), tree)


def put(tree, part, start):
    return jax.tree.map(lambda x, p: lax.dynamic_update_slice_in_dim(x, p, start, 0), tree, part)
