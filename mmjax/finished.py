"""What there is of a run in its workdir: its config, and the checkpoints that can be read."""

import pathlib
import re
from typing import Any, Literal

from mmjax import config
from mmjax.checkpoint import saved_steps

Wanted = int | Literal["best"] | None
"""A step, the one of `checkpoint.best`, or the last."""


def split(path: str) -> tuple[pathlib.Path, Wanted]:
    """Workdir and checkpoint of `<workdir>[@<step>]`; a directory that is named so is a workdir."""
    found = re.fullmatch(r"(.+)@(\d+|best)", path)
    if found is None or pathlib.Path(path).is_dir():
        return pathlib.Path(path), None
    return pathlib.Path(found[1]), "best" if found[2] == "best" else int(found[2])


def config_of(workdir: pathlib.Path, packages: tuple[str, ...] = ()) -> Any:
    """The config of a run.

    Args:
        packages: top-level packages beside mmjax whose classes its `config.json` may build.

    Raises:
        ValueError: there is no run.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"no run in {workdir}: {path} is not there; give the --workdir of a training run")
    return config.from_json(path.read_text(), packages=("mmjax", *packages))


def checkpoint_of(workdir: pathlib.Path, wanted: Wanted = None) -> tuple[pathlib.Path, int]:
    """Folder and step of a run's weights.

    Raises:
        ValueError: there are no weights, or not those of the step.
    """
    folder = workdir / ("best" if wanted == "best" else "checkpoints")
    steps = saved_steps(folder)
    step = None if wanted == "best" else wanted
    if not steps or (step is not None and step not in steps):
        asked = "weights" if step is None else f"weights of step {step}"
        raise ValueError(f"no {asked} in {folder}; saved are the steps {steps}")
    return folder, steps[-1] if step is None else step
