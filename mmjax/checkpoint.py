"""Checkpoints of the train state in a directory; the only file that imports orbax.

A step directory holds the items `params`, `ema` where the run averages them, `rest` (optimizer state, step,
random key, and what the objective remembers) and `meta` (JSON). Finetuning, evaluation and loading read
`params` or `ema`, and `meta`. The best step by a metric is kept in a directory of its own beside these,
without `rest`.
"""

import contextlib
import dataclasses
import math
import pathlib
import shutil
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mmjax.sharding import path_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When to save, besides after the last step, and what to keep."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0
    keep_last: int = 2
    keep_every: int | None = None  # steps; multiples of it are kept for ever
    # Metric such as val/emoji_val_style/zs_acc1, the higher the better; -val/... the lower. None: no best.
    best: str | None = None

    def __post_init__(self):
        if self.keep_last < 1:
            raise ValueError(f"keep_last={self.keep_last} must be at least 1")
        for name in ("every_steps", "every_minutes", "keep_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive, or None for never")

    @property
    def best_metric(self) -> str | None:
        """The metric that `best` names, without its sign."""
        return None if self.best is None else self.best.removeprefix("-")


_DELETED = "deleted"
# Steps between looks at the clock where processes have to agree: that waits for all devices.
_CLOCK_EVERY = 20
_WEIGHTS = ("params", "ema")  # each an item of its own


class Checkpoints:
    """Saves asynchronously and atomically: a killed save leaves the steps before it intact."""

    def __init__(self, directory: pathlib.Path, config: Checkpointing):
        """The best step goes into `best` beside `directory`."""
        self._config = config
        self._saved_at_s = time.monotonic()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep_last,
            keep_period=config.keep_every,
            # Deletion renames first: a kill while deleting would else leave half a step that is still listed.
            todelete_subdir=_DELETED,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._best = None
        if config.best is not None:
            kept = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
            self._best = ocp.CheckpointManager(directory.absolute().parent / "best", options=kept)
            self._record = self._read_record()
        self._purge()

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether `step` is one to save at; the same answer in every process."""
        if self._config.every_steps is not None and step % self._config.every_steps == 0:
            return True
        if self._config.every_minutes is None:
            return False
        due = time.monotonic() - self._saved_at_s > 60 * self._config.every_minutes
        if jax.process_count() == 1:
            return due
        # Clocks of hosts differ, and a save that only some of them begin would never end.
        return step % _CLOCK_EVERY == 0 and bool(multihost_utils.broadcast_one_to_all(due))

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]):
        """Begins to save `state`, which has a key `params`; returns once the arrays are copied.

        Raises:
            ValueError: this save, or the one before it, failed; the message says why and what is kept.
        """
        self._saved_at_s = time.monotonic()
        if step == self.latest():
            return
        rest = {name: value for name, value in state.items() if name not in _WEIGHTS}
        # Weights that nobody trains on have no rest, and orbax saves no empty item.
        items = {"rest": ocp.args.StandardSave(rest)} if rest else {}
        self._save(self._manager, step, _save_weights(state) | items, meta)

    def save_if_best(self, step: int, state: dict[str, Any], found: dict[str, float], meta: dict[str, Any]):
        """Begins to save the weights of `state` where `found`, metrics after `step`, are the best so far;
        raises as `save` does."""
        metric = self._config.best_metric
        if metric not in found:
            return
        score = -found[metric] if self._config.best.startswith("-") else found[metric]
        if score > self._record:
            self._record = score
            self._save(self._best, step, _save_weights(state), meta | {self._config.best: score})

    def wait(self):
        """Returns once the last save is on disk; raises ValueError as `save` does."""
        for manager in filter(None, (self._manager, self._best)):
            try:
                manager.wait_until_finished()
            except Exception as error:
                raise self._failure(None, error) from error
        self._purge()

    def _save(self, manager, step, items, meta):
        self.wait()
        try:
            written = manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items), force=True
            )
        except Exception as error:
            raise self._failure(step, error) from error
        if not written:
            raise ValueError(f"checkpoint of step {step} was not written to {manager.directory}")

    def restore(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The latest step as (state, meta), laid out as the `jax.ShapeDtypeStruct`s of `state` say.

        Raises:
            ValueError: its files are damaged.
        """
        rest = {name: value for name, value in state.items() if name not in _WEIGHTS}
        weights = {name: ocp.args.StandardRestore(state[name]) for name in _WEIGHTS if name in state}
        items = ocp.args.Composite(
            rest=ocp.args.StandardRestore(rest), meta=ocp.args.JsonRestore(), **weights
        )
        with _damage_is_told(self._manager.directory, self.latest()):
            restored = self._manager.restore(self.latest(), args=items)
        return {name: restored[name] for name in weights} | restored["rest"], restored["meta"]

    def _read_record(self) -> float:
        """The score of the best step so far, of this metric."""
        step = self._best.latest_step()
        if step is None:
            return -math.inf
        items = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._best.restore(step, args=items)["meta"].get(self._config.best, -math.inf)

    def close(self):
        for manager in filter(None, (self._manager, self._best)):
            manager.close()

    def _purge(self):
        """Empties the folder that orbax renames old steps into and leaves as it is."""
        if jax.process_index() == 0:
            shutil.rmtree(self._manager.directory / _DELETED, ignore_errors=True)

    def _failure(self, step, error) -> ValueError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}, or the one before it,"
        text = str(error)
        # TensorStore names its files first, at length, and the reason last.
        reason = "no space left on the device" if "No space left" in text else text.split("\n")[0][-300:]
        return ValueError(
            f"{what} could not be written to {self._manager.directory}: {reason}; "
            f"kept: steps {self._manager.all_steps()}; free space, then run the same command again"
        )


