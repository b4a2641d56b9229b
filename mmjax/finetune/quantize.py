"""A finished run with int8 weights: a workdir of a quarter of the size, judged beside the run it was made of.

`mmjax.load` reads it, of a contrastive run and of a finetune alike, and evaluators run on it alone. In memory
its weights are int8, too.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib

import jax

from mmjax import metrics, workdir
from mmjax.evals import Embed, Evaluator, Report
from mmjax.evals.embedded import remembering
from mmjax.evaluation import Evaluation, check_needs, finish, licences
from mmjax.finetune import int8, mixing
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.classify import Classify
from mmjax.finetune.contrast import Contrast
from mmjax.finetune.int8 import Activations
from mmjax.finetune.quantized import Quantized
from mmjax.finished import checkpoint_of, config_of, split
from mmjax.model import Model
from mmjax.optim.paths import check_pattern, matches

log = logging.getLogger("mmjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize:
    """Makes the int8 weights of a finished run, and shows what its evaluators find with them and before.

    Metrics of before end in `_float32`.
    """

    of: str  # workdir, workdir@step or workdir@best
    activations: Activations = "none"  # what the weights are multiplied with
    keep: str | None = None  # regular expression: parameters that stay float32, such as head/
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)  # {}: the run's
    packages: tuple[str, ...] = ()  # beside mmjax: of own classes that the run uses

    def __post_init__(self):
        check_pattern("keep", self.keep or "")

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls.

        Raises:
            ValueError: there is no such run, or it is quantised already, or evaluators do not fit it; the
                directory belongs to a run.
        """
        model, step = _finished(self.of, self.packages)
        whole, params = model.config, mixing.merged(model)
        if isinstance(whole, Classify | Contrast):
            whole = mixing.whole(whole)
        if self.keep is not None:
            matches("keep", self.keep, params)
        evals = self.evals or whole.evals
        check_needs(evals, model.embed)
        for evaluator in evals.values():
            evaluator.prepare()
        cfg = Quantized(
            original=dataclasses.replace(whole, evals={}),
            evals=evals,
            activations=self.activations,
            keep=self.keep,
        )
        with jax.set_mesh(model.mesh):
            small = jax.jit(functools.partial(int8.quantised, keep=self.keep))(params)
        mixing.write(directory, cfg, model.tokenizer, step, small, {"of": self.of})
        workdir.write(directory / "env.json", json.dumps(workdir.environment(), indent=2))
        metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
        size = Report({"megabytes": _megabytes(small), "megabytes_float32": _megabytes(params)})
        before = _evaluated(evals, model.embed)
        compared = {label: _Beside(evaluator, before[label]) for label, evaluator in evals.items()}
        made = cfg.load(directory, directory / "checkpoints", step, average=False)
        with contextlib.closing(metrics.Writer(directory)) as writer:
            evaluation = Evaluation(compared, step, writer)
            evaluation.run(step, made.embed)
        evaluation.reports["size"] = ("weights", size)
        evaluation.step = step
        finish(directory, cfg, evaluation, licences(*evals.values()))

    def with_data(self, data: str):
        raise ValueError(f"--data={data}: weights are made int8 without data; evaluate them with --eval_only")


@dataclasses.dataclass(frozen=True)
class _Beside:
    """An evaluator that shows what was found before beside each metric."""

    evaluator: Evaluator
    before: Report
    every_steps: int = 0

    @property
    def name(self) -> str:
        return self.evaluator.name

    def __call__(self, embed: Embed) -> Report:
        after = self.evaluator(embed)
        found = {}
        for metric, value in after.metrics.items():
            found[metric] = value
            if not metric.endswith("_chance"):
                found[f"{metric}_float32"] = self.before.metrics[metric]
        return after._replace(metrics=found)


def _finished(path: str, packages: tuple[str, ...]) -> tuple[Model | Classifier, int]:
    """The model of a run as it was evaluated, and its step."""
    where, wanted = split(path)
    cfg = config_of(where, packages)
    if isinstance(cfg, Quantized):
        raise ValueError(f"of={path!r} has int8 weights already; give the run that it was made of")
    folder, step = checkpoint_of(where, wanted)
    return cfg.load(where, folder, step, average=True), step


def _evaluated(evals: dict[str, Evaluator], embed: Embed) -> dict[str, Report]:
    embed, found = remembering(embed), {}
    for label, evaluator in evals.items():
        with metrics.phase(f"evaluating {label} with float32 weights"):
            found[label] = evaluator(embed)
    return found


def _megabytes(params) -> float:
    return sum(x.nbytes for x in jax.tree.leaves(params)) / 1e6
