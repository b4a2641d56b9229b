"""One device's part: all pairs of its rows with the columns that are here, a tile of logits at a time.

No tile outlives its turn; what stays is of the size of the embeddings. Letters: I rows, J columns, E
embedding.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from mmjax.kernels.contrastive.rules import Side, nested, parts, product

# Logits of a tile. Below the least, loops cost more than they compute; the most are 64 MiB of float32.
_LEAST, _MOST = 2**18, 2**24


def tile_sizes(rows: int, columns: int, width: int, count: int = 1) -> tuple[int, int]:
    """Rows and columns of a tile: as square as they go, of at most half as many numbers as the rows'
    embeddings have (so memory grows linearly), in powers of two. `count` tiles share that."""
    area = 2 ** int(math.log2(min(max(rows * width / 2, _LEAST), _MOST) / count))
    high = min(rows, 2 ** int(math.log2(area) / 2))
    return high, min(columns, area // 2 ** int(math.log2(high)))


def forward(rule, widths, row: Side, column: Side, rows, columns):
    """The statistics so far, `rows` and `columns`, with those of every pair of `row` and `column`: lists, of
    the prefixes of `widths` and the whole."""
    high, wide = tile_sizes(len(row.z), len(column.z), row.z.shape[1], len(widths) + 1)

    def over_columns(carry, j, wide):
        rows, columns = carry
        column_J = cut(column, j, wide)

        def over_rows(carry, i, high):
            rows, columns_J = carry
            row_I = cut(row, i, high)
            of_tile = zip(cut(rows, i, high), columns_J, nested(row_I, column_J, widths), strict=True)
            added = [rule.add(*so_far, logits_IJ, row_I, column_J) for *so_far, logits_IJ in of_tile]
            return put(rows, [of_row for of_row, _ in added], i), [of_column for _, of_column in added]

        rows, columns_J = fold(over_rows, (rows, cut(columns, j, wide)), len(row.z), high)
        return rows, put(columns, columns_J, j)

    return fold(over_columns, (rows, columns), len(column.z), wide)


def no_gradient(side: Side) -> Side:
    """Zeros for the gradients of a side, in the dtype that they are summed in; None where there is none."""
    zeros = [None if x is None else jnp.zeros(x.shape, _wide(x)) for x in differentiable(side)]
    return Side(*zeros[:3], norms=zeros[3])


def differentiable(side: Side):
    return side.z, side.scale, side.bias, side.norms


def backward(rule, widths, row: Side, column: Side, rows, columns, d_row: Side, d_column: Side):
    """`d_row` and `d_column`, gradients so far, with those of every pair.

    Args:
        rows, columns: (finished statistics, their gradients) of each; lists, as of `forward`.
        d_row, d_column: as from `no_gradient`. `d_row.z` lacks its factor, the row's scale; see `rescale`.
    """
    high, wide = tile_sizes(len(row.z), len(column.z), row.z.shape[1], len(widths) + 1)

    def over_columns(carry, j, wide):
        d_row, d_column = carry
        column_J, columns_J = cut(column, j, wide), cut(columns, j, wide)

        def over_rows(carry, i, high):
            d_row, d_J = carry
            row_I, rows_I = cut(row, i, high), cut(rows, i, high)
            all_logits = nested(row_I, column_J, widths)
            of_tile = zip(zip(*rows_I, strict=True), zip(*columns_J, strict=True), all_logits, strict=True)
            slopes = [rule.slope(*found, logits_IJ, row_I, column_J) for *found, logits_IJ in of_tile]
            d_I, d_J = _pull(widths, row_I, column_J, all_logits, slopes, cut(d_row, i, high), d_J)
            return put(d_row, d_I, i), d_J

        d_row, d_J = fold(over_rows, (d_row, cut(d_column, j, wide)), len(row.z), high)
        return d_row, put(d_column, d_J, j)

    return fold(over_columns, (d_row, d_column), len(column.z), wide)


def _pull(widths, row: Side, column: Side, all_logits, slopes, d_row: Side, d_column: Side):
    """Gradients so far with those of one tile, from the slopes of its logits, one for each width.

    A part of the embeddings belongs to all prefixes that are longer: from the last part to the first, what
    products are weighted with grows by one slope.
    """
    weight_IJ, d_x, d_y = 0, [], []
    for k, (start, end) in reversed(list(enumerate(parts(widths)))):
        x, y, slope_IJ = row.z[:, start:end], column.z[:, start:end], slopes[k]
        if end is None:
            weight_IJ = slope_IJ
        else:
            weight_IJ += row.norms[:, k, None] * slope_IJ * column.norms[:, k]
            d_row, d_column = _pull_norms(k, row, column, all_logits[k], slope_IJ, d_row, d_column)
        # As narrow as the embeddings: float32 slopes would multiply at float32's pace.
        d_x.insert(0, product(weight_IJ.astype(y.dtype), y))
        d_y.insert(0, product((weight_IJ * row.scale[:, None]).astype(x.dtype).T, x))
    d_row = d_row._replace(
        z=d_row.z + jnp.concatenate(d_x, axis=1), bias=d_row.bias + sum(jnp.sum(s, axis=1) for s in slopes)
    )
    return d_row, d_column._replace(z=d_column.z + jnp.concatenate(d_y, axis=1))


def _pull_norms(k, row, column, logits_IJ, slope_IJ, d_row, d_column):
    """Each norm scales all logits of its row or column, the bias apart."""
    by_scale_IJ = slope_IJ * (logits_IJ - row.bias[:, None])
    of_row = d_row.norms.at[:, k].add(jnp.sum(by_scale_IJ, axis=1) / row.norms[:, k])
    of_column = d_column.norms.at[:, k].add(jnp.sum(by_scale_IJ, axis=0) / column.norms[:, k])
    return d_row._replace(norms=of_row), d_column._replace(norms=of_column)


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
