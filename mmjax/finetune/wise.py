"""The models between a zero-shot model and what finetuning made of it: WiSE-FT.

Wortsman et al. 2022, arXiv:2109.01903: on the line between the two lie models that do about as well on the
data of the finetune and better on data that differs. Of the line, one model is kept in a workdir.
"""

import contextlib
import dataclasses
import json
import pathlib

import jax
import numpy as np

from mmjax import metrics, workdir
from mmjax.evals import Evaluator, Report, TradeOff
from mmjax.evals.robustness import Robustness
from mmjax.evaluation import Evaluation, check_needs, finish, licences
from mmjax.finetune import inherited
from mmjax.finetune.averaging import interpolate
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.classify import first_model
from mmjax.finetune.contrast import Contrast
from mmjax.finetune.contrast_setup import read_first
from mmjax.finetune.heads import Prompted
from mmjax.finetune.mixing import check_free, export, opened
from mmjax.finetune.tune import Full
from mmjax.model import Model

_PERCENT = 100  # an alpha is logged as the step of its per cent
_SHIFTED = "shifted"
_SEVERITIES = (3,)  # of the corruptions; all five would take five times as long


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wise:
    """Evaluates the models on the line from a finetune's first state to its last, and keeps one.

    Metrics have the per cent of the way in place of the step. The report shows `metric` of the first
    evaluator, the target, against a metric of the one called `shifted`. With a head of prompts the line of a
    classification begins at the zero-shot classifier; that of a contrastive finetune begins at its
    checkpoint, whatever part of the towers was trained.
    """

    tuned: str  # workdir, workdir@step or workdir@best of a finetune
    alphas: tuple[float, ...] = tuple(i / 10 for i in range(11))
    keep: float = 0.5  # the alpha whose weights the workdir holds
    # {}: the run's. Without one called `shifted` that is the target with corrupted pictures.
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)
    metric: str | None = None  # of the target; None: `cls_acc1` of classes, else `i2t_r1`
    metric_shifted: str | None = None  # None: that of the target
    packages: tuple[str, ...] = ()  # beside mmjax: of own classes that the run uses

    def __post_init__(self):
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in (*self.alphas, self.keep)):
            raise ValueError(f"alphas={self.alphas} and keep={self.keep} must lie in [0, 1]")
        if next(iter(self.evals), None) == _SHIFTED:
            raise ValueError(f"the first of evals is the target; let {_SHIFTED!r} come after it")

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls.

        Raises:
            ValueError: the first state of the run is no model of the same parameters, or nothing evaluates
                it.
        """
        check_free(directory)
        metrics.start_log(None)
        last = opened(self.tuned, self.packages)
        self._check_ends(last.config)
        evals = self._evaluators(last.config)
        check_needs(evals, last.embed)
        for evaluator in evals.values():
            evaluator.prepare()
        first = _first(last)
        workdir.write(directory / "env.json", json.dumps(workdir.environment(), indent=2))
        metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
        with contextlib.closing(metrics.Writer(directory)) as writer:
            evaluation = Evaluation(evals, _PERCENT, writer)
            points = []
            for alpha in sorted(self.alphas):
                between = dataclasses.replace(last, params=interpolate(first, last.params, alpha))
                evaluation.run(round(_PERCENT * alpha), between.embed)
                points.append(self._point(last.config, evals, evaluation))
        if _SHIFTED in evals:
            report = self._trade_off(self._metrics(last.config), np.array(points))
            evaluation.reports["line"] = next(iter(evals.values())).name, report
        # Only now, so that a command that was killed, or named no metric, may be given again.
        export(last, interpolate(first, last.params, self.keep), directory, {"alpha": self.keep})
        cfg = dataclasses.replace(last.config, evals=evals)
        finish(directory, cfg, evaluation, licences(*evals.values()))

    def with_data(self, data: str):
        raise ValueError(f"--data={data}: the evaluators say what the line is judged by; set evals")

    def _check_ends(self, cfg):
        """Raises ValueError where a run of this config did not begin with a model."""
        if isinstance(cfg, Contrast):
            for name in (name for name in cfg.towers if inherited.is_new(cfg, name)):
                raise ValueError(
                    f"tuned={self.tuned!r}: towers.{name} began anew; the line needs a run whose towers all "
                    "began with a checkpoint's"
                )
            return
        tunes = [tower.tune for tower in cfg.towers.values()]
        heads = [task.head for task in cfg.tasks.values()]
        if not all(isinstance(x, Full) for x in tunes) or not all(isinstance(x, Prompted) for x in heads):
            raise ValueError(
                f"tuned={self.tuned!r} has {_kinds(tunes)} and {_kinds(heads)}; the line needs Full, as a "
                "soup of one has it, and Prompted, whose first state is a classifier"
            )

    def _evaluators(self, cfg) -> dict[str, Evaluator]:
        """All that judge every model of the line, the target first."""
        evals = dict(self.evals or cfg.evals)
        if not evals:
            raise ValueError(f"tuned={self.tuned!r} has no evaluators; give evals, the target first")
        if _SHIFTED not in evals and "image" in cfg.towers:
            target, (_, metric) = next(iter(evals.values())), self._metrics(cfg)
            evals[_SHIFTED] = Robustness(evaluator=target, metrics=(metric,), severities=_SEVERITIES)
        return {label: dataclasses.replace(each, every_steps=1) for label, each in evals.items()}

    def _metrics(self, cfg) -> tuple[str, str]:
        """Of the target, and of the shifted data."""
        metric = self.metric or ("i2t_r1" if isinstance(cfg, Contrast) else "cls_acc1")
        return metric, self.metric_shifted or metric

    def _point(self, cfg, evals: dict[str, Evaluator], evaluation: Evaluation) -> list[float]:
        """The metric on the target, and where there is one on the shifted data."""
        values = []
        for label, metric in zip((next(iter(evals)), _SHIFTED), self._metrics(cfg), strict=True):
            if label not in evals:
                continue
            found = evaluation.reports[label][1].metrics
            name = metric + ("_corrupted" if isinstance(evals[label], Robustness) else "")
            if name not in found:
                field = "metric_shifted" if label == _SHIFTED else "metric"
                raise ValueError(f"evals.{label} finds no {name!r}; use one of {', '.join(found)} as {field}")
            values.append(found[name])
        return values

    def _trade_off(self, names: tuple[str, str], points: np.ndarray) -> Report:
        """The curve, and the alpha at which the mean of both is best."""
        alphas = sorted(self.alphas)
        target, shifted = points.T
        curve = TradeOff(
            "From the first state to the last",
            "Each point is a model, named by its alpha: 0 is the first state, 1 what finetuning ended with.",
            f"shifted {names[1]}",
            f"target {names[0]}",
            shifted,
            target,
            tuple(f"{alpha:g}" for alpha in alphas),
        )
        return Report({"best_alpha": alphas[int(np.argmax(target + shifted))]}, (curve,))


def _first(last: Classifier | Model):
    """The parameters of a finished finetune before it trained."""
    if isinstance(last, Classifier):
        return first_model(last.config, last.mesh).params
    return last.params | read_first(last.config, last.mesh, last.params["objective"])


def _kinds(parts) -> str:
    return ", ".join(type(part).__name__ for part in parts)
