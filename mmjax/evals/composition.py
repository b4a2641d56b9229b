"""The composition probe: does a model know what belongs to what, where it is and how many there are?

Two questions on generated scenes. Is the true caption of a picture nearer to it than a caption with one fact
changed (a hard negative; after Yuksekgonul et al. 2023, arXiv:2210.01936, and Hsieh et al. 2023,
arXiv:2306.14610)? And of two pictures and two captions with the same words, which belong together
(Winoground: Thrush et al. 2022, arXiv:2204.03162)?

Ties: between a true caption and a negative a tie counts half, so that a model that cannot tell, such as a
bag of words on a swap, scores chance exactly, as it would if rounding broke the tie. Winoground scores count
it as wrong, as published. What is not a number is wrong in both.

Letters: N pictures, M negatives, P pairs, I and T the two pictures and the two texts of a pair, E embedding.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import numpy as np

from mmjax.data.sources.scenes import Scenes
from mmjax.evals import Embed, Gallery, Match, Report, Row
from mmjax.evals.examples import Pictures, check_fields

_GROUPS = {
    "attribute": ("rep_color", "rep_shape", "rep_size", "rep_texture"),
    "binding": ("swap_color", "swap_texture", "swap_count"),
    "relation": ("relation", "swap_object"),
    "count": ("count",),
    "order": ("order",),
}
_MISTAKES = 8


class _Data(NamedTuple):
    captions: tuple[str, ...]  # of each picture
    negatives: tuple[str, ...]
    kind_M: np.ndarray
    owner_M: np.ndarray  # the picture of each negative
    pair_captions: tuple[str, ...]  # of pair 0, of pair 0, of pair 1, ...


@dataclasses.dataclass(frozen=True)
class _PairPictures:
    """Both pictures of every pair, drawn when sliced: a process draws only what it embeds."""

    source: Scenes
    pairs: int

    def __len__(self) -> int:
        return 2 * self.pairs

    def __getitem__(self, at: slice) -> list[np.ndarray]:
        return [self.source.winograd(i // 2).images[i % 2] for i in range(len(self))[at]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition:
    """Accuracies on hard negatives, chance 0.5, and Winoground scores, chance 1/4, 1/4 and 1/6.

    `attribute`, `binding`, `relation`, `count` and `order` are means over all negatives of their kinds, each
    negative counting the same; `kind_<kind>` is the mean of one kind. A mean of nothing is left out.
    """

    name: str = "scenes_test"  # data set and split, as metrics name it
    source: Scenes = Scenes(split="test")
    every_steps: int = 0  # 0 evaluates after the last step only
    n: int = 1_000  # pictures with hard negatives: the first of the source
    pairs: int = 300  # Winograd pairs; 0 leaves them out
    needs: ClassVar[tuple[str, ...]] = ("image", "text")

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=None)
        if not 0 < self.n <= len(self.source):
            raise ValueError(f"n={self.n} pictures of a source of {len(self.source)}; use 1 to that many")
        if self.pairs < 0:
            raise ValueError(f"pairs={self.pairs} must not be negative; 0 leaves Winograd pairs out")

    @property
    def finds(self) -> tuple[str, ...]:
        scores = tuple(f"winoground_{score}" for score in ("text", "image", "group")) if self.pairs else ()
        return (*_GROUPS, *(f"kind_{kind}" for kinds in _GROUPS.values() for kind in kinds), *scores)

    def prepare(self) -> None:
        self.source.prepare()

    def __call__(self, embed: Embed) -> Report:
        data, pictures = self._data, Pictures(self.source, np.arange(self.n))
        image_NE = embed["image"](pictures)
        text_NE = embed["text"](data.captions)
        negative_ME = embed["text"](data.negatives)
        true_N = _cosine(image_NE, text_NE)
        false_M = _cosine(image_NE[data.owner_M], negative_ME)
        metrics = _accuracies(true_N[data.owner_M], false_M, data.kind_M)
        if self.pairs:
            both_images = embed["image"](_PairPictures(self.source, self.pairs))
            metrics |= _winoground(both_images, embed["text"](data.pair_captions))
        return Report(metrics, (_mistakes(true_N, false_M, data, pictures),))

    @functools.cached_property
    def _data(self) -> _Data:
        found = [(i, kind, text) for i in range(self.n) for kind, text in self.source.negatives(i)]
        owners, kinds, negatives = zip(*found, strict=True)
        return _Data(
            tuple(self.source.caption(i) for i in range(self.n)),
            negatives,
            np.array(kinds),
            np.array(owners),
            tuple(text for i in range(self.pairs) for text in self.source.winograd(i).captions),
        )


def _cosine(one_NE: np.ndarray, other_NE: np.ndarray) -> np.ndarray:
    # Summed in float64 and rounded: equal embeddings tie whatever the order of summation.
    return np.einsum("ne,ne->n", one_NE, other_NE, dtype=np.float64).astype(np.float32)


def _accuracies(true_M: np.ndarray, false_M: np.ndarray, kind_M: np.ndarray) -> dict[str, float]:
    right_M = (true_M > false_M) + 0.5 * (true_M == false_M)
    singles = {f"kind_{kind}": (kind,) for kinds in _GROUPS.values() for kind in kinds}
    chosen = {name: np.isin(kind_M, kinds) for name, kinds in (_GROUPS | singles).items()}
    return {name: float(right_M[of_M].mean()) for name, of_M in chosen.items() if of_M.any()}


def _winoground(both_images: np.ndarray, both_texts: np.ndarray) -> dict[str, float]:
    """Scores of embeddings [2 P, E], those of a pair in succession."""
    image_PIE, text_PTE = (each.reshape(-1, 2, each.shape[-1]) for each in (both_images, both_texts))
    score_PIT = np.einsum("pie,pte->pit", image_PIE, text_PTE, dtype=np.float64).astype(np.float32)
    matched_P2 = score_PIT[:, (0, 1), (0, 1)]
    other_text_P2 = score_PIT[:, (0, 1), (1, 0)]  # of picture 0, of picture 1
    other_image_P2 = other_text_P2[:, ::-1]  # of text 0, of text 1
    text_P = (matched_P2 > other_text_P2).all(axis=1)
    image_P = (matched_P2 > other_image_P2).all(axis=1)
    return {
        "winoground_text": float(text_P.mean()),
        "winoground_image": float(image_P.mean()),
        "winoground_group": float((text_P & image_P).mean()),
    }


def _mistakes(true_N: np.ndarray, false_M: np.ndarray, data: _Data, pictures: Pictures) -> Gallery:
    """The pictures whose negative beats their caption by most, each with its worst negative."""
    lead_M = false_M - true_N[data.owner_M]
    worst_M = np.argsort(-lead_M, kind="stable")
    _, first = np.unique(data.owner_M[worst_M], return_index=True)
    chosen = [m for m in worst_M[np.sort(first)] if lead_M[m] > 0][:_MISTAKES]
    rows = []
    for m in chosen:
        i = int(data.owner_M[m])
        wrong = Match(data.negatives[m], float(false_M[m]), right=False)
        right = Match(data.captions[i], float(true_N[i]), right=True)
        rows.append(Row(pictures[i], (wrong, right), truth=data.captions[i]))
    return Gallery(
        "Worst mistakes in composition",
        "Pictures, and the caption with one fact changed that beats the true one by the widest margin.",
        tuple(rows),
    )
