"""Which scores count, and which positions are there at all, inside a grid step of attention on a TPU.

Letters: S positions, Q a part of them as queries, T all as keys, X heads x head width.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from mmjax.kernels.attention.case import Case

_MASKED = -1e30  # finite: a query with nothing to see must not become NaN
_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Side:
    """Positions that a grid step works on, as queries or as keys."""

    count: int
    first: Any = None  # scalar: the first of them; None: that of the example
    limit: Any = None  # scalar: positions from here on are padding; None: none is

    def numbers(self, shape, axis: int):
        """int32: of each entry its position along an axis."""
        numbers = lax.broadcasted_iota(jnp.int32, shape, axis)
        return numbers if self.first is None else self.first + numbers

    def cleared(self, x_SX):
        """Zeros where a position is padding."""
        if self.limit is None:
            return x_SX
        return jnp.where(self.numbers(x_SX.shape, 0) < self.limit, x_SX, 0)


@dataclasses.dataclass(frozen=True)
class Masks:
    """Static padding is cut off, not masked; padding by length is cleared where it is loaded, since
    0 x NaN would be NaN, and masked as keys. Padded queries then need no mask of their own: their gradient is
    cleared, and so is their output."""

    causal: bool
    queries: Side
    keys: Side
    ids_1Q: Any = None
    ids_1T: Any = None

    @classmethod
    def of(cls, case: Case, step: int | None, refs):
        """The masks of a grid step of so many queries (None: of all), and those of its refs that are left."""
        refs = list(refs)
        size = case.keys if case.kv_len is None else case.kv_len
        length = refs.pop(0)[0, 0] if case.lengths else None
        queries = keys = Side(size, limit=length)
        ids_1Q = ids_1T = refs.pop(0)[:, :size] if case.segments else None
        if step is not None:
            # The last step may reach beyond the positions that there are.
            limit = size if length is None else jnp.minimum(length, size)
            queries = Side(step, first=pl.program_id(2) * step, limit=limit)
            ids_1Q = refs.pop(0)[...] if case.segments else None
        return cls(case.causal, queries, keys, ids_1Q, ids_1T), refs

    def of_parts(self, parts):
        """For each part of the queries, a function that puts scores of what a query does not see out of
        reach."""
        ids_T1 = None if self.ids_1T is None else _column(self.ids_1T)
        return [self._hide(part, ids_T1) for part in parts]

    def of_last(self):
        """The same for scores [H, T] of the last query, in H heads: it sees all before it, and is padding
        itself where any of them is."""
        if self.ids_1T is None:
            return lambda s_HT: s_HT
        seen_1T = self.ids_1T == self.ids_1T[:, -1:]
        return lambda s_HT: jnp.where(seen_1T, s_HT, _MASKED)

    def _hide(self, part, ids_T1):
        shape = (self.keys.count, part.stop - part.start)
        key_TQ = self.keys.numbers(shape, 0)
        seen = []
        if self.keys.limit is not None:
            seen.append(key_TQ < self.keys.limit)
        if self.causal:
            seen.append(key_TQ <= part.start + self.queries.numbers(shape, 1))
        if ids_T1 is not None:
            seen.append(ids_T1 == self.ids_1Q[:, part])
        if not seen:
            return lambda s_TQ: s_TQ
        seen_TQ = functools.reduce(jnp.logical_and, seen)
        return lambda s_TQ: jnp.where(seen_TQ, s_TQ, _MASKED)


def _column(row_1S):
    """[S, 1]. Through a full tile: a single row cannot be transposed."""
    return jnp.broadcast_to(row_1S, (_SUBLANES, row_1S.shape[1])).T[:, :1]
