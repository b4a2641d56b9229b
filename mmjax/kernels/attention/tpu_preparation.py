"""Queries and keys, normalised and turned, inside a grid step of attention on a TPU.

XLA lays the heads of a normalised or turned array out anew, several times in a layer; here they lie below
each other already, so that a head's mean is a sum of registers, and a feature's neighbour the next sublane.

Letters: S positions, K head width; 2 is queries and keys, or cosine and sine.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.preparation import EPS

_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done before the scores to [K, S] of a head of queries (0) or keys (1), and its gradient."""

    gains_K2: Any = None  # None: nothing is normalised
    waves_2KS: Any = None  # None: nothing is turned

    @classmethod
    def of(cls, case: Case, refs, size: int):
        """That of a grid step of `size` positions, and those of its refs that are left."""
        refs = list(refs)
        gains_K2 = refs.pop(0)[...] if case.norm else None
        waves_2KS = refs.pop(0)[:, :, :size] if case.rope else None
        return cls(gains_K2, waves_2KS), refs

    def __bool__(self):
        return self.gains_K2 is not None or self.waves_2KS is not None

    def of_head(self, which: int, x_KS):
        dtype, x_KS = x_KS.dtype, x_KS.astype(jnp.float32)
        if self.gains_K2 is not None:
            x_KS = _normalised(x_KS)[0] * self._gain(which)
        if self.waves_2KS is not None:
            x_KS = x_KS * self.waves_2KS[0] + _neighbours(x_KS) * self.waves_2KS[1]
        return x_KS.astype(dtype)

    def pulled(self, which: int, x_KS, gradient_KS):
        """Gradients by what `of_head` was given, and by its gain [K, 1]; None where there is none."""
        if self.waves_2KS is not None:
            # A rotation's inverse: the same angle the other way.
            gradient_KS = gradient_KS * self.waves_2KS[0] - _neighbours(gradient_KS) * self.waves_2KS[1]
        if self.gains_K2 is None:
            return gradient_KS, None
        unit_KS, inverse_1S = _normalised(x_KS.astype(jnp.float32))
        along_KS = gradient_KS * self._gain(which)
        mean_1S, slope_1S = (x_KS.mean(0, keepdims=True) for x_KS in (along_KS, along_KS * unit_KS))
        gain_K1 = (gradient_KS * unit_KS).sum(1, keepdims=True)
        return (along_KS - mean_1S - unit_KS * slope_1S) * inverse_1S, gain_K1

    def _gain(self, which):
        return self.gains_K2[:, which : which + 1]


def _normalised(x_KS):
    """Of mean 0 and variance 1; and by what it was multiplied for that."""
    x_KS = x_KS - x_KS.mean(0, keepdims=True)
    inverse_1S = lax.rsqrt((x_KS * x_KS).mean(0, keepdims=True) + EPS)
    return x_KS * inverse_1S, inverse_1S


def _neighbours(x_KS):
    """Features 2 i and 2 i + 1 in each other's place. They are in the same register."""
    x_R8S = x_KS.reshape(-1, _SUBLANES, x_KS.shape[1])
    row_R8S = lax.broadcasted_iota(jnp.int32, x_R8S.shape, 1)
    after, before = (pltpu.roll(x_R8S, shift, 1) for shift in (_SUBLANES - 1, 1))
    return jnp.where(row_R8S % 2 == 0, after, before).reshape(x_KS.shape)