def saved_steps(directory: pathlib.Path) -> list[int]:
    """Steps that can be restored from `directory`, in order; empty where there is no such directory."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def _save_weights(state):
    return {name: ocp.args.StandardSave(state[name]) for name in _WEIGHTS if name in state}


def saved_shapes(directory: pathlib.Path, step: int, *, item: str = "params"):
    """What an item of a step holds, as a tree of `jax.ShapeDtypeStruct`s; no array is read.

    Raises:
        ValueError: the step does not hold the item.
    """
    path = directory.absolute() / str(step) / item
    if not path.is_dir():
        raise ValueError(f"step {step} of {directory} holds no {item}; was it made by another version?")
    found = ocp.PyTreeCheckpointHandler().metadata(path)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found.tree)


def restore_params(directory: pathlib.Path, params, step: int, *, item: str = "params"):
    """The parameters of one step that are asked for and nothing else, laid out as `params` says.

    Args:
        params: tree of `jax.ShapeDtypeStruct`s with shardings: all that the step holds, or a part of it.
        item: `params`, or `ema` for their moving average.

    Raises:
        ValueError: the step does not hold these parameters, or in other shapes, or is damaged.
    """
    try:
        _check_held(saved_shapes(directory, step, item=item), params)
    except (ValueError, KeyError) as error:
        raise ValueError(f"step {step} of {directory} does not fit the config beside it: {error}") from error
    options = ocp.CheckpointManagerOptions(read_only=True)
    wanted = ocp.args.PyTreeRestore(
        params, restore_args=ocp.checkpoint_utils.construct_restore_args(params), partial_restore=True
    )
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
        with _damage_is_told(directory, step):
            return manager.restore(step, args=ocp.args.Composite(**{item: wanted}))[item]


@contextlib.contextmanager
def _damage_is_told(directory, step):
    """Makes a ValueError of one line where orbax tells the whole spec of the array that it cannot read."""
    try:
        yield
    except Exception as error:
        told = [text for text in (str(error), str(error.__cause__)) if "Error reading" in text]
        if not told:
            raise
        reason = told[0].split(" [tensorstore_spec")[0]
        others = [other for other in saved_steps(directory) if other != step]
        raise ValueError(
            f"step {step} of {directory} is damaged: {reason}; other steps there: {others}; "
            "remove the folder of this one to use the one before it"
        ) from error


def _check_held(held, wanted):
    shapes = {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(held)}
    for path, x in jax.tree_util.tree_leaves_with_path(wanted):
        name = path_name(path)
        if shapes.get(name) != x.shape:
            there = list(shapes[name]) if name in shapes else "missing"
            raise ValueError(f"{name} is {there} there, wanted {list(x.shape)}")
