"""Runs a config's evaluators when they are due, writes what they find, and reports it at the end."""

import dataclasses
import difflib
import json
import logging
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import rich.console
import rich.table

from mmjax import config, metrics, workdir
from mmjax.evals import Confusion, Embed, Evaluator, Foretells, Report, report, results
from mmjax.evals.charts import short
from mmjax.evals.embedded import remembering

log = logging.getLogger("mmjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A config for `mmjax.main --eval_only`, of evaluators and nothing else."""

    evals: dict[str, Evaluator]

    def run(self, directory: pathlib.Path):
        raise ValueError(
            f"this config evaluates and trains nothing; add --eval_only to judge the run {directory}"
        )

    def with_data(self, data: str) -> "Evaluate":
        raise ValueError(f"--data={data} needs a config that trains, whose sizes the data is prepared for")


def check_needs(evals: dict[str, Evaluator], functions: Iterable[str]):
    """Raises ValueError where an evaluator needs a function that the model does not have, or where two would
    write the same metric.

    Args:
        functions: of the model, those that evaluators would be given.
    """
    functions = sorted(functions)
    written: set[str] = set()
    for label, evaluator in evals.items():
        missing = [name for name in evaluator.needs if name not in functions]
        if missing:
            raise ValueError(
                f"evals.{label} ({type(evaluator).__name__}) needs {missing[0]!r}, of a model that has "
                f"{', '.join(functions)}; leave this evaluator out, or take another model"
            )
        if isinstance(evaluator, Foretells):
            _note(written, label, evaluator.name, evaluator.finds)


def check_best(best: str | None, evals: dict[str, Evaluator]) -> None:
    """Raises ValueError for a metric to go by that no evaluator writes in the loop, as far as they say."""
    if best is None:
        return
    watched = [e for e in evals.values() if e.every_steps]
    named = [e for e in watched if best.startswith(f"val/{e.name}/")]
    if not named:
        names = [f"val/{e.name}/" for e in watched]
        raise ValueError(f"checkpoint.best={best!r} is no metric of an evaluator with every_steps: {names}")
    if all(isinstance(e, Foretells) for e in named):
        _check_known(best, [f"val/{e.name}/{metric}" for e in named for metric in e.finds])


def _check_known(best: str, known: list[str], remedy: str = "") -> None:
    if best not in known:
        near = ", ".join(difflib.get_close_matches(best, known, n=3) or known)
        raise ValueError(
            f"checkpoint.best={best!r} is a metric that nobody writes; use one of {near}{remedy}"
        )


def _note(written: set[str], label: str, name: str, found: Iterable[str]) -> list[str]:
    """Adds the names of the metrics as metrics.jsonl has them, which it returns, to those of the others."""
    names = [f"val/{name}/{metric}" for metric in found]
    twice = written.intersection(names)
    if twice:
        raise ValueError(f"two evaluators write {min(twice)}; give evals.{label} another name")
    written.update(names)
    return names


def licences(*parts: Any) -> list[str]:
    """Of all data that evaluators, or sources, name: what a probe is fitted on, too; each once."""
    found: dict[str, None] = {}
    left = list(parts)
    while left:
        part = left.pop(0)
        if dataclasses.is_dataclass(part):
            if hasattr(part, "licence"):
                found[part.licence] = None
            left += [getattr(part, field.name) for field in dataclasses.fields(part)]
    return [licence for licence in found if licence]


class Evaluation:
    """The evaluators of a run and the last report of each, by label."""

    def __init__(
        self,
        evaluators: dict[str, Evaluator],
        steps: int,
        writer: metrics.Writer,
        *,
        best: str | None = None,
    ):
        """`best`: the metric by which the best step is kept, which one of the evaluators has to find."""
        self._evaluators = evaluators
        self._steps = steps
        self._writer = writer
        self._best = best
        self.reports: dict[str, tuple[str, Report]] = {}
        self.step = 0  # of the last evaluation

    def due(self, step: int) -> dict[str, Evaluator]:
        """All after the last step, and each at multiples of its `every_steps`."""
        return {
            label: evaluator
            for label, evaluator in self._evaluators.items()
            if step == self._steps or (evaluator.every_steps and step % evaluator.every_steps == 0)
        }

    def run(self, step: int, embed: Embed) -> dict[str, float]:
        """Evaluates what is due after `step`; metrics by their name in metrics.jsonl.

        Raises:
            ValueError: two evaluators of one name found the same metric, or none finds the one to go by.
        """
        found: dict[str, float] = {}
        written: set[str] = set()
        embed = remembering(embed)
        for label, evaluator in self.due(step).items():
            with metrics.phase(f"evaluating {label}"):
                report_ = evaluator(embed)
            self.reports[label] = (evaluator.name, report_)
            names = _note(written, label, evaluator.name, report_.metrics)
            found |= dict(zip(names, report_.metrics.values(), strict=True))
            self.step = step
        self._check_best()
        if found:
            self._writer.write(step, found)
            log.info("step %d: %s", step, ", ".join(f"{k} {short(v)}" for k, v in found.items()))
        return found

    def _check_best(self):
        """Raises ValueError once all evaluators that `best` may be of have reported, and none found it."""
        if self._best is None:
            return
        # Two evaluators may share a name, and one of them be due before the other.
        named = [label for label, e in self._evaluators.items() if self._best.startswith(f"val/{e.name}/")]
        if not set(named) <= set(self.reports):
            return
        reports = [self.reports[label] for label in named]
        known = [f"val/{name}/{metric}" for name, report_ in reports for metric in report_.metrics]
        _check_known(self._best, known, ", and the same command goes on from its last checkpoint")


def finish(
    directory: pathlib.Path,
    cfg: Any,
    evaluation: Evaluation,
    licences: list[str],
    *,
    run: pathlib.Path | None = None,
):
    """Writes `report.html` and `results/` into `directory`, prints the table of results and where to look.

    `run`: the workdir whose checkpoint was evaluated, where `directory` is another.
    """
    if jax.process_index() != 0:
        return
    run = directory if run is None else run
    reports = evaluation.reports
    page = directory / "report.html"
    written = report.render(
        title=f"mmjax: {run.name}" if run == directory else f"mmjax: {run.name}, {directory.name}",
        config_text=config.show(cfg),
        history=_history(directory, run, evaluation.step),
        reports=reports,
        environment=json.loads((directory / "env.json").read_text()),
        licences=licences,
    )
    workdir.write(page, written)
    for label, (name, found) in reports.items():
        record = results.record(
            label, name, found, model=run.resolve().name, pretrained=f"step_{evaluation.step}"
        )
        file = directory / "results" / re.sub(r"[^A-Za-z0-9_.-]", "_", label)
        workdir.write(file.with_name(f"{file.name}.json"), json.dumps(record, indent=2))
        for picture in found.pictures:
            if isinstance(picture, Confusion):
                workdir.write(file.with_name(f"{file.name}_confusion.csv"), results.confusion(picture))
    log.info("%s", _table(reports, evaluation.step))
    log.info("report: %s", page)
    log.info("model:  m = mmjax.load(%r)", str(run))


def _history(directory: pathlib.Path, run: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """The run's metrics; where evaluators ran alone, those of training up to the checkpoint."""
    lines = metrics.read(run / "metrics.jsonl")
    if directory == run:
        return lines
    return [
        {name: value for name, value in line.items() if not name.startswith("val/")}
        for line in lines
        if line["step"] <= step
    ]


def _table(reports: dict[str, tuple[str, Report]], step: int) -> str:
    table = rich.table.Table("data set", "metric", "value", title=f"results at step {step}")
    for name, found in reports.values():
        for metric, value in found.metrics.items():
            table.add_row(name, metric, f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}")
        table.add_section()
    console = rich.console.Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
