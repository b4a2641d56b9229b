"""Which caption of an example is shown this time: one string out of its several texts.

A chooser is a frozen dataclass, called with an example (`Source.__getitem__`, perhaps without its picture)
and a NumPy generator. It runs in reader threads.
"""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np

from mmjax.data import BadExample

# Prompts for the name of a class on a photo, each with its place as {}.
PHOTO = (
    "a photo of a {}",
    "a photo of the {}",
    "a close-up photo of a {}",
    "a blurry photo of a {}",
    "a bright photo of a {}",
    "a dark photo of a {}",
    "a picture of a {}",
    "{}",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstCaption:
    """The first text: the name or main caption. What evaluation uses."""

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        return _texts(example)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyCaption:
    """One of all texts, each equally likely: for captions that each describe the whole picture."""

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        texts = _texts(example)
        return texts[rng.integers(len(texts))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedCaption:
    """One text of a kind drawn by weight: `{"caption_en": 3.0, "caption_de": 1.0}`, or `{"*.de": 1.0}`.

    A kind is what a source calls a text: the column of a table, the key of a JSON object, `key.language`
    where an object is by language, the field of a record. Weights count among the kinds that an example has;
    texts of one kind are equally likely.
    """

    weights: dict[str, float]  # by kind, or pattern of kinds; of several patterns the first that fits counts

    def __post_init__(self):
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"weights={self.weights} must be 0 or more, and one of them more")

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        texts, kinds = _texts(example), example.get("kinds", ())
        of_kind: dict[str, list[str]] = {}
        for text, kind in zip(texts, kinds or [""] * len(texts), strict=True):
            of_kind.setdefault(kind, []).append(text)
        weights = np.array([self._weight(kind) for kind in of_kind])
        if not weights.any():
            raise BadExample(
                "no_caption",
                f"an example with {', '.join(of_kind)}",
                f"none is among {', '.join(self.weights)}",
            )
        texts = list(of_kind.values())[rng.choice(len(weights), p=weights / weights.sum())]
        return texts[rng.integers(len(texts))]

    def _weight(self, kind: str) -> float:
        found = (weight for pattern, weight in self.weights.items() if fnmatch.fnmatchcase(kind, pattern))
        return next(found, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted:
    """The text that `of` chooses, in one of several templates, each equally likely: for classes' names."""

    templates: tuple[str, ...] = PHOTO  # {} is the text
    of: Callable = FirstCaption()

    def __post_init__(self):
        check_templates(self.templates)

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        text = self.of(example, rng)
        return self.templates[rng.integers(len(self.templates))].replace("{}", text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameAndKeywords:
    """The name alone, or the name and some of the keywords: "red apple, fruit, food".

    The number of keywords is uniform in 1..`most_keywords`, or up to as many as there are; which ones,
    and their order, is random. The name stays in front, where truncation does not reach it. A keyword
    that repeats the name or another keyword is never shown.
    """

    name_only: float = 0.4  # probability
    most_keywords: int = 4

    def __post_init__(self):
        if not 0 <= self.name_only <= 1:
            raise ValueError(f"name_only={self.name_only} is a probability; use a value in [0, 1]")
        if self.most_keywords < 1:
            raise ValueError(
                f"most_keywords={self.most_keywords} must be 1 or more; use FirstCaption for names"
            )

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        name, *keywords = dict.fromkeys(_texts(example))
        if not keywords or rng.random() < self.name_only:
            return name
        count = rng.integers(1, min(self.most_keywords, len(keywords)), endpoint=True)
        shown = rng.permutation(len(keywords))[:count]
        return ", ".join([name, *(keywords[index] for index in shown)])


def check_templates(templates: tuple[str, ...]) -> None:
    """Raises ValueError for no template, or one without a place for the name."""
    if not templates:
        raise ValueError('templates=() leaves nothing to show; use ("{}",) for the bare name')
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no place for the class's name; put {{}} there")


def _texts(example: dict[str, Any]) -> tuple[str, ...]:
    if not example.get("text"):
        raise BadExample("no_caption", f"the example with id {example['id']}")
    return example["text"]
