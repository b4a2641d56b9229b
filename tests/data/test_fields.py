"""Further arrays, hard texts and missing modalities: from a source into a batch, or refused in one line."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from mmjax.data import pipeline
from mmjax.data.fields import Field
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.utf8 import Bytes

SIZE = 24


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Example i has its number in all that it has: a picture unless i is even, a sound unless 3 divides it, a
    text unless 5 does, and as hard negatives as many texts as i has remainder by 4."""

    gives: tuple[str, ...] = ("hard_text", "teacher/image", "label")
    sound: int = 6  # values of one

    def prepare(self):
        pass

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        further = {
            "hard_text": tuple(f"not {index}.{k}" for k in range(index % 4)),
            "teacher/image": [float(index), 1.0],
            "label": index // 2,
        }
        return {
            "id": index,
            "image": np.full((4, 4, 3), index, np.uint8) if index % 2 else None,
            "text": (str(index),) if index % 5 else (),
            **({"sound": np.full(self.sound, index / 2)} if index % 3 else {}),
            **{name: further[name] for name in self.gives},
        }

    names = {}
    licence = ""


FIELDS = {
    "sound": Field(shape=(6,)),
    "teacher/image": Field(shape=(2,)),
    "label": Field(dtype="int32"),
}
DATA = Data(
    train=Numbers(), batch_size=8, fields=FIELDS, may_lack=("image", "text", "sound"), hard_texts=2, threads=1
)


@functools.cache
def tokenizer():
    return Tokenizer(b"", Bytes(length=12))


def epoch(data=DATA, **fields):
    """All rows of one epoch, by id."""
    batches = list(itertools.islice(pipeline.batches(data, tokenizer(), **fields), SIZE // data.batch_size))
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(joined["id"])
    return {name: rows[order] for name, rows in joined.items()}


def test_fields_come_into_the_batch_in_their_shape_and_dtype():
    rows, numbers = epoch(), np.arange(SIZE)
    assert rows["sound"].shape == (SIZE, 6) and rows["sound"].dtype == np.float32
    assert rows["label"].dtype == np.int32
    np.testing.assert_array_equal(rows["label"], numbers // 2)
    np.testing.assert_array_equal(rows["teacher/image"], np.stack([numbers, np.ones(SIZE)], axis=1))
    there = numbers % 3 > 0
    np.testing.assert_array_equal(rows["sound"][there], np.repeat(numbers[there, None] / 2, 6, axis=1))


def test_what_is_missing_is_blank_and_said_to_be_missing():
    rows, numbers = epoch(), np.arange(SIZE)
    for name, divisor in (("image", 2), ("text", 5), ("sound", 3)):
        there = numbers % divisor > 0
        np.testing.assert_array_equal(rows[f"present/{name}"], there)
        # No text is a text without letters: of its form, so no tower meets what it has never seen.
        blank = tokenizer()([""])[0] if name == "text" else 0
        assert (rows[name][~there] == blank).all()
        assert all((row != blank).any() for row in rows[name][there][1:])


def test_hard_texts_fill_their_places_and_the_rest_is_masked():
    rows = epoch()
    assert rows["hard_text"].shape == (SIZE, 2, 12)
    np.testing.assert_array_equal(rows["present/hard_text"].sum(axis=1), np.minimum(np.arange(SIZE) % 4, 2))
    for index in range(SIZE):
        wanted = tokenizer()([f"not {index}.{k}" for k in range(index % 4)] or [""]).tolist()
        shown = rows["hard_text"][index][rows["present/hard_text"][index]].tolist()
        assert all(row in wanted for row in shown) and len({*map(tuple, shown)}) == len(shown)
    # Where there are more than places, any may be shown.
    kept = {index for index in range(3, SIZE, 4) for row in rows["hard_text"][index] if _last(row) == "2"}
    assert 0 < len(kept) < SIZE // 4


def _last(row):
    return tokenizer().decode([row])[0][-1]


def test_fields_change_nothing_of_pictures_and_texts():
    odd = dataclasses.replace(DATA, may_lack=("image", "text"), fields={}, hard_texts=0)
    plain, rows = epoch(odd), epoch()
    for name in plain:
        np.testing.assert_array_equal(plain[name], rows[name])


def test_what_is_no_modality_is_not_prepared():
    rows = epoch(dataclasses.replace(DATA, hard_texts=0), modalities=("sound",))
    assert set(rows) == {"id", "sound", "teacher/image", "label", *(f"present/{n}" for n in DATA.may_lack)}


def test_a_bad_array_in_the_stream_is_replaced_and_counted():
    @dataclasses.dataclass(frozen=True)
    class OneBad(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index) | ({"label": 0.5} if index == 7 else {})

    data = dataclasses.replace(DATA, train=OneBad(), most_replaced=1.0)
    batches = pipeline.batches(data, tokenizer())
    found = np.concatenate([next(batches)["id"] for _ in range(3)])
    assert 7 not in found and batches.replaced.count(SIZE) == {"other_field": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train=Numbers(gives=("label", "teacher/image"))), "data.hard_texts=2, but examples .* have "),
        (
            dict(train=Numbers(gives=("hard_text", "label"))),
            "example 0 .* no 'teacher/image', and data.may_lack",
        ),
        (
            dict(fields=FIELDS | {"label": Field(dtype="uint8")}),
            r"label: int64 \[\], not uint8 \[\]; change data.fields or the source",
        ),
        (
            dict(fields=FIELDS | {"teacher/image": Field(shape=(3,))}),
            r"example 0 of the training data is not as data.fields says: teacher/image: float64 \[2\], not",
        ),
    ],
)
def test_a_source_that_gives_something_else_is_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        pipeline.batches(dataclasses.replace(DATA, **changes), tokenizer())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hard_texts=-1), "hard_texts=-1 must be 0 or more"),
        (dict(fields={"id": Field()}), r"fields=\['id'\]: the batch has these names already"),
        (dict(fields={"present/image": Field()}), "the batch has these names already"),
        (dict(may_lack=("video",)), r"may_lack=\['video'\] are none of image, text and \['sound'"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DATA, **changes)


def test_a_shape_without_size_is_refused():
    with pytest.raises(ValueError, match=r"shape=\(0,\) must have positive sizes"):
        Field(shape=(0,))


def test_data_without_any_picture_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Blind(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"image": None}

    with pytest.raises(ValueError, match="none of the first 1000 examples has a picture"):
        pipeline.channels(dataclasses.replace(DATA, train=Blind()))
    with pytest.raises(ValueError, match="the picture of example 0 is not there"):
        pipeline.channels(dataclasses.replace(DATA, train=Blind(), may_lack=()))
