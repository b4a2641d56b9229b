"""The training stream is a function of the source, the seed and the global index."""

import dataclasses
import functools
import itertools
import sys

import numpy as np
import pytest

from mmjax.data import pipeline
from mmjax.data.captions import AnyCaption
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.sentencepiece import SentencePiece, train

SIZE, BATCH = 24, 8
EPOCH = SIZE // BATCH
WORDS = ("red apple", "green leaf", "blue sky")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Example `i` is a picture of the number i, with texts that name it."""

    size: int = SIZE

    def prepare(self):
        pass

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"image": np.full((4, 4, 3), index, np.uint8), "text": WORDS, "id": int(index)}

    names = {}
    licence = ""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Writes what was drawn into all but the first pixel."""

    def __call__(self, image_HWC, rng):
        drawn = rng.integers(0, 256, image_HWC.shape, dtype=np.uint8)
        drawn[0, 0] = image_HWC[0, 0]
        return drawn


DATA = Data(train=Numbers(), batch_size=BATCH, geometry=(Noise(),), captions=AnyCaption(), threads=1, ahead=1)


@functools.cache
def tokenizer():
    config = SentencePiece(vocab=290, length=6)
    return Tokenizer(train(WORDS, config), config)


def read(count, data=DATA, **fields):
    return list(itertools.islice(pipeline.batches(data, tokenizer(), **fields), count))


@functools.cache
def three_epochs():
    return read(3 * EPOCH)


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert one.keys() == other.keys() == {"image", "text", "id"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def noise():
    """What was drawn for each example of the stream, by global index."""
    images = np.concatenate([batch["image"] for batch in three_epochs()])
    return images.reshape(len(images), -1)[:, 3:]


def test_batches_have_the_promised_arrays():
    for batch in three_epochs():
        assert batch["image"].shape == (BATCH, 4, 4, 3) and batch["image"].dtype == np.uint8
        assert batch["text"].shape == (BATCH, 6) and batch["text"].dtype == np.int32
        assert batch["id"].shape == (BATCH,) and batch["id"].dtype == np.int32


def test_picture_text_and_id_of_a_row_belong_together():
    possible = tokenizer()(WORDS).tolist()
    for batch in three_epochs():
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["id"])
        assert all(row in possible for row in batch["text"].tolist())


def test_every_epoch_shows_every_example_once_in_an_order_of_its_own():
    orders = np.concatenate([batch["id"] for batch in three_epochs()]).reshape(3, SIZE)
    for order in orders:
        assert sorted(order) == list(range(SIZE))
    assert len({tuple(order) for order in [*orders, range(SIZE)]}) == 4


def test_the_seed_decides_the_order_and_the_draws():
    assert_equal(read(EPOCH), three_epochs()[:EPOCH])
    (other,) = read(1, dataclasses.replace(DATA, seed=1))
    assert other["id"].tolist() != three_epochs()[0]["id"].tolist()
    assert not np.array_equal(other["image"][:, 1:], three_epochs()[0]["image"][:, 1:])


@pytest.mark.parametrize("fields", [dict(threads=3), dict(ahead=5), dict(threads=2, ahead=2)], ids=str)
def test_reader_threads_and_reading_ahead_change_nothing(fields):
    assert_equal(read(3 * EPOCH, dataclasses.replace(DATA, **fields)), three_epochs())


@pytest.mark.parametrize("first", [1, 3, 4])
def test_a_stream_goes_on_at_any_batch(first):
    assert_equal(read(4, start=first * BATCH), three_epochs()[first : first + 4])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_rows_of_all_processes_are_the_batch(processes):
    parts = [read(4, process=i, processes=processes, start=BATCH) for i in range(processes)]
    together = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(together, three_epochs()[1:5])


def test_every_example_of_every_epoch_draws_for_itself():
    assert len(np.unique(noise(), axis=0)) == 3 * SIZE
    captions = np.concatenate([batch["text"] for batch in three_epochs()]).reshape(3, SIZE, -1)
    ids = np.concatenate([batch["id"] for batch in three_epochs()]).reshape(3, SIZE)
    by_id = np.stack([epoch[np.argsort(order)] for epoch, order in zip(captions, ids, strict=True)])
    # Of three captions each is drawn, and rarely the same one in all epochs: by chance one time in nine.
    assert len(np.unique(by_id.reshape(-1, 6), axis=0)) == 3
    assert np.mean(np.all(by_id == by_id[:1], axis=(0, 2))) < 0.5


def test_draws_are_uniform():
    # The mean of n uniform bytes has a standard deviation of 256 / sqrt(12 n).
    assert abs(noise().mean() - 127.5) < 4 * 256 / np.sqrt(12 * noise().size)


def test_examples_that_fill_no_batch_come_in_the_next_epoch():
    data = dataclasses.replace(DATA, train=Numbers(size=10))
    ids = np.concatenate([batch["id"] for batch in read(5, data)])
    assert [sorted(epoch) for epoch in ids.reshape(4, 10)] == [list(range(10))] * 4


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (dict(train=Numbers(size=7)), {}, "batch_size=8, but the training data has 7 examples"),
        ({}, dict(processes=3), "batch_size=8 does not divide over 3 processes; use a multiple of 3"),
        ({}, dict(start=12), "start=12 is not a multiple of batch_size=8"),
    ],
)
def test_impossible_streams_are_refused(data, fields, message):
    with pytest.raises(ValueError, match=message):
        pipeline.batches(dataclasses.replace(DATA, **data), tokenizer(), **fields)


@pytest.mark.parametrize("fields", [dict(threads=0), dict(ahead=0)], ids=str)
def test_impossible_values_are_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}=0"):
        dataclasses.replace(DATA, **fields)


def test_a_missing_grain_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ValueError, match="pip install grain") as error:
        pipeline.batches(DATA, tokenizer())
    assert "\n" not in str(error.value)
