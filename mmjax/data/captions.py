"""Which caption of an example is shown this time: one string out of its several texts.

A chooser is a frozen dataclass, called with the texts of an example (`Source.__getitem__`: the name or
main caption first) and a NumPy generator. It runs in reader threads.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstCaption:
    """The first text: the name or main caption. What evaluation uses."""

    def __call__(self, texts: tuple[str, ...], rng: np.random.Generator) -> str:
        _check(texts)
        return texts[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyCaption:
    """One of all texts, each equally likely: for captions that each describe the whole picture."""

    def __call__(self, texts: tuple[str, ...], rng: np.random.Generator) -> str:
        _check(texts)
        return texts[rng.integers(len(texts))]


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

    def __call__(self, texts: tuple[str, ...], rng: np.random.Generator) -> str:
        _check(texts)
        name, *keywords = dict.fromkeys(texts)
        if not keywords or rng.random() < self.name_only:
            return name
        count = rng.integers(1, min(self.most_keywords, len(keywords)), endpoint=True)
        shown = rng.permutation(len(keywords))[:count]
        return ", ".join([name, *(keywords[index] for index in shown)])


def _check(texts: tuple[str, ...]) -> None:
    if not texts:
        raise ValueError("an example has no text to sample a caption from; every example needs at least one")
