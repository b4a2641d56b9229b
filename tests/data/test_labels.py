"""Labels of examples, and what is refused of them."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.labels import Answers, OneClass, Several, check_chosen_on, check_judged_on, counted


@dataclasses.dataclass(frozen=True)
class Things:
    """A source of given ids and texts, that refuses to decode pictures."""

    ids: tuple[int, ...] = ()
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    said: tuple[tuple[str, ...], ...] = ()

    def __len__(self):
        return max(len(self.ids), len(self.said))

    def texts(self, index):
        said = self.said[index] if self.said else ("thing",)
        return {"id": self.ids[index] if self.ids else index, "text": said}


ANIMALS = {7: "cat", 3: "dog", 9: "cat"}


def test_classes_are_names_in_order_of_their_ids_and_equal_names_are_one():
    labels = OneClass().resolved(Things(names=ANIMALS))
    assert labels == OneClass(names=("dog", "cat"))
    things = Things(ids=(3, 7, 9, 9), names=ANIMALS)
    rows = [labels.reader(things)(things.texts(i)).tolist() for i in range(4)]
    assert rows == [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert counted(labels, things).tolist() == [1, 3]


def test_other_data_may_number_the_same_classes_otherwise():
    labels, other = OneClass(names=("dog", "cat")), Things(ids=(3,), names={3: "cat"})
    assert labels.reader(other)(other.texts(0)).tolist() == [0, 1]


def test_classes_that_are_not_trained_are_refused():
    with pytest.raises(ValueError, match=r"the data has classes \['cow'\], trained are 2: dog, cat; give"):
        OneClass(names=("dog", "cat")).reader(Things(names={0: "cow", 1: "dog"}))
    with pytest.raises(ValueError, match="the data has no classes, trained are 2: dog, cat"):
        OneClass(names=("dog", "cat")).reader(Things())


@pytest.mark.parametrize("names", [{}, {0: "dog"}, {0: "dog", 1: "dog"}], ids=str)
def test_fewer_than_two_classes_are_refused(names):
    found = len(set(names.values()))
    with pytest.raises(ValueError, match=f"the training data has {found} named classes, wanted two or more"):
        OneClass().resolved(Things(names=names))


def test_texts_name_any_number_of_classes():
    labels = Several(names=("red", "round", "small"))
    things = Things(said=(("red, small",), ("round", "red"), ("none",), ("small",)))
    rows = [labels.reader(things)(things.texts(i)).tolist() for i in range(4)]
    assert rows == [[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert np.array_equal(counted(labels, things), [2, 1, 2])


def test_a_text_that_is_no_class_is_refused_with_its_example():
    things = Things(said=(("red",), ("blue",)))
    with pytest.raises(ValueError, match="the example with id 1 is labelled 'blue', which is none of the 1"):
        counted(Several(names=("red",)), things)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(names=()), "must be one or more different classes"),
        (dict(names=("a", "a")), "must be one or more different classes"),
        (dict(names=("a", "b", "c"), thresholds=(0.1, 0.2)), "2 thresholds for 3 classes"),
        (dict(names=("a",), thresholds=(1.0,)), "are probabilities"),
    ],
)
def test_impossible_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Several(**fields)


@dataclasses.dataclass(frozen=True)
class Answered(Things):
    answers: tuple[str, ...] = ()

    def texts(self, index):
        return super().texts(index) | {"answer": self.answers[index]}


def test_an_answer_is_one_of_the_set():
    labels = Answers(names=("yes", "no", "two"))
    things = Answered(ids=(1, 1, 2), answers=("no", "two", "no"))
    assert labels.resolved(things) is labels
    assert [labels.reader(things)(things.texts(i)).tolist() for i in range(2)] == [[0, 1, 0], [0, 0, 1]]
    assert counted(labels, things).tolist() == [0, 2, 1]


@pytest.mark.parametrize("names", [(), ("yes",), ("yes", "no", "yes")])
def test_a_set_without_a_choice_is_refused(names):
    with pytest.raises(ValueError, match="is no answer set; give two or more"):
        Answers(names=names)


def test_an_unknown_answer_and_none_at_all_are_refused():
    labels = Answers(names=("yes", "no"))
    with pytest.raises(ValueError, match="the example with id 5 has answer='maybe', which is none of the 2"):
        counted(labels, Answered(ids=(4, 5), answers=("yes", "maybe")))
    with pytest.raises(ValueError, match=r"id 4 has \['id', 'text'\], no 'answer'; use a source"):
        counted(labels, Things(ids=(4,)))


THREE = ("dog", "cat", "cow")


def test_a_split_that_chooses_has_an_example_of_every_class():
    labels, names = OneClass(names=THREE), {0: "dog", 1: "cat", 2: "cow"}
    check_chosen_on(labels, Things(ids=(2, 0, 1), names=names), "val")
    with pytest.raises(ValueError, match="2 of 3 classes have no example in val: dog, cow; add examples, or"):
        check_chosen_on(labels, Things(ids=(1, 1), names=names), "val")


@pytest.mark.parametrize(
    "labels, count_C, said",
    [
        (OneClass(names=THREE), [1, 2, 3], []),
        (
            OneClass(names=THREE),
            [1, 0, 3],
            ["1 of 3 classes have no example, and means over classes say nothing"],
        ),
        (
            Several(names=THREE),
            [0, 0, 1],
            ["2 of 3 classes have no example, and means over classes say nothing"],
        ),
        (Answers(names=THREE), [1, 0, 3], []),
    ],
)
def test_classes_that_are_not_judged_are_named(labels, count_C, said, caplog):
    check_judged_on("things", labels, np.array(count_C))
    assert len(caplog.messages) == len(said)
    assert all(start in message for message, start in zip(caplog.messages, said, strict=True))
    missing = [name for name, count in zip(THREE, count_C, strict=True) if not count]
    assert all(message.endswith(f": {', '.join(missing)}") for message in caplog.messages)


@pytest.mark.parametrize(
    "labels, count_C",
    [(OneClass(names=THREE), [0, 4, 0]), (Answers(names=THREE), [0, 4, 0]), (Several(names=THREE), [0] * 3)],
)
def test_too_few_classes_for_a_mean_over_them_are_refused(labels, count_C):
    least = 1 if labels.several else 2
    message = (
        f"things has examples of {least - 1} of 3 classes, wanted {least} or more; add examples of others"
    )
    with pytest.raises(ValueError, match=message):
        check_judged_on("things", labels, np.array(count_C))
