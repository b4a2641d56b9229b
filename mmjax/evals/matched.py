"""Image-text matching: whether a model tells a picture's own text from the one it most easily takes for it.

A matching task reads picture and text together, which is too slow for all pairs and exact for a few: so it
judges the few that embeddings find. By these its wrong pairs were drawn, so that its log-odds say how much
more probable than by them a pair is (Gutmann and Hyvärinen 2010, noise-contrastive estimation, eq. 5): both
together rank the candidates. Letters: N pictures, M texts, Q queries, C candidates, K of them that are
judged, P pairs, B block of pictures or queries.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from mmjax.data import Source
from mmjax.evals import Embed, Report, ranking
from mmjax.evals.examples import Pictures, check_fields, readable, spread
from mmjax.evals.galleries import Side

_YES = 1  # column of the task's probabilities
_RECALLS = (1, 5)
_LEAST = 1e-9  # of a probability, so that its log-odds are finite

_Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of pairs by their numbers, how probable they match


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """Accuracy on pairs and their hardest negatives (`itm_acc`, chance 0.5), and recall before
    (`itm_i2t_r1_before`) and after (`itm_i2t_r1`) the first `top` candidates of each query are put in the
    order of the sum of their log-odds to match and `scale` times their cosine."""

    name: str  # data set and split, as metrics name it
    source: Source
    task: str = "match"  # which one of the classifier
    top: int = 10  # candidates of a query that are judged
    scale: float = 14.0  # that of the task, by which it drew wrong pairs; 0 ranks by its probability alone
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if self.top < 2:
            raise ValueError(f"top={self.top} candidates leave nothing to reorder; use 2 or more")
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"scale={self.scale} must be 0 or more")

    @property
    def needs(self) -> tuple[str, ...]:
        return "image", "text", f"classes/{self.task}"

    @property
    def finds(self) -> tuple[str, ...]:
        suffixes = [f"r{k}{when}" for k in _RECALLS for when in ("_before", "")]
        return (
            "itm_acc",
            "itm_acc_chance",
            *(f"itm_{way}_{each}" for way in ("i2t", "t2i") for each in suffixes),
        )

    def prepare(self) -> None:
        self.source.prepare()

    def __call__(self, embed: Embed) -> Report:
        pictures, id_N, texts, id_M = self._data
        images = Side(embed["image"](pictures), id_N, pictures)
        written = Side(embed["text"](texts), id_M, texts)

        def judge(image_P, text_P):
            return embed[f"classes/{self.task}"](_Pairs(pictures, texts, image_P, text_P))[:, _YES]

        metrics = {"itm_acc": _accuracy(judge, images, written), "itm_acc_chance": 0.5}
        metrics |= self._recalls("i2t", images, written, judge)
        metrics |= self._recalls("t2i", written, images, lambda text_P, image_P: judge(image_P, text_P))
        return Report(metrics)

    def _recalls(self, way: str, queries: Side, candidates: Side, judge: _Judge) -> dict[str, float]:
        before_Q = ranking.rank(
            queries.z_NE, candidates.z_NE, query_id_Q=queries.id_N, candidate_id_C=candidates.id_N
        ).rank_Q
        top_QK, cosine_QK = map(np.concatenate, zip(*self._found(queries, candidates), strict=True))
        query_P = np.repeat(np.arange(len(top_QK)), top_QK.shape[1])
        score_QK = self._score(judge(query_P, top_QK.ravel()).reshape(top_QK.shape), cosine_QK)
        right_QK = candidates.id_N[reordered(top_QK, score_QK)] == queries.id_N[:, None]
        # The others keep their places behind those that are judged.
        after_Q = np.where(right_QK.any(axis=1), 1 + right_QK.argmax(axis=1), before_Q)
        ranks = {"_before": before_Q, "": after_Q}
        return {
            f"itm_{way}_r{k}{when}": ranking.recall(rank_Q, k)
            for when, rank_Q in ranks.items()
            for k in _RECALLS
        }

    def _found(self, queries: Side, candidates: Side) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """By blocks of queries: the candidates that are judged, and their cosines."""
        for _, cosine_BC in ranking.blocks(queries.z_NE, candidates.z_NE):
            top_BK = ranking.order(cosine_BC)[:, : self.top]
            yield top_BK, np.take_along_axis(cosine_BC, top_BK, axis=1)

    def _score(self, yes_QK: np.ndarray, cosine_QK: np.ndarray) -> np.ndarray:
        yes_QK = np.clip(np.float64(yes_QK), _LEAST, 1 - _LEAST)
        return np.log(yes_QK / (1 - yes_QK)) + self.scale * cosine_QK

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


def reordered(top_QK: np.ndarray, score_QK: np.ndarray) -> np.ndarray:
    """The candidates of each query by their scores; ties stay as before."""
    return np.take_along_axis(top_QK, ranking.order(score_QK), axis=1)


def _accuracy(judge: _Judge, images: Side, texts: Side) -> float:
    """Over each picture with its own text, and with the most similar one that is not."""
    ids, first_I = np.unique(texts.id_N, return_index=True)
    own_N = first_I[np.searchsorted(ids, images.id_N)]
    hard_N = np.concatenate(
        [
            np.where(images.id_N[of, None] == texts.id_N, -np.inf, scores_BM).argmax(axis=1)
            for of, scores_BM in ranking.blocks(images.z_NE, texts.z_NE)
        ]
    )
    image_P = np.tile(np.arange(len(own_N)), 2)
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
