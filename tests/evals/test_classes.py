"""Classes of a source, and its pictures with their class."""

import logging
import threading
from concurrent import futures

import jax
import numpy as np
import pytest

from mmjax.data import BadExample
from mmjax.evals import examples
from mmjax.evals.classes import Classes, check_known, labelled
from mmjax.evals.examples import readable


class Numbers:
    """Example i is of class `ids[i]`; a negative id cannot be read."""

    def __init__(self, *ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        if self.ids[index] < 0:
            raise BadExample("undecodable", f"example {index}")
        return {"image": np.full((2, 2, 3), index, np.uint8), "text": ("x",), "id": self.ids[index]}


ANIMALS = Classes({30: "bat", 10: "bat", 20: "owl"})


def test_classes_are_in_order_of_their_ids_and_those_of_one_name_are_one():
    assert ANIMALS.names == ("bat", "owl")
    assert ANIMALS.index_of_id == {10: 0, 20: 1, 30: 0}


def test_pictures_keep_their_labels_where_others_cannot_be_read():
    found = labelled("x", Numbers(20, -1, 30, 20), ANIMALS)
    assert found.label_N.tolist() == [1, 0, 1]
    assert [int(found.pictures[i][0, 0, 0]) for i in range(3)] == [0, 2, 3]


def test_an_id_of_no_class_is_named():
    with pytest.raises(ValueError, match="x: 1 ids, the first is 7, not among the 2 classes"):
        labelled("x", Numbers(20, 7), ANIMALS)
    with pytest.raises(ValueError, match="every id, not among the 0 classes"):
        check_known("x", [], Classes({}))


class Photos(Numbers):
    """The same, with texts that need no decoding; says which examples were decoded."""

    def __init__(self, *ids):
        super().__init__(*ids)
        self.decoded = []

    def __getitem__(self, index):
        self.decoded.append(index)
        return super().__getitem__(index)

    def texts(self, index):
        return {"text": ("x",), "id": abs(self.ids[index])}


def test_a_picture_that_cannot_be_decoded_is_left_out_though_labels_are_read_without_pictures(caplog):
    photos = Photos(20, -10, 30, 20)
    with caplog.at_level(logging.WARNING, logger="mmjax"):
        found = list(readable("x", photos, np.array([0, 1, 3])))
    assert [index for index, _ in found] == [0, 3] and all("image" not in example for _, example in found)
    assert "x: 1 of 3 examples are left out: example 1 could not be read as a picture" in caplog.text
    assert labelled("x", photos, ANIMALS).label_N.tolist() == [1, 0, 1]


def test_of_two_processes_each_decodes_its_half_and_both_leave_out_the_same(monkeypatch):
    both, here, said = threading.Barrier(2, timeout=30), threading.local(), {}

    def gather(bad_N):
        said[here.process] = bad_N
        both.wait()
        return np.stack([said[0], said[1]])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: here.process)
    monkeypatch.setattr(examples.multihost_utils, "process_allgather", gather)
    each = [Photos(20, -10, 30, 20, -30), Photos(20, -10, 30, 20, -30)]

    def process(number):
        here.process = number
        return [index for index, _ in readable("x", each[number], np.arange(5))]

    with futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(process, (0, 1))) == [[0, 2, 3], [0, 2, 3]]
    # Those that cannot be read once more, for what is wrong with them.
    assert [photos.decoded for photos in each] == [[0, 2, 4, 1, 4], [1, 3, 1, 4]]
