"""Classes of a source, and its pictures with their class."""

import numpy as np
import pytest

from mmjax.data import BadExample
from mmjax.evals.classes import Classes, check_known, labelled


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
