"""Maps of relevance in the report, and what hiding their places does."""

import dataclasses

import numpy as np
import pytest

from mmjax.evals.relevance import Relevance, overlaid

SIDE = 16


@dataclasses.dataclass(frozen=True)
class Lamps:
    """Dark pictures with one bright quarter; the caption says which."""

    licence = ""
    names = {}

    def prepare(self):
        pass

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 30, (SIDE, SIDE, 3), np.uint8)
        row, column = divmod(index % 4, 2)
        image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 200
        return {"image": image, "text": (str(index % 4),), "id": index}


def quarters(pictures):
    """How far each quarter is brighter than 100, of unit norm; all alike where none is."""
    z = np.array([p.reshape(2, 8, 2, 8, 3).mean(axis=(1, 3, 4)).ravel() for p in pictures[0 : len(pictures)]])
    z = np.maximum(z - 100, 0) + 1e-3
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def embed(places):
    """An encoder of quarters, whose maps have one place: that of the caption, or one so many after it."""

    def relevance(pictures, texts):
        found = np.zeros((len(texts), 4))
        found[range(len(texts)), [(int(text) + places) % 4 for text in texts]] = 1.0
        return found.reshape(-1, 2, 2)

    def text(texts):
        return np.eye(4)[[int(text) for text in texts]]

    return {
        "image": quarters,
        "text": text,
        "relevance": relevance,
        "seen": lambda pictures: np.array(pictures),
    }


def test_hiding_what_a_true_map_names_takes_the_caption_away():
    evaluator = Relevance(name="lamps", source=Lamps())
    found = evaluator(embed(0)).metrics
    assert set(found) == set(evaluator.finds)
    # Without the lamp all quarters are alike: (1, 1, 1, 1) / 2 against one of the axes.
    wanted = {"rel_cosine": 1.0, "rel_without_most": 0.5, "rel_without_least": 1.0}
    assert found == pytest.approx(wanted, abs=1e-3)


def test_a_wrong_map_names_what_does_not_matter():
    found = Relevance(name="lamps", source=Lamps())(embed(1)).metrics
    assert found["rel_without_most"] == pytest.approx(1.0, abs=1e-3)
    # Of three equal places the first: the lamp for half of the captions.
    assert found["rel_without_least"] < 0.9


def test_the_gallery_shows_the_picture_its_map_and_what_was_hidden():
    (gallery,) = Relevance(name="lamps", source=Lamps(), limit=4)(embed(0)).pictures
    assert [row.query for row in gallery.rows] == ["0", "2", "0", "2"]
    picture, mapped, without_most, without_least = (match.item for match in gallery.rows[0].matches)
    np.testing.assert_array_equal(picture, Lamps()[0]["image"])
    assert np.all(mapped[2:6, 2:6, 0] > 200) and np.array_equal(mapped[12:, 12:], picture[12:, 12:])
    mean = picture.mean(axis=(0, 1)).round()
    assert np.all(without_most[:8, :8] == mean) and np.array_equal(without_most[8:], picture[8:])
    # Of equal places the first.
    assert np.all(without_least[:8, 8:] == mean) and np.array_equal(without_least[8:], picture[8:])


def test_a_map_of_zeros_leaves_the_picture_as_it_is():
    picture = Lamps()[0]["image"]
    np.testing.assert_array_equal(overlaid(picture, np.zeros((3, 3))), picture)


def test_all_or_nothing_cannot_be_hidden():
    with pytest.raises(ValueError, match="hidden=1.0 must lie between 0 and 1"):
        Relevance(name="lamps", source=Lamps(), hidden=1.0)
