"""What is taken from a tile of logits: the statistics of its rows and columns, and the slope of the logits.

A **rule** sees the logits of all pairs once, a tile at a time, and then the slope of each tile. The rest of
the core knows nothing of softmax or sigmoid, and a rule nothing of tiles, devices or embeddings' origin.

Letters: I rows, J columns, E embedding, K kinds of ids.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

# What an example that shows the same thing as another is to it.
Duplicates = Literal["negatives", "masked", "positives"]

# In place of a logit that does not count. Finite: the difference of two infinities is not a number.
NEVER = -1e30


class Teacher(NamedTuple):
    """What a teacher makes of the same rows or columns; constant to differentiation."""

    z: Array  # [I, any width] its embeddings
    scale: Array  # [I]; of columns unused
    peak: Array  # [I]; with `log_sum`, its finished softmax statistics
    log_sum: Array


class Side(NamedTuple):
    """Rows or columns of the matrix of logits, one entry each; None is a thing that no rule asks for.

    A tree of arrays that share their first axis, so that it is cut, sent and gathered as one thing.
    """

    z: Array  # [I, E] embeddings
    scale: Array | None = None  # [I], of the logits of this row
    bias: Array | None = None  # [I], added to the logits of this row
    index: Array | None = None  # [I] int32: row i and column i are a pair
    ids: Array | None = None  # [I, K] int32: any one in common makes a row and a column duplicates
    present: Array | None = None  # [I] bool: whether this entry is there at all
    teacher: Teacher | None = None
    norms: Array | None = None  # [I, P] 1 / norm of prefixes of z; see `nested`


class Rule(Protocol):
    columns: bool  # whether columns have statistics, too

    def empty(self, like: Array) -> Any:
        """Statistics before any logit, a tree of arrays of the shape and dtype of `like`, [I]."""

    def add(self, rows, columns, logits_IJ: Array, row: Side, column: Side) -> tuple[Any, Any]:
        """`rows` and `columns`, the statistics so far, with those of one more tile."""

    def merge(self, parts: Any) -> Any:
        """Statistics of the same columns from several devices, along a new first axis, as one."""

    def finish(self, found: Any) -> Any:
        """What the caller is given for the statistics when every logit was seen."""

    def slope(self, rows, columns, logits_IJ: Array, row: Side, column: Side) -> Array:
        """d loss / d logits; `rows` and `columns` are (finished statistics, their gradients)."""


def nested(row: Side, column: Side, widths: tuple[int, ...]) -> list[Array]:
    """Tiles of logits, scale x . y + bias in float32 or better: of each prefix of `widths`, made unit-norm,
    and of the whole. Products of parts add up to those of prefixes.
    """
    found, total_IJ = [], 0
    for k, (start, end) in enumerate(parts(widths)):
        total_IJ = total_IJ + product(row.z[:, start:end], column.z[:, start:end].T)
        cosines_IJ = total_IJ
        if end is not None:
            cosines_IJ = row.norms[:, k, None] * total_IJ * column.norms[:, k]
        found.append(row.scale[:, None] * cosines_IJ + row.bias[:, None])
    return found


def parts(widths: tuple[int, ...]) -> list[tuple[int, int | None]]:
    """Where each part of an embedding begins and ends: from one of the ascending widths to the next."""
    return list(zip((0, *widths), (*widths, None), strict=True))


def product(a, b) -> Array:
    """`a @ b` accumulated in float32 or better.

    float32: at temperature 0.01 logits reach 100, where bfloat16 values are 0.5 apart. The CPU's and the
    GPU's default precision is full for float32; the TPU's is not.
    """
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.dot(a, b, precision="highest", preferred_element_type=dtype)


def duplicates(row: Side, column: Side) -> Array:
    """Bool [I, J]: shows the same thing, by any kind of ids; an example is a duplicate of itself."""
    found_IJ = row.index[:, None] == column.index
    if row.ids is not None:
        for k in range(row.ids.shape[1]):
            found_IJ |= row.ids[:, None, k] == column.ids[:, k]
    return found_IJ


class SoftmaxStatistics(NamedTuple):
    """Of each row (or column): log sum_j exp(s_ij) = peak + log_sum, over the logits that count.

    `peak` is a constant to differentiation; the gradient of the whole is that of `log_sum`. Apart, they keep
    the digits that their sum would lose where a positive is all that matters.
    """

    peak: Array
    log_sum: Array
    alike: Array | None = None  # sum of the logits of the duplicates, itself among them
    count: Array | None = None  # how many these are


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Log-sum-exp of rows and columns by an online maximum (Milakov & Gimelshein 2018, arXiv:1805.02867)."""

    columns: bool = True
    excluded: Literal["nothing", "others", "alike"] = "nothing"  # duplicates but for itself; all duplicates
    alike: bool = False  # whether to sum over duplicates

    def empty(self, like):
        zero = jnp.zeros_like(like)
        more = (zero, zero) if self.alike else (None, None)
        return SoftmaxStatistics(jnp.full_like(like, NEVER), zero, *more)

    def add(self, rows, columns, logits_IJ, row, column):
        counted_IJ, alike_IJ = self._masks(row, column)
        masked_IJ = logits_IJ if counted_IJ is None else jnp.where(counted_IJ, logits_IJ, NEVER)
        rows = self._add(rows, masked_IJ, logits_IJ, alike_IJ, axis=1)
        return rows, self._add(columns, masked_IJ, logits_IJ, alike_IJ, axis=0) if self.columns else None

    def _add(self, found, masked_IJ, logits_IJ, alike_IJ, axis):
        peak = jax.lax.stop_gradient(jnp.maximum(found.peak, jnp.max(masked_IJ, axis)))
        total = jnp.sum(jnp.exp(masked_IJ - jnp.expand_dims(peak, axis)), axis)
        added = found._replace(
            peak=peak,
            # The sum itself until `finish`.
            log_sum=found.log_sum * jnp.exp(found.peak - peak) + total,
        )
        if not self.alike:
            return added
        return added._replace(
            alike=found.alike + jnp.sum(jnp.where(alike_IJ, logits_IJ, 0), axis),
            count=found.count + jnp.sum(alike_IJ, axis, dtype=found.count.dtype),
        )

    def merge(self, parts):
        peak = jnp.max(parts.peak, axis=0)
        total = jnp.sum(parts.log_sum * jnp.exp(parts.peak - peak), axis=0)
        more = [None if part is None else jnp.sum(part, axis=0) for part in (parts.alike, parts.count)]
        return SoftmaxStatistics(peak, total, *more)

    def finish(self, found):
        return found._replace(log_sum=jnp.log(found.log_sum))

    def slope(self, rows, columns, logits_IJ, row, column):
        counted_IJ, alike_IJ = self._masks(row, column)
        slope_IJ = self._slope(*rows, logits_IJ, axis=1)
        if self.columns:
            slope_IJ += self._slope(*columns, logits_IJ, axis=0)
        if counted_IJ is not None:
            slope_IJ = jnp.where(counted_IJ, slope_IJ, 0)
        if self.alike:
            gradient_IJ = rows[1].alike[:, None] + (columns[1].alike if self.columns else 0)
            slope_IJ += jnp.where(alike_IJ, gradient_IJ, 0)
        return slope_IJ

    @staticmethod
    def _slope(found, gradient, logits_IJ, axis):
        """The gradient of `log_sum` times the softmax of each logit."""
        peak, log_sum, gradient = (
            jnp.expand_dims(x, axis) for x in (found.peak, found.log_sum, gradient.log_sum)
        )
        return gradient * jnp.exp((logits_IJ - peak) - log_sum)

    def _masks(self, row, column):
        """Bool [I, J] each, None where every logit counts and where duplicates do not matter."""
        counted_IJ = alike_IJ = None
        if self.alike or self.excluded != "nothing":
            alike_IJ = duplicates(row, column)
        if self.excluded != "nothing":
            counted_IJ = ~alike_IJ
        if self.excluded == "others":
            counted_IJ |= row.index[:, None] == column.index
        if row.present is not None:
            both_IJ = row.present[:, None] & column.present
            counted_IJ = both_IJ if counted_IJ is None else counted_IJ & both_IJ
            alike_IJ = None if alike_IJ is None else alike_IJ & both_IJ
        return counted_IJ, alike_IJ


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Sum of each row's -log sigmoid(z_ij s_ij), where z_ij is 1 of positives and -1 of negatives."""

    columns = False
    duplicates: Duplicates = "negatives"
    smoothing: float = 0.0  # towards answering one half

    def empty(self, like):
        return jnp.zeros_like(like)

    def add(self, rows, columns, logits_IJ, row, column):
        sign_IJ = self._signs(logits_IJ, row, column)
        losses_IJ = jnp.where(sign_IJ == 0, 0, jax.nn.softplus(-sign_IJ * logits_IJ))
        if self.smoothing:
            # Cross-entropy is linear in what is wanted.
            losses_IJ += self.smoothing / 2 * sign_IJ * logits_IJ
        return rows + jnp.sum(losses_IJ, axis=1), None

    def finish(self, found):
        return found

    def slope(self, rows, columns, logits_IJ, row, column):
        _, gradient_I = rows
        sign_IJ = self._signs(logits_IJ, row, column)
        return gradient_I[:, None] * sign_IJ * (self.smoothing / 2 - jax.nn.sigmoid(-sign_IJ * logits_IJ))

    def _signs(self, logits_IJ, row, column):
        """1 of positives, -1 of negatives, 0 of what does not count."""
        self_IJ = row.index[:, None] == column.index
        positive_IJ = duplicates(row, column) if self.duplicates == "positives" else self_IJ
        sign_IJ = jnp.where(positive_IJ, 1, -1).astype(logits_IJ.dtype)
        if self.duplicates == "masked":
            sign_IJ = jnp.where(duplicates(row, column) & ~self_IJ, 0, sign_IJ)
        if row.present is not None:
            sign_IJ = jnp.where(row.present[:, None] & column.present, sign_IJ, 0)
        return sign_IJ


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Sum of the logits of rows and columns, weighted by the softmax of a teacher's logits there."""

    columns = True

    def empty(self, like):
        return jnp.zeros_like(like)

    def add(self, rows, columns, logits_IJ, row, column):
        by_row_IJ, by_column_IJ = self._weights(row, column)
        rows = rows + jnp.sum(by_row_IJ * logits_IJ, axis=1)
        return rows, columns + jnp.sum(by_column_IJ * logits_IJ, axis=0)

    def merge(self, parts):
        return jnp.sum(parts, axis=0)

    def finish(self, found):
        return found

    def slope(self, rows, columns, logits_IJ, row, column):
        by_row_IJ, by_column_IJ = self._weights(row, column)
        return rows[1][:, None] * by_row_IJ + columns[1] * by_column_IJ

    @staticmethod
    def _weights(row, column):
        of_row, of_column = row.teacher, column.teacher
        logits_IJ = of_row.scale[:, None] * product(of_row.z, of_column.z.T)
        by_row_IJ = jnp.exp((logits_IJ - of_row.peak[:, None]) - of_row.log_sum[:, None])
        by_column_IJ = jnp.exp((logits_IJ - of_column.peak) - of_column.log_sum)
        if row.present is None:
            return by_row_IJ, by_column_IJ
        both_IJ = row.present[:, None] & column.present
        return jnp.where(both_IJ, by_row_IJ, 0), jnp.where(both_IJ, by_column_IJ, 0)
