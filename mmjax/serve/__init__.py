"""Using finished runs."""

import pathlib

from mmjax.finetune import Classifier
from mmjax.finished import Wanted, checkpoint_of, config_of
from mmjax.model import Model


def load(
    workdir: str | pathlib.Path,
    *,
    step: Wanted = None,
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
    cfg = config_of(workdir, packages)
    folder, step = checkpoint_of(workdir, step)
    return cfg.load(workdir, folder, step, average=average)
