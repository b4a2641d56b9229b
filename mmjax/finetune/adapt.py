"""Weights of one shape made to fit another: which parameter of a checkpoint goes where, said path by path.

Nothing is silent: a parameter is restored, resized, begun anew or left out, and the last two only where a
pattern asks for it. Letters: S positions, D width.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.finetune.base import Base
from mmjax.finetune.trees import pick
from mmjax.optim.paths import check_pattern, map_paths
from mmjax.sharding import path_name

log = logging.getLogger("mmjax")

Fate = Literal["restored", "resized", "fresh", "left out"]
Filter = Literal["linear", "cubic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapt:
    """What may differ between a checkpoint and the tower that it is for.

    Patterns are regular expressions, looked for in paths such as `image/pool/probe`.
    """

    fresh: str | None = None  # parameters of the tower that begin anew, whatever the checkpoint has
    drop: str | None = None  # parameters of the checkpoint that the tower has no more
    filter: Filter = "cubic"  # between positions, where their number changes
    # Cells of learned positions along each axis, in the checkpoint and in the tower: ((8, 32), (8, 48)), say.
    # None: squares of a picture's patches; those of any other modality but texts are then not resized.
    grid: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    # Positions of longer texts: further ones are zeros, or the old ones are stretched over all.
    texts: Literal["keep", "stretch"] = "keep"

    def __post_init__(self):
        check_pattern("adapt.fresh", self.fresh or "")
        check_pattern("adapt.drop", self.drop or "")
        if self.grid is not None and len({len(cells) for cells in self.grid}) != 1:
            raise ValueError(f"adapt.grid={self.grid} must be two grids of as many axes")


class Step(NamedTuple):
    """What becomes of one path."""

    path: str
    fate: Fate
    there: tuple[int, ...] | None  # its shape in the checkpoint
    here: tuple[int, ...] | None  # its shape in the tower


def plan(adapt: Adapt, there, here, *, new: str | None = None) -> list[Step]:
    """The fate of every path of two trees of `jax.ShapeDtypeStruct`s, the checkpoint's and the tower's.

    Args:
        new: pattern of the tower's parameters that begin anew where the checkpoint lacks them.

    Raises:
        ValueError: a path is in one of them only, or in shapes that do not fit, and no pattern names it; or a
            pattern names nothing.
    """
    have, want = ({path: x.shape for path, x in _by_path(tree).items()} for tree in (there, here))
    _check_named("fresh", adapt.fresh, want)
    _check_named("drop", adapt.drop, have)
    steps = [
        Step(path, _fate(adapt, path, have.get(path), shape, new), have.get(path), shape)
        for path, shape in want.items()
    ]
    for path in (path for path in have if path not in want):
        if not _named(adapt.drop, path):
            raise ValueError(
                f"{path} is in the checkpoint and not in the tower; give the tower of the checkpoint, or "
                f"adapt.drop='^{re.escape(path)}'"
            )
        steps.append(Step(path, "left out", have[path], None))
    return steps


def report(what: str, steps: list[Step]):
    """Logs how many parameters come from the checkpoint as they are, and all others by name."""
    as_is = sum(step.fate == "restored" for step in steps)
    log.info("%s: %d of %d parameters are restored as they are", what, as_is, len(steps))
    for step in steps:
        if step.fate != "restored":
            shapes = " -> ".join(str(list(shape)) for shape in (step.there, step.here) if shape is not None)
            log.info("  %-8s %s %s", step.fate, step.path, shapes)


def load(base: Base, adapt: Adapt, steps: list[Step], wanted, init: Callable):
    """Parameters laid out as `wanted` says, each by its step of the plan; no other is read.

    Args:
        wanted: tree of `jax.ShapeDtypeStruct`s with shardings: all parameters of the tower, or a part.
        init: makes all parameters of the tower anew; only called where one of `wanted` begins anew.
    """
    step_of = {step.path: step for step in steps}

    def in_checkpoint(path, x):
        there = step_of[path].there
        # What is resized is small, and may not divide over the mesh as it will.
        where = x.sharding if there == x.shape else NamedSharding(x.sharding.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(there, x.dtype, sharding=where)

    old = pick(wanted, map_paths(lambda path, _: step_of[path].fate != "fresh", wanted))
    found = _by_path(base.restore(map_paths(in_checkpoint, old)) if old else {})
    any_fresh = any(step_of[path].fate == "fresh" for path in _by_path(wanted))
    begun = _by_path(init()) if any_fresh else {}

    def final(path, x):
        if step_of[path].fate == "fresh":
            return jax.device_put(begun[path], x.sharding)
        if step_of[path].fate == "restored":
            return found[path]
        return jax.device_put(resized(adapt, path, found[path], x.shape[0]), x.sharding)

    return map_paths(final, wanted)


def resized(adapt: Adapt, path: str, positions_SD, count: int):
    """Learned positions of another number: of the pieces of a text, or of a grid."""
    if path.startswith("text/") and adapt.grid is None:
        if adapt.texts == "stretch":
            return resize_grid(positions_SD, (len(positions_SD),), (count,), filter=adapt.filter)
        kept_SD = positions_SD[:count]
        return jnp.pad(kept_SD, ((0, count - len(kept_SD)), (0, 0)))
    first, (before, after) = _grids(adapt, path, len(positions_SD), count)
    grid_SD = resize_grid(positions_SD[first:], before, after, filter=adapt.filter)
    return jnp.concatenate([positions_SD[:first], grid_SD])


def resize_grid(x_SD, before: tuple[int, ...], after: tuple[int, ...], *, filter: Filter = "cubic"):
    """Features of a grid of `before` cells, row by row, found between them for one of `after` cells.

    Both grids cover the same picture. Where there are fewer cells, each is a mean over those that it covers.
    """
    x = x_SD.reshape(*before, x_SD.shape[-1])
    return jax.image.resize(x, (*after, x.shape[-1]), method=filter).reshape(-1, x.shape[-1])


def _fate(adapt: Adapt, path: str, there, here, new) -> Fate:
    if _named(adapt.fresh, path) or (there is None and _named(new, path)):
        return "fresh"
    if there == here:
        return "restored"
    if there is None:
        raise ValueError(
            f"{path} is in the tower and not in the checkpoint; give the tower of the checkpoint, or "
            f"adapt.fresh='^{re.escape(path)}'"
        )
    if path.endswith("/positions") and there[1:] == here[1:]:
        if not path.startswith("text/") or adapt.grid is not None:
            _grids(adapt, path, there[0], here[0])
        return "resized"
    raise ValueError(
        f"{path} is {list(there)} in the checkpoint and {list(here)} in the tower; give the tower of the "
        f"checkpoint, or adapt.fresh='^{re.escape(path)}'"
    )


def _grids(adapt: Adapt, path: str, *counts: int) -> tuple[int, list[tuple[int, ...]]]:
    """How many positions come before the grids, none or that of a class token, and the grids' cells.

    Raises:
        ValueError: with neither are these as many positions, or nothing says what grids they are of.
    """
    if adapt.grid is None and not path.startswith("image/"):
        raise ValueError(
            f"{path} has {counts[0]} positions in the checkpoint and {counts[1]} in the tower, and nothing "
            "says of what grids; give adapt.grid, such as ((8, 32), (8, 48))"
        )
    for first in (0, 1):
        grids = adapt.grid or [(math.isqrt(count - first),) * 2 for count in counts]
        if all(math.prod(grid) == count - first for grid, count in zip(grids, counts, strict=True)):
            return first, list(grids)
    if adapt.grid is not None:
        raise ValueError(
            f"adapt.grid={adapt.grid} has {[math.prod(grid) for grid in adapt.grid]} cells, but {path} has "
            f"{list(counts)} positions; give grids of as many, or of one fewer beside a class token"
        )
    raise ValueError(
        f"{counts[0]} positions cannot be resized to {counts[1]}: they are no square grids of patches; use a "
        "preprocess.size that the tower's patch divides, or give adapt.grid"
    )


def _by_path(tree) -> dict[str, Any]:
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _named(pattern: str | None, path: str) -> bool:
    return pattern is not None and re.search(pattern, path) is not None


def _check_named(field: str, pattern: str | None, paths):
    if pattern is not None and not any(_named(pattern, path) for path in paths):
        raise ValueError(f"adapt.{field}={pattern!r} names none of {', '.join(list(paths)[:8])}, ...")
