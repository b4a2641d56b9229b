"""Which scores count, and which positions are there at all, inside a grid step of attention on a TPU.

Letters: S positions, Q a part of them as queries, T all as keys, X heads x head width.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from mmjax.kernels.attention.case import Case

_MASKED = -1e30  # finite: a query with nothing to see must not become NaN
_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Masks:
    """Static padding is cut off, not masked; padding by length is cleared where it is loaded, since
    0 x NaN would be NaN, and masked as keys. Padded queries then need no mask of their own: their gradient is
    cleared, and so is their output."""

    causal: bool
    size: int  # positions before static padding
    length: Any = None  # scalar: positions from here on are padding, too
    ids_1S: Any = None

    @classmethod
    def of(cls, case: Case, refs):
        """The masks of a grid step, and those of its refs that are left."""
        refs = list(refs)
        size = case.keys if case.kv_len is None else case.kv_len
        length = refs.pop(0)[0, 0] if case.lengths else None
        ids_1S = refs.pop(0)[:, :size] if case.segments else None
        return cls(case.causal, size, length, ids_1S), refs

    def cleared(self, x_SX):
        """Zeros where a position is padding."""
        if self.length is None:
            return x_SX
        return jnp.where(lax.broadcasted_iota(jnp.int32, x_SX.shape, 0) < self.length, x_SX, 0)

    def of_parts(self, parts):
        """For each part of the queries, a function that puts scores of what a query does not see out of
        reach."""
        ids_T1 = None if self.ids_1S is None else _column(self.ids_1S)
        return [self._hide(part, ids_T1) for part in parts]

    def _hide(self, part, ids_T1):
        shape = (self.size, part.stop - part.start)
        key_TQ = lax.broadcasted_iota(jnp.int32, shape, 0)
        seen = []
        if self.length is not None:
            seen.append(key_TQ < self.length)
        if self.causal:
            seen.append(key_TQ <= part.start + lax.broadcasted_iota(jnp.int32, shape, 1))
        if ids_T1 is not None:
            seen.append(ids_T1 == self.ids_1S[:, part])
        if not seen:
            return lambda s_TQ: s_TQ
        seen_TQ = functools.reduce(jnp.logical_and, seen)
        return lambda s_TQ: jnp.where(seen_TQ, s_TQ, _MASKED)


def _column(row_1S):
    """[S, 1]. Through a full tile: a single row cannot be transposed."""
    return jnp.broadcast_to(row_1S, (_SUBLANES, row_1S.shape[1])).T[:, :1]
