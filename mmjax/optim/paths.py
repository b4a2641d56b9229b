"""Parameters by path: regular expressions over names such as `image/encoder/blocks/mlp/up/kernel`.

An array below `blocks` holds all layers of a scanned encoder along its first axis; `block_3` is one layer of
an unrolled one.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from mmjax.sharding import layer_axes, path_name

# Trailing axes of a kernel that its inputs and its outputs run over; before them may come layers.
_KERNELS = (
    (r"(query|key|value)/kernel$", 1, 2),
    (r"attention/out/kernel$", 2, 1),
    (r"(up|down)/kernel$", 1, 1),
)


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
