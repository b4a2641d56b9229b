"""Which examples of a source an evaluator looks at, and reading them only where they are needed."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.data import BadExample, Source
from mmjax.evals import Item

log = logging.getLogger("mmjax")


def spread(total: int, limit: int | None) -> np.ndarray:
    """At most `limit` indices below `total`, in order and evenly apart; None takes all."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // max(count, 1)


def readable(name: str, source: Source, index_N: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, example) of those that can be read; the log says, for the evaluator `name`, which cannot.

    Raises:
        ValueError: none can be read.
    """
    bad = []
    for index in index_N:
        try:
            example = source[int(index)]
        except BadExample as error:
            bad.append(error)
        else:
            yield int(index), example
    if bad:
        log.warning("%s: %d of %d examples are left out: %s", name, len(bad), len(index_N), bad[0])
    if len(bad) == len(index_N):
        first = "".join(f": {error}" for error in bad[:1])
        raise ValueError(f"{name}: none of {len(index_N)} examples can be evaluated on{first}")


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """The images of the examples `index_N`, read when sliced: a process decodes only what it embeds."""

    source: Source
    index_N: np.ndarray

    def __len__(self) -> int:
        return len(self.index_N)

    def __getitem__(self, at: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(at, slice):
            return [self.source[int(i)]["image"] for i in self.index_N[at]]
        return self.source[int(self.index_N[at])]["image"]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples `index_N` of a source, read when sliced: a process decodes only what it evaluates."""

    source: Source
    index_N: np.ndarray

    def __len__(self) -> int:
        return len(self.index_N)

    def __getitem__(self, at: slice) -> list[dict[str, Any]]:
        return [self.source[int(i)] for i in self.index_N[at]]


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What the examples `index_N` of a source show and say, as queries of a gallery, read when indexed."""

    source: Source
    index_N: np.ndarray
    modalities: tuple[str, ...]  # of `image` and `text`

    def __getitem__(self, at: int) -> tuple[Item, ...]:
        example = self.source[int(self.index_N[at])]
        return tuple(example["text"][0] if name == "text" else example[name] for name in self.modalities)


def check_fields(*, name: str, every_steps: int, limit: int | None) -> None:
    """Checks what evaluators over a source have in common.

    Raises:
        ValueError: a value that would only fail at the first evaluation.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"name={name!r} becomes part of metric names; use letters, digits, '_', '.' and '-'")
    if every_steps < 0:
        raise ValueError(
            f"every_steps={every_steps} must not be negative; 0 evaluates after the last step only"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be positive; None takes every example")
