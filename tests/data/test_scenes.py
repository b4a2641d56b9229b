"""Scenes: the same everywhere, the composition split, captions that are true and negatives that are not.

Captions are judged by a parser of their own, which knows English words and nothing of how they were written.
"""

import concurrent.futures
import hashlib
import itertools
import re
from typing import NamedTuple

import numpy as np
import pytest

from mmjax.data.sources import scenes_draw
from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_spec import (
    COLORS,
    SHAPES,
    SIZES,
    TEXTURES,
    Rng,
    Scene,
    Thing,
    draw_scene,
    is_held_out,
)
from mmjax.data.sources.scenes_text import NEGATIVES

SPLITS = ("train", "val", "test", "novel")
WORDS = {
    **dict.fromkeys(("small", "little", "tiny"), "small"),
    **dict.fromkeys(("large", "big", "huge"), "large"),
    **{"solid": "plain", "": "plain", "striped": "striped", "dotted": "dotted", "spotted": "dotted"},
    **{"hollow": "hollow", "outlined": "hollow", "to the left of": "left of", "left of": "left of"},
    **{"to the right of": "right of", "right of": "right of", "above": "above", "over": "above"},
    **{"below": "below", "under": "below", "inside": "inside", "within": "inside"},
    **{"in front of": "in front of", "partly covering": "in front of"},
    **{"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
}
PHRASE = re.compile(
    r"\b(?P<count>an?|one|two|three|four|five|six) (?:(?P<size>small|little|tiny|large|big|huge) )?"
    r"(?:(?P<texture>solid|striped|dotted|spotted|hollow|outlined) )?"
    rf"(?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)})(?P<plural>e?s)?\b"
)
RELATION = re.compile(
    r"(?:to the )?left of|(?:to the )?right of|above|over|below|under|inside|within"
    r"|in front of|partly covering"
)


class Said(NamedTuple):
    """What a caption claims; a size is None where it is not said."""

    counts: tuple[int, ...]
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    sizes: tuple[str | None, ...]
    textures: tuple[str, ...]
    relation: str


def parse(text):
    found = list(PHRASE.finditer(text))
    assert found, text
    counts = [WORDS[one["count"]] for one in found]
    assert all((one["plural"] is not None) == (count > 1) for one, count in zip(found, counts, strict=True))
    for one in found:
        if one["count"] in ("a", "an"):
            assert (one["count"] == "an") == (one[0].split()[1][0] in "aeiou"), text
    said, relation = PHRASE.sub("@", text), ""
    if "from left to right" in said or "from the left" in said:
        relation = "left to right"
    elif "from top to bottom" in said or "from the top" in said:
        relation = "top to bottom"
    elif between := RELATION.search(said):
        relation = WORDS[between[0]]
        if said.index("@") > between.start():  # "above a square there is a circle"
            found, counts = found[::-1], counts[::-1]
    return Said(
        tuple(counts),
        *(tuple(one[field] for one in found) for field in ("shape", "color")),
        tuple(WORDS[one["size"]] if one["size"] else None for one in found),
        tuple(WORDS[one["texture"] or ""] for one in found),
        relation,
    )


def is_true(said, scene):
    """Whether the picture of the scene is as said: all of its things are named, and no others."""
    counts = scene.counts or (1,) * len(scene.things)
    pictured = [(n, t.shape, t.color, t.size, t.texture) for n, t in zip(counts, scene.things, strict=True)]
    claimed = list(zip(said.counts, said.shapes, said.colors, said.sizes, said.textures, strict=True))
    fits = [[a[:3] == b[:3] and a[3] in (b[3], None) and a[4] == b[4] for b in pictured] for a in claimed]
    ordered = len(claimed) == len(pictured) and all(fits[k][k] for k in range(len(fits)))
    if scene.relation:
        return ordered and said.relation == scene.relation
    return ordered or (len(fits) == 2 == len(pictured) and fits[0][1] and fits[1][0])


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


def test_random_numbers_are_splitmix64():
    # The published sequence of seed 1234567 (rosettacode.org, "Pseudo-random numbers/Splitmix64").
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    rng = Rng()
    rng.state = 1234567
    assert [rng.below(2**53) for _ in published] == [number >> 11 for number in published]


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


def pairs_of(thing):
    yield thing.shape, thing.color
    if thing.texture != "plain":
        yield thing.shape, thing.texture


def test_novel_shows_only_pairs_that_no_other_split_shows():
    sources = {split: Scenes(split=split, size=4_000) for split in SPLITS}
    shown = {
        split: [t for i in range(4_000) for t in source.scene(i).things] for split, source in sources.items()
    }
    familiar = {pair for split in SPLITS[:3] for thing in shown[split] for pair in pairs_of(thing)}
    assert all(any(pair not in familiar for pair in pairs_of(thing)) for thing in shown["novel"])

    colors = set(itertools.product(SHAPES, COLORS))
    textures = set(itertools.product(SHAPES, TEXTURES[1:]))
    held_colors, held_textures = colors - familiar, textures - familiar
    assert abs(len(held_colors) - len(colors) / 8) < 1
    assert abs(len(held_textures) - len(textures) / 8) < 1
    assert held_colors | held_textures <= {pair for thing in shown["novel"] for pair in pairs_of(thing)}


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_uses_the_whole_vocabulary(split):
    scenes = [Scenes(split=split, size=4_000).scene(i) for i in range(4_000)]
    things = [thing for scene in scenes for thing in scene.things]
    for field, words in {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES}.items():
        assert {getattr(thing, field) for thing in things} == set(words)
    assert len({scene.relation for scene in scenes}) == 1 + 6 + 2
    assert {count for scene in scenes for count in scene.counts} == set(range(1, 7))


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true_and_negatives_are_not(split):
    source = Scenes(split=split)
    for i in range(500):
        scene = source.scene(i)
        assert is_true(parse(source.caption(i)), scene)
        for kind, text in source.negatives(i):
            assert not is_true(parse(text), scene), (kind, source.caption(i), text)


CHANGED = {
    **{"rep_color": "colors", "rep_shape": "shapes", "rep_size": "sizes", "rep_texture": "textures"},
    **{"swap_color": "colors", "swap_texture": "textures", "swap_count": "counts"},
    **{"count": "counts", "relation": "relation"},
}


@pytest.mark.parametrize("split", ["test", "novel"])
def test_a_negative_changes_one_fact(split):
    source, kinds = Scenes(split=split), set()
    for i in range(500):
        true = parse(source.caption(i))
        for kind, text in source.negatives(i):
            kinds.add(kind)
            false = parse(text)
            if kind in ("swap_object", "order"):
                order = next(
                    order
                    for order in itertools.permutations(range(len(true.counts)))
                    if all(
                        tuple(was[k] for k in order) == now
                        for was, now in zip(true[:5], false[:5], strict=True)
                    )
                )
                assert order != tuple(sorted(order)) and true.relation == false.relation
                continue
            differing = [field for field in Said._fields if getattr(true, field) != getattr(false, field)]
            assert differing == [CHANGED[kind]], (kind, text)
            was, now = getattr(true, differing[0]), getattr(false, differing[0])
            if kind.startswith("swap"):
                assert now == was[::-1]
            elif kind != "relation":
                assert sum(a != b for a, b in zip(was, now, strict=True)) == 1
    assert kinds == set(NEGATIVES)


@pytest.mark.parametrize("split", ["test", "novel"])
def test_swaps_and_orders_keep_the_words(split):
    source = Scenes(split=split)
    for i in range(500):
        words = sorted(re.findall(r"[\w-]+", source.caption(i)))
        for kind, text in source.negatives(i):
            if kind.startswith("swap_") or kind == "order":
                assert sorted(re.findall(r"[\w-]+", text)) == words, (kind, text)


def test_negatives_name_nothing_that_their_split_never_shows():
    source = Scenes(split="test", size=3_000)
    shown = {pair for i in range(3_000) for thing in source.scene(i).things for pair in pairs_of(thing)}
    for i in range(500):
        for _, text in source.negatives(i):
            said = parse(text)
            assert set(zip(said.shapes, said.colors, strict=True)) <= shown
            assert all(
                t == "plain" or (s, t) in shown for s, t in zip(said.shapes, said.textures, strict=True)
            )


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


def painted(scene, rng_key, px=64):
    """Which pixels each thing of the scene colors: where another color of it changes the picture."""
    picture = scenes_draw.render(scene, Rng(rng_key), px).astype(int)
    masks = []
    for k, thing in enumerate(scene.things):
        other = thing._replace(color=next(c for c in ("cyan", "brown") if c != thing.color))
        things = scene.things[:k] + (other,) + scene.things[k + 1 :]
        changed = scenes_draw.render(scene._replace(things=things), Rng(rng_key), px).astype(int)
        masks.append((changed != picture).any(axis=-1))
    return masks


def scenes_of(kind, count):
    return [draw_scene(Rng(7, i), novel=i % 4 == 0, kind=kind) for i in range(count)]


@pytest.mark.parametrize("px", [48, 64])
def test_relations_are_true_of_the_pixels(px):
    for i, scene in enumerate(scenes_of("relation", 300)):
        first, second = painted(scene, i, px)
        (y, x), (other_y, other_x) = (np.argwhere(mask).mean(axis=0) for mask in (first, second))
        match scene.relation:
            case "left of" | "right of":
                assert np.sign(x - other_x) == (-1 if scene.relation == "left of" else 1)
                assert abs(x - other_x) > abs(y - other_y)
            case "above" | "below":
                assert np.sign(y - other_y) == (-1 if scene.relation == "above" else 1)
                assert abs(y - other_y) > abs(x - other_x)
            case "inside":
                rows, columns = np.nonzero(second)
                inner_rows, inner_columns = np.nonzero(first)
                assert rows.min() < inner_rows.min() and inner_rows.max() < rows.max()
                assert columns.min() < inner_columns.min() and inner_columns.max() < columns.max()
                assert not (first & second).any()
            case "in front of":
                see_through = scene.things[0]._replace(texture="hollow"), scene.things[1]
                behind = painted(scene._replace(things=see_through), i, px)[1]
                assert (behind & ~second & first).any() and (behind & second).any()


def touch(one, other):
    grown = one | np.roll(one, 1, 0) | np.roll(one, -1, 0) | np.roll(one, 1, 1) | np.roll(one, -1, 1)
    return (grown & other).any()


@pytest.mark.parametrize("px", [48, 64])
def test_things_that_touch_differ_in_color(px):
    for kind in ("relation", "row"):
        for i, scene in enumerate(scenes_of(kind, 200)):
            masks = painted(scene, i, px)
            for (a, mask), (b, other) in itertools.combinations(zip(scene.things, masks, strict=True), 2):
                assert a.color != b.color or not touch(mask, other), scene


def components(mask):
    """Number of areas that hang together, corners included."""
    left, found = {tuple(at) for at in np.argwhere(mask)}, 0
    while left:
        found, edge = found + 1, [left.pop()]
        while edge:
            y, x = edge.pop()
            for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
    return found


@pytest.mark.parametrize("px", [48, 64])
def test_pictures_show_as_many_things_as_their_counts(px):
    for i, scene in enumerate(scenes_of("count", 60)):
        plain = scene._replace(things=tuple(thing._replace(texture="plain") for thing in scene.things))
        assert tuple(components(mask) for mask in painted(plain, i, px)) == scene.counts


def test_rows_are_in_order():
    for i, scene in enumerate(scenes_of("row", 60)):
        centers = [np.argwhere(mask).mean(axis=0) for mask in painted(scene, i)]
        along = [center[1 if scene.relation == "left to right" else 0] for center in centers]
        assert along == sorted(along)


@pytest.mark.parametrize("px", [32, 48, 64, 128])
def test_no_thing_is_cut_off_by_its_mask(px):
    for mask_MM1 in scenes_draw._masks(px).values():
        edge = np.ones(mask_MM1.shape, bool)
        edge[1:-1, 1:-1] = False
        assert not mask_MM1[edge].any()
        assert 0 < mask_MM1.max() <= 64


@pytest.mark.parametrize("px", [48, 64])
def test_no_two_things_look_the_same(px):
    masks = scenes_draw._masks(px)
    places = {key[1:4] for key in masks}  # size, step, rotation
    for place in places:
        shown = [masks[shape, *place, texture] for shape in SHAPES for texture in TEXTURES]
        for one, other in itertools.combinations(shown, 2):
            # Two full pixels, of the thirty or so that a small thing has at 48.
            assert abs(one - other).sum() >= 2 * 64


def test_colors_never_wrap():
    values = np.array(list(scenes_draw.PALETTE.values()))
    assert values.min() - scenes_draw.SHADE >= 0 and values.max() + scenes_draw.SHADE <= 255
    scene = Scene("single", (Thing("square", "orange", "large", "plain"),))
    for key in range(200):
        (mask,) = painted(scene, key)
        y, x = np.argwhere(mask).mean(axis=0).round().astype(int)
        center = scenes_draw.render(scene, Rng(key), 64)[y, x].astype(int)
        assert abs(center - scenes_draw.PALETTE["orange"]).max() <= scenes_draw.SHADE


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
