"""What is left of an evaluator's metric where its pictures are corrupted.

Hendrycks and Dietterich 2019, arXiv:1903.12261; without their normalisation by another network's errors.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mmjax.data import Source
from mmjax.evals import Curve, Embed, Evaluator, Fits, Foretells, Gallery, Match, Report, Row
from mmjax.evals.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from mmjax.evals.embedded import remembering
from mmjax.evals.examples import Examples, Pictures, problem


@dataclasses.dataclass(frozen=True, eq=False)
class _Corrupted:
    """Pictures of an evaluator, or examples that have one, made worse when sliced; each has its own random
    numbers."""

    items: Pictures | Examples
    corruption: str
    severity: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: slice) -> list[Any]:
        return [
            self._worse(item, int(index))
            for index, item in zip(self.items.index_N[at], self.items[at], strict=True)
        ]

    def _worse(self, item: np.ndarray | dict[str, Any], index: int) -> np.ndarray | dict[str, Any]:
        if isinstance(item, dict):
            return item | {"image": self._worse(item["image"], index)}
        return corrupted(self.corruption, item, severity=self.severity, seed=index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """Metrics of another evaluator with its pictures corrupted, as means over severities.

    `<metric>_clean`, `<metric>_<corruption>` and `<metric>_corrupted`, the mean of these. Pictures of the
    evaluator's `source` are corrupted, whatever they are given to, and no others: not those that a probe is
    fitted on, which happens once, nor pairs that `Composition` generates beside its source.
    """

    evaluator: Evaluator
    metrics: tuple[str, ...]  # of the evaluator
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = SEVERITIES
    every_steps: int = 0  # 0 evaluates after the last step only

    def __post_init__(self):
        unknown = [each for each in self.corruptions if each not in CORRUPTIONS]
        if unknown or not self.corruptions:
            raise ValueError(f"corruptions={self.corruptions}: use some of {', '.join(CORRUPTIONS)}")
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f"severities={self.severities}: use some of {SEVERITIES}")
        if not self.metrics or self.every_steps < 0:
            raise ValueError(
                f"metrics={self.metrics} must name a metric, every_steps={self.every_steps} not be negative"
            )
        if isinstance(self.evaluator, Foretells):
            self._check(self.evaluator.finds)

    @property
    def name(self) -> str:
        return self.evaluator.name

    @property
    def source(self) -> Source:
        return self.evaluator.source

    @property
    def needs(self) -> tuple[str, ...]:
        return self.evaluator.needs

    @property
    def finds(self) -> tuple[str, ...]:
        suffixes = ("clean", *self.corruptions, "corrupted")
        return tuple(f"{metric}_{suffix}" for metric in self.metrics for suffix in suffixes)

    def prepare(self) -> None:
        self.evaluator.prepare()

    def __call__(self, embed: Embed) -> Report:
        embed = remembering(embed)
        # What is learned of clean pictures is learned once.
        judge = self.evaluator.fit(embed) if isinstance(self.evaluator, Fits) else self.evaluator
        clean = self._values(judge(embed))
        severities = sorted(self.severities)
        worse = {
            name: [self._values(judge(self._corrupting(embed, name, each))) for each in severities]
            for name in self.corruptions
        }
        found, curves = {}, []
        for i, metric in enumerate(self.metrics):
            by_severity = {name: np.array([each[i] for each in runs]) for name, runs in worse.items()}
            means = {f"{metric}_{name}": float(values.mean()) for name, values in by_severity.items()}
            found |= {f"{metric}_clean": clean[i], **means}
            found[f"{metric}_corrupted"] = float(np.mean(list(means.values())))
            note = f"{clean[i]:.3f} without corruption."
            curves.append(Curve(f"{metric} by severity", note, "level", np.array(severities), by_severity))
        return Report(found, (*curves, self._examples()))

    def _values(self, report: Report) -> list[float]:
        self._check(report.metrics)
        return [report.metrics[metric] for metric in self.metrics]

    def _check(self, found: Iterable[str]):
        missing = [metric for metric in self.metrics if metric not in found]
        if missing:
            raise ValueError(f"{self.name}: no metric {missing[0]!r}; use one of {', '.join(found)}")

    def _corrupting(self, embed: Embed, corruption: str, severity: int) -> Embed:
        def of_worse(function: Callable[..., np.ndarray], items: Sequence, *others) -> np.ndarray:
            if isinstance(items, (Pictures, Examples)) and items.source == self.source:
                items = _Corrupted(items, corruption, severity)
            return function(items, *others)

        return {name: functools.partial(of_worse, function) for name, function in embed.items()}

    def _examples(self) -> Gallery:
        """One picture of the source under every corruption, at rising severity."""
        index = next(i for i in range(len(self.source)) if problem(self.source, i) is None)
        picture = Pictures(self.source, np.array([index]))
        rows = tuple(
            Row(
                corruption,
                tuple(
                    Match(_Corrupted(picture, corruption, severity)[0:1][0], float(severity), right=False)
                    for severity in sorted(self.severities)
                ),
            )
            for corruption in self.corruptions
        )
        return Gallery("Corruptions", "One picture of the data, and the severity below it.", rows)
