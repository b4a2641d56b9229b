"""One example of a source as the arrays that a batch stacks: caption, picture and further fields."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mmjax.data import BadExample, fields, geometry, replacing, texts
from mmjax.data.replacing import Replaced
from mmjax.data.tokenizers import Tokenizer

_LOOKED_AT = 1000  # examples, for one with a picture


@dataclasses.dataclass(frozen=True, eq=False)
class Prepare:
    """One example of the source as the arrays that a batch stacks."""

    data: Any  # a `pipeline.Data`
    tokenizer: Tokenizer | None  # None: no texts
    blank_HWC: np.ndarray | None  # in place of a picture that is not there; None: no pictures
    labels: Mapping[str, Callable[[dict[str, Any]], np.ndarray]]  # the arrays `label/<task>`, by task
    replaced: Replaced

    def __call__(self, turn: tuple[int, int], rng: np.random.Generator):
        index, number = turn
        arrays, bad = replacing.read(
            lambda number: self._arrays(number, rng),
            number,
            size=len(self.data.train),
            seed=self.data.seed,
            index=index,
        )
        if bad:
            self.replaced.note(index, bad)
        return arrays

    def _arrays(self, number: int, rng: np.random.Generator):
        data = self.data
        example = data.train[number] if self.blank_HWC is not None else texts(data.train, number)
        absent = {name for name in data.may_lack if not fields.has(example, name)}
        arrays = {f"present/{name}": np.bool_(name not in absent) for name in data.may_lack}
        arrays["id"] = np.int32(example["id"])
        # In this order: what is drawn depends on it.
        if self.tokenizer is not None:
            caption = "" if "text" in absent else data.captions(example, rng)
            arrays["text"] = self.tokenizer([caption])[0]
        arrays |= {f"label/{task}": label(example) for task, label in self.labels.items()}
        if self.blank_HWC is not None:
            arrays["image"] = self.blank_HWC
            if "image" not in absent:
                arrays["image"] = geometry.apply(data.geometry, picture(example, number), rng)
        if data.hard_texts:
            arrays |= self._hard_texts(example, rng)
        return arrays | fields.rows(data.fields, data.may_lack, example, f"example {number}")

    def _hard_texts(self, example: dict[str, Any], rng: np.random.Generator):
        count, found = self.data.hard_texts, tuple(example.get("hard_text") or ())
        if len(found) > count:
            found = [found[i] for i in rng.permutation(len(found))[:count]]
        shown = [*found, *[""] * (count - len(found))]
        return {"hard_text": self.tokenizer(shown), "present/hard_text": np.arange(count) < len(found)}


def check_first(data):
    """Raises ValueError where the first example that can be read is not what the config says of it."""

    def read(number):
        return number, data.train[number]

    (number, example), _ = replacing.read(read, 0, size=len(data.train), seed=data.seed, index=0)
    if data.hard_texts and "hard_text" not in example:
        raise ValueError(
            f"data.hard_texts={data.hard_texts}, but examples of the training data have {sorted(example)}; "
            "give them 'hard_text', () where there is none, or set it to 0"
        )
    try:
        fields.rows(data.fields, data.may_lack, example, f"example {number} of the training data")
    except BadExample as error:
        raise ValueError(f"{error}; change data.fields or the source") from error


def check_has(data, names: Collection[str]):
    """Raises ValueError where the first example that can be read has not all of these."""
    example, _ = replacing.read(lambda i: data.train[i], 0, size=len(data.train), seed=data.seed, index=0)
    if lacking := [name for name in names if not fields.has(example, name)]:
        raise ValueError(
            f"there are towers for {', '.join(names)}, but examples of the training data have no "
            f"{' and no '.join(lacking)}; leave these towers out, or give other data"
        )


def first_picture(data) -> np.ndarray:
    """Of the first example that has one and can be read, as the stream gives it.

    Raises:
        ValueError: there is none among many.
    """

    def read(number):
        picture_HWC = picture(data.train[number], number)
        return geometry.apply(data.geometry, picture_HWC, np.random.default_rng(0))

    first = _first_with_picture(data) if "image" in data.may_lack else 0
    return replacing.read(read, first, size=len(data.train), seed=data.seed, index=0)[0]


def _first_with_picture(data) -> int:
    for number in range(min(len(data.train), _LOOKED_AT)):
        with contextlib.suppress(BadExample):
            if fields.has(data.train[number], "image"):
                return number
    raise ValueError(f"none of the first {_LOOKED_AT} examples has a picture; leave the image tower out")


def picture(example: dict[str, Any], number: int) -> np.ndarray:
    if not fields.has(example, "image"):
        raise BadExample("missing", f"the picture of example {number}")
    return example["image"]
