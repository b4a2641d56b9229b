"""Fusion: from what several towers say of an example to what the heads are given.

A **fusion** is a Flax Linen module that is called with what each tower gives, and how many of its tokens are
real, by modality. Letters: B batch.
"""

from typing import NamedTuple

from flax import linen as nn
from jax import Array

from mmjax.towers import Encoded


class Fused(NamedTuple):
    """What a head is given."""

    encoded: Encoded
    lengths_B: Array | None  # how many of the tokens are real; None: all


class Only(nn.Module):
    """One tower, whose word is passed on."""

    def __call__(
        self, encoded: dict[str, Encoded], lengths: dict[str, Array | None], *, train: bool = False
    ) -> Fused:
        """Raises ValueError where there are several towers."""
        if len(encoded) != 1:
            raise ValueError(
                f"towers={sorted(encoded)} need a fusion, such as fusion=fusion.Concat(); or leave one tower"
            )
        (modality,) = encoded
        return Fused(encoded[modality], lengths[modality])
