"""The optimizer: a rule with warm-up, a schedule, clipping by global norm, and decay by path pattern."""

import dataclasses
import math
import re
from typing import Literal

import jax
import optax
from optax import contrib

from mmjax.sharding import path_name

# Trailing axes of a kernel that its inputs and its outputs run over; before them may come layers.
# Of any other kernel the last axis is its outputs, and all others its inputs.
_AXES = ((r"(query|key|value)/kernel$", 1, 2), (r"attention/out/kernel$", 2, 1), (r"(up|down)/kernel$", 1, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2019, arXiv:1711.05101; the learning rate scales the weight decay."""

    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8

    def scale(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum made orthogonal by Newton-Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Matrices alone; all other parameters take `others`. A matrix's steps are scaled to the root mean square
    that AdamW's have, 0.2 (Liu et al. 2025, arXiv:2502.16982), so both share a learning rate and a decay.
    """

    matrices: str = r"kernel$"  # regular expression: paths of the parameters that are matrices
    beta: float = 0.95
    iterations: int = 5  # of Newton-Schulz
    others: AdamW = AdamW()

    def __post_init__(self):
        _check_pattern("matrices", self.matrices)

    def scale(self) -> optax.GradientTransformation:
        orthogonal = contrib.scale_by_muon(
            beta=self.beta, ns_steps=self.iterations, weight_dimension_numbers=self._axes
        )
        rules = {
            "matrices": optax.chain(
                orthogonal, optax.stateless(lambda updates, _: self._like_adamw(updates))
            ),
            "others": self.others.scale(),
        }
        return optax.partition(rules, self._kinds)

    def _kinds(self, params):
        kinds = _map_paths(
            lambda path, x: "matrices" if x.ndim > 1 and re.search(self.matrices, path) else "others", params
        )
        if "matrices" not in jax.tree.leaves(kinds):
            raise ValueError(_no_match("rule.matrices", self.matrices, params))
        return kinds

    def _axes(self, params):
        return _map_paths(_matrix_axes, params)

    def _like_adamw(self, updates):
        def scaled(path, x):
            axes = _matrix_axes(path, x)
            inputs, outputs = (
                math.prod(x.shape[i] for i in sides) for sides in (axes.reduction_axis, axes.output_axis)
            )
            return 0.2 * max(inputs, outputs) ** 0.5 * x

        return _map_paths(scaled, updates)


def _matrix_axes(path: str, x) -> contrib.MuonDimensionNumbers:
    inputs, outputs = next((axes for pattern, *axes in _AXES if re.search(pattern, path)), (x.ndim - 1, 1))
    first = x.ndim - inputs - outputs
    return contrib.MuonDimensionNumbers(
        reduction_axis=tuple(range(first, first + inputs)), output_axis=tuple(range(first + inputs, x.ndim))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """How gradients become steps: clipped, scaled by `rule`, decayed, times the learning rate."""

    rule: AdamW | Muon = AdamW()
    lr: float = 1e-3  # peak, for the global batch
    warmup_steps: int = 0  # linear, from 0
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up; cosine ends at 0
    clip: float | None = 1.0  # global gradient norm; None does not clip
    weight_decay: float = 0.0
    decayed: str = r"(kernel|embedding)$"  # regular expression: paths of the parameters that decay

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be positive")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be 0 or more")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None for no clipping")
        _check_pattern("decayed", self.decayed)


def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """The learning rate by step for a run of `steps`."""
    if optim.warmup_steps >= steps:
        raise ValueError(f"optim.warmup_steps={optim.warmup_steps} leaves nothing of steps={steps}")
    if optim.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, optim.lr, optim.warmup_steps, steps)
    if optim.warmup_steps == 0:
        # Optax would stay at the warm-up's first value, 0, for ever.
        return optax.constant_schedule(optim.lr)
    return optax.warmup_constant_schedule(0.0, optim.lr, optim.warmup_steps)


def make(optim: Optim, steps: int) -> optax.GradientTransformation:
    clip = optax.identity() if optim.clip is None else optax.clip_by_global_norm(optim.clip)
    return optax.chain(
        clip,
        optim.rule.scale(),
        optax.add_decayed_weights(optim.weight_decay, mask=lambda params: decay_mask(optim, params)),
        optax.scale_by_learning_rate(schedule(optim, steps)),
    )


def decay_mask(optim: Optim, params):
    """True for every parameter that decays.

    Raises:
        ValueError: the pattern matches no path.
    """
    mask = _map_paths(lambda path, _: bool(re.search(optim.decayed, path)), params)
    if optim.weight_decay and not any(jax.tree.leaves(mask)):
        raise ValueError(_no_match("decayed", optim.decayed, params))
    return mask


def _map_paths(function, tree):
    """`function(path, leaf)` of every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, x: function(path_name(path), x), tree)


def _no_match(field: str, pattern: str, params) -> str:
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return f"optim.{field}={pattern!r} matches none of the parameters: {', '.join(paths[:8])}, ..."


def _check_pattern(field: str, pattern: str):
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}={pattern!r} is no regular expression: {error}") from None
