"""A tower with a head as pure functions of what is trained and what is not.

Letters: B batch, H W C image, S positions, C classes, E embedding.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.data import colour
from mmjax.data.geometry import Preprocess
from mmjax.finetune.tune import Tune
from mmjax.model import unit
from mmjax.towers import batch_norm, text

HEAD = "head"


class Found(NamedTuple):
    logits_BC: jax.Array
    embedding_BE: jax.Array  # of norm 1
    statistics: Any  # running ones of a tower in training, by its path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What of a classification does not change while it is trained."""

    modality: str
    tower: nn.Module
    head: nn.Module
    tune: Tune
    preprocess: Preprocess
    length: int | None = None  # of texts, in tokens

    @classmethod
    def of(cls, cfg) -> "Network":
        """Of a resolved `Classify`."""
        return cls(
            modality=cfg.tower.modality,
            tower=cfg.tower.module,
            head=cfg.head,
            tune=cfg.tower.tune,
            preprocess=cfg.preprocess,
            length=cfg.tokenizer.length if cfg.tower.modality == "text" else None,
        )

    def examples(self, rows: int):
        """Inputs of the tower, all zeros: what its shapes are taken from."""
        if self.modality == "text":
            return jnp.zeros((rows, self.length), jnp.int32)
        size = self.preprocess.size
        return jnp.zeros((rows, size, size, 3))

    def normalised(self, batch):
        """What the tower sees of float32 pictures in [0, 1], of uint8 ones, or of token ids."""
        if self.modality == "text":
            return batch
        return colour.normalise(batch, self.preprocess.mean, self.preprocess.std)

    def params(self, trained, fixed):
        """All parameters, {modality: ..., "head": ...}."""
        tower = self.tune.merged({name: x for name, x in trained.items() if name != HEAD}, fixed)
        return {**tower, HEAD: trained[HEAD]}

    def __call__(self, params, inputs, *, key=None, learns: bool = True) -> Found:
        """
        Args:
            key: of what is random in training; None evaluates.
            learns: whether the tower is trained: one that is not behaves in training as in evaluation.
        """
        variables = {"params": params[self.modality]}
        if key is None or not learns:
            encoded, statistics = self.tower.apply(variables, inputs), {}
        else:
            encoded, statistics = batch_norm.apply_in_training(
                self.tower, variables["params"], inputs, jax.random.fold_in(key, 0)
            )
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, 1)}
        logits_BC = self.head.apply(
            {"params": params[HEAD]}, encoded, self._lengths(inputs), train=key is not None, rngs=rngs
        )
        return Found(logits_BC, unit(encoded.embedding_BE), {self.modality: statistics} if statistics else {})

    def init_head(self, key, params, inputs):
        """Parameters of the head, from the shapes of what the tower says."""
        encoded = jax.eval_shape(lambda: self.tower.apply({"params": params}, inputs))
        encoded = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoded)
        return self.head.init(key, encoded, self._lengths(inputs))["params"]

    def _lengths(self, inputs):
        """[B]: tokens of each text; None for pictures, and for towers to which padding is a token."""
        pad = getattr(self.tower, "pad", None) if self.modality == "text" else None
        return text.lengths(inputs, pad)
