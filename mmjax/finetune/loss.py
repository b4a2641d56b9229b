"""The loss of a classification and what regularises it. Letters: B batch, H W image, C classes."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regular:
    """How targets are softened, mixed and weighted."""

    smoothing: float = (
        0.0  # share of the target that goes to all classes alike (Szegedy et al. 2016, arXiv:1512.00567)
    )
    mixup: float = (
        0.0  # both parameters of the beta distribution; 0 mixes nothing (Zhang et al. 2018, arXiv:1710.09412)
    )
    # Classes weigh by one over their number of examples, as scikit-learn's "balanced", or by its root.
    balance: Literal["none", "root", "full"] = "none"

    def __post_init__(self):
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing} is a share; use a value in [0, 1)")
        if not 0 <= self.mixup < float("inf"):
            raise ValueError(f"mixup={self.mixup} must be 0 or more")


def class_weights(regular: Regular, count_C: np.ndarray) -> np.ndarray:
    """Float32 [C] from the number of training examples of each class; the mean over examples is 1."""
    if regular.balance == "none":
        return np.ones(len(count_C), np.float32)
    weight_C = 1 / np.maximum(count_C, 1) ** (0.5 if regular.balance == "root" else 1.0)
    return (weight_C * count_C.sum() / (weight_C * count_C).sum()).astype(np.float32)


def mixed(regular: Regular, inputs, target_BC, key):
    """Every example of a batch mixed with the next one: inputs and targets, by one share for the batch."""
    if not regular.mixup:
        return inputs, target_BC
    share = jax.random.beta(key, regular.mixup, regular.mixup)

    def mix(x):
        return share * x + (1 - share) * jnp.roll(x, 1, axis=0)

    return mix(inputs), mix(target_BC)


def cross_entropy(logits_BC, target_BC, weight_C, *, smoothing: float):
    """Mean over the batch of the cross-entropy of softmax with targets, by class weight."""
    target_BC = (1 - smoothing) * target_BC + smoothing / target_BC.shape[1]
    return -jnp.mean(jnp.sum(weight_C * target_BC * jax.nn.log_softmax(logits_BC), axis=1))


def binary_cross_entropy(logits_BC, target_BC, weight_C, *, smoothing: float):
    """Mean over batch and classes of the cross-entropy of each class apart; positives have a weight."""
    target_BC = (1 - smoothing) * target_BC + smoothing / 2
    yes_BC, no_BC = jax.nn.log_sigmoid(logits_BC), jax.nn.log_sigmoid(-logits_BC)
    return -jnp.mean(weight_C * target_BC * yes_BC + (1 - target_BC) * no_BC)
