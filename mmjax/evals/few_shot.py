"""Few-shot classification: logistic regression on the embeddings of a handful of examples of each class.

Letters: N examples, E embedding, C classes, K numbers of examples, R repetitions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

from mmjax.data import Source
from mmjax.evals import Curve, Embed, Report, logistic, scores
from mmjax.evals.classes import Classes, Labelled, check_enough, labelled
from mmjax.evals.examples import Pictures, check_fields


class _Data(NamedTuple):
    classes: Classes
    train: Labelled
    test: Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Top-1 accuracy on `source` with k examples a class: `fs_<k>_acc1`, a mean over draws of the examples,
    and `fs_<k>_std`, the standard deviation of the draws from their mean (divided by their number, not by one
    less).

    The examples of a smaller k are among those of a larger one. All numbers of examples share one `l2`: there
    is nothing to choose it on.
    """

    name: str  # data set and split, as metrics name it
    source: Source  # to be classified; the id of an example is its class
    train: Source
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)  # examples of each class
    draws: int = 5
    seed: int = 0
    l2: float = 1e-3  # of the regulariser
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples of `source`, evenly spread; None takes all
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if not self.shots or sorted(set(self.shots)) != list(self.shots) or self.shots[0] < 1:
            raise ValueError(f"shots={self.shots} must be rising positive numbers, at least one")
        if self.draws < 1 or self.l2 <= 0:
            raise ValueError(f"draws={self.draws} and l2={self.l2} must be positive")

    @property
    def finds(self) -> tuple[str, ...]:
        return tuple(f"fs_{k}_{name}" for k in self.shots for name in ("acc1", "std", "acc1_chance"))

    def prepare(self) -> None:
        """Raises ValueError where a class has too few examples to draw, or an example no class."""
        self.source.prepare()
        self.train.prepare()
        data, most = self._data, self.shots[-1]
        check_enough(self.name, "train", data.train.label_N, data.classes, least=most)

    def __call__(self, embed: Embed) -> Report:
        return self.fit(embed)(embed)

    def fit(self, embed: Embed) -> Callable[[Embed], Report]:
        """Learns from `train`; what is returned judges `source`."""
        train, drawn_RN = self._data.train, self._drawn
        # Embedded once, however many draws an example is in.
        used_N, place_RN = np.unique(drawn_RN, return_inverse=True)
        train_NE = embed["image"](Pictures(train.pictures.source, train.pictures.index_N[used_N]))
        probes = [
            self._fitted(train_NE[place_N], train.label_N[drawn_N])
            for place_N, drawn_N in zip(place_RN.reshape(drawn_RN.shape), drawn_RN, strict=True)
        ]
        return functools.partial(self._judge, probes)

    def _judge(self, probes: list[list[logistic.Linear]], embed: Embed) -> Report:
        data = self._data
        accuracy_RK = self._accuracies(probes, embed["image"](data.test.pictures), data.test.label_N)
        mean_K, std_K = accuracy_RK.mean(axis=0), accuracy_RK.std(axis=0)
        metrics = {}
        for k, mean, std in zip(self.shots, mean_K, std_K, strict=True):
            metrics |= {f"fs_{k}_acc1": float(mean), f"fs_{k}_std": float(std)}
            metrics[f"fs_{k}_acc1_chance"] = 1 / len(data.classes.names)
        curve = Curve(
            "Accuracy by examples of each class",
            f"Means of {self.draws} draws of the examples, and one standard deviation up and down.",
            "k",
            np.array(self.shots),
            {"few-shot": mean_K},
            {"few-shot": std_K},
        )
        return Report(metrics, (curve,))

    def _fitted(self, x_NE: np.ndarray, label_N: np.ndarray) -> list[logistic.Linear]:
        """Of one draw, which begins with one example of each class, a classifier for each k."""
        classes, found = len(self._data.classes.names), []
        for k in self.shots:
            # Of one shape whatever k is, so that one program serves all.
            used_N = np.arange(len(x_NE)) < k * classes
            found += logistic.fit(x_NE, label_N, classes=classes, l2=[self.l2], weight_N=used_N)
        return found

    def _accuracies(self, probes, test_NE: np.ndarray, label_N: np.ndarray) -> np.ndarray:
        """Top-1 of the classifiers of each draw, [R, K]."""
        ranks_RK = [[scores.ranks(linear(test_NE), label_N) for linear in draw] for draw in probes]
        return np.array([[np.mean(rank_N == 1) for rank_N in draw] for draw in ranks_RK])

    @functools.cached_property
    def _data(self) -> _Data:
        classes = Classes(self.train.names)
        test = labelled(self.name, self.source, classes, limit=self.limit)
        return _Data(classes, labelled(self.name, self.train, classes), test)

    @property
    def _drawn(self) -> np.ndarray:
        """Places among the training examples, [R, N]: one of each class, another of each class, and so on."""
        label_N, random = self._data.train.label_N, np.random.default_rng(self.seed)
        of_class = [np.flatnonzero(label_N == c) for c in range(len(self._data.classes.names))]
        most = self.shots[-1]
        return np.array(
            [
                np.stack([random.permutation(of)[:most] for of in of_class], axis=1).ravel()
                for _ in range(self.draws)
            ]
        )
