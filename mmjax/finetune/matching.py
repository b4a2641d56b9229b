"""Image-text matching: does this text belong to this picture, where the wrong ones are nearly right?

Li et al. 2021, arXiv:2107.07651, section 3.2. The negatives are taken out of the batch: those that the towers
themselves find similar. Letters: B batch, P pairs, E embedding.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmjax.data import Source
from mmjax.finetune import heads, loss
from mmjax.model import unit

MODALITIES = ("image", "text")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A labelling: does the text belong to the picture? Of every example of a source it does."""

    names: ClassVar[tuple[str, ...]] = ("no", "yes")
    several: ClassVar[bool] = False

    def reader(self, source: Source) -> Callable[[dict[str, Any]], np.ndarray]:
        """An example of any source as uint8 [2]."""
        return lambda example: np.array([0, 1], np.uint8)


class Paired(NamedTuple):
    """Pairs of a batch: its own, every picture with a wrong text, every text with a wrong picture."""

    image_P: jax.Array  # int32, the row of the batch
    text_P: jax.Array
    target_P: jax.Array  # float32, 1 where the two belong together
    weight_P: jax.Array  # float32, 0 where the batch had nothing wrong for a row

    def rows(self, by_modality):
        """What towers say of a batch, or of its lengths, for every pair."""
        row_P = {"image": self.image_P, "text": self.text_P}
        both = {name: x for name, x in by_modality.items() if name in row_P}
        return {name: jax.tree.map(lambda x, at_P=row_P[name]: x[at_P], of) for name, of in both.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching:
    """A task whose examples are pairs of pictures and texts of one batch; its classes are no and yes."""

    head: nn.Module = heads.Linear(classes=2)
    keep_head: bool = False  # begins with the head of this task in the finetune that `init_from` names
    weight: float = 1.0  # of its loss among those of all tasks
    scale: float = 14.0  # of the cosines by which wrong pairs are drawn; 0 draws all alike
    labels: Pairs = Pairs()

    def __post_init__(self):
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight={self.weight} of a task's loss must be positive")
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"scale={self.scale} must be 0 or more")
        if self.head.classes != len(self.labels.names):
            raise ValueError(f"head.classes={self.head.classes} must be 2, for no and yes")

    def resolved(self, name: str, source: Source) -> "Matching":
        """Itself: its classes are no one's to choose."""
        return self

    def class_weights(self, source: Source) -> np.ndarray:
        """Float32 [2]."""
        return np.ones(2, np.float32)

    def paired(self, key, encoded, id_B) -> Paired:
        """The pairs of a batch, drawn by the cosines of what the towers say of it.

        Args:
            encoded: of pictures and texts, by modality; no gradient flows through the choice.
            id_B: pictures and texts of one id belong together.
        """
        logits_BB = similarities(self.scale, *(encoded[name].embedding_BE for name in MODALITIES), id_B)
        text_key, image_key = jax.random.split(key)
        own_B = jnp.arange(len(id_B))
        wrong_B = jnp.any(jnp.isfinite(logits_BB), axis=1).astype(jnp.float32)
        return Paired(
            image_P=jnp.concatenate([own_B, own_B, jax.random.categorical(image_key, logits_BB, axis=0)]),
            text_P=jnp.concatenate([own_B, jax.random.categorical(text_key, logits_BB, axis=1), own_B]),
            target_P=jnp.repeat(jnp.array([1.0, 0.0, 0.0]), len(id_B)),
            weight_P=jnp.concatenate([jnp.ones_like(wrong_B), wrong_B, wrong_B]),
        )

    def loss(self, logits_P2, pairs: Paired, weight_C):
        """Cross-entropy, the mean over all pairs that there are; `weight_C` of no and yes."""
        target_P2 = jnp.stack([1 - pairs.target_P, pairs.target_P], axis=1)
        of_pair_P2 = pairs.weight_P[:, None] * len(pairs.weight_P) / jnp.sum(pairs.weight_P)
        return loss.cross_entropy(logits_P2, target_P2, of_pair_P2 * weight_C, smoothing=0.0)

    def accuracy(self, logits_P2, pairs: Paired):
        """The share of right answers among all pairs that there are."""
        right_P = (logits_P2.argmax(axis=1) == pairs.target_P).astype(jnp.float32)
        return jnp.sum(right_P * pairs.weight_P) / jnp.sum(pairs.weight_P)


def similarities(scale: float, image_BE, text_BE, id_B):
    """Float32 [B, B], picture by text: logits of how likely each pair is drawn; -inf for those of one id."""
    image_BE, text_BE = jax.lax.stop_gradient((unit(image_BE), unit(text_BE)))
    logits_BB = scale * jnp.dot(image_BE, text_BE.T, preferred_element_type=jnp.float32)
    return jnp.where(id_B[:, None] == id_B[None, :], -jnp.inf, logits_BB)
