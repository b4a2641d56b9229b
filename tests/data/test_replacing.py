"""Examples that cannot be read are replaced by a rule and counted by reason; too many of them end the run."""

import dataclasses
import functools
import itertools
import logging

import numpy as np
import pytest

from mmjax.data import BadExample, pipeline
from mmjax.data.captions import WeightedCaption
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.utf8 import Bytes

SIZE, BATCH = 40, 8
EPOCH = SIZE // BATCH
REASONS = {3: "undecodable", 17: "truncated", 18: "undecodable"}


@dataclasses.dataclass(frozen=True)
class Damaged:
    """Example `i` is a picture of the number i; some cannot be read."""

    bad: tuple[int, ...] = tuple(REASONS)

    def prepare(self):
        pass

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if index in self.bad:
            raise BadExample(REASONS.get(index, "missing"), f"{index}.jpg")
        return {"image": np.full((4, 4, 3), index, np.uint8), "text": (f"number {index}",), "id": int(index)}

    names = {}
    licence = ""


DATA = Data(train=Damaged(), batch_size=BATCH, geometry=(), threads=1, ahead=1, most_replaced=0.5)


@functools.cache
def tokenizer():
    return Tokenizer(b"", Bytes(length=12))


def ids(count, data=DATA, **fields):
    batches = pipeline.batches(data, tokenizer(), **fields)
    return np.stack([batch["id"] for batch in itertools.islice(batches, count)]), batches.replaced


def test_an_example_that_cannot_be_read_gives_its_place_to_another():
    found, _ = ids(4 * EPOCH)
    whole, _ = ids(4 * EPOCH, dataclasses.replace(DATA, train=Damaged(bad=())))
    replaced = np.isin(whole, tuple(REASONS))
    assert replaced.sum() == 4 * len(REASONS)
    np.testing.assert_array_equal(found[~replaced], whole[~replaced])
    assert not np.isin(found, tuple(REASONS)).any()
    # What stands in for one example is not always the same.
    assert len(set(found[replaced])) > len(REASONS)


@pytest.mark.parametrize("first", [1, EPOCH, 2 * EPOCH + 3])
def test_a_resume_replaces_by_the_same_examples(first):
    whole, _ = ids(3 * EPOCH + 2)
    found, _ = ids(len(whole) - first, start=first * BATCH)
    np.testing.assert_array_equal(found, whole[first:])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_number_of_processes_and_threads_changes_nothing(processes):
    whole, _ = ids(2 * EPOCH)
    more = dataclasses.replace(DATA, threads=3, ahead=4)
    parts = [ids(2 * EPOCH, more, process=i, processes=processes)[0] for i in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_every_replacement_is_counted_once_by_reason_and_named_once(caplog):
    with caplog.at_level(logging.WARNING, "mmjax"):
        _, replaced = ids(3 * EPOCH)
    counts = [replaced.count(epoch * SIZE) for epoch in (1, 2, 3)]
    assert counts == [{"undecodable": 2, "truncated": 1}] * 3
    assert replaced.count(3 * SIZE) == {}
    assert sorted(caplog.messages) == [
        "replaced in training: 17.jpg is a picture cut short",
        "replaced in training: 18.jpg could not be read as a picture",
        "replaced in training: 3.jpg could not be read as a picture",
    ]


def test_all_processes_together_count_what_one_does():
    counts = [ids(2 * EPOCH, process=i, processes=2)[1].count(2 * SIZE) for i in range(2)]
    assert {reason: sum(count.get(reason, 0) for count in counts) for reason in counts[0] | counts[1]} == {
        "undecodable": 4,
        "truncated": 2,
    }


def test_batches_that_were_read_ahead_are_not_counted():
    batches = pipeline.batches(dataclasses.replace(DATA, ahead=2 * EPOCH), tokenizer())
    whole, _ = ids(2, dataclasses.replace(DATA, train=Damaged(bad=())))
    in_first, in_second = np.isin(whole, tuple(REASONS)).sum(axis=1)
    next(batches)
    assert sum(batches.replaced.count(2 * BATCH).values()) == in_first
    next(batches)
    assert sum(batches.replaced.count(2 * BATCH).values()) == in_second


def test_a_run_of_more_bad_examples_than_allowed_ends_and_names_them():
    allowed = dataclasses.replace(DATA, most_replaced=len(REASONS) / SIZE)
    ids(3 * EPOCH, allowed)
    with pytest.raises(ValueError) as error:
        ids(EPOCH, dataclasses.replace(DATA, most_replaced=2.5 / SIZE))
    message = str(error.value)
    assert message.startswith("3 examples had to be replaced, more than data.most_replaced=0.0625 of 40: ")
    assert all(f"{number}.jpg" in message for number in REASONS) and "\n" not in message


def test_data_of_which_nothing_can_be_read_ends_at_once():
    with pytest.raises(ValueError, match=r"20 examples in a row cannot be used: .*\.jpg is not there"):
        ids(1, dataclasses.replace(DATA, train=Damaged(bad=tuple(range(SIZE))), most_replaced=1.0))


def test_an_example_without_a_caption_to_show_is_replaced_too():
    data = dataclasses.replace(DATA, train=Damaged(bad=()), captions=WeightedCaption(weights={"title": 1.0}))
    with pytest.raises(ValueError, match="in a row cannot be used: an example .* has no caption"):
        ids(1, data)


def test_the_tokenizer_and_the_channels_need_only_what_can_be_read():
    data = dataclasses.replace(DATA, train=Damaged(bad=(0, 1)))
    assert pipeline.channels(data) == 3
    texts = pipeline.captions(data, limit=SIZE, seed=0)
    assert texts == [f"number {i}" for i in range(2, SIZE)]
    assert pipeline.captions(data, limit=4, seed=0) == ["number 10", "number 20", "number 30"]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match=f"most_replaced={share}"):
        dataclasses.replace(DATA, most_replaced=share)
