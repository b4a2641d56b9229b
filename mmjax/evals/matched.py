"""Image-text matching: whether a model tells a picture's own text from the one it most easily takes for it.

A matching task reads picture and text together, which is too slow for all pairs and exact for a few: so it
judges the few that embeddings find. Letters: N pictures, M texts, K candidates, P pairs.
"""

import dataclasses
import functools

import numpy as np

from mmjax.data import Source
from mmjax.evals import Embed, Report, ranking
from mmjax.evals.examples import Pictures, check_fields, readable, spread

_YES = 1  # column of the task's probabilities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """Accuracy on pairs and their hardest negatives (`itm_acc`, chance 0.5), and recall before
    (`itm_i2t_r1_before`) and after (`itm_i2t_r1`) the first `top` candidates of each query are put in the
    order of their probability to match."""

    name: str  # data set and split, as metrics name it
    source: Source
    task: str = "match"  # which one of the classifier
    top: int = 10  # candidates of a query that are judged
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if self.top < 2:
            raise ValueError(f"top={self.top} candidates leave nothing to reorder; use 2 or more")

    @property
    def needs(self) -> tuple[str, ...]:
        return "image", "text", f"classes/{self.task}"

    def prepare(self) -> None:
        self.source.prepare()

    def __call__(self, embed: Embed) -> Report:
        pictures, id_N, texts, id_M = self._data

        def judge(image_P, text_P):
            return embed[f"classes/{self.task}"](_Pairs(pictures, texts, image_P, text_P))[:, _YES]

        scores_NM = ranking.scores(embed["image"](pictures), embed["text"](texts))
        right_NM = id_N[:, None] == id_M
        metrics = {"itm_acc": _accuracy(judge, scores_NM, right_NM), "itm_acc_chance": 0.5}
        metrics |= self._recalls("i2t", scores_NM, right_NM, judge)
        metrics |= self._recalls(
            "t2i", scores_NM.T, right_NM.T, lambda text_P, image_P: judge(image_P, text_P)
        )
        return Report(metrics)

    def _recalls(self, way: str, scores_QC, right_QC, judge) -> dict[str, float]:
        order_QC = ranking.order(scores_QC)
        top_QK = order_QC[:, : self.top]
        query_P = np.repeat(np.arange(len(top_QK)), top_QK.shape[1])
        probs_QK = judge(query_P, top_QK.ravel()).reshape(top_QK.shape)
        after_QC = reordered(order_QC, probs_QK)
        found = {}
        for suffix, places_QC in (("_before", order_QC), ("", after_QC)):
            rank_Q = 1 + np.take_along_axis(right_QC, places_QC, axis=1).argmax(axis=1)
            found |= {f"itm_{way}_r{k}{suffix}": ranking.recall(rank_Q, k) for k in (1, 5)}
        return found

    @functools.cached_property
    def _data(self) -> tuple[Pictures, np.ndarray, tuple[str, ...], np.ndarray]:
        """Pictures, their ids, one text an id and text, and its id."""
        indices, ids, pairs = [], [], {}
        for index, example in readable(self.name, self.source, spread(len(self.source), self.limit)):
            indices.append(index)
            ids.append(example["id"])
            pairs[example["id"], example["text"][0]] = None
        if len({id_ for id_, _ in pairs}) < 2:
            raise ValueError(f"{self.name}: all examples have one id, so nothing is a wrong pair; use others")
        texts = tuple(text for _, text in pairs)
        text_id_M = np.array([id_ for id_, _ in pairs])
        return Pictures(self.source, np.array(indices)), np.array(ids), texts, text_id_M


def reordered(order_QC: np.ndarray, probs_QK: np.ndarray) -> np.ndarray:
    """Candidates of each query, the first K by their probabilities; ties and the others stay as before."""
    top_QK = order_QC[:, : probs_QK.shape[1]]
    top_QK = np.take_along_axis(top_QK, ranking.order(probs_QK), axis=1)
    return np.concatenate([top_QK, order_QC[:, probs_QK.shape[1] :]], axis=1)


def _accuracy(judge, scores_NM: np.ndarray, right_NM: np.ndarray) -> float:
    """Over each picture with its own text, and with the most similar one that is not."""
    image_P = np.tile(np.arange(len(scores_NM)), 2)
    own_N = right_NM.argmax(axis=1)
    hard_N = np.where(right_NM, -np.inf, scores_NM).argmax(axis=1)
    yes_P = judge(image_P, np.concatenate([own_N, hard_N])) > 0.5
    return float(np.mean(yes_P == (np.arange(len(image_P)) < len(own_N))))


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
    """Examples of one picture and one text each, whose pictures are read when sliced."""

    pictures: Pictures
    texts: tuple[str, ...]
    image_P: np.ndarray
    text_P: np.ndarray

    def __len__(self) -> int:
        return len(self.image_P)

    def __getitem__(self, at: slice) -> list[dict]:
        pairs = zip(self.image_P[at], self.text_P[at], strict=True)
        return [{"image": self.pictures[int(i)], "text": (self.texts[j],)} for i, j in pairs]
