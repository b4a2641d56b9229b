"""Parameters by path: regular expressions over names such as `image/encoder/blocks/mlp/up/kernel`.

An array below `blocks` holds all layers of a scanned encoder along its first axis; `block_3` is one layer of
an unrolled one.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from mmjax.sharding import layer_axes, path_name

# Trailing axes of a kernel that its inputs and its outputs run over; before them may come layers.
_KERNELS = (
    (r"(query|key|value)/kernel$", 1, 2),
    (r"attention/out/kernel$", 2, 1),
    (r"(up|down)/kernel$", 1, 1),
)

_BEFORE = re.compile(r"(^|/)(patch|stem|pieces|positions|class|registers|norm_before)($|/)")


def map_paths(function: Callable[..., Any], tree, *others):
    """A tree of `function(path, leaf, *leaves)`, the latter from trees of the same structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *others
    )


def check_pattern(field: str, pattern: str):
    """Raises ValueError where `pattern` is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}={pattern!r} is no regular expression: {error}") from None


def matches(field: str, pattern: str, params):
    """A tree of bool: whether `pattern`, the value of `field` of a config, occurs in each parameter's path.

    Raises:
        ValueError: it occurs in none, or in none but those that optax masks, which are frozen.
    """
    found = map_paths(lambda path, _: re.search(pattern, path) is not None, params)
    if not any(jax.tree.leaves(found)):
        all_leaves = jax.tree.leaves(params, is_leaf=_is_masked)
        which = "parameters that are not frozen" if any(map(_is_masked, all_leaves)) else "parameters"
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        some = ", ".join(paths[:8]) + ", ..." * (len(paths) > 8)
        raise ValueError(f"{field}={pattern!r} matches none of the {which}: {some}")
    return found


def _is_masked(x) -> bool:
    return isinstance(x, optax.MaskedNode)


def kernel_axes(path: str, x) -> tuple[int, int]:
    """How many of the trailing axes of a kernel its inputs and its outputs run over.

    Of a kernel that is not known by its path the last axis is its outputs, and all others its inputs.
    """
    others = (x.ndim - layer_axes(path) - 1, 1)
    return next((tuple(axes) for pattern, *axes in _KERNELS if re.search(pattern, path)), others)


def layer_decay(params, decay: float):
    """A tree of factors decay**(layers above), each shaped to scale its parameter.

    A tower of L layers has decay**0 above its last layer, decay**1 for that layer, and so on down to
    decay**(L + 1) for what comes before the first (Clark et al. 2020, arXiv:2003.10555; Bao et al.
    2022, arXiv:2106.08254). What has no layers, such as a convolutional tower or an objective, keeps 1.
    """
    depths: dict[str, int] = {}
    for key_path, x in jax.tree_util.tree_leaves_with_path(params):
        path = path_name(key_path)
        layers = x.shape[0] if layer_axes(path) else _layer(path) + 1
        depths[_tower(path)] = max(depths.get(_tower(path), 0), layers)

    def factor(path, x):
        depth = depths[_tower(path)]
        if layer_axes(path):
            column = np.arange(depth).reshape((depth,) + (1,) * (x.ndim - 1))
            return (decay ** (depth - column)).astype(np.float32)
        if _layer(path) >= 0:
            return decay ** (depth - _layer(path))
        return decay ** (depth + 1) if depth and _BEFORE.search(path) else 1.0

    return map_paths(factor, params)


def _tower(path: str) -> str:
    return path.partition("/")[0]


def _layer(path: str) -> int:
    """The layer of an unrolled encoder that a parameter belongs to, from 0; -1 where it belongs to none."""
    found = re.search(r"(^|/)block_(\d+)/", path)
    return int(found[2]) if found else -1
