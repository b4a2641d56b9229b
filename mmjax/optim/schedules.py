"""Learning rates by step.

A **schedule** is a frozen dataclass: `schedule(step, steps)` is the factor of the peak at `step` of `steps`,
both counted from the end of the warm-up, and `cooldown_steps` are the last ones, which lead to 0 whatever
comes before them.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from the peak (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, one cycle)."""

    end: float = 0.0  # of the peak
    cooldown_steps: ClassVar[int] = 0

    def __post_init__(self):
        _check_end(self.end)

    def __call__(self, step, steps: int):
        return self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * step / steps)) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from the peak."""

    end: float = 0.0  # of the peak
    cooldown_steps: ClassVar[int] = 0

    def __post_init__(self):
        _check_end(self.end)

    def __call__(self, step, steps: int):
        return 1 + (self.end - 1) * step / steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak, at last a straight line to 0 (Hägele et al. 2024, arXiv:2405.18392)."""

    cooldown_steps: int = 0

    def __post_init__(self):
        _check_cooldown(self.cooldown_steps)

    def __call__(self, step, steps: int):
        return _cooldown(step, steps, self.cooldown_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt:
    """(1 + step / timescale)**-1/2, at last a straight line to 0 (Zhai et al. 2022, arXiv:2106.04560, section
    3.5)."""

    timescale: int = 10_000  # steps
    cooldown_steps: int = 0

    def __post_init__(self):
        _check_cooldown(self.cooldown_steps)
        if self.timescale < 1:
            raise ValueError(f"timescale={self.timescale} must be at least 1")

    def __call__(self, step, steps: int):
        return (1 + step / self.timescale) ** -0.5 * _cooldown(step, steps, self.cooldown_steps)


Schedule = Cosine | Linear | Constant | Rsqrt


def _check_end(end: float):
    if not 0 <= end <= 1:
        raise ValueError(f"end={end} is a share of the peak; use a value in [0, 1]")


def _check_cooldown(cooldown_steps: int):
    if cooldown_steps < 0:
        raise ValueError(f"cooldown_steps={cooldown_steps} must be 0 or more")


def _cooldown(step, steps: int, cooldown_steps: int):
    return jnp.clip((steps - step) / cooldown_steps, 0, 1) if cooldown_steps else jnp.ones_like(step, float)
