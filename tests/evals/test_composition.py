"""The composition probe, on embeddings that know what they know by construction.

A `Reader` knows the true caption of every picture and embeds pictures and captions by what it makes of words.
"""

import collections
import functools
import hashlib
import re

import numpy as np
import pytest

from mmjax.data.sources import scenes_draw
from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_text import NEGATIVES
from mmjax.evals.composition import Composition

BINARY = ("attribute", "binding", "relation", "count", "order")
WINOGROUND = ("winoground_text", "winoground_image", "winoground_group")
SWAPS = ("swap_color", "swap_texture", "swap_count", "swap_object", "order")  # the same words, moved
N, PAIRS = 300, 100


def probe(split="test", px=32, **fields):
    fields = {"n": N, "pairs": PAIRS} | fields
    return Composition(source=Scenes(split=split, px=px), name=f"scenes_{split}", **fields)


def noise(key, width=256):
    """A unit vector at random, the same for the same key."""
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little")
    row = np.random.default_rng(seed).normal(size=width).astype(np.float32)
    return row / np.linalg.norm(row)


def sentence(text):
    return noise(text.encode())


def bag_of_words(text):
    words = collections.Counter(re.findall(r"[\w-]+", text))
    row = sum(count * noise(word.encode()) for word, count in sorted(words.items()))
    return row / np.linalg.norm(row)


@functools.cache
def true_captions(split):
    """The caption of every picture of the probe, by its pixels."""
    source = Scenes(split=split, px=32)
    shown = {source[i]["image"].tobytes(): source.caption(i) for i in range(N)}
    for i in range(PAIRS):
        pair = source.winograd(i)
        shown |= {image.tobytes(): text for image, text in zip(pair.images, pair.captions, strict=True)}
    return shown


def reader(row, split="test"):
    captions = true_captions(split)
    return {
        "image": lambda images: np.stack(
            [row(captions[image.tobytes()]) for image in images[0 : len(images)]]
        ),
        "text": lambda texts: np.stack([row(text) for text in texts[0 : len(texts)]]),
    }


def independent():
    """Pictures and captions that have nothing to do with each other."""
    return {
        "image": lambda images: np.stack([noise(image.tobytes()) for image in images[0 : len(images)]]),
        "text": lambda texts: np.stack([sentence(text) for text in texts]),
    }


@pytest.mark.parametrize("split", ["test", "novel"])
def test_who_reads_sentences_scores_one_throughout(split):
    report = probe(split)(reader(sentence, split))
    assert set(report.metrics) == {*BINARY, *WINOGROUND, *(f"kind_{kind}" for kind in NEGATIVES)}
    assert set(report.metrics) == set(probe(split).finds)
    assert set(report.metrics.values()) == {1.0}
    assert report.pictures[0].rows == ()


def test_who_reads_bags_of_words_knows_what_there_is_but_not_what_is_where():
    metrics = probe()(reader(bag_of_words)).metrics
    for kind in NEGATIVES:
        assert metrics[f"kind_{kind}"] == (0.5 if kind in SWAPS else 1.0), kind
    assert metrics["attribute"] == metrics["count"] == 1.0
    assert metrics["binding"] == metrics["order"] == 0.5
    assert 0.5 < metrics["relation"] < 1.0  # "left" for "right" is another bag, swapped things are not
    assert [metrics[name] for name in WINOGROUND] == [0.0, 0.0, 0.0]


def test_who_takes_every_caption_for_its_opposite_scores_zero():
    opposite = reader(sentence) | {"text": lambda texts: np.stack([-sentence(text) for text in texts])}
    assert set(probe()(opposite).metrics.values()) == {0.0}


def test_a_constant_embedding_ties_everywhere_and_gets_half():
    metrics = probe()(reader(lambda text: noise(b"same"))).metrics
    assert {metrics[name] for name in BINARY} == {0.5}
    assert {metrics[name] for name in WINOGROUND} == {0.0}


