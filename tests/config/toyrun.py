"""Classes that stand in for a run's, for the tests of configs and for the config files that these write."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from flax import linen as nn


class Evaluator(Protocol):
    def __call__(self): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    warmup_steps: int = 10
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    every_steps: int = 0
    name: str = "test"

    def __call__(self): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jitter:
    prob: float = 0.5

    def __call__(self, image): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Invert:
    def __call__(self, image): ...


class Stem(nn.Module):
    patch: int = 4


class Tower(nn.Module):
    width: int = 8
    pool: Literal["cls", "mean"] = "cls"
    remat: Literal["none", "full"] = "none"
    stem: nn.Module = Stem()
    rates: Any = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


class Sigmoid(nn.Module):
    bias: float = -10.0


class InfoNCE(nn.Module):
    scale: float = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    steps: int = 100
    bf16: bool = True
    note: str | None = None
    sizes: tuple[int, ...] = (32,)
    optim: Optim = Optim()
    objective: nn.Module = InfoNCE()
    towers: dict[str, nn.Module] = dataclasses.field(default_factory=lambda: {"image": Tower()})
    colour: tuple[Callable, ...] = (Jitter(), Invert())
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=lambda: {"style": Retrieval()})
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"a": 1.0})
    anything: Any = None
    ema: Optim | None = None

    def __post_init__(self):
        if self.optim.warmup_steps > self.steps:
            raise ValueError(f"optim.warmup_steps={self.optim.warmup_steps} exceeds steps={self.steps}")


RICH = Run(
    note="it's a\n# note",
    sizes=(),
    optim=Optim(lr=3.0, clip=None, schedule="constant"),
    objective=Sigmoid(),
    towers={"image": Tower(stem=Stem(patch=2), rates=(0.1, ("a", 1))), "text": Tower(rates={"x": (1,)})},
    colour=(Invert(), Jitter(prob=0.25)),
    weights={"type": 1.0, "class": 2.0, "items": 3.0},
    anything="1e3",
    ema=Optim(),
)
