"""A tower without its smallest weights: magnitude pruning, at once or step by step, and training of the rest.

Han et al. 2015, arXiv:1506.02626, section 3, train a network, drop its smallest weights and train what is
left; Zhu & Gupta 2017, arXiv:1710.01878, let the share of zeros grow while it trains. A weight that is zero
stays so: which are is read from the weights themselves, so that checkpoints need nothing beside them.
Letters: R layers of a kernel, or 1, N weights of each.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.finetune.trees import pick
from mmjax.optim.paths import check_pattern, map_paths, matches
from mmjax.sharding import layer_axes, path_name

_TIMES = 20  # that a growing share grows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruned:
    """Every parameter is trained, but for a share of the weights of the named kernels that is zero."""

    pattern: str = r"kernel$"  # regular expression: the kernels that are pruned
    share: float = 0.5
    # The smallest weights of all named kernels together; else of each one, and in it of each layer.
    together: bool = False
    over_steps: int = 0  # first steps of training, in which the share grows; 0: it is reached before them
    new: ClassVar[str | None] = None
    whole: ClassVar[bool] = True

    def __post_init__(self):
        check_pattern("tune.pattern", self.pattern)
        if not 0 < self.share < 1 or self.over_steps < 0:
            raise ValueError(
                f"share={self.share} must lie between 0 and 1, and over_steps={self.over_steps} be 0 or more"
            )

    def module(self, tower):
        return tower

    def start(self, params):
        return params

    def fixed(self, params):
        return {}

    def begin(self, key, start, fixed):
        return self._pruned(start, self._share(0))

    def merged(self, trained, fixed):
        """All parameters; a zero of a named kernel has no gradient."""
        return self.zeroed(trained, trained)

    def after_step(self, step, before, after):
        """The parameters after step number `step`, from 1, of an optimizer that may have moved zeros, too."""
        after = self.zeroed(after, before)
        if not self.over_steps:
            return after
        last, every = self.over_steps, max(1, self.over_steps // _TIMES)
        due = ((step % every == 0) & (step < last)) | (step == last)
        return jax.lax.cond(due, lambda x: self._pruned(x, self._share(step)), lambda x: x, after)

    def zeroed(self, params, like):
        """`params`, with zeros where the named kernels of `like` have them."""
        chosen = self._chosen(params)
        return jax.tree.map(lambda yes, x, y: jnp.where(y == 0, 0, x) if yes else x, chosen, params, like)

    def _share(self, step):
        """The share of zeros after so many steps: Zhu & Gupta 2017, eq. 1."""
        if not self.over_steps:
            return self.share
        return self.share * (1 - (1 - jnp.minimum(step / self.over_steps, 1)) ** 3)

    def _pruned(self, params, share):
        """`params` with that share of the named kernels zero; what is zero already is the smallest."""
        chosen = self._chosen(params)
        sizes_RN = map_paths(lambda path, x: jnp.abs(x).reshape(_rows(path, x), -1), pick(params, chosen))
        if self.together:
            leaves, structure = jax.tree.flatten(sizes_RN)
            all_1N = jnp.concatenate([x.ravel() for x in leaves])[None]
            ends = np.cumsum([x.size for x in leaves])[:-1]
            smallest = jax.tree.unflatten(structure, jnp.split(_smallest(all_1N, share)[0], ends))
        else:
            smallest = jax.tree.map(lambda x_RN: _smallest(x_RN, share), sizes_RN)
        zero = _by_path(smallest)

        def final(path, x):
            return jnp.where(zero[path].reshape(x.shape), 0, x) if path in zero else x

        return map_paths(final, params)

    def _chosen(self, params):
        return matches("tune.pattern", self.pattern, params)


def keeping_zeros(step: Callable, tunes: Mapping[str, Any]) -> Callable:
    """`(state, ...) -> (state, metrics)` as `step`, but the zeros of pruned towers stay, whatever
    its optimizer does, and their share grows.

    Args:
        tunes: of each tower, pruned or not.
    """
    pruned = {name: tune for name, tune in tunes.items() if isinstance(tune, Pruned)}
    if not pruned:
        return step

    def kept(state, *rest):
        new, metrics = step(state, *rest)
        for name, tune in pruned.items():
            before, after = ({name: each["params"][name]} for each in (state, new))
            params = tune.after_step(new["step"], before, after)
            new |= {"params": new["params"] | params}
            if "ema" in new:
                new |= {"ema": new["ema"] | tune.zeroed({name: new["ema"][name]}, params)}
        return new, metrics

    return kept


def check_steps(towers: Mapping[str, Any], steps: int):
    """Raises ValueError where the `tune` of a tower would not reach its share of zeros in so many steps."""
    for name, tower in towers.items():
        if isinstance(tower.tune, Pruned) and tower.tune.over_steps > steps:
            raise ValueError(
                f"towers.{name}.tune.over_steps={tower.tune.over_steps} is more than steps={steps}; leave "
                "steps to train in once the share is reached"
            )


def _rows(path: str, kernel) -> int:
    """The layers that a kernel holds."""
    return kernel.shape[0] if layer_axes(path) else 1


def _smallest(x_RN, share):
    """Bool [R, N]: the share of each row that is smallest; of equal ones those that come first."""
    rank_RN = jnp.argsort(jnp.argsort(x_RN, axis=1), axis=1)
    return rank_RN < jnp.round(share * x_RN.shape[1])


def _by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
