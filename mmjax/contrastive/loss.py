"""The loss of a contrastive run as a pure function of parameters, batch and key, in its two halves.

Letters: B batch, S positions, E embedding, K hard texts of an example.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from mmjax import sharding
from mmjax.contrastive import modalities
from mmjax.model import unit
from mmjax.towers import batch_norm


class Found(NamedTuple):
    """What a step learns beside the loss and its gradient."""

    metrics: dict[str, Array]  # the objective's
    z: dict[str, Array]  # unit-norm embeddings by modality
    statistics: dict[str, Any]  # the new running ones of batch norm, by modality
    memory: Any  # what the objective remembers for the next step


def loss(cfg, params, batch, key, memory=None, *, locked: Collection[str] = ()):
    """(the objective's value on a batch, `Found`); `memory` is that of the step before, None at the start."""
    z, statistics = embed(cfg, params, batch, named_keys(cfg, key), locked=locked)
    (value, metrics), memory = compare(cfg, params, z, batch, memory)
    return value, Found(metrics, z, statistics, memory)


def compare(cfg, params, z, batch, memory=None):
    """(the objective's `Loss` of the embeddings of a whole batch, what it remembers for the next)."""
    variables = {"params": params["objective"]} | ({"memory": memory} if memory else {})
    found, changed = cfg.objective.apply(variables, z, batch, mutable=["memory"])
    return found, changed.get("memory", {})


def named_keys(cfg, key):
    """The keys of a step: of what is random about colours, and in each tower."""
    names = ("colour", *modalities.names(cfg))
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def embed(cfg, params, batch, keys, *, locked: Collection[str] = ()):
    """(unit-norm float32 z_BE, the new running statistics), both by modality, of a batch in training.

    What an example lacks is embedded as zeros, and has no gradient. Hard texts are `hard_text`, z_BKE.

    Args:
        locked: modalities whose tower embeds as in evaluation: without noise, and by its running statistics.
    """
    inputs = modalities.inputs(cfg, batch, keys["colour"])
    z, statistics = {}, {}
    for name in cfg.modules:
        encoded, found = _apply(cfg, params, name, inputs[name], keys[name], locked)
        statistics |= {} if name in locked else {name: found}
        z[name] = _present(batch, name, sharding.constrain(unit(encoded.embedding_BE), "batch", None))
    if cfg.data.hard_texts:
        z["hard_text"] = _present(batch, "hard_text", _hard_texts(cfg, params, batch, keys["text"], locked))
    return z, statistics


def _apply(cfg, params, name, inputs, key, locked):
    """What a tower says, and its new running statistics."""
    if name in locked:
        return cfg.modules[name].apply({"params": params[name]}, inputs), {}
    return batch_norm.apply_in_training(cfg.modules[name], params[name], inputs, key)


def _present(batch, name, z):
    there = batch.get(f"present/{name}")
    return z if there is None else jnp.where(there[..., None], z, 0)


def _hard_texts(cfg, params, batch, key, locked):
    """One text of every example at a time, so that rows draw as those of a batch do, or of its parts."""

    def one(k_and_text):
        k, text_BS = k_and_text
        encoded, _ = _apply(cfg, params, "text", text_BS, jax.random.fold_in(key, k), locked)
        return sharding.constrain(unit(encoded.embedding_BE), "batch", None)

    text_KBS = rearrange(batch["hard_text"], "b k s -> k b s")
    z_KBE = jax.lax.map(one, (jnp.arange(len(text_KBS)), sharding.constrain(text_KBS, None, "batch", None)))
    return rearrange(z_KBE, "k b e -> b k e")
