"""Runs a config's evaluators when they are due, writes what they find, and reports it at the end."""

import difflib
import json
import logging
import pathlib
from typing import Any

import jax
import rich.console
import rich.table

from mmjax import config, metrics, workdir
from mmjax.evals import Embed, Evaluator, Report, report

log = logging.getLogger("mmjax")


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
        found = {}
        for label, evaluator in self.due(step).items():
            with metrics.phase(f"evaluating {label}"):
                report_ = evaluator(embed)
            self.reports[label] = (evaluator.name, report_)
            for metric, value in report_.metrics.items():
                name = f"val/{evaluator.name}/{metric}"
                if name in found:
                    raise ValueError(f"two evaluators write {name}; give evals.{label} another name")
                found[name] = value
        self._check_best()
        if found:
            self._writer.write(step, found)
            log.info("step %d: %s", step, ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
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
        if self._best not in known:
            near = ", ".join(difflib.get_close_matches(self._best, known, n=3) or known)
            raise ValueError(
                f"checkpoint.best={self._best!r} is a metric that nobody writes; use one of {near}, and the "
                "same command goes on from its last checkpoint"
            )


def finish(directory: pathlib.Path, cfg: Any, evaluation: Evaluation, licences: list[str]):
    """Writes `report.html`, prints the table of results, and says where to look."""
    if jax.process_index() != 0:
        return
    reports = evaluation.reports
    page = directory / "report.html"
    written = report.render(
        title=f"mmjax: {directory.name}",
        config_text=config.show(cfg),
        history=metrics.read(directory / "metrics.jsonl"),
        reports=reports,
        environment=json.loads((directory / "env.json").read_text()),
        licences=licences,
    )
    workdir.write(page, written)
    table = rich.table.Table("data set", "metric", "value", title="results after the last step")
    for name, found in reports.values():
        for metric, value in found.metrics.items():
            table.add_row(name, metric, f"{value:.4f}")
        table.add_section()
    console = rich.console.Console(width=100)
    with console.capture() as capture:
        console.print(table)
    log.info("%s", capture.get())
    log.info("report: %s", page)
    log.info("model:  m = mmjax.load(%r)", str(directory))
