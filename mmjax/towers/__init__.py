"""Towers: what an encoder of one modality is.

A **tower** is a Flax Linen module, so a frozen dataclass of hyperparameters with pure `init` and `apply`, in
one file of this folder. A config builds it; any third-party module that keeps the protocol serves as well.
`docs/adding.md` shows how to add one.
"""

from typing import Literal, NamedTuple, Protocol

from jax import Array

Dtype = Literal["float32", "bfloat16"]


class Encoded(NamedTuple):
    """What a tower makes of a batch."""

    embedding_BE: Array  # before normalisation, any float dtype; [B, S, E] of a tower that pools nothing
    tokens_BSD: Array  # what was pooled: patches, cells of a feature map, or pieces of text


class Tower(Protocol):
    dtype: Dtype  # of its computation; parameters are float32

    def __call__(self, inputs: Array, *, train: bool = False) -> Encoded:
        """Encodes `inputs`: float [B, H, W, 3] pictures, mean and std removed, or int32 [B, S] token ids.

        `train` turns dropout on, which reads the rng stream `dropout`. A tower with running statistics keeps
        them among its parameters (`batch_norm`).
        """
