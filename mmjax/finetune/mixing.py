"""Finished classifiers made into one: the mean of several, or a point between where one began and ended.

Either leaves a workdir that is a finished finetune of all parameters: `mmjax.load` reads it, evaluators run
on it alone, and another finetune may begin with it. Of low-rank changes it holds the whole tower, merged; of
learned prompts what the text tower makes of them.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
from typing import Any

import jax

from mmjax import config, metrics, sharding, workdir
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.data import tokenizers
from mmjax.evals import Evaluator
from mmjax.evaluation import Evaluation, finish
from mmjax.finetune import base, context
from mmjax.finetune.averaging import interpolate, soup
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.context import Prompts
from mmjax.finetune.heads import Prompted
from mmjax.finetune.network import HEAD
from mmjax.finetune.setup import set_up
from mmjax.finetune.tune import Full
from mmjax.finished import checkpoint_of, config_of, split

log = logging.getLogger("mmjax")

_PERCENT = 100  # an alpha is logged as the step of its per cent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soup:
    """The mean of the weights of finished finetunes; of one, its weights merged into a whole tower."""

    of: tuple[str, ...]  # workdir, workdir@step or workdir@best of each
    weights: tuple[float, ...] = ()  # that sum to 1; (): all alike

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls."""
        models = [opened(path) for path in self.of]
        params = soup([merged(model) for model in models], self.weights or None)
        export(models[0], params, directory, {"of": list(self.of)})
        metrics.start_log(None)
        log.info("model:  m = mmjax.load(%r)", str(directory))

    def with_data(self, data: str):
        raise ValueError(f"--data={data}: a soup is made of weights alone; evaluate it with --eval_only")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wise:
    """Evaluates the models on the line from a finetune's first state to its last (WiSE-FT), and keeps one.

    Metrics and the report have the per cent of the way in place of the step. With a head of prompts the line
    begins at the zero-shot classifier.
    """

    tuned: str  # workdir, workdir@step or workdir@best of a finetune of all parameters
    alphas: tuple[float, ...] = tuple(i / 10 for i in range(11))
    keep: float = 0.5  # the alpha whose weights the workdir holds
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)  # target and shifted; {}: the run's

    def __post_init__(self):
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in (*self.alphas, self.keep)):
            raise ValueError(f"alphas={self.alphas} and keep={self.keep} must lie in [0, 1]")

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls.

        Raises:
            ValueError: the run trained only a part, or its head began with nothing.
        """
        last = opened(self.tuned)
        cfg = dataclasses.replace(last.config, evals=self.evals or last.config.evals)
        tunes = [tower.tune for tower in cfg.towers.values()]
        heads = [task.head for task in cfg.tasks.values()]
        if not all(isinstance(x, Full) for x in tunes) or not all(isinstance(x, Prompted) for x in heads):
            raise ValueError(
                f"tuned={self.tuned!r} has {_kinds(tunes)} and {_kinds(heads)}; the line needs Full and "
                "Prompted, whose first state is a classifier"
            )
        first = _first(last)
        export(last, interpolate(first, last.params, self.keep), directory, {"alpha": self.keep})
        workdir.write(directory / "env.json", json.dumps(workdir.environment(), indent=2))
        metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
        evals = {name: dataclasses.replace(each, every_steps=1) for name, each in cfg.evals.items()}
        for evaluator in evals.values():
            evaluator.prepare()
        with contextlib.closing(metrics.Writer(directory)) as writer:
            evaluation = Evaluation(evals, _PERCENT, writer)
            for alpha in sorted(self.alphas):
                between = dataclasses.replace(last, params=interpolate(first, last.params, alpha))
                evaluation.run(round(_PERCENT * alpha), between.embed)
        licences = list(dict.fromkeys(e.source.licence for e in evals.values() if e.source.licence))
        finish(directory, cfg, evaluation, licences)

    def with_data(self, data: str):
        raise ValueError(f"--data={data}: the evaluators say what the line is judged by; set evals")


def opened(path: str) -> Classifier:
    """A finished classifier; raises ValueError where there is none."""
    where, wanted = split(path)
    cfg = config_of(where)
    folder, step = checkpoint_of(where, wanted)
    model = cfg.load(where, folder, step, average=True)
    if not isinstance(model, Classifier):
        raise ValueError(f"{path} is a {type(cfg).__name__}, no classifier; give the workdir of a finetune")
    return model


def merged(model: Classifier) -> Any:
    """All parameters of the towers, the fusion and the heads, whatever part of them was trained."""
    with jax.set_mesh(model.mesh):
        return jax.jit(model.network.params)(model.params, model.fixed)


def export(model: Classifier, params, directory: pathlib.Path, meta: dict[str, Any]):
    """Writes a workdir of a finetune of all parameters that ended with `params`.

    Raises:
        ValueError: the directory belongs to another run.
    """
    cfg = model.config
    tasks, of_heads = dict(cfg.tasks), dict(params[HEAD])
    for name, task in tasks.items():
        if isinstance(task.head, Prompts):
            head, of_heads[name] = context.merged(task.head, of_heads[name])
            tasks[name] = dataclasses.replace(task, head=head)
    cfg = dataclasses.replace(
        cfg,
        tasks=tasks,
        towers={
            name: dataclasses.replace(tower, tune=Full(), frozen_steps=0)
            for name, tower in cfg.towers.items()
        },
        optim=dataclasses.replace(cfg.optim, ema=None, frozen=None, multipliers=()),
        checkpoint=Checkpointing(),
    )
    if (directory / "config.json").is_file():
        raise ValueError(f"{directory} belongs to a run; use another --workdir")
    workdir.write(directory / "config.json", config.to_json(cfg))
    if model.tokenizer is not None:
        workdir.write(directory / tokenizers.FILE, model.tokenizer.model)
    checkpoints = Checkpoints(directory / "checkpoints", cfg.checkpoint)
    checkpoints.save(cfg.steps, {"params": params | {HEAD: of_heads}}, meta)
    checkpoints.wait()
    checkpoints.close()


def _first(model: Classifier) -> Any:
    """The parameters that a run began with."""
    cfg = model.config
    setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)), model.mesh)
    layout = sharding.shardings(model.mesh, setup.shapes.state)
    with jax.set_mesh(model.mesh):
        return setup.first_state(layout, setup.read(setup.shapes.fixed))["params"]


def _kinds(parts) -> str:
    return ", ".join(type(part).__name__ for part in parts)
