"""Scenes: generated pictures of colored shapes with captions, hard negatives and Winograd pairs.

Needs no download. What it shows and what a model can be asked about it: `docs/scenes.md`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from mmjax.data.sources import scenes_draw, scenes_text
from mmjax.data.sources.scenes_spec import Rng, Scene, draw_scene

_SPLITS = ("train", "val", "test", "novel")
# Each use of random numbers has a stream of its own, so that no use shifts another.
_SCENE, _PIXELS, _WORDS, _NEGATIVES, _PAIR, _PAIR_PIXELS, _PAIR_WORDS, _QUESTION = range(8)


class Winograd(NamedTuple):
    """Two pictures alike but for an exchange, and their captions, which have the same words."""

    images: tuple[np.ndarray, np.ndarray]  # uint8 [px, px, 3]
    captions: tuple[str, str]
    kind: Literal["swap_color", "swap_object"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """A `Source` in which example `i` is a function of (seed, split, i), the same on every platform.

    `novel` shows only things from (shape, color) and (shape, texture) pairs that the other splits never
    show. An example's `id` is its index: two examples that happen to show the same are not known as such.
    """

    split: Literal["train", "val", "test", "novel"] = "train"
    px: int = 64
    seed: int = 0
    size: int | None = None  # examples; None: 2**20 of train, 1,000 of the others
    twins: bool = False  # example 2k + 1 is example 2k with one fact changed, in the same words and pixels

    def __post_init__(self):
        if self.split not in _SPLITS:
            raise ValueError(
                f"split={self.split!r} is not a split of scenes; use one of {', '.join(_SPLITS)}"
            )
        if not 32 <= self.px <= 512:
            raise ValueError(f"px={self.px} is out of range; scenes are drawn at 32 to 512 pixels a side")
        if self.size is not None and not 0 < self.size <= 2**31:
            raise ValueError(f"size={self.size} is out of range; use 1 to 2**31 examples")

    def prepare(self) -> None:
        scenes_draw.prepare(self.px)

    def __len__(self) -> int:
        if self.size is not None:
            return self.size
        return 2**20 if self.split == "train" else 1_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = scenes_draw.render(self.scene(index), self._rng(self._drawn(index), _PIXELS), self.px)
        return {"image": image, "text": (self.caption(index),), "id": int(index)}

    @property
    def names(self) -> dict[int, str]:
        return {}

    @property
    def licence(self) -> str:
        return ""

    def scene(self, index: int) -> Scene:
        """What example `index` shows."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)} scenes")
        drawn = self._drawn(index)
        scene = draw_scene(self._rng(drawn, _SCENE), novel=self.split == "novel")
        if drawn == index:
            return scene
        wording = self._wording(drawn, _WORDS)
        return scenes_text.changed(scene, wording, self._rng(index, _SCENE), novel=self.split == "novel")

    def caption(self, index: int) -> str:
        """The caption of example `index`, without its picture."""
        return scenes_text.caption(self.scene(index), self._wording(self._drawn(index), _WORDS))

    def negatives(self, index: int) -> tuple[tuple[str, str], ...]:
        """(kind, caption) of the hard negatives of example `index`; kinds as in `scenes_text.NEGATIVES`.

        Other splits than `novel` speak only of things they could show. In `novel` few changes would be left,
        so its negatives speak of any thing: of familiar ones mostly, against which the true one must win.
        """
        rng = self._rng(index, _NEGATIVES)
        novel = None if self.split == "novel" else False
        wording = self._wording(self._drawn(index), _WORDS)
        return scenes_text.negatives(self.scene(index), wording, rng, novel=novel)

    def winograd(self, index: int) -> Winograd:
        """Pair `index`, any number below 2**31: pairs are no examples of the source."""
        rng, novel = self._rng(index, _PAIR), self.split == "novel"
        wording = self._wording(index, _PAIR_WORDS)
        kind = rng.choice(("swap_color", "swap_object"))
        others: list[Scene] = []
        while not others:
            scene = draw_scene(rng, novel=novel, kind="relation")
            others = scenes_text.alternatives(kind, scene, wording, novel=novel)
        both = scene, others[0]
        images = tuple(scenes_draw.render(each, self._rng(index, _PAIR_PIXELS), self.px) for each in both)
        return Winograd(images, tuple(scenes_text.caption(each, wording) for each in both), kind)

    def question_rng(self, index: int) -> Rng:
        """Random numbers for what is asked about example `index` (`scenes_questions`)."""
        return self._rng(index, _QUESTION)

    def _drawn(self, index: int) -> int:
        """The example whose random numbers example `index` is made of: its own, or its twin's."""
        return index - index % 2 if self.twins else index

    def _wording(self, index: int, stream: int) -> scenes_text.Wording:
        return scenes_text.draw_wording(self._rng(index, stream))

    def _rng(self, index: int, stream: int) -> Rng:
        return Rng(self.seed, _SPLITS.index(self.split), int(index), stream)
