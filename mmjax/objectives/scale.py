"""The learned scale of contrastive objectives: exp of a learned scalar, kept below a ceiling."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


def learned_scale(module: nn.Module, initial: float, ceiling: float, name: str = "log_scale"):
    """1 / temperature as a parameter `name` of `module`: a positive float32 scalar, at most `ceiling`.

    Radford et al. 2021, arXiv:2103.00020, section 2.5: learned as its logarithm, and clipped at 100 because
    higher scales made training unstable.

    Raises:
        ValueError: the scale would start below 0 or above its ceiling.
    """
    if not 0 < initial <= ceiling or initial == math.inf:
        raise ValueError(f"initial_scale={initial} must be positive and at most ceiling={ceiling}")
    # An explicit float32: a weakly typed scalar would make the second step compile again.
    log_scale = module.param(name, lambda key: jnp.asarray(math.log(initial), jnp.float32))
    return jnp.exp(_clamp(log_scale, math.log(ceiling)))


@jax.custom_vjp
def _clamp(x, ceiling):
    return jnp.minimum(x, ceiling)


def _clamp_forward(x, ceiling):
    return jnp.minimum(x, ceiling), (x, ceiling)


def _clamp_backward(residuals, gradient):
    """The gradient passes below the ceiling, and above it wherever descent leads back down; that of a plain
    minimum is zero there, so a scale that once overshot could never return."""
    x, ceiling = residuals
    return jnp.where((x < ceiling) | (gradient > 0), gradient, 0.0), None


_clamp.defvjp(_clamp_forward, _clamp_backward)
