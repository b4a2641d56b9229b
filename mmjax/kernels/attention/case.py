"""A call of attention: what of it decides who can serve it and how, and its arrays.

Letters: B batch, S queries, T keys, K head width, P pairs of K, X = heads x K.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp


class Arrays(NamedTuple):
    """Those of a call, or gradients by them; None is what a case has not, or what has no gradient."""

    q_BSX: Any
    k_BTX: Any
    v_BTX: Any
    lengths_B: Any = None
    segments_BS: Any = None
    gains_2K: Any = None  # of normalised queries and of normalised keys
    angles_BSP: Any = None  # B may be 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes are those of one device; static and hashable, so that it may be an argument of `jax.jit`."""

    batch: int
    queries: int
    keys: int
    cross: bool = False  # keys are of another sequence, even where they are as many
    heads: int
    width: int  # of one head
    dtype: jnp.dtype
    kv_len: int | None = None  # positions from here on are padding, in every example
    lengths: bool = False  # an array says from where on positions of each example are padding
    segments: bool = False  # an array says which segment each position is of; it sees no other one
    causal: bool = False  # a position sees none after it
    norm: bool = False  # queries and keys are normalised in every head
    rope: bool = False  # they are turned by angles of their positions
    scale: float

    @property
    def is_self(self) -> bool:
        """Whether queries and keys are the same positions, so that masks are of both."""
        return self.queries == self.keys and not self.cross

    def __str__(self):
        """As it stands in logs and errors: `bfloat16 [64, 197, 12 x 64] causal`."""
        positions = self.queries if self.is_self else f"{self.queries} of {self.keys}"
        rest = [
            f"kv_len={self.kv_len}" if self.kv_len is not None else "",
            "lengths" if self.lengths else "",
            "segment_ids" if self.segments else "",
            "causal" if self.causal else "",
            "qk_norm" if self.norm else "",
            "angles" if self.rope else "",
        ]
        sizes = f"{self.dtype} [{self.batch}, {positions}, {self.heads} x {self.width}]"
        return " ".join([sizes, *filter(None, rest)])
