"""Layer-wise decay: the learning rate falls from a layer of a tower to the one below it.

Clark et al. 2020, arXiv:2003.10555; Bao et al. 2022, arXiv:2106.08254. The path of a parameter says what
layer it is of, so that any tower has layers whose modules are named as ours are: `block_3`, or `blocks` for
all that a scan stacks; of convolutions `stage_1_0`, the first block of the second stage, and `shrink_1`,
which leads to it.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax.optim.paths import map_paths
from mmjax.sharding import layer_axes, path_name

_BLOCK = re.compile(r"(?:^|/)block_(\d+)/")
_STAGE = re.compile(r"(?:^|/)stage_(\d+)_(\d+)(?=[_/])")
_SHRINK = re.compile(r"(?:^|/)shrink_(\d+)/")

# What comes before the first layer; a tower of stages has its positions after the last.
_BEFORE_ALL = r"border_(rows|columns)|stem(_\d+)?"
_BEFORE_BLOCKS = re.compile(
    rf"(^|/)({_BEFORE_ALL}|patch|pieces|positions|class|registers|norm_before|prompts|context)($|/)"
)
_BEFORE_STAGES = re.compile(rf"(^|/)({_BEFORE_ALL}|norm_\d+)($|/)")

Layer = tuple[int, ...]  # a block, or a stage and a block of it


class Towers(NamedTuple):
    """What of the towers counts for their layers, whatever part of them is trained."""

    params: Any  # all of their parameters by tower, or the shapes
    of: Callable[[str], str | None]  # the tower that a trained parameter changes, by path; None: of none

    @classmethod
    def by_name(cls, params) -> "Towers":
        """Of parameters that are trained as they are: paths begin with the name of the tower."""
        return cls(params, lambda path: path.partition("/")[0])


def layer_decay(params, decay: float, towers: Towers):
    """A tree of factors decay**(layers above), each shaped to scale its parameter of the tree `params`.

    A tower of L layers has decay**0 above its last layer, decay**1 for that layer, and so on down to
    decay**(L + 1) for what comes before the first. What is of no tower keeps 1, and so does a tower without
    layers beside one that has some.

    Raises:
        ValueError: no tower of which something is trained has layers.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    trained = {towers.of(path) for path in paths} - {None}
    layers = {name: _layers(tree) for name, tree in towers.params.items() if name in trained}
    if not any(layers.values()):
        raise ValueError(
            f"optim.layer_decay={decay} slows nothing: what is trained is of no tower with modules block_0, "
            f"blocks or stage_0_0, but {', '.join(paths[:8])}{', ...' * (len(paths) > 8)}; leave it None, or "
            "use optim.multipliers"
        )

    def factor(path, x):
        name = towers.of(path)
        return _factor(_within(name, path), x, decay, layers[name]) if layers.get(name) else 1.0

    return map_paths(factor, params)


def _factor(path: str, x, decay: float, layers: list[Layer]):
    """Of a parameter by its path in a tower that has these layers."""
    if layer_axes(path):
        column = np.arange(len(layers)).reshape(-1, *[1] * (x.ndim - 1))
        return (decay ** (len(layers) - column)).astype(np.float32)
    layer = _layer(path)
    if layer is not None:
        return decay ** (len(layers) - layers.index(layer))
    before = _BEFORE_BLOCKS if len(layers[0]) == 1 else _BEFORE_STAGES
    return decay ** (len(layers) + 1) if before.search(path) else 1.0


def _layers(tower) -> list[Layer]:
    """Of all parameters of a tower, from its inputs on."""
    found = set()
    for key_path, x in jax.tree_util.tree_leaves_with_path(tower):
        path = path_name(key_path)
        layer = _layer(path)
        found |= {(i,) for i in range(x.shape[0])} if layer_axes(path) else {layer} - {None}
    return sorted(found)


def _layer(path: str) -> Layer | None:
    """The layer that a parameter is named for; None for one that is of none, or of all."""
    if found := _BLOCK.search(path):
        return (int(found[1]),)
    if found := _STAGE.search(path):
        return int(found[1]), int(found[2])
    return (int(found[1]), 0) if (found := _SHRINK.search(path)) else None


def _within(tower: str, path: str) -> str:
    """`encoder/block_0/...` of `image/encoder/block_0/...`, or of `lora/image/encoder/block_0/...`."""
    return f"/{path}".partition(f"/{tower}/")[2]
