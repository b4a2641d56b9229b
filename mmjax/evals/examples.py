"""Which examples of a source an evaluator looks at, and reading them only where they are needed."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmjax.data import BadExample, HasTexts, Source
from mmjax.evals import Item

log = logging.getLogger("mmjax")


def spread(total: int, limit: int | None) -> np.ndarray:
    """At most `limit` indices below `total`, in order and evenly apart; None takes all."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // max(count, 1)


def readable(name: str, source: Source, index_N: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, example) of those that can be read; the log says, for the evaluator `name`, which cannot.

    Of a source that `HasTexts` the examples have no picture. That a picture can be read is known once it has
    been decoded: each process decodes its share and all learn what was found, so all must call this.

    Raises:
        ValueError: none can be read.
    """
    decoded = isinstance(source, HasTexts)
    bad_N = _unreadable(source, index_N) if decoded else np.zeros(len(index_N), bool)
    errors = []
    for n, index in enumerate(index_N):
        try:
            # One that is known to be bad is read for what is wrong with it.
            example = source.texts(int(index)) if decoded and not bad_N[n] else source[int(index)]
        except BadExample as error:
            bad_N[n] = True
            errors.append(error)
        if not bad_N[n]:
            yield int(index), example
    first = "".join(f": {error}" for error in errors[:1])
    if bad_N.any():
        log.warning("%s: %d of %d examples are left out%s", name, bad_N.sum(), len(index_N), first)
    if bad_N.all():
        raise ValueError(f"{name}: none of {len(index_N)} examples can be evaluated on{first}")


def problem(source: Source, index: int) -> BadExample | None:
    """Why an example cannot be read; None where it can."""
    try:
        source[index]
    except BadExample as error:
        return error
    return None


def _unreadable(source: Source, index_N: np.ndarray) -> np.ndarray:
    """bool [N]: which examples no process can use; each looks at a part of them."""
    bad_N = np.zeros(len(index_N), bool)
    for n in range(jax.process_index(), len(index_N), jax.process_count()):
        bad_N[n] = problem(source, int(index_N[n])) is not None
    if jax.process_count() == 1:
        return bad_N
    return multihost_utils.process_allgather(bad_N).reshape(-1, len(bad_N)).any(axis=0)


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
