"""The losses of a classification, and what its targets become before them. Letters: B batch, C classes."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

# Classes weigh by one over their number of examples, as scikit-learn's "balanced", or by its root.
Balance = Literal["none", "root", "full"]


def class_weights(balance: Balance, count_C: np.ndarray) -> np.ndarray:
    """Float32 [C] from the number of training examples of each class; the mean over examples is 1."""
    if balance == "none":
        return np.ones(len(count_C), np.float32)
    weight_C = 1 / np.maximum(count_C, 1) ** (0.5 if balance == "root" else 1.0)
    return (weight_C * count_C.sum() / (weight_C * count_C).sum()).astype(np.float32)


def mixed(mixup: float, tree, key):
    """Every example of a batch mixed with the next one: all arrays of a tree, inputs and targets, by one
    share for the batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        mixup: both parameters of the beta distribution of the share; 0 mixes nothing.
    """
    if not mixup:
        return tree
    share = jax.random.beta(key, mixup, mixup)
    return jax.tree.map(lambda x: share * x + (1 - share) * jnp.roll(x, 1, axis=0), tree)


def cross_entropy(logits_BC, target_BC, weight_C, *, smoothing: float):
    """Mean over the batch of the cross-entropy of softmax with targets, by class weight."""
    target_BC = (1 - smoothing) * target_BC + smoothing / target_BC.shape[1]
    return -jnp.mean(jnp.sum(weight_C * target_BC * jax.nn.log_softmax(logits_BC), axis=1))


def binary_cross_entropy(logits_BC, target_BC, weight_C, *, smoothing: float):
    """Mean over batch and classes of the cross-entropy of each class apart; positives have a weight."""
    target_BC = (1 - smoothing) * target_BC + smoothing / 2
    yes_BC, no_BC = jax.nn.log_sigmoid(logits_BC), jax.nn.log_sigmoid(-logits_BC)
    return -jnp.mean(weight_C * target_BC * yes_BC + (1 - target_BC) * no_BC)
