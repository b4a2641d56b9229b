"""Where in a picture its caption is found: maps of relevance, and whether the places that they name matter.

A map is worth what hiding its places does (Chefer et al. 2021, arXiv:2103.15679, section 4): without the most
relevant ones the cosine should fall, without the least relevant ones it should stay.

Letters: N pictures, H W their pixels, h w places of a map.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import einops
import numpy as np
from PIL import Image

from mmjax.data import Source
from mmjax.evals import Embed, Gallery, Match, Report, Row
from mmjax.evals.examples import Pictures, check_fields, readable, spread
from mmjax.evals.galleries import ROWS

_HEAT = np.array([225, 35, 30])  # RGB of what is most relevant
_OPACITY = 0.65


class _Data(NamedTuple):
    pictures: Pictures
    captions: tuple[str, ...]  # of each picture the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relevance:
    """`rel_cosine` of pictures with their captions, `rel_without_most` and `rel_without_least` with the most,
    or the least, relevant places hidden; and the maps of some pictures."""

    name: str  # data set and split, as metrics name it
    source: Source
    hidden: float = 0.25  # share of the places that are hidden, under the picture's mean colour
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = 200  # examples, evenly spread over the source; None takes all
    needs: ClassVar[tuple[str, ...]] = ("image", "text", "relevance", "seen")

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden={self.hidden} must lie between 0 and 1")

    @property
    def finds(self) -> tuple[str, ...]:
        return "rel_cosine", "rel_without_most", "rel_without_least"

    def prepare(self) -> None:
        self.source.prepare()

    def __call__(self, embed: Embed) -> Report:
        pictures, captions = self._data
        map_Nhw, text_NE = embed["relevance"](pictures, captions), embed["text"](captions)
        least, most = (_extreme(map_Nhw, self.hidden, largest=largest) for largest in (False, True))
        versions = {
            "cosine": pictures,
            "without_most": _Hidden(pictures, most, embed["seen"]),
            "without_least": _Hidden(pictures, least, embed["seen"]),
        }
        cosines = {name: np.sum(embed["image"](each) * text_NE, axis=1) for name, each in versions.items()}
        metrics = {f"rel_{name}": float(cosine_N.mean()) for name, cosine_N in cosines.items()}
        return Report(metrics, (self._gallery(embed, map_Nhw, versions, list(cosines.values())),))

    def _gallery(self, embed: Embed, map_Nhw, versions, cosines) -> Gallery:
        pictures, captions = self._data
        chosen = spread(len(captions), ROWS)
        seen = embed["seen"]([pictures[n] for n in chosen])
        rows = []
        for picture, n in zip(seen, chosen, strict=True):
            shown = [picture, *(each[n : n + 1][0] for each in list(versions.values())[1:])]
            tiles = [
                Match(image, float(cosine_N[n]), right=False)
                for image, cosine_N in zip(shown, cosines, strict=True)
            ]
            tiles.insert(1, Match(overlaid(picture, map_Nhw[n]), float(cosines[0][n]), right=False))
            rows.append(Row(captions[n], tuple(tiles)))
        note = (
            "As the tower sees them: the picture; what of it speaks for the caption, in red; the picture "
            f"without the {self.hidden:.0%} of its places that do so most, and least. Below them the cosine "
            "with the caption. The pictures are spread evenly over the data, not picked."
        )
        return Gallery("Where captions are found", note, tuple(rows))

    @functools.cached_property
    def _data(self) -> _Data:
        found = readable(self.name, self.source, spread(len(self.source), self.limit))
        indices, captions = zip(*((index, example["text"][0]) for index, example in found), strict=True)
        return _Data(Pictures(self.source, np.array(indices)), captions)


@dataclasses.dataclass(frozen=True, eq=False)
class _Hidden:
    """Pictures with some of their places under their mean colour, made when sliced."""

    pictures: Pictures
    places_Nhw: np.ndarray  # bool
    seen: Callable[[Sequence], np.ndarray]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, at: slice) -> list[np.ndarray]:
        return [
            _without(image, places_hw)
            for image, places_hw in zip(self.seen(self.pictures[at]), self.places_Nhw[at], strict=True)
        ]


def _without(image_HWC: np.ndarray, places_hw: np.ndarray) -> np.ndarray:
    rows_H, columns_W = (
        np.arange(side) * places // side
        for side, places in zip(image_HWC.shape, places_hw.shape, strict=False)
    )
    hidden_HW1 = places_hw[np.ix_(rows_H, columns_W)][..., None]
    return np.where(hidden_HW1, image_HWC.mean(axis=(0, 1)), image_HWC).round().astype(np.uint8)


def _extreme(map_Nhw: np.ndarray, share: float, *, largest: bool) -> np.ndarray:
    """Bool [N, h, w]: the `share` of places with the largest, or smallest, values; at least one."""
    _, height, width = map_Nhw.shape
    flat_NS = einops.rearrange(map_Nhw, "n h w -> n (h w)")
    order_NS = np.argsort(-flat_NS if largest else flat_NS, axis=1, kind="stable")
    rank_NS = np.argsort(order_NS, axis=1, kind="stable")
    return einops.rearrange(rank_NS < max(1, round(share * height * width)), "n (h w) -> n h w", h=height)


def overlaid(image_HWC: np.ndarray, map_hw: np.ndarray) -> np.ndarray:
    """The picture, uint8 [H, W, 3], redder where the map is higher; a map of zeros leaves it as it is."""
    height, width, _ = image_HWC.shape
    share_hw = np.asarray(map_hw, np.float32) / max(float(np.max(map_hw)), 1e-12)
    share_HW = np.asarray(Image.fromarray(share_hw).resize((width, height), Image.Resampling.BILINEAR))
    heat_HW1 = _OPACITY * share_HW[..., None]
    return ((1 - heat_HW1) * image_HWC + heat_HW1 * _HEAT).round().astype(np.uint8)
