"""Retrieval: finding a picture's captions and a caption's pictures, both ways.

A caption is right for a picture where their ids are equal, so a picture may have several right captions and
a caption several right pictures; the rank of a query is that of its best-ranked right candidate. Ties are
ranked as `ranking` says.

Letters: N pictures, M captions, E embedding.
"""

import dataclasses
import functools
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from mmjax.data import Source
from mmjax.evals import Embed, Gallery, Heatmap, Report, ranking
from mmjax.evals.examples import Pictures, check_fields, readable, spread
from mmjax.evals.galleries import ROWS, Side, mistakes, rows

_HEATMAP = 16  # pictures of the heat map
_RECALLS = (1, 5, 10)


class _Data(NamedTuple):
    pictures: Pictures
    picture_id_N: np.ndarray
    captions: tuple[str, ...]  # distinct pairs of id and caption, in order of appearance
    caption_id_M: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """R@1, R@5, R@10 and median rank, picture to caption (`i2t_r1`) and caption to picture (`t2i_r1`)."""

    name: str  # data set and split, as metrics name it
    source: Source
    every_steps: int = 0  # 0 evaluates after the last step only
    captions: Literal["first", "all"] = "first"  # of each example
    limit: int | None = None  # examples, evenly spread over the source; None takes all
    needs: ClassVar[tuple[str, ...]] = ("image", "text")

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if self.captions not in ("first", "all"):
            raise ValueError(f'captions={self.captions!r} is unknown; use "first" or "all"')

    @property
    def finds(self) -> tuple[str, ...]:
        names = (*(f"r{k}" for k in _RECALLS), "medr", "r1_chance")
        return tuple(f"{way}_{name}" for way in ("i2t", "t2i") for name in names)

    def prepare(self) -> None:
        self.source.prepare()

    def __call__(self, embed: Embed) -> Report:
        data = self._data
        images = Side(embed["image"](data.pictures), data.picture_id_N, data.pictures)
        texts = Side(embed["text"](data.captions), data.caption_id_M, data.captions)
        to_text, to_image = _rank(images, texts), _rank(texts, images)
        metrics = _metrics("i2t", to_text, images, texts) | _metrics("t2i", to_image, texts, images)
        galleries = _galleries(images, texts, to_text, to_image)
        return Report(metrics, (*galleries, _heatmap(images, texts)))

    @functools.cached_property
    def _data(self) -> _Data:
        # Read once: ids and captions of every example are needed in every process, pictures are not kept.
        indices, picture_ids, pairs = [], [], {}
        for index, example in readable(self.name, self.source, spread(len(self.source), self.limit)):
            indices.append(index)
            picture_ids.append(example["id"])
            wanted = example["text"][:1] if self.captions == "first" else example["text"]
            pairs |= {(example["id"], caption): None for caption in wanted}
        return _Data(
            Pictures(self.source, np.array(indices)),
            np.array(picture_ids),
            tuple(caption for _, caption in pairs),
            np.array([id for id, _ in pairs]),
        )


def _rank(queries: Side, candidates: Side) -> ranking.Ranked:
    return ranking.rank(
        queries.z_NE, candidates.z_NE, query_id_Q=queries.id_N, candidate_id_C=candidates.id_N
    )


def _metrics(way: str, found: ranking.Ranked, queries: Side, candidates: Side) -> dict[str, float]:
    recalls = {f"{way}_r{k}": ranking.recall(found.rank_Q, k) for k in _RECALLS}
    right_Q = (np.searchsorted(np.sort(candidates.id_N), queries.id_N, side=s) for s in ("right", "left"))
    chance = float(np.mean(np.subtract(*right_Q)) / len(candidates.id_N))
    return recalls | {f"{way}_medr": float(np.median(found.rank_Q)), f"{way}_r1_chance": chance}


def _galleries(
    images: Side, texts: Side, to_text: ranking.Ranked, to_image: ranking.Ranked
) -> tuple[Gallery, ...]:
    pictures, captions = f"{len(images.id_N):,} pictures", f"{len(texts.id_N):,} captions"
    even = "The queries are spread evenly over the data, not picked."
    widest = "Where a wrong answer beats the right one by the widest margin."
    return (
        Gallery(
            "Captions and the pictures they find",
            f"{pictures} to choose from. {even}",
            rows(texts, images, spread(len(texts.id_N), ROWS)),
        ),
        Gallery(
            "Pictures and the captions they find",
            f"{captions} to choose from. {even}",
            rows(images, texts, spread(len(images.id_N), ROWS)),
        ),
        Gallery("Worst mistakes, caption to picture", widest, rows(texts, images, mistakes(to_image))),
        Gallery("Worst mistakes, picture to caption", widest, rows(images, texts, mistakes(to_text))),
    )


def _heatmap(images: Side, texts: Side) -> Heatmap:
    # One picture and one caption an id: otherwise pictures of one thing would be right off the diagonal too.
    ids, picture_I = np.unique(images.id_N, return_index=True)
    caption_ids, caption_I = np.unique(texts.id_N, return_index=True)
    assert np.array_equal(ids, caption_ids)
    chosen = spread(len(ids), _HEATMAP)
    at_image, at_text = picture_I[chosen], caption_I[chosen]
    return Heatmap(
        "Similarities of a held-out batch",
        "Cosine of each picture with each caption, in hundredths; those that belong together are framed.",
        tuple(images.items[i] for i in at_image),
        tuple(texts.items[i] for i in at_text),
        ranking.scores(images.z_NE[at_image], texts.z_NE[at_text]),
    )
