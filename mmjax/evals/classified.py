"""How well a classifier names what a source has. Letters: N examples, C classes."""

import dataclasses
import functools

import numpy as np

from mmjax.data import Source
from mmjax.data.labels import Labels, OneClass, check_judged_on
from mmjax.evals import Embed, Report, classification, scores
from mmjax.evals.examples import Asked, Examples, check_fields, readable, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
    """The metrics of classification of `embed["classes/<task>"]`: `cls_acc1`, `cls_f1_macro`, `cls_ece` ...;
    the confusion matrix, the reliability diagram and, of pictures and texts, the worst mistakes."""

    name: str  # data set and split, as metrics name it
    source: Source
    classes: Source | None = None  # the training data, whose classes are predicted; None: the source's own
    task: str = "class"  # which one of the classifier
    labels: Labels = OneClass()
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"classes/{self.task}",)

    @property
    def finds(self) -> tuple[str, ...]:
        if self.labels.several:
            return tuple(f"cls_{name}" for name in scores.MULTILABEL)
        return classification.names("cls", detail=True, calibrated=True)

    def prepare(self) -> None:
        """Names the classes of which the source has no example.

        Raises:
            ValueError: it has a class that is not predicted, or fewer than two of those that are.
        """
        self.source.prepare()
        if self.classes is not None:
            self.classes.prepare()
        scores.require()
        check_judged_on(self.name, self._labels, self._targets[1].sum(axis=0))

    def __call__(self, embed: Embed) -> Report:
        index_N, target_NC = self._targets
        probs_NC = embed[f"classes/{self.task}"](Examples(self.source, index_N))
        if probs_NC.shape[1] != target_NC.shape[1]:
            raise ValueError(
                f"{self.name}: {probs_NC.shape[1]} classes are predicted, the labels have "
                f"{target_NC.shape[1]}; give `classes` the training data"
            )
        asked = tuple(name for name in ("image", "text") if name in embed)
        queries = Asked(self.source, index_N, asked) if asked else None
        if self._labels.several:
            return self._several(probs_NC, target_NC > 0, queries)
        label_N, names = target_NC.argmax(axis=1), self._labels.names
        found = classification.metrics("cls", probs_NC, label_N, detail=True)
        error, diagram = classification.calibration("cls", probs_NC, label_N)
        found |= error
        if queries is None:
            return Report(found, (classification.confusion(probs_NC, label_N, names), diagram))
        return Report(found, (*classification.pictures(probs_NC, label_N, names, queries), diagram))

    def _several(self, probs_NC: np.ndarray, truth_NC: np.ndarray, queries: Asked | None) -> Report:
        names, threshold_C = self._labels.names, np.asarray(self._labels.thresholds)
        found = scores.multilabel(probs_NC, truth_NC, threshold=threshold_C)
        metrics = {f"cls_{name}": value for name, value in found.items()}
        if queries is None:
            return Report(metrics)
        shown = classification.multilabel_mistakes(probs_NC, truth_NC, threshold_C, names, queries)
        return Report(metrics, (shown,))

    @functools.cached_property
    def _labels(self) -> Labels:
        return self.labels.resolved(self.source if self.classes is None else self.classes)

    @functools.cached_property
    def _targets(self) -> tuple[np.ndarray, np.ndarray]:
        # Read once, before training: the labels are needed in every process, pictures are not kept.
        read = self._labels.reader(self.source)
        found = readable(self.name, self.source, spread(len(self.source), self.limit))
        index_N, target_NC = zip(*((index, read(example)) for index, example in found), strict=True)
        return np.array(index_N), np.array(target_NC)
