"""What of a call of attention decides who can serve it, and how."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes are those of one device; static and hashable, so that it may be an argument of `jax.jit`."""

    batch: int
    queries: int
    keys: int
    heads: int
    width: int  # of one head
    dtype: jnp.dtype
    kv_len: int | None = None  # positions from here on are padding, in every example
    lengths: bool = False  # an array says from where on positions of each example are padding
    segments: bool = False  # an array says which segment each position is of; it sees no other one
    causal: bool = False  # a position sees none after it
    scale: float

    @property
    def is_self(self) -> bool:
        """Whether queries and keys are the same positions, so that masks are of both."""
        return self.queries == self.keys

    def __str__(self):
        """As it stands in logs and errors: `bfloat16 [64, 197, 12 x 64] causal`."""
        positions = self.queries if self.is_self else f"{self.queries} of {self.keys}"
        masks = [
            f"kv_len={self.kv_len}" if self.kv_len is not None else "",
            "lengths" if self.lengths else "",
            "segment_ids" if self.segments else "",
            "causal" if self.causal else "",
        ]
        sizes = f"{self.dtype} [{self.batch}, {positions}, {self.heads} x {self.width}]"
        return " ".join([sizes, *filter(None, masks)])
