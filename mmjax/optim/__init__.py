"""The optimizer: clipping, a rule, weight decay, multipliers and freezing by path, a schedule with warm-up.

Everything is optax, chained in this order; `Optim` says what is in the chain.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mmjax.optim.layers import Towers, layer_decay
from mmjax.optim.paths import check_pattern, matches
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
    "Towers",
    "learning_rate",
    "make",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiplier:
    """Scales learning rate and weight decay of the parameters that it names."""

    pattern: str  # regular expression, looked for in paths such as image/encoder/blocks/mlp/up/kernel
    lr: float = 1.0  # factor of the learning rate, which scales the decay as well
    decay: float = 1.0  # factor of the weight decay alone

    def __post_init__(self):
        check_pattern("pattern", self.pattern)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} of {self.pattern!r} must be positive; optim.frozen freezes")
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay={self.decay} of {self.pattern!r} must be 0 or more")


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
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} must be positive")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be 0 or more")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be 0 or more")
        if self.clip is not None and not self.clip > 0:
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
    warmup, cooldown = optim.warmup_steps, optim.schedule.cooldown_steps
    if warmup + cooldown >= steps:
        parts = f"optim.warmup_steps={warmup}" + f" and cooldown_steps={cooldown}" * bool(cooldown)
        raise ValueError(f"{parts} leaves nothing of steps={steps}")

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = step / max(warmup, 1)
        return optim.lr * jnp.where(step < warmup, rising, optim.schedule(step - warmup, steps - warmup))

    return rate


def make(optim: Optim, steps: int, towers: Towers | None = None) -> optax.GradientTransformation:
    """Gradients to updates for a run of `steps`; `init` raises ValueError where a pattern names nothing.

    Args:
        towers: whose layers `layer_decay` counts; None: the parameters are those of whole towers, by name.
    """

    def of(params):
        return _chain(optim, steps, towers or Towers.by_name(params))

    return optax.GradientTransformation(
        lambda params: of(params).init(params),
        lambda updates, state, params: of(params).update(updates, state, params),
    )


def _chain(optim: Optim, steps: int, towers: Towers) -> optax.GradientTransformation:
    clip = optax.identity() if optim.clip is None else optax.clip_by_global_norm(optim.clip)
    tx = optax.chain(
        clip,
        optim.rule.chain(_decay(optim) if optim.weight_decay else optax.identity()),
        _multiply(optim, towers),
        optax.scale_by_learning_rate(learning_rate(optim, steps)),
    )
    return tx if optim.frozen is None else _freeze(optim, tx)


def frozen(optim: Optim, params):
    """A tree of bool: what is not trained."""
    if optim.frozen is None:
        return jax.tree.map(lambda _: False, params)
    return matches("optim.frozen", optim.frozen, params)


def stop_frozen(optim: Optim, params):
    """`params`, without a gradient for what is frozen: XLA would compute it, and norms would count it."""
    return jax.tree.map(
        lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen(optim, params)
    )


def average(optim: Optim, ema, params, step):
    """The moving average after `step`, counted from 0, has made `params`.

    Its decay rises to `optim.ema` as (1 + step) / (10 + step), so that it forgets the start of a run.
    """
    decay = jnp.minimum(optim.ema, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)


def _freeze(optim: Optim, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` for what `optim.frozen` does not name; the rest has no state and stays."""

    def kinds(params):
        return jax.tree.map(lambda yes: "frozen" if yes else "trained", frozen(optim, params))

    def init(params):
        if all(jax.tree.leaves(frozen(optim, params))):
            raise ValueError(f"optim.frozen={optim.frozen!r} freezes everything; leave something to train")
        # A pattern that names nothing at all is told so with all parameters in sight.
        jax.eval_shape(tx.init, params)
        return parts.init(params)

    parts = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, kinds)
    return optax.GradientTransformation(init, parts.update)


def _decay(optim: Optim) -> optax.GradientTransformation:
    """Adds the weight decay to a step of learning rate 1."""

    def factors(params):
        decayed = matches("optim.decayed", optim.decayed, params)
        of_paths = _multipliers(optim, params, lambda multiplier: multiplier.decay)
        return jax.tree.map(lambda yes, f: optim.weight_decay * f if yes else 0.0, decayed, of_paths)

    return _with_factors(factors, lambda update, param, factor: update + factor * param if factor else update)


def _multiply(optim: Optim, towers: Towers) -> optax.GradientTransformation:
    def factors(params):
        of_paths = _multipliers(optim, params, lambda multiplier: multiplier.lr)
        if optim.layer_decay is None:
            return of_paths
        of_layers = layer_decay(params, optim.layer_decay, towers)
        return jax.tree.map(lambda f, of_layer: f * of_layer, of_paths, of_layers)

    return _with_factors(factors, lambda update, _, factor: factor * update)


def _with_factors(factors: Callable, function: Callable) -> optax.GradientTransformation:
    """`function(update, parameter, factor)` of each parameter; `factors` makes a tree of these by path."""

    def init(params):
        factors(params)  # raises where a pattern names nothing
        return optax.EmptyState()

    def update(updates, state, params):
        return jax.tree.map(function, updates, params, factors(params)), state

    return optax.GradientTransformation(init, update)


def _multipliers(optim: Optim, params, of: Callable[[Multiplier], float]):
    """A tree of the product of `of` over all multipliers that name a parameter."""
    factors = jax.tree.map(lambda _: 1.0, params)
    for i, multiplier in enumerate(optim.multipliers):
        named = matches(f"optim.multipliers.{i}.pattern", multiplier.pattern, params)
        times = of(multiplier)
        factors = jax.tree.map(lambda f, yes, times=times: f * times if yes else f, factors, named)
    return factors
