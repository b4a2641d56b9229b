"""Kernels for a tile of logits on a TPU: statistics of softmax and sigmoid, and gradients from the slopes.

A tile is made in parts, so that the matrix units multiply one while the logits of another become exponentials
and sums; XLA does one after the other. Sums along a tile stay vectors until the end, for what crosses the
lanes of one is slow: a row has 128 running statistics, each of every 128th column, and a column 8, each of
every 8th row.

The grid is (rows / I, columns / J), and its last axis moves first. Refs: `x_ref` [I, E] and `y_ref` [J, E]
embeddings; `row_ref` [I, V] scale and bias of each row, and what else is known of it; `column_ref` [V, J]
what is known of each column.

Letters: I rows and J columns of a tile, E embedding, V vectors, U sublanes, 1 a place to repeat over.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from mmjax.kernels.contrastive.rules import NEVER

LANES, SUBLANES = 128, 8
# Rows of a part of a tile: as many as fill the matrix unit of a v6e, which sums over them for the columns.
_PART = 256


def softmax_kernel(x_ref, y_ref, row_ref, rows_ref, columns_ref, *found_refs):
    """Largest logit and sum of exponentials of every row, [I, 2], and every column, [2, J], online."""
    row_peak, row_sum, column_peak, column_sum = found_refs
    here = _columns(y_ref)

    @_first(1)
    def _():
        row_peak[...], row_sum[...] = jnp.full_like(row_peak, NEVER), jnp.zeros_like(row_sum)

    @_first(0)
    def _():
        nothing_UJ = jnp.zeros((SUBLANES, len(y_ref)), jnp.float32)
        column_peak[:, here], column_sum[:, here] = nothing_UJ + NEVER, nothing_UJ

    for rows, logits_IJ, *_ in _parts(x_ref, y_ref, row_ref):
        _add_exponentials(row_peak.at[rows], row_sum.at[rows], _split(logits_IJ, 1, LANES))
        _add_exponentials(column_peak.at[:, here], column_sum.at[:, here], _split(logits_IJ, 0, SUBLANES))

    @_last(1)
    def _():
        rows_ref[:, 0:1], rows_ref[:, 1:2] = _one(row_peak[...], row_sum[...], axis=1)

    @_last(0)
    def _():
        columns_ref[0:1, here], columns_ref[1:2, here] = _one(
            column_peak[:, here], column_sum[:, here], axis=0
        )


def _add_exponentials(peak_ref, sum_ref, pieces):
    """Every place of every piece added to the statistics of that place."""
    before = peak_ref[...]
    peak = functools.reduce(jnp.maximum, pieces, before)
    peak_ref[...] = peak
    sum_ref[...] = sum_ref[...] * jnp.exp(before - peak) + sum(jnp.exp(piece - peak) for piece in pieces)


def _one(peaks, sums, axis):
    """The statistics of all places along an axis as one."""
    peak = jnp.max(peaks, axis, keepdims=True)
    return peak, jnp.sum(sums * jnp.exp(peaks - peak), axis, keepdims=True)


def sigmoid_kernel(x_ref, y_ref, row_ref, column_ref, losses_ref, sums):
    """-log sigmoid of what every logit should be, summed over each row, [I, 1]."""

    @_first(1)
    def _():
        sums[...] = jnp.zeros_like(sums)

    for rows, logits_IJ, _, index_I1 in _parts(x_ref, y_ref, row_ref):
        wrong_IJ = jnp.where(index_I1 == column_ref[...], -logits_IJ, logits_IJ)
        losses_IJ = jnp.maximum(wrong_IJ, 0) + jnp.log1p(jnp.exp(-jnp.abs(wrong_IJ)))
        sums[rows] += sum(_split(losses_IJ, 1, LANES))

    @_last(1)
    def _():
        losses_ref[...] = jnp.sum(sums[...], axis=1, keepdims=True)


def slope_kernel(slope, x_ref, y_ref, row_ref, column_ref, x_before, y_before, d_x, d_bias, d_y, sums):
    """Gradients by rows (but for their scale), the rows' biases and columns, from d loss / d logits."""
    here = _columns(y_ref)
    columns_1J = [column_ref[k : k + 1] for k in range(len(column_ref))]

    @_first(1)
    def _():
        d_x[...], sums[...] = x_before[...], jnp.zeros_like(sums)

    @_first(0)
    def _():
        d_y[here] = y_before[...]

    for rows, logits_IJ, scale_I1, *rows_I1 in _parts(x_ref, y_ref, row_ref):
        slope_IJ = slope(logits_IJ, *rows_I1, *columns_1J)
        # As narrow as the embeddings, as in `tiles.backward`.
        d_x[rows] += _dot(slope_IJ.astype(y_ref.dtype), y_ref[...], 1, 0)
        d_y[here] += _dot((slope_IJ * scale_I1).astype(x_ref.dtype), x_ref[rows], 0, 0)
        sums[rows] += sum(_split(slope_IJ, 1, LANES))

    @_last(1)
    def _():
        d_bias[...] = jnp.sum(sums[...], axis=1, keepdims=True)


def softmax_slope(logits_IJ, peak_I, log_sum_I, gradient_I, peak_J, log_sum_J, gradient_J):
    of_rows_IJ = gradient_I * jnp.exp((logits_IJ - peak_I) - log_sum_I)
    return of_rows_IJ + gradient_J * jnp.exp((logits_IJ - peak_J) - log_sum_J)


def sigmoid_slope(logits_IJ, index_I, gradient_I, index_J):
    sign_IJ = jnp.where(index_I == index_J, -1.0, 1.0)
    return gradient_I * sign_IJ * jax.nn.sigmoid(sign_IJ * logits_IJ)


def _parts(x_ref, y_ref, row_ref):
    """(its rows, its logits, the rows' scale, their further vectors ...) of every part of a tile."""
    part = min(_PART, len(x_ref))
    for start in range(0, len(x_ref), part):
        rows = pl.ds(start, part)
        scale_I1, bias_I1, *more = [row_ref[rows, k : k + 1] for k in range(row_ref.shape[1])]
        yield rows, scale_I1 * _dot(x_ref[rows], y_ref[...], 1, 1) + bias_I1, scale_I1, *more


def _dot(a, b, a_axis, b_axis):
    """Summed over these axes in float32, and of float32 numbers in full, as `rules.product`."""
    axes = (((a_axis,), (b_axis,)), ((), ()))
    precision = "highest" if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)


def _split(x, axis, size):
    return [lax.slice_in_dim(x, k, k + size, axis=axis) for k in range(0, x.shape[axis], size)]


def _columns(y_ref):
    """Where the columns of this tile are among all."""
    wide = len(y_ref)
    return pl.ds(pl.multiple_of(pl.program_id(1) * wide, wide), wide)


def _first(axis):
    return pl.when(pl.program_id(axis) == 0)


def _last(axis):
    return pl.when(pl.program_id(axis) == pl.num_programs(axis) - 1)
