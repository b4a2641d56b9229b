"""Zero-shot classification, on pictures whose pixels spell their own class."""

import dataclasses

import numpy as np
import pytest

from mmjax.evals.zero_shot import ZeroShot

ANIMALS = {10: "cat", 20: "dog", 30: "cow", 40: "elk", 50: "bat", 60: "owl"}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Example i is a picture of class `ids[i]`, filled with that number."""

    ids: tuple[int, ...]
    names: dict[int, str]
    licence = ""

    def prepare(self):
        pass

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        id = self.ids[index]
        return {"image": np.full((4, 4, 3), id, np.uint8), "text": (self.names[id],), "id": id}


def labelled(*ids, names=ANIMALS):
    return Labelled(ids, {id: names[id] for id in set(ids)})


def embed_by(image_row, text_row):
    return {
        "image": lambda images: np.stack(
            [image_row(int(image[0, 0, 0])) for image in images[0 : len(images)]]
        ),
        "text": lambda texts: np.stack([text_row(text) for text in texts]),
    }


def one_hot(at):
    return np.eye(6, dtype=np.float32)[at]


def name_row(text):
    return one_hot(list(ANIMALS.values()).index(text))


def run(embed, source, **fields):
    evaluator = ZeroShot(name="animals", source=source, **fields)
    evaluator.prepare()
    report = evaluator(embed)
    assert set(evaluator.finds) - {"zs_ece"} <= set(report.metrics) <= set(evaluator.finds)
    return report


ALL = Labelled((), ANIMALS)


def test_a_perfect_embedding_names_everything():
    embed = embed_by(lambda id: one_hot(id // 10 - 1), name_row)
    found = run(embed, labelled(10, 20, 20, 60), classes=ALL).metrics
    assert found == {"zs_acc1": 1.0, "zs_acc5": 1.0, "zs_mpcr": 1.0, "zs_acc1_chance": 1 / 6}


def test_a_constant_embedding_always_names_the_first_class():
    embed = embed_by(lambda id: one_hot(0), lambda text: one_hot(0))
    found = run(embed, labelled(10, 20, 30, 40, 50, 60)).metrics
    assert found["zs_acc1"] == 1 / 6
    assert found["zs_acc5"] == 5 / 6
    assert found["zs_mpcr"] == 1 / 6


def test_mean_per_class_recall_weighs_classes_equally_and_only_those_that_occur():
    # Every picture is taken for a cat: 3 of 4 right, recall 1 of cats and 0 of dogs, no other class occurs.
    embed = embed_by(lambda id: one_hot(0), name_row)
    found = run(embed, labelled(10, 10, 10, 20), classes=ALL).metrics
    assert found["zs_acc1"] == 3 / 4
    assert found["zs_mpcr"] == 1 / 2


def test_without_classes_the_names_of_the_source_are_the_candidates():
    embed = embed_by(lambda id: one_hot(0), name_row)
    assert run(embed, labelled(20, 30)).metrics["zs_acc1_chance"] == 1 / 2


def test_prompts_are_averaged_after_normalising_and_then_normalised():
    def prompt_row(text):
        # Of "cat" the prompts are 60 degrees apart, of "dog" they agree.
        return {
            "a cat": np.array([1.0, 0.0]),
            "the cat": np.array([0.5, np.sqrt(0.75)]),
            "a dog": np.array([0.0, 1.0]),
            "the dog": np.array([0.0, 1.0]),
        }[text]

    source = labelled(10, 20)
    embed = embed_by(lambda id: np.array([1.0, 0.0]), prompt_row)
    shown = run(embed, source, templates=("a {}", "the {}")).pictures[0].rows[0]
    assert [match.item for match in shown.matches] == ["cat", "dog"]
    # The mean of cat's prompts points 30 degrees away from the picture.
    np.testing.assert_allclose([match.score for match in shown.matches], [np.cos(np.pi / 6), 0], atol=1e-6)


def test_classes_of_one_name_are_one_class():
    names = {1: "bat", 2: "owl", 3: "bat"}
    source = Labelled((1, 2, 3), names)
    embed = embed_by(lambda id: one_hot(id - 1), lambda text: one_hot(1) if text == "owl" else one_hot(0))
    found = run(embed, source).metrics
    # Picture 3 scores 0 with both names; "bat" comes first by its lower id, and is right.
    assert found["zs_acc1"] == 1.0
    assert found["zs_acc1_chance"] == 1 / 2


def test_galleries_show_the_five_best_names_and_the_truth_of_mistakes():
    embed = embed_by(lambda id: one_hot(2) * (1 if id == 10 else 0.5) + one_hot(3) * 0.1, name_row)
    report = run(embed, labelled(10, 20, 30), classes=ALL)
    shown, worst = report.pictures
    assert [len(row.matches) for row in shown.rows] == [5, 5, 5]
    assert [row.truth for row in shown.rows] == ["cat", "dog", None]
    # The picture of the cat takes itself for a cow by a margin of 1, that of the dog by 0.5.
    assert [row.truth for row in worst.rows] == ["cat", "dog"]
    assert all(row.matches[0].item == "cow" for row in worst.rows)


def test_limit_takes_examples_evenly_over_the_source():
    embed = embed_by(lambda id: one_hot(0), name_row)
    # Examples 0 and 2: a cat and a cow.
    assert run(embed, labelled(10, 20, 30, 40), classes=ALL, limit=2).metrics["zs_acc1"] == 1 / 2


def test_an_id_that_is_no_class_is_refused_before_anything_is_embedded():
    evaluator = ZeroShot(name="animals", source=labelled(10, 60), classes=labelled(10, 20))
    with pytest.raises(ValueError, match="animals: 1 ids, the first is 60, not among the 2 classes"):
        evaluator.prepare()
    with pytest.raises(ValueError, match="the first is 60"):
        evaluator({})  # nothing to embed with


def test_a_source_without_classes_is_refused():
    with pytest.raises(ValueError, match="not among the 0 classes"):
        ZeroShot(name="animals", source=Labelled((), {})).prepare()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"templates": ("a photo",)}, "template 'a photo' has no place"),
        ({"templates": ()}, "leaves nothing to show"),
        ({"name": "a b"}, "name='a b'"),
        ({"limit": -3}, "limit=-3"),
        ({"every_steps": -1}, "every_steps=-1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_field_is_refused_when_the_config_is_built(fields, message):
    with pytest.raises(ValueError, match=message):
        ZeroShot(**{"name": "animals", "source": ALL} | fields)


def confused():
    """Eight pictures of two classes; the embedding takes one cat in four for a dog."""
    source = labelled(10, 10, 10, 10, 20, 20, 20, 20)
    seen = iter((0, 0, 0, 1, 1, 1, 1, 1))
    images = np.stack([one_hot(at) for at in seen])
    return source, {
        "image": lambda pictures: images,
        "text": lambda texts: np.stack([name_row(t) for t in texts]),
    }


def test_detail_adds_metrics_and_the_confusion_matrix():
    source, embed = confused()
    plain, detailed = (run(embed, source, detail=detail) for detail in (False, True))
    assert plain.metrics.items() <= detailed.metrics.items()
    np.testing.assert_allclose(detailed.metrics["zs_precision_macro"], (1 + 4 / 5) / 2)
    np.testing.assert_allclose(detailed.metrics["zs_f1_macro"], (2 * 3 / (3 + 4) + 2 * 4 / (4 + 5)) / 2)
    (matrix,) = detailed.pictures[len(plain.pictures) :]
    assert matrix.names == ("cat", "dog") and matrix.counts.tolist() == [[3, 1], [0, 4]]


def test_calibration_is_of_the_probabilities_of_the_encoder():
    source, embed = confused()
    embed["probs"] = lambda images, texts: np.where(images @ texts.T > 0.5, 0.8, 0.2)
    report = run(embed, source, detail=True)
    # All answers have confidence 0.8, 7 of 8 are right.
    np.testing.assert_allclose(report.metrics["zs_ece"], 7 / 8 - 0.8)
    assert report.pictures[-1].counts.sum() == 8
