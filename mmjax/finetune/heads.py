"""Heads: from what a tower says of an example to one logit a class.

A **head** is a Flax Linen module with a field `classes`, 0 for as many as the data has, called with what the
tower gives. It computes in float32. Letters: B batch, S positions, D width, E embedding, C classes.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from mmjax.data.captions import check_templates
from mmjax.model import unit
from mmjax.towers import Encoded, checking
from mmjax.towers.dense import Dense
from mmjax.towers.pooling import AttentionPool


class Linear(nn.Module):
    """Logits of the tower's embedding, all 0 at first; with a tower that stays as it is, a linear probe."""

    classes: int = 0
    dropout: float = 0.0
    normalise: bool = False  # embeddings to norm 1, before dropout

    @nn.compact
    def __call__(self, encoded: Encoded, lengths_B=None, *, train: bool = False):
        x_BE = encoded.embedding_BE.astype(jnp.float32)
        x_BE = unit(x_BE) if self.normalise else x_BE
        x_BE = nn.Dropout(self.dropout, deterministic=not train)(x_BE)
        return _logits(self.classes, x_BE)


class Hidden(nn.Module):
    """Logits of a hidden layer on the embedding: of two embeddings side by side a linear head could not tell
    what of one the other asks for."""

    hidden: int
    classes: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, encoded: Encoded, lengths_B=None, *, train: bool = False):
        checking.at_least(1, hidden=self.hidden)
        x_BE = nn.gelu(Dense(self.hidden, name="hidden")(encoded.embedding_BE.astype(jnp.float32)))
        x_BE = nn.Dropout(self.dropout, deterministic=not train)(x_BE)
        return _logits(self.classes, x_BE)


class Prompted(nn.Module):
    """Logits of the unit-norm embedding, which begin as those of zero-shot classification: the kernel is the
    text tower's embeddings of the classes in prompts, times the scale of the objective (Wortsman et al. 2022,
    arXiv:2109.01903, section 2)."""

    classes: int = 0
    templates: tuple[str, ...] = ("{}",)  # {} is a class's name
    scale: float | None = None  # None: that of the checkpoint's objective

    @nn.compact
    def __call__(self, encoded: Encoded, lengths_B=None, *, train: bool = False):
        check_templates(self.templates)
        return _logits(self.classes, unit(encoded.embedding_BE))


class Attentive(nn.Module):
    """Logits of an attention pool over the tower's tokens: with a tower that stays as it is, an attentive
    probe (Yu et al. 2022, arXiv:2205.01917, section 3.2)."""

    heads: int
    classes: int = 0
    mlp: int | None = None  # None: 4 x width
    dropout: float = 0.0

    @nn.compact
    def __call__(self, encoded: Encoded, lengths_B=None, *, train: bool = False):
        x_BSD = encoded.tokens_BSD.astype(jnp.float32)
        x_BD = AttentionPool(heads=self.heads, mlp=self.mlp, name="pool")(x_BSD, lengths_B)
        x_BD = nn.LayerNorm(name="norm")(x_BD)
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return _logits(self.classes, x_BD)


def in_use(module: nn.Module) -> nn.Module:
    """A head, or a fusion, without what matters only to how it begins and learns: of two that are then equal,
    the same parameters say the same."""
    changes = {"dropout": 0.0} if "dropout" in {field.name for field in dataclasses.fields(module)} else {}
    if isinstance(module, Prompted):
        changes |= {"templates": ("{}",), "scale": None}
    return module.clone(**changes)


def _logits(classes: int, x_BE):
    return nn.Dense(classes, kernel_init=nn.initializers.zeros, name="logits")(x_BE)
