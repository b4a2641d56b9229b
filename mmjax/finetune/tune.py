"""What of a tower is trained: all, a part by path, low-rank changes of its kernels, or parts put into it.

A **tuning** is a frozen dataclass. `module` is the tower as it will be trained, and `new` names parameters
that it then has and a checkpoint need not have. `start` and `fixed` are the parts of the tower's parameters
that training begins with and that it leaves as they are; `begin` makes what is trained of both, and `merged`
the tower's parameters of what is trained and what is fixed. Checkpoints hold what is trained. `whole` says
whether running statistics follow the batches: where only a part is trained they stay as they are, and the
tower normalises by them in training, too.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from mmjax.finetune.pruned import Pruned
from mmjax.finetune.trees import pick, together
from mmjax.optim.paths import check_pattern, kernel_axes, map_paths, matches
from mmjax.sharding import path_name
from mmjax.towers.extended import Adapters, Extra, extended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """Every parameter is in the run's checkpoints; `optim.frozen` names those that stay as they are."""

    new: ClassVar[str | None] = None
    whole: ClassVar[bool] = True

    def module(self, tower):
        return tower

    def start(self, params):
        return params

    def fixed(self, params):
        return {}

    def begin(self, key, start, fixed):
        return start

    def merged(self, trained, fixed):
        return trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Parameters by path, or none: of `bias$` this is BitFit (Ben Zaken et al. 2022, arXiv:2106.10199)."""

    # Regular expression, looked for in paths such as image/norm/bias; None trains the head alone.
    pattern: str | None = None
    new: ClassVar[str | None] = None
    whole: ClassVar[bool] = False

    def __post_init__(self):
        check_pattern("tune.pattern", self.pattern or "")

    def module(self, tower):
        return tower

    def start(self, params):
        return pick(params, self._chosen(params))

    def fixed(self, params):
        return pick(params, jax.tree.map(lambda yes: not yes, self._chosen(params)))

    def begin(self, key, start, fixed):
        return start

    def merged(self, trained, fixed):
        return together(trained, fixed)

    def _chosen(self, params):
        if self.pattern is None:
            return jax.tree.map(lambda _: False, params)
        return matches("tune.pattern", self.pattern, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Kernels W become W + scale / rank x A B with A [inputs, rank] and B [rank, outputs] (Hu et al. 2022,
    arXiv:2106.09685): B starts at zero, so that nothing changes at first.

    Any kernel of any module may be named: A B is added to it before the tower sees it. Of a convolution the
    inputs are its window and its channels together.
    """

    pattern: str = r"(query|value)/kernel$"  # regular expression: the kernels that change
    rank: int = 8
    scale: float = 16.0
    new: ClassVar[str | None] = None
    whole: ClassVar[bool] = False

    def __post_init__(self):
        check_pattern("tune.pattern", self.pattern)
        if self.rank < 1 or not 0 < self.scale < math.inf:
            raise ValueError(f"rank={self.rank} must be at least 1, and scale={self.scale} positive")

    def module(self, tower):
        return tower

    def start(self, params):
        return {}

    def fixed(self, params):
        return params

    def begin(self, key, start, fixed):
        kernels = pick(fixed, matches("tune.pattern", self.pattern, fixed))
        leaves, structure = jax.tree.flatten(kernels)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
        return {"lora": map_paths(self._factors, kernels, keys)}

    def merged(self, trained, fixed):
        factors: dict[str, dict[str, jax.Array]] = {}
        for path, factor in jax.tree_util.tree_leaves_with_path(trained["lora"]):
            kernel, _, name = path_name(path).rpartition("/")
            factors.setdefault(kernel, {})[name] = factor

        def changed(path, kernel):
            if path not in factors:
                return kernel
            a, b = factors[path]["a"], factors[path]["b"]
            return kernel + self.scale / self.rank * (a @ b).reshape(kernel.shape)

        return map_paths(changed, fixed)

    def _factors(self, path, kernel, key):
        """A and B of a kernel; of every layer where it holds several."""
        inputs, outputs = kernel_axes(path, kernel)
        layers = kernel.shape[: kernel.ndim - inputs - outputs]
        rows = math.prod(kernel.shape[len(layers) : len(layers) + inputs])
        columns = math.prod(kernel.shape[len(layers) + inputs :])
        a = jax.random.normal(key, (*layers, rows, self.rank)) * rows**-0.5
        return {"a": a, "b": jnp.zeros((*layers, self.rank, columns))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend:
    """Adapters, prompts and the like are put into the tower and trained. They begin anew, unless the
    checkpoint is of a tower that has them; a soup of this finetune, or one from it, has them as well."""

    extras: tuple[Extra, ...] = (Adapters(),)
    also: str | None = None  # parameters of the tower itself that are trained: norm.*/(scale|bias)$, say
    whole: ClassVar[bool] = False

    def __post_init__(self):
        check_pattern("tune.also", self.also or "")
        if not self.extras:
            raise ValueError(
                "tune.extras=() puts nothing into the tower; give Adapters(), say, or use Part()"
            )

    @property
    def new(self) -> str:
        return "|".join(extra.paths for extra in self.extras)

    def module(self, tower):
        return extended(tower, self.extras)

    def start(self, params):
        return self._part.start(params)

    def fixed(self, params):
        return self._part.fixed(params)

    def begin(self, key, start, fixed):
        return start

    def merged(self, trained, fixed):
        return together(trained, fixed)

    @property
    def _part(self) -> Part:
        return Part(pattern=self.new if self.also is None else f"{self.new}|{self.also}")


Tune = Full | Part | Lora | Extend | Pruned
