"""Classification by given probabilities, judged by numbers that can be counted by hand."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.labels import Several
from mmjax.evals import Gallery
from mmjax.evals.classified import Classified

LABELS = (0, 0, 1, 1, 2, 2)


@dataclasses.dataclass(frozen=True)
class Things:
    """Six examples of three classes; `said` are texts in place of classes."""

    said: tuple[str, ...] = ()
    names: dict[int, str] = dataclasses.field(default_factory=lambda: {0: "a", 1: "b", 2: "c"})
    licence: str = ""

    def prepare(self):
        pass

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        text = self.said[index] if self.said else self.names[LABELS[index]]
        return {"image": np.full((4, 4, 3), index, np.uint8), "text": (text,), "id": LABELS[index]}


def embed(answers):
    """Says the given class of each example, by its number, with probability 0.8."""

    def predict(examples):
        rows = [examples[i : i + 1][0]["image"][0, 0, 0] for i in range(len(examples))]
        return np.stack([np.where(np.arange(3) == answers[row], 0.8, 0.1) for row in rows]).astype(np.float32)

    return {"classes/class": predict}


def metrics(answers, **fields):
    evaluator = Classified(name="things", source=Things(), **fields)
    evaluator.prepare()
    found = evaluator(embed(answers)).metrics
    assert set(found) == set(evaluator.finds)
    return found


def test_accuracy_f1_and_calibration_are_those_of_the_answers():
    found = metrics([0, 0, 1, 2, 2, 0])
    assert found["cls_acc1"] == pytest.approx(4 / 6) and found["cls_acc1_chance"] == pytest.approx(1 / 3)
    # a: 2 right of 2, said 3 times; b: 1 of 2, said once; c: 1 of 2, said twice.
    assert found["cls_f1_macro"] == pytest.approx((4 / 5 + 2 / 3 + 2 / 4) / 3)
    assert found["cls_ece"] == pytest.approx(abs(0.8 - 4 / 6), abs=1e-6)


def test_right_answers_are_perfect():
    found = metrics(LABELS)
    assert found["cls_acc1"] == found["cls_f1_macro"] == found["cls_roc_auc"] == 1


@pytest.mark.parametrize("asked", [("image",), ("text",), ("image", "text")])
def test_a_mistake_is_shown_with_all_that_was_asked(asked):
    source = Things(said=tuple(f"what is thing {i}" for i in range(6)), names={0: "a", 1: "b", 2: "c"})
    evaluator = Classified(name="things", source=source)
    evaluator.prepare()
    found = evaluator(
        embed([0, 0, 1, 2, 2, 2]) | dict.fromkeys(asked, None)
    )  # of thing 3, a "b", "c" is said
    (gallery,) = (shown for shown in found.pictures if isinstance(shown, Gallery))
    (row,) = gallery.rows
    assert (row.matches[0].item, row.truth) == ("c", "b") and len(row.query) == len(asked)
    for name, item in zip(asked, row.query, strict=True):
        assert item == "what is thing 3" if name == "text" else (item == 3).all()


def test_several_classes_are_cut_at_their_thresholds():
    labels = Several(names=("a", "b", "c"), thresholds=(0.9, 0.5, 0.05))
    source = Things(said=("a, c", "c", "b,c", "none", "c", "a"), names={})
    evaluator = Classified(name="things", source=source, labels=labels)
    evaluator.prepare()
    found = evaluator(embed([0, 0, 1, 1, 2, 2])).metrics
    # a is never said, b where it is the answer, c always.
    right = [False, True, True, False, True, False]
    assert found["cls_exact"] == pytest.approx(np.mean(right))
    assert found["cls_recall_macro"] == pytest.approx((0 + 1 + 1) / 3)


def test_the_surest_wrong_decision_about_several_classes_is_shown_first():
    labels = Several(names=("a", "b", "c"), thresholds=(0.9, 0.5, 0.05))
    source = Things(said=("a, c", "c", "b,c", "none", "c", "a"), names={})
    evaluator = Classified(name="things", source=source, labels=labels)
    evaluator.prepare()
    report = evaluator(embed([0, 0, 1, 1, 2, 2]) | {"text": None})
    # Of 5 a is missed by 0.8, of 3 b is said, 0.3 above its threshold, of 0 a is missed by 0.1.
    (gallery,) = report.pictures
    assert [row.query for row in gallery.rows] == [("a",), ("none",), ("a, c",)]
    assert [row.truth for row in gallery.rows] == ["a", "none", "a, c"]
    assert [(match.item, match.right) for match in gallery.rows[0].matches] == [
        ("c", False), ("a", True), ("b", False)
    ]  # fmt: skip
    assert not any(match.right for match in gallery.rows[1].matches)
    assert set(report.metrics) <= set(evaluator.finds)


def test_data_of_other_classes_is_refused():
    other = Things(names={0: "a", 1: "b", 2: "d"})
    with pytest.raises(ValueError, match=r"the data has classes \['d'\], trained are 3: a, b, c; give"):
        Classified(name="things", source=other, classes=Things()).prepare()


@dataclasses.dataclass(frozen=True)
class Fewer(Things):
    """The first of them alone."""

    size: int = 4

    def __len__(self):
        return self.size


def test_classes_that_are_missing_are_named_before_training_and_one_class_alone_is_refused(caplog):
    found = Classified(name="things", source=Fewer(), classes=Things())
    found.prepare()
    (message,) = caplog.messages
    assert message == "things: 1 of 3 classes have no example, and means over classes say nothing of them: c"
    # Of a and b one example each is found; nobody says c.
    assert found(embed([0, 1, 1, 0])).metrics["cls_mpcr"] == 0.5
    with pytest.raises(ValueError, match="things has examples of 1 of 3 classes, wanted 2 or more; add"):
        Classified(name="things", source=Fewer(size=2), classes=Things()).prepare()


def test_answers_of_another_number_of_classes_are_refused():
    evaluator = Classified(name="things", source=Things())
    with pytest.raises(
        ValueError, match="things: 2 classes are predicted, the labels have 3; give `classes`"
    ):
        evaluator({"classes/class": lambda examples: np.zeros((len(examples), 2))})
