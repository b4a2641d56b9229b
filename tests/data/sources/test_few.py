"""A handful of examples of each class of a source."""

import collections
import dataclasses
import pickle

import pytest

from mmjax.data import BadExample
from mmjax.data.sources.few import Few


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Example i is of class i modulo 3; the seventh cannot be read."""

    count: int = 60
    licence = "none"

    def prepare(self):
        pass

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 6:
            raise BadExample("missing", "six")
        return {"number": index, "id": index % 3}

    @property
    def names(self):
        return {0: "a", 1: "b", 2: "c"}


def numbers(few):
    return [few[index]["number"] for index in range(len(few))]


def test_each_class_has_as_many_examples_and_none_twice():
    drawn = numbers(Few(source=Numbers(), each=5))
    assert collections.Counter(number % 3 for number in drawn) == {0: 5, 1: 5, 2: 5}
    assert sorted(set(drawn)) == drawn and 6 not in drawn


def test_fewer_examples_are_among_more_of_the_same_seed():
    few, more = (set(numbers(Few(source=Numbers(), each=each, seed=3))) for each in (2, 7))
    assert few < more


def test_the_seed_draws_and_a_copy_in_another_process_draws_the_same():
    one = Few(source=Numbers(), each=5, seed=1)
    assert numbers(pickle.loads(pickle.dumps(one))) == numbers(one)
    assert numbers(Few(source=Numbers(), each=5, seed=2)) != numbers(one)


def test_too_few_examples_of_a_class_are_an_error_when_preparing():
    with pytest.raises(ValueError, match="class 'a' has 19 examples, wanted are each=20"):
        Few(source=Numbers(), each=20).prepare()
    with pytest.raises(ValueError, match="each=0"):
        Few(source=Numbers(), each=0)
