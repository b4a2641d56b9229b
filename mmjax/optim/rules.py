"""Update rules: what makes a step of a gradient.

A **rule** is a frozen dataclass with a method `chain(decay)`: the optax transformation of gradients into
steps of learning rate 1, with `decay`, which adds the weight decay, in its place. One more rule is one more
such class.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mmjax.optim.paths import check_pattern, kernel_axes, map_paths, matches
from mmjax.sharding import layer_axes

Moment = Literal["float32", "bfloat16"]


def _check_decays(**fields: float):
    for name, value in fields.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} is the decay of an average; use a value in [0, 1)")


def _check_positive(**fields: float):
    for name, value in fields.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2019, arXiv:1711.05101; the learning rate scales the weight decay."""

    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    moment: Moment = "float32"  # type of the first moment

    def __post_init__(self):
        _check_decays(b1=self.b1, b2=self.b2)
        _check_positive(eps=self.eps)

    def chain(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.moment), decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion:
    """The sign of a momentum (Chen et al. 2023, arXiv:2302.06675).

    Its steps are larger than AdamW's: section 5 advises a learning rate 3-10 times lower, and a weight decay
    higher by as much.
    """

    b1: float = 0.9
    b2: float = 0.99
    moment: Moment = "float32"

    def __post_init__(self):
        _check_decays(b1=self.b1, b2=self.b2)

    def chain(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_lion(self.b1, self.b2, mu_dtype=self.moment), decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """A factored second moment (Shazeer and Stern 2018, arXiv:1804.04235) as Zhai et al. 2022 train ViTs with
    it (arXiv:2106.04560, section 3.4): with momentum, without scaling by the parameters, b2 below a cap."""

    b1: float = 0.9
    b2_power: float = 0.8  # the second moment of step t decays by 1 - t**-b2_power
    b2_most: float = 0.999
    factored_from: int = 32  # sides of a matrix below this keep a full second moment
    moment: Moment = "bfloat16"

    def __post_init__(self):
        _check_decays(b1=self.b1, b2_most=self.b2_most)
        _check_positive(b2_power=self.b2_power, factored_from=self.factored_from)

    def chain(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        def b2(step, power):
            return jnp.minimum(1 - (step + 1.0) ** -power, self.b2_most)

        scale = optax.scale_by_factored_rms(
            decay_rate=self.b2_power, min_dim_size_to_factor=self.factored_from, decay_rate_fn=b2
        )
        momentum = optax.ema(self.b1, debias=False, accumulator_dtype=self.moment)
        return optax.chain(_each_layer_apart(scale), momentum, _in_float32(), decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lamb:
    """Adam's step, with weight decay, made as long as the parameter is (You et al. 2020, arXiv:1904.00962,
    algorithm 2, without a cap): each layer of a matrix apart, and nothing that is no matrix."""

    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    moment: Moment = "float32"

    def __post_init__(self):
        _check_decays(b1=self.b1, b2=self.b2)
        _check_positive(eps=self.eps)

    def chain(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.moment)
        return optax.chain(adam, decay, optax.stateless(_as_long_as_parameters))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum made orthogonal by Newton-Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Matrices alone; all other parameters take `others`. A matrix's steps are scaled to the root mean square
    that AdamW's have, 0.2 (Liu et al. 2025, arXiv:2502.16982), so both share a learning rate and a decay.
    """

    matrices: str = r"kernel$"  # regular expression: paths of the parameters that are matrices
    beta: float = 0.95
    iterations: int = 5  # of Newton-Schulz
    moment: Moment = "float32"
    others: AdamW = AdamW()

    def __post_init__(self):
        check_pattern("matrices", self.matrices)
        _check_decays(beta=self.beta)
        _check_positive(iterations=self.iterations)

    def chain(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        orthogonal = contrib.scale_by_muon(
            beta=self.beta,
            ns_steps=self.iterations,
            mu_dtype=self.moment,
            weight_dimension_numbers=lambda params: map_paths(_matrix_axes, params),
        )
        as_adamw = optax.stateless(lambda steps, _: map_paths(_as_large_as_adamw, steps))
        rules = {
            "matrices": optax.chain(orthogonal, as_adamw),
            "others": self.others.chain(optax.identity()),
        }
        return optax.chain(optax.partition(rules, self._kinds), decay)

    def _kinds(self, params):
        def kind(path, x, named):
            return "matrices" if named and x.ndim - layer_axes(path) > 1 else "others"

        return map_paths(kind, params, matches("optim.rule.matrices", self.matrices, params))


Rule = AdamW | Lion | Adafactor | Lamb | Muon


def _each_layer_apart(factored: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax's factored second moment, of each layer of a stack apart: it takes the two largest axes for
    those of a matrix, and in a deep tower one of these would be the layers."""

    def init(params):
        states = map_paths(lambda path, param: _by_layer(path, factored.init)(param), params)
        return _factored_state(jnp.zeros([], jnp.int32), params, states)

    def update(gradients, state, params):
        def update_one(gradient, param, *moments):
            return factored.update(gradient, optax.FactoredState(state.count, *moments), param)

        moments = (state.v_row, state.v_col, state.v)
        found = map_paths(
            lambda path, *leaves: _by_layer(path, update_one)(*leaves), gradients, params, *moments
        )
        steps, states = (jax.tree.map(lambda _, pair, i=i: pair[i], gradients, found) for i in range(2))
        return steps, _factored_state(optax.safe_increment(state.count), gradients, states)

    return optax.GradientTransformation(init, update)


def _by_layer(path: str, function):
    """`function`, of arrays of one layer, of those at `path`, which may hold all layers."""
    return jax.vmap(function) if layer_axes(path) else function


def _factored_state(count, params, states) -> optax.FactoredState:
    """One state of all `params` from a tree of the states of each."""
    moments = {
        name: jax.tree.map(lambda _, state, name=name: getattr(state, name), params, states)
        for name in ("v_row", "v_col", "v")
    }
    return optax.FactoredState(count=count, **moments)


def _in_float32() -> optax.GradientTransformation:
    return optax.stateless(lambda steps, _: jax.tree.map(lambda x: x.astype(jnp.float32), steps))


def _as_long_as_parameters(steps, params):
    def scaled(path, step, param):
        first = layer_axes(path)
        if param.ndim - first < 2:
            return step
        axes = tuple(range(first, param.ndim))
        have, want = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (step, param))
        return jnp.where((have > 0) & (want > 0), want / jnp.maximum(have, 1e-30), 1.0) * step

    return map_paths(scaled, steps, params)


def _as_large_as_adamw(path: str, step):
    axes = _matrix_axes(path, step)
    inputs, outputs = (math.prod(step.shape[i] for i in side) for side in axes)
    return 0.2 * max(inputs, outputs) ** 0.5 * step


def _matrix_axes(path: str, x) -> contrib.MuonDimensionNumbers:
    inputs, outputs = kernel_axes(path, x)
    first = x.ndim - inputs - outputs
    return contrib.MuonDimensionNumbers(
        reduction_axis=tuple(range(first, first + inputs)), output_axis=tuple(range(first + inputs, x.ndim))
    )
