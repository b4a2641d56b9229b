"""Pictures that show what their scenes say."""

import itertools

import numpy as np
import pytest

from mmjax.data.sources import scenes_draw
from mmjax.data.sources.scenes_spec import SHAPES, TEXTURES, Rng, Scene, Thing, draw_scene


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
