"""The optimizer: clipping, a rule, weight decay, multipliers and freezing by path, a schedule with warm-up.

Everything is optax, chained in this order; `Optim` says what is in the chain.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from mmjax.optim.paths import check_pattern, layer_decay, matches
from mmjax.optim.rules import Adafactor, AdamW, Lamb, Lion, Muon, Rule
from mmjax.optim.schedules import Constant, Cosine, Linear, Rsqrt, Schedule

__all__ = [
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Lamb",
    "Linear",
    "Lion",
    "Multiplier",
    "Muon",
    "Optim",
    "Rsqrt",
    "learning_rate",
    "make",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiplier:
    """Scales the learning rate, and with it the decay, of the parameters that it names."""

    pattern: str  # regular expression, looked for in paths such as image/encoder/blocks/mlp/up/kernel
    lr: float

    def __post_init__(self):
        check_pattern("pattern", self.pattern)
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} of {self.pattern!r} must be positive; optim.frozen freezes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """How gradients become steps. Patterns are regular expressions that must name some parameter."""

    rule: Rule = AdamW()
    lr: float = 1e-3  # peak, for the global batch
    warmup_steps: int = 0  # linear, from 0
    schedule: Schedule = Cosine()  # after the warm-up
    clip: float | None = 1.0  # norm of the gradient of all that is trained; None does not clip
    weight_decay: float = 0.0
    decayed: str = r"(kernel|embedding)$"  # what decays
    multipliers: tuple[Multiplier, ...] = ()  # all that match a path count
    layer_decay: float | None = None  # factor of the learning rate from a layer of a tower to the one below
    frozen: str | None = None  # what is not trained and has no optimizer state
    ema: float | None = None  # decay per step of an average of the parameters, for evaluation; None for none

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be positive")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be 0 or more")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None for no clipping")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} must lie in (0, 1], or None for none")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema} must lie between 0 and 1, or None for none")
        check_pattern("decayed", self.decayed)
        check_pattern("frozen", self.frozen or "")


def learning_rate(optim: Optim, steps: int) -> optax.Schedule:
    """The learning rate by step, from 0, for a run of `steps`.

    Raises:
        ValueError: warm-up and cooldown leave no step between them.
    """
    warmup, cooldown = optim.warmup_steps, getattr(optim.schedule, "cooldown_steps", 0)
    if warmup + cooldown >= steps:
        parts = f"optim.warmup_steps={warmup}" + f" and cooldown_steps={cooldown}" * bool(cooldown)
        raise ValueError(f"{parts} leaves nothing of steps={steps}")

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = step / max(warmup, 1)
        return optim.lr * jnp.where(step < warmup, rising, optim.schedule(step - warmup, steps - warmup))

    return rate


def make(optim: Optim, steps: int) -> optax.GradientTransformation:
    """Gradients to updates for a run of `steps`; `init` raises ValueError where a pattern names nothing."""
    clip = optax.identity() if optim.clip is None else optax.clip_by_global_norm(optim.clip)
    decay = optax.identity()
    if optim.weight_decay:
        decay = optax.add_decayed_weights(
            optim.weight_decay, mask=lambda params: matches("decayed", optim.decayed, params)
        )
    tx = optax.chain(
        clip,
        optim.rule.chain(decay),
        _multiply(optim),
        optax.scale_by_learning_rate(learning_rate(optim, steps)),
    )
    if optim.frozen is None:
        return tx
    return optax.partition(
        {"trained": tx, "frozen": optax.set_to_zero()}, lambda params: _kinds(optim, params)
    )


def frozen(optim: Optim, params):
    """A tree of bool: what is not trained."""
    if optim.frozen is None:
        return jax.tree.map(lambda _: False, params)
    return matches("frozen", optim.frozen, params)


def average(optim: Optim, ema, params, step):
    """The moving average after `step`, counted from 0, has made `params`.

    Its decay rises to `optim.ema` as (1 + step) / (10 + step), so that it forgets the start of a run.
    """
    decay = jnp.minimum(optim.ema, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)


def _kinds(optim: Optim, params):
    return jax.tree.map(lambda yes: "frozen" if yes else "trained", matches("frozen", optim.frozen, params))


def _multiply(optim: Optim) -> optax.GradientTransformation:
    def init(params):
        _multipliers(optim, params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, factor: factor * u, updates, _multipliers(optim, updates)), state

    return optax.GradientTransformation(init, update)


def _multipliers(optim: Optim, params):
    factors = jax.tree.map(lambda _: 1.0, params)
    if optim.layer_decay is not None:
        factors = layer_decay(params, optim.layer_decay)
    for i, multiplier in enumerate(optim.multipliers):
        named = matches(f"multipliers.{i}.pattern", multiplier.pattern, params)
        factors = jax.tree.map(lambda f, yes, lr=multiplier.lr: f * lr if yes else f, factors, named)
    return factors