def test_embeddings_that_are_not_numbers_score_zero():
    report = probe()(reader(lambda text: np.full(4, np.nan, np.float32)))
    assert set(report.metrics.values()) == {0.0}
    assert report.pictures[0].rows == ()


def test_unrelated_embeddings_score_chance():
    metrics = probe(pairs=2_000, n=200)(independent()).metrics
    for name, chance in zip(WINOGROUND, (1 / 4, 1 / 4, 1 / 6), strict=True):
        # Four standard deviations of a mean of 2,000.
        assert abs(metrics[name] - chance) < 4 * np.sqrt(chance * (1 - chance) / 2_000)
    # About 600 negatives; those of one picture share its caption, which makes the mean vary more.
    assert abs(metrics["attribute"] - 0.5) < 0.12


def test_a_group_counts_every_negative_of_its_kinds_once():
    source, metrics = Scenes(split="test", px=32), probe()(independent()).metrics
    counts = collections.Counter(kind for i in range(N) for kind, _ in source.negatives(i))
    groups = {
        "attribute": ("rep_color", "rep_shape", "rep_size", "rep_texture"),
        "binding": ("swap_color", "swap_texture", "swap_count"),
        "relation": ("relation", "swap_object"),
        "count": ("count",),
        "order": ("order",),
    }
    for name, kinds in groups.items():
        weighted = np.average([metrics[f"kind_{k}"] for k in kinds], weights=[counts[k] for k in kinds])
        assert metrics[name] == pytest.approx(weighted, abs=1e-12)


def test_the_gallery_shows_the_negatives_that_won_worst_first():
    source, embed = Scenes(split="test", px=32), independent()
    rows = probe()(embed).pictures[0].rows
    leads = []
    for row in rows:
        image_E = embed["image"]([row.query])[0]
        wrong, right = row.matches
        assert (wrong.right, right.right) == (False, True) and right.item == row.truth
        scores = [float(image_E @ sentence(match.item)) for match in (wrong, right)]
        np.testing.assert_allclose(scores, [wrong.score, right.score], atol=1e-6)
        leads.append(wrong.score - right.score)
    assert len(rows) == 8 and min(leads) > 0 and leads == sorted(leads, reverse=True)
    assert len({row.query.tobytes() for row in rows}) == 8

    every = [
        float(noise(source[i]["image"].tobytes()) @ (sentence(text) - sentence(source.caption(i))))
        for i in range(N)
        for _, text in source.negatives(i)
    ]
    assert leads[0] == pytest.approx(max(every), abs=1e-6)


def test_a_process_draws_only_the_pictures_that_it_embeds(monkeypatch):
    drawn = []
    render = scenes_draw.render
    monkeypatch.setattr(
        scenes_draw, "render", lambda scene, *rest: drawn.append(scene) or render(scene, *rest)
    )
    calls = []

    def embed_half(images):
        calls.append(len(images))
        half = [noise(image.tobytes()) for image in images[: len(images) // 2]]
        return np.stack(half + half)

    probe(n=50, pairs=0)({"image": embed_half, "text": independent()["text"]})
    assert calls == [50]  # once, for all of its negatives
    assert len(drawn) == 25 + 8  # and those of the gallery


def test_what_has_no_example_is_left_out():
    metrics = probe(n=1, pairs=0)(independent()).metrics
    assert not set(metrics) & set(WINOGROUND)
    kinds = {kind for kind, _ in Scenes(split="test", px=32).negatives(0)}
    assert {name for name in metrics if name.startswith("kind_")} == {f"kind_{kind}" for kind in kinds}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n": 1_001}, "n=1001 pictures of a source of 1000; use 1 to that many"),
        ({"n": 0}, "n=0 pictures"),
        ({"pairs": -1}, "pairs=-1 must not be negative"),
        ({"every_steps": -1}, "every_steps=-1 must not be negative"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        probe(**fields)
