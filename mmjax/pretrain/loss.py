"""The loss of a pretraining run as a pure function of parameters, batch and key, in its two halves.

Letters: B batch, H W C image, S positions, E embedding.
"""

import jax
import jax.numpy as jnp

from mmjax import optim, sharding
from mmjax.data import colour
from mmjax.model import unit
from mmjax.towers import batch_norm


def loss(cfg, params, batch, key):
    """The objective's value on a batch, and (its metrics, embeddings, running statistics), by modality."""
    params = optim.stop_frozen(cfg.optim, params)
    z, statistics = embed(cfg, params, batch, named_keys(key))
    value, metrics = compare(cfg, params, z, batch)
    return value, (metrics, z, statistics)


def compare(cfg, params, z, batch):
    """The objective's `Loss` of the embeddings of a whole batch."""
    return cfg.objective.apply({"params": params["objective"]}, z, batch)


def named_keys(key):
    """The keys of a step: of what is random about colours, and in each tower."""
    return dict(zip(("colour", "image", "text"), jax.random.split(key, 3), strict=True))


def examples(cfg, rows: int):
    """Inputs of the towers, all zeros, by modality: what their shapes are taken from."""
    size = cfg.preprocess.size
    return {
        "image": jnp.zeros((rows, size, size, 3)),
        "text": jnp.zeros((rows, cfg.tokenizer.length), jnp.int32),
    }


def embed(cfg, params, batch, keys):
    """(unit-norm float32 z_BE, the new running statistics), both by modality, of a batch in training."""
    image_BHWC = colour.augment(cfg.colour, batch["image"], keys["colour"])
    inputs = {
        "image": colour.normalise(image_BHWC, cfg.preprocess.mean, cfg.preprocess.std),
        "text": batch["text"],
    }
    z, statistics = {}, {}
    for modality in ("image", "text"):
        encoded, statistics[modality] = batch_norm.apply_in_training(
            cfg.towers[modality], params[modality], inputs[modality], keys[modality]
        )
        z[modality] = sharding.constrain(unit(encoded.embedding_BE), "batch", None)
    return z, statistics
