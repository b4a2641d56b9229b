"""The classes of a source, and its pictures with their class as a label.

Classes are in order of their ids. Those of one name are one class: no text tells them apart.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mmjax.data import Source
from mmjax.evals.examples import Pictures, readable, spread


@dataclasses.dataclass(frozen=True)
class Classes:
    """The candidates of a classification."""

    name_of_id: dict[int, str]

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.name_of_id[id] for id in sorted(self.name_of_id)))

    @functools.cached_property
    def index_of_id(self) -> dict[int, int]:
        of_name = {name: i for i, name in enumerate(self.names)}
        return {id: of_name[name] for id, name in self.name_of_id.items()}


class Labelled(NamedTuple):
    pictures: Pictures
    label_N: np.ndarray  # index of the class


def labelled(name: str, source: Source, classes: Classes, *, limit: int | None = None) -> Labelled:
    """The pictures of a source that can be read, at most `limit`, evenly spread; for the evaluator `name`.

    Raises:
        ValueError: none can be read, or one is of no class.
    """
    found = readable(name, source, spread(len(source), limit))
    indices, ids = zip(*((index, example["id"]) for index, example in found), strict=True)
    check_known(name, ids, classes)
    label_N = np.array([classes.index_of_id[id] for id in ids])
    return Labelled(Pictures(source, np.array(indices)), label_N)


def check_known(name: str, ids: Iterable[int], classes: Classes) -> None:
    """Raises ValueError where an id is of no class, or where there are no classes."""
    unknown = sorted(set(ids) - set(classes.name_of_id))
    if unknown or not classes.name_of_id:
        given = f"{len(unknown)} ids, the first is {unknown[0]}" if unknown else "every id"
        raise ValueError(
            f"{name}: {given}, not among the {len(classes.names)} classes; give a source of classes "
            "that names every id of `source`"
        )


def check_enough(name: str, split: str, label_N: np.ndarray, classes: Classes, *, least: int = 1) -> None:
    """Raises ValueError where a class has fewer than `least` examples in a split that is learned from."""
    count_C = np.bincount(label_N, minlength=len(classes.names))
    few_C = np.flatnonzero(count_C < least)
    if len(few_C):
        first = few_C[0]
        raise ValueError(
            f"{name}: {len(few_C)} of {len(count_C)} classes have fewer than {least} examples in {split}; "
            f"give more of {classes.names[first]!r}, of which there are {count_C[first]}"
        )
