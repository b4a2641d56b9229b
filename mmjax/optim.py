"""The optimizer: AdamW with warm-up, a schedule, clipping by global norm, and decay by path pattern."""

import dataclasses
import re
from typing import Literal

import jax
import optax

from mmjax.sharding import path_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); the learning rate scales `weight_decay`."""

    lr: float = 1e-3  # peak, for the global batch
    warmup_steps: int = 0  # linear, from 0
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up; cosine ends at 0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
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
        try:
            re.compile(self.decayed)
        except re.error as error:
            raise ValueError(f"decayed={self.decayed!r} is no regular expression: {error}") from None


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
    adamw = optax.adamw(
        schedule(optim, steps),
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        mask=lambda params: decay_mask(optim, params),
    )
    return optax.chain(clip, adamw)


def decay_mask(optim: Optim, params):
    """True for every parameter that decays.

    Raises:
        ValueError: the pattern matches no path.
    """
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: bool(re.search(optim.decayed, path_name(path))), params
    )
    if optim.weight_decay and not any(jax.tree.leaves(mask)):
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(
            f"optim.decayed={optim.decayed!r} matches none of the parameters: {', '.join(paths[:8])}, ..."
        )
    return mask
