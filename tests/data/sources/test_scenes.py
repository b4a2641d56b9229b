"""Scenes as a source: the same everywhere, Winograd pairs, and twins."""

import concurrent.futures
import hashlib

import numpy as np
import pytest
from scenes_judge import CHANGED, SPLITS, Said, is_true, parse

from mmjax.data.sources import scenes_draw
from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_spec import is_held_out


def digest(px, examples, pairs):
    total, source = hashlib.sha256(), Scenes(split="test", px=px)
    for i in range(examples):
        example = source[i]
        total.update(example["image"].tobytes() + example["text"][0].encode())
        total.update(repr(source.negatives(i)).encode())
    for i in range(pairs):
        pair = source.winograd(i)
        total.update(b"".join(image.tobytes() for image in pair.images) + repr(pair.captions).encode())
    return total.hexdigest()


def test_examples_are_the_same_on_every_platform():
    # The one recorded value of this file: it is the promise that data never change between machines,
    # Python or NumPy versions. Change it together with the pictures or captions, on purpose only.
    assert (
        digest(px=64, examples=200, pairs=20)
        == "5c612ed89927113b88a1cfa49c0b30599f2d658f711553b5ac3a13e4662b35a3"
    )


def test_an_example_depends_on_seed_split_and_index_alone():
    source, again = Scenes(split="train", px=48), Scenes(split="train", px=48, size=7)
    for i in (3, 0, 5):
        np.testing.assert_array_equal(source[i]["image"], again[i]["image"])
        assert source[i]["text"] == again[i]["text"] == (source.caption(i),)
        assert source[np.int64(i)]["id"] == i
    captions = {
        (split, seed): tuple(Scenes(split=split, seed=seed).caption(i) for i in range(8))
        for split in SPLITS
        for seed in (0, 1)
    }
    assert len(set(captions.values())) == len(captions)


def test_threads_read_the_same_examples():
    source = Scenes(split="train", px=41)  # a size of which nothing is prepared yet
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        images = list(threads.map(lambda i: source[i]["image"], range(40)))
    np.testing.assert_array_equal(np.stack(images), np.stack([source[i]["image"] for i in range(40)]))


def test_a_source_ends():
    assert [example["id"] for example in Scenes(size=3)] == [0, 1, 2]
    assert len(Scenes()) == 2**20 and len(Scenes(split="novel")) == 1_000
    with pytest.raises(IndexError):
        Scenes(split="test")[-1]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"split": "training"}, "split='training' .* use one of train, val, test, novel"),
        ({"px": 8}, "px=8 is out of range"),
        ({"size": 2**31 + 1}, "size=2147483649 is out of range"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**fields)


@pytest.mark.parametrize("px", [48, 64])
@pytest.mark.parametrize("split", ["test", "novel"])
def test_winograd_pairs_differ_in_word_order_and_things_alone(split, px):
    source = Scenes(split=split, px=px)
    papers = np.stack(scenes_draw._backgrounds(px))
    kinds = set()
    for i in range(100):
        (first, second), captions, kind = source.winograd(i)
        kinds.add(kind)
        assert captions[0] != captions[1]
        assert sorted(captions[0].split()) == sorted(captions[1].split())
        said, other = map(parse, captions)
        if kind == "swap_color":
            assert other == said._replace(colors=said.colors[::-1])
        else:
            assert other == Said(*(field[::-1] for field in said[:5]), said.relation)
        paper = min(papers, key=lambda paper: np.count_nonzero(paper != first))
        blank = ((first == paper) & (second == paper)).all(axis=-1)
        assert blank.mean() > 0.4
        assert 0 < (first != second).any(axis=-1).sum() <= (~blank).sum()


def test_a_twin_says_what_is_true_of_it_and_false_of_the_other():
    twins, plain = Scenes(split="train", px=48, twins=True), Scenes(split="train", px=48)
    fields = set()
    for index in range(0, 600, 2):
        assert twins.scene(index) == plain.scene(index)
        first, second = twins.scene(index), twins.scene(index + 1)
        said, changed = parse(twins.caption(index)), parse(twins.caption(index + 1))
        assert is_true(said, first) and is_true(changed, second)
        assert not is_true(said, second) and not is_true(changed, first)
        assert not any(is_held_out(thing) for thing in second.things)
        # Exchanged things change several fields at once; every other edit changes one.
        differing = [field for field in Said._fields if getattr(said, field) != getattr(changed, field)]
        fields.update(differing if len(differing) == 1 else ["things"])
    assert fields == {*CHANGED.values(), "things"}


def test_twins_differ_where_their_things_are_and_share_the_background():
    twins = Scenes(split="train", px=48, twins=True)
    for index in range(0, 60, 2):
        one, other = (twins[i]["image"].astype(int) for i in (index, index + 1))
        differs = (one != other).any(axis=2)
        assert differs.any()
        assert not differs[0].all() and differs.mean() < 0.8
