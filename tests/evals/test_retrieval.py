"""Retrieval, on pictures whose pixels spell their own embedding."""

import dataclasses

import numpy as np
import pytest

from mmjax.evals import Gallery, Heatmap
from mmjax.evals.retrieval import Retrieval


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Example i shows `ids[i]`: its picture is filled with i, its captions are `captions[i]`."""

    ids: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    reads: list[int] = dataclasses.field(default_factory=list)
    names = {}
    licence = ""

    def prepare(self):
        pass

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        self.reads.append(index)
        image = np.full((4, 4, 3), index, np.uint8)
        return {"image": image, "text": self.captions[index], "id": self.ids[index]}


def numbered(count):
    return Pairs(tuple(range(count)), tuple((str(i),) for i in range(count)))


def table_embed(image_rows, text_rows):
    """Looks up a picture by its pixel value and a caption by its own string."""
    return {
        "image": lambda images: np.stack([image_rows[image[0, 0, 0]] for image in images[0 : len(images)]]),
        "text": lambda texts: np.stack([text_rows[text] for text in texts]),
    }


def numbered_embed(image_rows, text_rows):
    return table_embed(image_rows, {str(i): row for i, row in enumerate(text_rows)})


def unit_rows(seed, count, width):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(embed, source, **fields):
    evaluator = Retrieval(name="pairs", source=source, **fields)
    evaluator.prepare()
    report = evaluator(embed)
    assert set(report.metrics) == set(evaluator.finds)
    return report


def gallery(report, title):
    return next(shown for shown in report.pictures if shown.title == title)


def test_a_perfect_embedding_finds_everything():
    eye = np.eye(20, dtype=np.float32)
    found = run(numbered_embed(eye, eye), numbered(20)).metrics
    for way in ("i2t", "t2i"):
        recalls = {found[f"{way}_r{k}"] for k in (1, 5, 10)} | {found[f"{way}_medr"]}
        assert recalls == {1.0}
        assert found[f"{way}_r1_chance"] == 1 / 20


def test_a_constant_embedding_finds_no_more_than_chance():
    same = np.tile(unit_rows(0, 1, 100), (77, 1))
    found = run(numbered_embed(same, same), numbered(77)).metrics
    assert found["i2t_r1"] == found["t2i_r1"] == 1 / 77
    assert found["i2t_r5"] == found["t2i_r5"] == 5 / 77
    assert found["i2t_medr"] == 39


def test_random_embeddings_find_about_as_much_as_chance():
    found = run(numbered_embed(unit_rows(1, 250, 64), unit_rows(2, 250, 64)), numbered(250)).metrics
    # Binomial: 250 queries, p = 10 / 250; five standard deviations.
    assert abs(found["i2t_r10"] - 0.04) < 5 * np.sqrt(0.04 * 0.96 / 250)
    assert abs(found["t2i_medr"] - 125.5) < 5 * 250 / np.sqrt(4 * 250)


def test_any_of_several_right_captions_counts():
    # Two pictures of id 0, with three captions between them, and one picture of id 1.
    source = Pairs((0, 0, 1), (("a", "b"), ("b", "c"), ("d",)))
    x, y = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    # The first picture is nearest to b, the second to d (wrong), the third to d.
    embed = table_embed([x, y, y], {"a": y * 0.5, "b": x, "c": -x, "d": y})
    first, every = run(embed, source).metrics, run(embed, source, captions="all").metrics
    # first: captions a, b, d. Picture 1 scores a 0.5, b 0, d 1.
    assert first["i2t_r1"] == every["i2t_r1"] == 2 / 3
    # Caption to picture: a finds picture 1 (right, before its equal), b picture 0, d picture 1 (wrong).
    assert first["t2i_r1"] == 2 / 3
    # c scores -1, 0, 0: picture 1, which is right.
    assert every["t2i_r1"] == 3 / 4
    # A picture of id 0 has two of three captions right, then three of four; d has one.
    assert first["i2t_r1_chance"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert every["i2t_r1_chance"] == pytest.approx((3 / 4 + 3 / 4 + 1 / 4) / 3)
    assert every["t2i_r1_chance"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 1 / 3) / 4)


def test_a_caption_repeated_for_one_id_is_one_candidate():
    source = Pairs((3, 3, 4), (("cat",), ("cat",), ("cat",)))
    seen = []
    embed = table_embed(np.eye(3), {"cat": np.ones(3)})
    embed["text"] = lambda texts: seen.extend(texts) or np.ones((len(texts), 3))
    run(embed, source)
    assert seen == ["cat", "cat"]  # ids 3 and 4


def test_limit_takes_examples_evenly_over_the_source():
    eye = np.eye(20, dtype=np.float32)
    seen = []
    embed = numbered_embed(eye, eye)
    embed["image"] = lambda images: seen.extend(i[0, 0, 0] for i in images[0 : len(images)]) or eye[seen]
    assert run(embed, numbered(20), limit=5).metrics["i2t_r1_chance"] == 1 / 5
    assert seen == [0, 4, 8, 12, 16]


def test_only_the_pictures_that_are_sliced_are_read_again():
    eye = np.eye(40, dtype=np.float32)
    source = numbered(40)
    evaluator = Retrieval(name="pairs", source=source)
    embed = numbered_embed(eye, eye)
    embed["image"] = lambda images: source.reads.clear() or (images[10:20], eye)[1]
    evaluator(embed)
    assert source.reads[:10] == list(range(10, 20))
    source.reads.clear()
    embed["image"] = lambda images: source.reads.append("embed") or eye
    evaluator(embed)
    assert source.reads[0] == "embed"  # ids and captions are not read a second time


def test_galleries_show_matches_in_order_and_the_truth_where_the_first_is_wrong():
    z = unit_rows(3, 30, 8)
    report = run(numbered_embed(z, np.roll(z, 1, axis=0)), numbered(30))  # caption i + 1 fits picture i
    pictures = gallery(report, "Pictures and the captions they find")
    assert len(pictures.rows) == 8
    for row in pictures.rows:
        shown = int(row.query[0, 0, 0])
        cosines = z @ z[shown]
        best = np.argsort(-cosines)[:5]
        assert [match.item for match in row.matches] == [str((i + 1) % 30) for i in best]
        np.testing.assert_allclose([match.score for match in row.matches], cosines[best], rtol=1e-5)
        assert not row.matches[0].right
        assert row.truth == str(shown)


def test_the_worst_mistakes_are_those_by_the_widest_margin():
    rows = np.eye(12, dtype=np.float32)
    texts = rows.copy()
    # Picture 3 finds caption 7 by a margin of 0.4, picture 5 caption 9 by 0.8; the others find their own.
    texts[3, 3], texts[7, 3] = 0.5, 0.9
    texts[5, 5], texts[9, 5] = 0.1, 0.9
    shown = gallery(run(numbered_embed(rows, texts), numbered(12)), "Worst mistakes, picture to caption")
    assert [int(row.query[0, 0, 0]) for row in shown.rows] == [5, 3]
    assert [row.truth for row in shown.rows] == ["5", "3"]
    assert [row.matches[0].item for row in shown.rows] == ["9", "7"]


def test_without_mistakes_their_gallery_is_empty():
    eye = np.eye(6, dtype=np.float32)
    report = run(numbered_embed(eye, eye), numbered(6))
    assert gallery(report, "Worst mistakes, caption to picture").rows == ()
    assert sum(isinstance(shown, Gallery) for shown in report.pictures) == 4


def test_the_heat_map_pairs_one_picture_and_one_caption_an_id():
    source = Pairs((5, 5, 2, 9), (("a",), ("b",), ("c",), ("d",)))
    z = unit_rows(4, 4, 6)
    report = run(table_embed(z, dict(zip("abcd", z, strict=True))), source)
    heatmap = next(shown for shown in report.pictures if isinstance(shown, Heatmap))
    assert heatmap.texts == ("c", "a", "d")
    assert [int(image[0, 0, 0]) for image in heatmap.images] == [2, 0, 3]
    np.testing.assert_allclose(heatmap.values, z[[2, 0, 3]] @ z[[2, 0, 3]].T, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a@b"}, "name='a@b' .* use letters"),
        ({"limit": 0}, "limit=0 must be positive"),
        ({"every_steps": -1}, "every_steps=-1 must not be negative"),
        ({"captions": "some"}, "captions='some' is unknown"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_field_is_refused_when_the_config_is_built(fields, message):
    with pytest.raises(ValueError, match=message):
        Retrieval(**{"name": "pairs", "source": numbered(3)} | fields)
