"""Using finished runs."""

import pathlib
from typing import Any, Literal

import jax

from mmjax import config, sharding
from mmjax.checkpoint import restore_params, saved_steps
from mmjax.data import tokenizers
from mmjax.model import Model
from mmjax.pretrain import make_model
from mmjax.pretrain.step import init_state, with_layout
from mmjax.sharding import MeshShape


def load(
    workdir: str | pathlib.Path,
    *,
    step: int | Literal["best"] | None = None,
    average: bool = True,
    packages: tuple[str, ...] = (),
) -> Model:
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
    tokens = None if cfg.tokenizer is None else tokenizers.load(workdir, cfg.tokenizer)
    mesh = sharding.make_mesh(MeshShape())
    shapes = jax.eval_shape(lambda: init_state(cfg, cfg.data.batch_size)["params"])
    layout = sharding.shardings(mesh, shapes)
    wanted = with_layout(shapes, layout)
    item = "ema" if average and cfg.optim.ema else "params"
    params = restore_params(folder, wanted, step, item=item)
    return make_model(cfg, tokens, mesh, params)


def config_of(workdir: pathlib.Path, packages: tuple[str, ...] = ()) -> Any:
    """The config of a run; `packages` as for `load`.

    Raises:
        ValueError: there is no run.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"no run in {workdir}: {path} is not there; give the --workdir of a training run")
    return config.from_json(path.read_text(), packages=("mmjax", *packages))


def checkpoint_of(
    workdir: pathlib.Path, step: int | Literal["best"] | None = None
) -> tuple[pathlib.Path, int]:
    """Folder and step of a run's weights; `step` as for `load`.

    Raises:
        ValueError: there are no weights, or not those of `step`.
    """
    folder = workdir / ("best" if step == "best" else "checkpoints")
    steps = saved_steps(folder)
    step = None if step == "best" else step
    if not steps or (step is not None and step not in steps):
        asked = "weights" if step is None else f"weights of step {step}"
        raise ValueError(f"no {asked} in {folder}; saved are the steps {steps}")
    return folder, steps[-1] if step is None else step
