"""How well a classifier names what a source shows. Letters: N examples, C classes."""

import dataclasses
import functools

import numpy as np

from mmjax.data import Source
from mmjax.data.labels import Labels, OneClass
from mmjax.evals import Embed, Report
from mmjax.evals.examples import Examples, check_fields, readable, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified:
    """Accuracy, mean recall of the classes that occur and macro F1 of `embed["classes"]`."""

    name: str  # data set and split, as metrics name it
    source: Source
    classes: Source | None = None  # the training data, whose classes are predicted; None: the source's own
    labels: Labels = OneClass()
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)

    def prepare(self) -> None:
        """Raises ValueError where the source has a class that is not predicted."""
        self.source.prepare()
        self._labels.reader(self.source)

    def __call__(self, embed: Embed) -> Report:
        index_N, target_NC = self._targets
        probs_NC = embed["classes"](Examples(self.source, index_N))
        if probs_NC.shape[1] != target_NC.shape[1]:
            raise ValueError(
                f"{self.name}: {probs_NC.shape[1]} classes are predicted, the labels have "
                f"{target_NC.shape[1]}; give `classes` the training data"
            )
        if self._labels.several:
            return Report(_of_several(probs_NC >= np.asarray(self._labels.thresholds), target_NC))
        return Report(_of_one(probs_NC.argmax(axis=1), target_NC.argmax(axis=1), target_NC.shape[1]))

    @functools.cached_property
    def _labels(self) -> Labels:
        return self.labels.resolved(self.source if self.classes is None else self.classes)

    @functools.cached_property
    def _targets(self) -> tuple[np.ndarray, np.ndarray]:
        # Read once: the labels are needed in every process, pictures are not kept.
        read = self._labels.reader(self.source)
        found = readable(self.name, self.source, spread(len(self.source), self.limit))
        index_N, target_NC = zip(*((index, read(example)) for index, example in found), strict=True)
        return np.array(index_N), np.array(target_NC)


def _of_one(found_N: np.ndarray, label_N: np.ndarray, classes: int) -> dict[str, float]:
    right_C = np.bincount(label_N[found_N == label_N], minlength=classes)
    there_C, said_C = (np.bincount(x_N, minlength=classes) for x_N in (label_N, found_N))
    occurs_C = there_C > 0
    return {
        "accuracy": float(np.mean(found_N == label_N)),
        "balanced_accuracy": float(np.mean(right_C[occurs_C] / there_C[occurs_C])),
        "f1_macro": _f1(right_C, there_C, said_C),
        "accuracy_chance": 1 / classes,
    }


def _of_several(said_NC: np.ndarray, target_NC: np.ndarray) -> dict[str, float]:
    is_NC = target_NC > 0
    right_C, there_C, said_C = (x_NC.sum(axis=0) for x_NC in (said_NC & is_NC, is_NC, said_NC))
    return {
        "accuracy": float(np.mean(said_NC == is_NC)),
        "exact": float(np.mean(np.all(said_NC == is_NC, axis=1))),
        "f1_macro": _f1(right_C, there_C, said_C),
        "f1_micro": float(2 * right_C.sum() / max(there_C.sum() + said_C.sum(), 1)),
    }


def _f1(right_C, there_C, said_C) -> float:
    """The mean over the classes that occur or are said to."""
    total_C = there_C + said_C
    return float(np.mean(2 * right_C[total_C > 0] / total_C[total_C > 0])) if total_C.any() else 0.0
