"""Objectives: what is minimised.

An **objective** is a Flax Linen module that owns its learned scale and bias, in one file of this folder.
It knows no tower: it is given embeddings by modality. What it remembers from one step to the next are Linen
variables of the collection `memory` (`queue.py`); most have none. `docs/adding.md` shows how to add one.
"""

from typing import NamedTuple, Protocol

from jax import Array


class Loss(NamedTuple):
    value: Array  # scalar float32, a mean over the global batch
    metrics: dict[str, Array]  # scalars by short name; the loop logs them as `train/<name>`


class Objective(Protocol):
    def __call__(self, z: dict[str, Array], batch: dict[str, Array]) -> Loss:
        """The loss of `z`, unit-norm float32 [B, E] by modality, over the global batch.

        An example without some modality has zeros there, and `batch["present/<modality>"]` says so. With
        `data.hard_texts` there is `z["hard_text"]`, [B, K, E].
        """

    def probs(self, image_NE: Array, text_ME: Array) -> Array:
        """Float32 [N, M]: how likely each text belongs to each image, as this objective understands it."""
