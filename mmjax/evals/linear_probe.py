"""The linear probe: how well a linear classifier on the embeddings does, fitted on all training examples.

As Radford et al. 2021, arXiv:2103.00020, appendix A.3: logistic regression by L-BFGS; the strength of the
regulariser is the one that does best on a validation split, and the last fit is on both splits.

Letters: N examples, E embedding, C classes.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from mmjax.data import Source
from mmjax.evals import Curve, Embed, Report, classification, logistic, scores
from mmjax.evals.classes import Classes, Labelled, check_enough, labelled
from mmjax.evals.examples import check_fields

log = logging.getLogger("mmjax")

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


class _Data(NamedTuple):
    classes: Classes
    train: Labelled
    val: Labelled
    test: Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Accuracies on `source` of a classifier fitted on `train`, its regulariser chosen on `val`: `lp_acc1`.

    `lp_l2` is the strength that was chosen, `lp_val_acc1` its accuracy on `val` before the last fit. With
    `detail` also what scikit-learn measures.
    """

    name: str  # data set and split, as metrics name it
    source: Source  # to be classified; the id of an example is its class
    train: Source
    val: Source
    l2: tuple[float, ...] = STRENGTHS
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples of `source`, evenly spread; None takes all
    train_limit: int | None = None  # of `train`
    detail: bool = True
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        check_l2(self.l2)

    @property
    def finds(self) -> tuple[str, ...]:
        return (*classification.names("lp", detail=self.detail, calibrated=True), "lp_l2", "lp_val_acc1")

    def prepare(self) -> None:
        """Raises ValueError where a class has no example in `train` or `val`, or an example no class."""
        for source in (self.source, self.train, self.val):
            source.prepare()
        if self.detail:
            scores.require()
        for split, part in {"train": self._data.train, "val": self._data.val}.items():
            check_enough(self.name, split, part.label_N, self._data.classes)

    def __call__(self, embed: Embed) -> Report:
        return self.fit(embed)(embed)

    def fit(self, embed: Embed) -> Callable[[Embed], Report]:
        """Learns from `train` and `val`; what is returned judges `source`."""
        data = self._data
        train, val = (Learned(embed["image"](part.pictures), part.label_N) for part in (data.train, data.val))
        count = len(data.classes.names)
        chosen, sweep = choose(self.name, train, val, classes=count, l2=self.l2)
        last = fitted((train, val), classes=count, l2=chosen)
        return functools.partial(self._judge, last, chosen, sweep)

    def _judge(self, last: logistic.Linear, chosen: float, sweep: Curve, embed: Embed) -> Report:
        data = self._data
        share_NC = logistic.probabilities(last(embed["image"](data.test.pictures)))
        label_N = data.test.label_N
        metrics = classification.metrics("lp", share_NC, label_N, detail=self.detail)
        error, diagram = classification.calibration("lp", share_NC, label_N)
        metrics |= error | {"lp_l2": chosen, "lp_val_acc1": float(np.max(sweep.y["validation"]))}
        test = data.test
        shown = classification.pictures(share_NC, test.label_N, data.classes.names, test.pictures)
        return Report(metrics, (*shown, diagram, sweep))

    @functools.cached_property
    def _data(self) -> _Data:
        classes = Classes(self.train.names)
        return _Data(
            classes,
            labelled(self.name, self.train, classes, limit=self.train_limit),
            labelled(self.name, self.val, classes),
            labelled(self.name, self.source, classes, limit=self.limit),
        )


class Learned(NamedTuple):
    """What is fitted on."""

    z_NE: np.ndarray  # embeddings
    label_N: np.ndarray


def choose(
    name: str, train: Learned, val: Learned, *, classes: int, l2: Sequence[float]
) -> tuple[float, Curve]:
    """The strongest regulariser of those that do best on `val`, for `name`; and how all do."""
    l2 = sorted(l2, reverse=True)
    found = logistic.fit(train.z_NE, train.label_N, classes=classes, l2=l2)
    accuracy = [float(np.mean(linear(val.z_NE).argmax(axis=1) == val.label_N)) for linear in found]
    best = int(np.argmax(accuracy))
    if len(l2) > 1 and best in (0, len(l2) - 1):
        log.warning("%s: the best l2, %g, is the last of the sweep; try a wider one", name, l2[best])
    sweep = Curve(
        "Validation accuracy by strength of the regulariser",
        f"{l2[best]:g} was taken.",
        "l2",
        np.array(l2[::-1]),
        {"validation": np.array(accuracy[::-1])},
    )
    return l2[best], sweep


def fitted(parts: Sequence[Learned], *, classes: int, l2: float) -> logistic.Linear:
    """The classifier of all parts together."""
    z_NE, label_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    (last,) = logistic.fit(z_NE, label_N, classes=classes, l2=[l2])
    return last


def check_l2(l2: tuple[float, ...]):
    """Raises ValueError where a strength of the regulariser is not positive, or there is none."""
    if not l2 or min(l2) <= 0:
        raise ValueError(f"l2={l2} must be positive numbers, at least one")
