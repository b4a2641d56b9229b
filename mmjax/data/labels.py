"""Labels: which classes an example is of, as a row of zeros and ones.

A **labelling** is one of the frozen dataclasses below: what its classes are called, and how they are read of
an example of a source. Letters: C classes.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from mmjax.data import BadExample, Source, texts

log = logging.getLogger("mmjax")

_NAMED = 5  # classes that a message names


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneClass:
    """Every example is of one class: the one that its source has a name for its `id`.

    Ids of the same name are one class, in all sources: a number may mean one thing in one of them and another
    in the next.
    """

    names: tuple[str, ...] = ()  # (): those of the training data, in order of their ids
    several: ClassVar[bool] = False

    def resolved(self, source: Source) -> "OneClass":
        """With the names of `source` where none are given.

        Raises:
            ValueError: the source has no classes.
        """
        if self.names:
            return self
        names = source.names
        if (found := len(set(names.values()))) < 2:
            raise ValueError(
                f"the training data has {found} named classes, wanted two or more; give each class a folder, "
                "or use labels=Several for texts that name classes"
            )
        return OneClass(names=tuple(dict.fromkeys(names[id_] for id_ in sorted(names))))

    def reader(self, source: Source) -> Callable[[dict[str, Any]], np.ndarray]:
        """An example of `source` as uint8 [C].

        Raises:
            ValueError: the source has classes that are not among `names`.
        """
        place = {name: index for index, name in enumerate(self.names)}
        unknown = sorted({name for name in source.names.values() if name not in place})
        if unknown or not source.names:
            found = f"classes {unknown[:5]}" if unknown else "no classes"
            raise ValueError(
                f"the data has {found}, trained are {len(self.names)}: {', '.join(self.names[:8])}; "
                "give the data the same classes"
            )
        row_of_id = {id_: _row(len(place), [place[name]]) for id_, name in source.names.items()}
        return lambda example: row_of_id[int(example["id"])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several:
    """An example may be of any number of classes: of those that its texts name."""

    names: tuple[str, ...]
    separator: str = ","  # of classes within one text
    nothing: str = "none"  # the text of an example of no class
    # From which probability on a class is predicted: one for all, or one a class.
    thresholds: tuple[float, ...] = (0.5,)
    several: ClassVar[bool] = True

    def __post_init__(self):
        if len(set(self.names)) != len(self.names) or not self.names:
            raise ValueError(f"names={self.names} must be one or more different classes")
        if len(self.thresholds) not in (1, len(self.names)):
            raise ValueError(
                f"{len(self.thresholds)} thresholds for {len(self.names)} classes; give one, or one a class"
            )
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds={self.thresholds} are probabilities; use values between 0 and 1")

    def resolved(self, source: Source) -> "Several":
        return self

    def reader(self, source: Source) -> Callable[[dict[str, Any]], np.ndarray]:
        """An example of any source as uint8 [C]; raises ValueError for a text that names no class."""
        place = {name: index for index, name in enumerate(self.names)}

        def read(example):
            named = [part.strip() for text in example["text"] for part in text.split(self.separator)]
            unknown = [name for name in named if name not in place and name not in ("", self.nothing)]
            if unknown:
                raise ValueError(
                    f"the example with id {example['id']} is labelled {unknown[0]!r}, which is none of the "
                    f"{len(place)} classes, nor {self.nothing!r}; mend it, or add the class to labels.names"
                )
            return _row(len(place), [place[name] for name in named if name in place])

        return read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Every example is of one class: a field of it is one of a fixed set (visual question answering as
    classification, Agrawal et al. 2015, arXiv:1505.00468, section 5)."""

    names: tuple[str, ...]  # all answers that may be given
    field: str = "answer"  # of an example
    several: ClassVar[bool] = False

    def __post_init__(self):
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise ValueError(
                f"labels.names={self.names} is no answer set; give two or more different answers"
            )

    def resolved(self, source: Source) -> "Answers":
        return self

    def reader(self, source: Source) -> Callable[[dict[str, Any]], np.ndarray]:
        """An example of any source as uint8 [C]; raises ValueError for an answer that is not in the set."""
        place = {name: index for index, name in enumerate(self.names)}

        def read(example):
            if self.field not in example:
                raise ValueError(
                    f"the example with id {example['id']} has {sorted(example)}, no {self.field!r}; use a "
                    "source that gives one, or other labels"
                )
            if (answer := example[self.field]) not in place:
                raise ValueError(
                    f"the example with id {example['id']} has {self.field}={answer!r}, which is none of the "
                    f"{len(place)} answers; mend it, or add the answer to labels.names"
                )
            return _row(len(place), [place[answer]])

        return read


Labels = OneClass | Several | Answers


def counted(labels: Labels, source: Source) -> np.ndarray:
    """int [C]: examples of each class in a source; no picture is read where that can be helped.

    Raises:
        ValueError: an example has a label that is no class.
    """
    read, counts_C = labels.reader(source), np.zeros(len(labels.names), int)
    for index in range(len(source)):
        with contextlib.suppress(BadExample):
            counts_C += read(texts(source, index))
    return counts_C


def check_chosen_on(labels: Labels, source: Source, split: str) -> None:
    """Raises ValueError where a split, on which something is chosen, has no example of some class."""
    if missing := _missing(labels, counted(labels, source)):
        raise ValueError(
            f"{len(missing)} of {len(labels.names)} classes have no example in {split}: "
            f"{', '.join(missing[:_NAMED])}; add examples, or make the split larger"
        )


def check_judged_on(name: str, labels: Labels, count_C: np.ndarray) -> None:
    """Warns of classes that the evaluator `name` has no example of: means over classes say nothing of them.

    Raises:
        ValueError: so few are left that a mean over classes says nothing.
    """
    missing = _missing(labels, count_C)
    found, least = len(labels.names) - len(missing), 1 if labels.several else 2
    if found < least:
        raise ValueError(
            f"{name} has examples of {found} of {len(labels.names)} classes, wanted {least} or more; add "
            f"examples of others, such as {', '.join(missing[:_NAMED])}"
        )
    # A set of answers is what may be said to any question, of which an evaluator may ask a few.
    if missing and not isinstance(labels, Answers):
        log.warning(
            "%s: %d of %d classes have no example, and means over classes say nothing of them: %s",
            name,
            len(missing),
            len(labels.names),
            ", ".join(missing[:_NAMED]),
        )


def _missing(labels: Labels, count_C: np.ndarray) -> list[str]:
    return [name for name, count in zip(labels.names, count_C, strict=True) if not count]


def _row(classes: int, places: list[int]) -> np.ndarray:
    row_C = np.zeros(classes, np.uint8)
    row_C[places] = 1
    return row_C
