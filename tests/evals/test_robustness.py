"""Robustness: another evaluator's metrics on corrupted pictures."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from mmjax.evals import Report
from mmjax.evals.corruptions import SEVERITIES, corrupted
from mmjax.evals.embedded import remembering
from mmjax.evals.examples import Examples, Pictures
from mmjax.evals.robustness import Robustness


@dataclasses.dataclass(frozen=True)
class Noise:
    """Random pictures, different ones for each split."""

    split: str
    licence = ""
    names = {}

    def prepare(self):
        pass

    def __len__(self):
        return 5

    def __getitem__(self, index):
        random = np.random.default_rng([len(self.split), index])
        return {"image": random.integers(0, 256, (12, 12, 3), np.uint8), "text": ("x",), "id": index}


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean value of its pictures, and of those that it would be fitted on."""

    name: str = "noise"
    source: Noise = Noise("test")
    train: Noise = Noise("train")
    every_steps: int = 0
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def prepare(self):
        pass

    def __call__(self, embed):
        means = {
            part: float(embed["image"](Pictures(source, np.arange(len(source)))).mean())
            for part, source in (("test", self.source), ("train", self.train))
        }
        return Report(means)


class Embed:
    """Embeds a picture as the deviation of its pixels, and remembers how many it saw."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pictures):
        taken = [*pictures[0:2], *pictures[2 : len(pictures)]]  # as batches are
        self.seen += len(taken)
        return np.array([[image.std()] for image in taken])


def test_metrics_are_those_of_the_evaluator_on_corrupted_pictures_of_its_source():
    found = Robustness(evaluator=Mean(), metrics=("test", "train"))({"image": Embed()}).metrics
    source = Noise("test")

    def deviation(corruption, severity):
        worse = (
            corrupted(corruption, source[i]["image"], severity=severity, seed=i) for i in range(len(source))
        )
        return np.mean([image.std() for image in worse])

    for corruption in ("noise", "blur", "contrast", "jpeg", "occlusion"):
        expected = np.mean([deviation(corruption, severity) for severity in SEVERITIES])
        np.testing.assert_allclose(found[f"test_{corruption}"], expected, rtol=1e-6)
        # What a probe is fitted on stays as it is.
        np.testing.assert_allclose(found[f"train_{corruption}"], found["train_clean"], rtol=1e-12)
    of_all = [found[f"test_{name}"] for name in ("noise", "blur", "contrast", "jpeg", "occlusion")]
    np.testing.assert_allclose(found["test_corrupted"], np.mean(of_all))


def test_examples_that_are_classified_have_corrupted_pictures_too():
    source, seen = Noise("test"), []

    def classes(examples):
        seen.append(examples[0 : len(examples)])
        return np.ones((len(examples), 1))

    @dataclasses.dataclass(frozen=True)
    class Classifying(Mean):
        def __call__(self, embed):
            return Report({"sum": float(embed["classes"](Examples(source, np.array([3, 1]))).sum())})

    run = Robustness(evaluator=Classifying(), metrics=("sum",), corruptions=("noise",), severities=(2,))
    assert run({"classes": classes}).metrics == {"sum_clean": 2, "sum_noise": 2, "sum_corrupted": 2}
    clean, worse = seen
    for index, before, after in zip((3, 1), clean, worse, strict=True):
        np.testing.assert_array_equal(before["image"], source[index]["image"])
        expected = corrupted("noise", source[index]["image"], severity=2, seed=index)
        np.testing.assert_array_equal(after["image"], expected)
        assert (after["text"], after["id"]) == (("x",), index)


def test_pictures_that_stay_as_they_are_are_embedded_once():
    image = Embed()
    run = Robustness(evaluator=Mean(), metrics=("test",), corruptions=("blur", "jpeg"), severities=(1, 4))
    run({"image": image})
    # Clean: 5 of the test and 5 of the training split; corrupted: 5 for each of 2 corruptions, 2 severities.
    assert image.seen == 5 + 5 + 4 * 5


@dataclasses.dataclass(frozen=True)
class Learning(Mean):
    """Learns the mean of its training pictures, and finds how far its own lie from it."""

    finds: ClassVar[tuple[str, ...]] = ("distance",)

    def fit(self, embed):
        learned = float(embed["image"](Pictures(self.train, np.arange(5))).mean())
        return lambda embed: Report(
            {"distance": abs(learned - float(embed["image"](Pictures(self.source, np.arange(5))).mean()))}
        )

    def __call__(self, embed):
        return self.fit(embed)(embed)


def test_what_is_learned_is_learned_once_of_pictures_as_they_are():
    fits, each = [], dict(metrics=("distance",), corruptions=("noise", "blur"), severities=(4,))

    class Counting(Learning):
        def fit(self, embed):
            fits.append(embed)
            return super().fit(embed)

    found = Robustness(evaluator=Counting(), **each)({"image": Embed()}).metrics
    assert len(fits) == 1
    means = Robustness(evaluator=Mean(), **each | {"metrics": ("test", "train")})({"image": Embed()}).metrics
    assert found["distance_clean"] == abs(means["train_clean"] - means["test_clean"])
    for name in ("noise", "blur"):
        assert found[f"distance_{name}"] == pytest.approx(abs(means["train_clean"] - means[f"test_{name}"]))


def test_a_metric_that_the_evaluator_does_not_find_is_refused_when_the_config_is_built():
    with pytest.raises(ValueError, match="noise: no metric 'distances'; use one of distance"):
        Robustness(evaluator=Learning(), metrics=("distances",))
    robust = Robustness(evaluator=Learning(), metrics=("distance",), corruptions=("jpeg",))
    assert set(robust({"image": Embed()}).metrics) == set(robust.finds)


def test_curves_hold_every_severity_and_the_gallery_every_corruption():
    run = Robustness(evaluator=Mean(), metrics=("test",), corruptions=("contrast",), severities=(5, 1))
    curve, gallery = run({"image": Embed()}).pictures
    assert curve.x.tolist() == [1, 5]
    assert curve.y["contrast"][0] > curve.y["contrast"][1]
    (row,) = gallery.rows
    assert row.query == "contrast" and [match.score for match in row.matches] == [1.0, 5.0]


def test_remembered_embeddings_are_of_equal_sources_and_equal_indices_only():
    image = Embed()
    embed = remembering({"image": image, "text": len})
    first = embed["image"](Pictures(Noise("test"), np.arange(3)))
    assert embed["image"](Pictures(Noise("test"), np.arange(3))) is first and image.seen == 3
    for other in (Pictures(Noise("test"), np.arange(1, 4)), Pictures(Noise("train"), np.arange(3))):
        assert not np.array_equal(embed["image"](other), first)
    assert image.seen == 9 and embed["text"] is len


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corruptions": ("rain",)}, "use some of noise, blur"),
        ({"severities": (0, 6)}, r"severities=\(0, 6\)"),
        ({"metrics": ()}, "must name a metric"),
        ({"metrics": ("accuracy",)}, "no metric 'accuracy'; use one of test, train"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Robustness(**{"evaluator": Mean(), "metrics": ("test",)} | fields)({"image": Embed()})
