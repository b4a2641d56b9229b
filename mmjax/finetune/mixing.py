"""Workdirs that are written, not trained: finished finetunes made into one that is their mean.

What is written is a finished finetune of all parameters: `mmjax.load` reads it without the run that it began
with, evaluators run on it alone, and another finetune may begin with it. Of low-rank changes it holds the
whole tower, merged; of learned prompts what the text tower makes of them.
"""

import dataclasses
import hashlib
import logging
import pathlib
import re
from typing import Any

import jax

from mmjax import config, metrics, workdir
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.data import tokenizers
from mmjax.data.tokenizers import Tokenizer
from mmjax.finetune import context, heads
from mmjax.finetune.averaging import soup
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.classify import Classify
from mmjax.finetune.context import Prompts
from mmjax.finetune.contrast import Contrast
from mmjax.finetune.network import HEAD
from mmjax.finetune.tune import Full
from mmjax.finished import checkpoint_of, config_of, split
from mmjax.model import Model

log = logging.getLogger("mmjax")

# Fields of how a module is trained or computed, which change nothing of what its weights mean.
_WAYS = re.compile(r"\.(dropout|drop_path|remat|implementation|dtype): ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soup:
    """The mean of the weights of finished finetunes; of one, its weights merged into a whole tower."""

    of: tuple[str, ...]  # workdir, workdir@step or workdir@best of each
    weights: tuple[float, ...] = ()  # that sum to 1; (): all alike
    packages: tuple[str, ...] = ()  # beside mmjax: of own classes that the runs use

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls.

        Raises:
            ValueError: one is no finished finetune, their weights mean different things, or the directory
                belongs to a run.
        """
        check_free(directory)
        models = [opened(path, self.packages) for path in self.of]
        _check_alike(dict(zip(self.of, models, strict=True)))
        params = soup([merged(model) for model in models], self.weights or None)
        export(models[0], params, directory, {"of": list(self.of)})
        metrics.start_log(None)
        log.info("model:  m = mmjax.load(%r)", str(directory))

    def with_data(self, data: str):
        raise ValueError(f"--data={data}: a soup is made of weights alone; evaluate it with --eval_only")


def opened(path: str, packages: tuple[str, ...] = ()) -> Classifier | Model:
    """A finished finetune, with the average of its weights where it kept one; raises ValueError where there
    is none."""
    where, wanted = split(path)
    cfg = config_of(where, packages)
    if not isinstance(cfg, Classify | Contrast):
        raise ValueError(f"{path} is a {type(cfg).__name__}; give the workdir of a finetune")
    folder, step = checkpoint_of(where, wanted)
    return cfg.load(where, folder, step, average=True)


def merged(model: Classifier | Model) -> Any:
    """All parameters as a finetune of `whole` has them, whatever part of them was trained."""
    if isinstance(model, Model):
        return model.params

    def of(trained, fixed):
        params = model.network.params(trained, fixed)
        for task, head in model.network.heads.items():
            if isinstance(head, Prompts):
                params[HEAD][task] = context.merged_params(head, params[HEAD][task])
        return params

    with jax.set_mesh(model.mesh):
        return jax.jit(of)(model.params, model.fixed)


def check_free(directory: pathlib.Path):
    """Raises ValueError where the directory belongs to a run."""
    if (directory / "config.json").is_file():
        raise ValueError(f"{directory} belongs to a run; use another --workdir")


def export(model: Classifier | Model, params, directory: pathlib.Path, meta: dict[str, Any]):
    """Writes a workdir of a finetune of all parameters that ended with `params`.

    Raises:
        ValueError: the directory belongs to another run.
    """
    cfg = whole(model.config)
    write(directory, cfg, model.tokenizer, cfg.steps, params, meta)


def whole(cfg):
    """The config of a finetune of all parameters, for what another one ended with, merged."""
    if isinstance(cfg, Classify):
        tasks = {
            name: dataclasses.replace(task, head=context.merged(task.head))
            if isinstance(task.head, Prompts)
            else task
            for name, task in cfg.tasks.items()
        }
        cfg = dataclasses.replace(cfg, tasks=tasks)
    return dataclasses.replace(
        cfg,
        towers={
            name: dataclasses.replace(tower, tune=Full(), frozen_steps=0)
            for name, tower in cfg.towers.items()
        },
        optim=dataclasses.replace(cfg.optim, ema=None, frozen=None, multipliers=()),
        checkpoint=Checkpointing(),
    )


def _check_alike(models: dict[str, Classifier | Model]):
    """Raises ValueError where weights of the same shapes, by path of the run, mean different things."""
    first, *others = models
    for other in others:
        lines = config.differences(_meaning(models[first]), _meaning(models[other]))
        for line in (line for line in lines if not _WAYS.search(line)):
            raise ValueError(
                f"{other} differs from {first} in {line}; only finetunes of one network, with the same "
                "classes and preparation, have a mean"
            )


def _meaning(model: Classifier | Model) -> dict[str, Any]:
    """What decides what the weights of a finetune mean."""
    cfg = whole(model.config)
    found = {
        "kind": type(cfg).__name__,
        "towers": {name: tower.module for name, tower in cfg.towers.items()},
        "preprocess": cfg.preprocess,
        "tokenizer": cfg.tokenizer,
        "vocabulary": None if model.tokenizer is None else hashlib.sha256(model.tokenizer.model).hexdigest(),
    }
    if isinstance(cfg, Contrast):
        return found | {"objective": type(cfg.objective).__name__}
    tasks = {
        name: {"head": heads.in_use(task.head), "names": task.labels.names, "several": task.labels.several}
        for name, task in cfg.tasks.items()
    }
    return found | {"fusion": heads.in_use(cfg.fusion), "tasks": tasks}


def write(directory: pathlib.Path, cfg, tokenizer: Tokenizer | None, step: int, params, meta: dict[str, Any]):
    """Writes the workdir of a config, with parameters that no training left there.

    Raises:
        ValueError: the directory belongs to another run.
    """
    check_free(directory)
    workdir.write(directory / "config.json", config.to_json(cfg))
    if tokenizer is not None:
        workdir.write(directory / tokenizers.FILE, tokenizer.model)
    checkpoints = Checkpoints(directory / "checkpoints", Checkpointing())
    checkpoints.save(step, {"params": params}, meta)
    checkpoints.wait()
    checkpoints.close()
