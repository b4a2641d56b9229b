"""Whether embeddings are sound: how near pairs are, how evenly all are spread, over how many dimensions.

The formulas are those that training reports of its batches, `mmjax/health.py`.

Letters: N pairs, E embedding.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from mmjax import health
from mmjax.data import Source
from mmjax.evals import Embed, Report
from mmjax.evals.examples import Pictures, check_fields, readable, spread


class _Data(NamedTuple):
    pictures: Pictures
    captions: tuple[str, ...]  # of each picture the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingHealth:
    """`alignment`, `uniformity_image`, `uniformity_text`, `rank_image`, `rank_text` and `gap`.

    Pairs are pictures and their first captions.
    """

    name: str  # data set and split, as metrics name it
    source: Source
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = 1_000  # examples, evenly spread; memory grows with their square
    needs: ClassVar[tuple[str, ...]] = ("image", "text")

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)

    @property
    def finds(self) -> tuple[str, ...]:
        return tuple(_MEASURES)

    def prepare(self) -> None:
        """Raises ValueError where there are fewer than two examples: one has no distances."""
        self.source.prepare()
        if len(self._data.captions) < 2:
            raise ValueError(
                f"{self.name}: {len(self._data.captions)} example has no distances; give two or more"
            )

    def __call__(self, embed: Embed) -> Report:
        found = _measure(embed["image"](self._data.pictures), embed["text"](self._data.captions))
        return Report({name: float(value) for name, value in found.items()})

    @functools.cached_property
    def _data(self) -> _Data:
        found = readable(self.name, self.source, spread(len(self.source), self.limit))
        indices, captions = zip(*((index, example["text"][0]) for index, example in found), strict=True)
        return _Data(Pictures(self.source, np.array(indices)), captions)


_MEASURES = {
    "alignment": health.alignment,
    "uniformity_image": lambda image_NE, _: health.uniformity(image_NE),
    "uniformity_text": lambda _, text_NE: health.uniformity(text_NE),
    "rank_image": lambda image_NE, _: health.effective_rank(image_NE),
    "rank_text": lambda _, text_NE: health.effective_rank(text_NE),
    "gap": health.gap,
}


@jax.jit
def _measure(image_NE, text_NE):
    return {name: measure(image_NE, text_NE) for name, measure in _MEASURES.items()}
