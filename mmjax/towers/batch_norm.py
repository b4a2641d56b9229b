"""Batch normalisation for towers that are pure functions (Ioffe and Szegedy 2015, arXiv:1502.03167).

Its running statistics are parameters like any other: they lie in the checkpoint, are sharded by their path,
are averaged with the weights, and `apply` in evaluation needs nothing else. No gradient ever reaches them. In
training a tower normalises by the statistics of the global batch, which XLA reduces over all devices, and
writes what the running ones become to the collection `statistics`, under the same paths; the train step asks
for that collection and puts it in their place (`with_statistics`). For whoever does not ask, as where the
tower stays as it is, `apply` has no other result and normalises by the running ones: evaluation will.

Letters: B batch, H W feature map, C channels.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn

STATISTICS = "statistics"  # the collection


class BatchNorm(nn.Module):
    """Normalises channels over batch and space, then scales and shifts them; computed in float32."""

    momentum: float = 0.1  # share of the new batch in the running statistics
    eps: float = 1e-5
    gain: float = 1.0  # where the scale starts

    @nn.compact
    def __call__(self, x_BHWC, *, train: bool):
        shape = x_BHWC.shape[-1:]
        scale = self.param("scale", nn.initializers.constant(self.gain), shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.param("mean", nn.initializers.zeros, shape)
        running_var = self.param("var", nn.initializers.ones, shape)
        wide_BHWC = x_BHWC.astype(jnp.float32)
        mean, var = running_mean, running_var
        if train and self.is_mutable_collection(STATISTICS):
            mean, var = wide_BHWC.mean(axis=(0, 1, 2)), wide_BHWC.var(axis=(0, 1, 2))
            count = x_BHWC.size // x_BHWC.shape[-1]
            self._record("mean", running_mean, mean)
            # Of so many draws from a population, its variance is estimated with one less.
            self._record("var", running_var, var * (count / max(count - 1, 1)))
        y_BHWC = (wide_BHWC - mean) * (scale / jnp.sqrt(var + self.eps)) + bias
        return y_BHWC.astype(x_BHWC.dtype)

    def _record(self, name, running, found):
        self.put_variable(STATISTICS, name, running + self.momentum * (found - running))


def apply_in_training(tower: nn.Module, params: Mapping, inputs, key, *, follow: bool = True):
    """(`Encoded`, the new running statistics): one forward pass of a tower, with dropout from `key`.

    Args:
        follow: False leaves the statistics as they are, and normalises by them.
    """
    kept = [STATISTICS] if follow else []
    encoded, found = tower.apply({"params": params}, inputs, train=True, rngs={"dropout": key}, mutable=kept)
    return encoded, found.get(STATISTICS, {})


def with_statistics(params: Mapping, statistics: Mapping) -> dict:
    """`params` with the leaves of `statistics` in place of those at the same paths."""
    return {
        name: with_statistics(value, statistics[name])
        if isinstance(value, Mapping) and name in statistics
        else statistics.get(name, value)
        for name, value in params.items()
    }
