"""The one query that whole tiles of lanes leave over, as a class token before 16 x 16 patches does: in a grid
step of attention on a TPU, those of all heads together.

By themselves they would fill a tile each, a third of all work at 257 positions. Here every head has a row,
zero but in the head's own columns, so that one product with the keys of all heads, side by side, gives each
its scores.

Letters: S positions, T all of them as keys, K head width, X heads x K of a pack, which is what lies side by
side; H a row for each head.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.tpu_blocks import LANES, Blocks
from mmjax.kernels.attention.tpu_masks import Masks
from mmjax.kernels.attention.tpu_products import ROWS, product


class LoneGradients(NamedTuple):
    """By the queries, of each pack; what is to be added to those by keys and by values are functions of a
    pack's index to [T, X]. None: of no such query."""

    by_queries_1X: Any = None
    by_keys: Any = None
    by_values: Any = None


@dataclasses.dataclass(frozen=True)
class Lone:
    case: Case
    rows: int  # H, whole tiles of them
    hide: Callable  # puts scores [H, T] of what the query does not see out of reach

    @classmethod
    def of(cls, case: Case, blocks: Blocks, masks: Masks):
        """None where the last query shares tiles with those before it."""
        is_left_over = masks.queries.count % LANES == 1 < masks.queries.count
        # Prepared, heads lie below each other.
        if not is_left_over or blocks.step is not None or case.norm or case.rope:
            return None
        return cls(case, -(-blocks.heads // ROWS) * ROWS, masks.of_last())

    def output(self, q_SX, k_TX, v_TX):
        """[1, X] of each pack."""
        w_HT = self._weights(self._rows(q_SX), k_TX)
        return self._own(w_HT, v_TX)

    def gradients(self, q_SX, k_TX, v_TX, g_SX) -> LoneGradients:
        q_HX, g_HX = self._rows(q_SX), self._rows(g_SX)
        w_HT, dw_HT = self._weights(q_HX, k_TX), _over_packs(g_HX, v_TX)
        ds_HT = w_HT * (dw_HT - (w_HT * dw_HT).sum(1, keepdims=True)) * self.case.scale

        def of_pack(x_HT, packs_HX):
            x_TH = x_HT.T.astype(self.case.dtype)
            return lambda i: product(x_TH, packs_HX[i])

        return LoneGradients(self._own(ds_HT, k_TX), of_pack(ds_HT, q_HX), of_pack(w_HT, g_HX))

    def _weights(self, q_HX, k_TX):
        s_HT = self.hide(_over_packs(q_HX, k_TX) * (self.case.scale * math.log2(math.e)))
        e_HT = jnp.exp2(s_HT - s_HT.max(1, keepdims=True))
        return e_HT / e_HT.sum(1, keepdims=True)

    def _rows(self, packs_SX):
        """[H, X] of each pack: its last position, in the rows of its heads."""
        return [x_HX.astype(self.case.dtype) for x_HX in self._cut([x_SX[-1:] for x_SX in packs_SX])]

    def _own(self, x_HT, packs_TX):
        """[1, X] of each pack: of every head what its row makes of the head's columns."""
        found = self._cut([product(x_HT.astype(self.case.dtype), y_TX) for y_TX in packs_TX])
        return [y_HX.sum(0, keepdims=True) for y_HX in found]

    def _cut(self, packs_X):
        """float32 [H, X] of each pack: rows, or one for all, with zeros where columns are of other heads."""
        found = []
        for i, x_X in enumerate(packs_X):
            shape = (self.rows, x_X.shape[1])
            column_HX = i * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1)
            own_HX = column_HX - lax.broadcasted_iota(jnp.int32, shape, 0) * self.case.width
            is_own_HX = (own_HX >= 0) & (own_HX < self.case.width)
            found.append(jnp.where(is_own_HX, x_X.astype(jnp.float32), 0.0))
        return found


def _over_packs(packs_HX, packs_TX):
    """[H, T]."""
    return sum(product(x_HX, y_TX, 1) for x_HX, y_TX in zip(packs_HX, packs_TX, strict=True))
