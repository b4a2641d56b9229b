"""The emoji: which icon belongs to which emoji, which split a drawing belongs to, and how it is cropped."""

import hashlib

import numpy as np
import pytest

from mmjax.data.sources import emoji_join
from mmjax.data.sources.emoji_join import Concept, Drawing
from mmjax.data.sources.emoji_render import MARGIN, crop

RED = '<circle cx="10" cy="9" r="3" fill="#f00"/>'

ENTRIES = [
    {"label": "umbrella", "hexcode": "2602-FE0F", "group": 5, "tags": ["rain", "umbrella"]},
    {"label": "star", "hexcode": "2B50", "group": 5},
    {"label": "pizza", "hexcode": "1F355", "group": 4, "skins": [{"label": "pizza: light skin tone"}]},
    {"label": "flag: Andorra", "hexcode": "1F1E6-1F1E9", "group": 9},
    {"label": "light skin tone", "hexcode": "1F3FB", "group": 2},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]


def drawing(body, view=(0, 0, 16, 16), style="round"):
    return Drawing(style, Concept(0, "2602", "umbrella", (), False, False), body, view)


def box(image):
    """Rows and columns (first, one past last) where something is visible."""
    visible = image[..., 3] > 8
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)


def test_ids_are_ranks_by_code_points_whatever_the_order_of_the_file():
    forward, backward = emoji_join.concepts(ENTRIES), emoji_join.concepts(ENTRIES[::-1])
    assert forward == backward
    # 2602 < 2B50 < 1F1E6-... < 1F355 < 1F40C < 1F6B6-...; as text, 1F355 would come first.
    assert [concept.name for concept in forward] == ["umbrella", "star", "flag: Andorra", "pizza"]
    assert [concept.id for concept in forward] == [0, 1, 2, 3]
    assert [concept.flag for concept in forward] == [False, False, True, False]
    assert forward[0].keywords == ("rain",)


def test_skin_tones_and_components_are_no_concepts():
    names = {concept.name for concept in emoji_join.concepts(ENTRIES)}
    assert not names & {"light skin tone", "regional indicator A", "pizza: light skin tone"}


def test_code_points_join_with_and_without_the_variation_selector():
    umbrella = emoji_join.concepts(ENTRIES)[:1]
    for code in ("2602", "2602-fe0f"):
        (joined,) = emoji_join.join("s", {"icons": {"parasol": {"body": RED}}}, {code: "parasol"}, umbrella)
        assert joined.body == RED


@pytest.mark.parametrize(
    ("name", "icon"),
    [
        ("keycap: #", "keycap-pound"),
        ("UP! button", "up-exclamation-button"),
        ("one o’clock", "one-oclock"),
        ("piñata", "pinata"),
        ("flag: Andorra", "flag-for-andorra"),
        ("open lock", "openlock"),
    ],
)
def test_names_join_however_the_set_spells_them(name, icon):
    concept = Concept(0, "0", name, (), False, False)
    (joined,) = emoji_join.join("s", {"icons": {icon: {"body": RED}}}, {}, [concept])
    assert (joined.concept, joined.view) == (concept, (0, 0, 16, 16))


def test_an_icon_goes_to_the_concept_of_its_own_name_not_to_one_of_an_old_alias():
    icons = {"icons": {"cricket-game": {"body": RED}}, "aliases": {"cricket": {"parent": "cricket-game"}}}
    insect = Concept(0, "1F997", "cricket", (), False, False)
    game = Concept(1, "1F3CF", "cricket game", (), False, False)
    assert [joined.concept for joined in emoji_join.join("s", icons, {}, [insect, game])] == [game]
    # Alone, an alias is a valid name.
    assert [joined.concept for joined in emoji_join.join("s", icons, {}, [insect])] == [insect]


@pytest.mark.parametrize(
    "variants",
    [
        ("person running", "man running", "woman running: facing right"),
        ("men holding hands", "woman and man holding hands", "people holding hands"),
        ("family: man, woman, boy", "family: woman, girl", "family"),
        ("merman", "mermaid", "merperson"),
        ("Mrs. Claus", "Santa Claus", "Mx Claus"),
    ],
    ids=lambda names: names[0],
)
def test_variants_of_one_emoji_are_held_out_together(variants):
    assert len({emoji_join.name_group(name) for name in variants}) == 1
    assert len({emoji_join.is_held_out(name) for name in variants}) == 1


def test_a_name_is_held_out_by_the_sha256_of_its_group():
    for name in ("pizza", "snail", "umbrella", "star", "woman walking"):
        group = name.removeprefix("woman ")
        number = int(hashlib.sha256(group.encode()).hexdigest()[:16], 16)
        assert emoji_join.is_held_out(name) == (number % 100 < 10) == (name in ("pizza", "snail"))


def test_a_tenth_of_all_names_is_held_out():
    share = np.mean([emoji_join.is_held_out(f"thing {index}") for index in range(10_000)])
    assert abs(share - 0.1) < 0.015  # five standard deviations of a binomial


@pytest.mark.parametrize(
    ("style", "held_out", "flag", "split"),
    [
        ("round", False, False, "train"),
        ("round", True, False, "val_concept"),
        ("lines", False, False, "val_style"),
        ("lines", True, False, "val_both"),
        ("round", False, True, "flags"),
        ("lines", True, True, "flags"),
    ],
)
def test_style_and_concept_decide_the_split(style, held_out, flag, split):
    concept = Concept(0, "0", "x", (), flag, held_out)
    assert emoji_join.split_of(Drawing(style, concept, "", (0, 0, 1, 1)), {"lines"}) == split


@pytest.mark.parametrize("px", [16, 64, 101])
def test_a_drawing_touches_the_margin_and_is_centred(px):
    image = crop(drawing('<path fill="#f00" d="M1 5h10v5H1z"/>'), px)  # twice as wide as high
    (top, bottom), (left, right) = box(image)
    assert image.shape == (px, px, 4) and image.dtype == np.uint8
    assert (left, right) == (MARGIN, px - MARGIN)
    assert abs((top + bottom) - px) <= 1 and abs((bottom - top) - (px - 2 * MARGIN) / 2) <= 1


def test_a_red_circle_is_red_and_round():
    image = crop(drawing(RED), 64)
    assert image[32, 32].tolist() == [255, 0, 0, 255]
    assert image[MARGIN + 3, MARGIN + 3, 3] == 0
    covered = image[..., 3].sum() / 255
    np.testing.assert_allclose(covered, np.pi * 30**2, rtol=0.01)  # the edge is off by up to .1 px


def test_the_crop_does_not_depend_on_size_and_place_in_the_view_box():
    shape = '<g transform="translate({}) scale({})"><circle r="8"/><path fill="#f00" d="M-3 -3h4v9h-4z"/></g>'
    large = crop(drawing(shape.format("8 8", 1)), 64).astype(int)
    small = crop(drawing(shape.format("5.3 9.6", 0.15), view=(-4, -2, 24, 20)), 64).astype(int)
    assert np.abs(large - small).mean() < 1  # of 255: .1 px along the edges


def test_what_lies_outside_the_view_box_stays_hidden():
    image = crop(drawing('<path fill="#f00" d="M6 -90h4v200H6z"/>'), 64)
    (top, bottom), (left, right) = box(image)
    assert (top, bottom) == (MARGIN, 64 - MARGIN)
    assert abs((right - left) - 60 / 4) <= 1  # 4 of the 16 units that are visible


@pytest.mark.parametrize("body", ["", '<path d="M0 0', '<path fill="none" d="M0 0h9v9z"/>'])
def test_nothing_visible_is_none(body):
    assert crop(drawing(body), 32) is None
