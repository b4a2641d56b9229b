"""Using finished runs."""

import pathlib
from typing import Literal

from mmjax import config
from mmjax.checkpoint import saved_steps
from mmjax.finetune import Classifier
from mmjax.model import Model


def load(
    workdir: str | pathlib.Path,
    *,
    step: int | Literal["best"] | None = None,
    average: bool = True,
    packages: tuple[str, ...] = (),
) -> Model | Classifier:
    """The model of a run, from its directory alone.

    Args:
        workdir: directory that a training run wrote.
        step: which checkpoint; None for the last, "best" for the one of `checkpoint.best`.
        average: take the moving average of the parameters where the run kept one (`optim.ema`).
        packages: top-level packages beside mmjax whose classes its `config.json` may build.

    Raises:
        ValueError: there is no run, there are no weights, or not those of `step`.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"no run in {workdir}: {path} is not there; give the --workdir of a training run")
    cfg = config.from_json(path.read_text(), packages=("mmjax", *packages))
    folder = workdir / ("best" if step == "best" else "checkpoints")
    steps = saved_steps(folder)
    step = None if step == "best" else step
    if not steps or (step is not None and step not in steps):
        asked = "weights" if step is None else f"weights of step {step}"
        raise ValueError(f"no {asked} in {folder}; saved are the steps {steps}")
    return cfg.load(workdir, folder, step or steps[-1], average=average)
