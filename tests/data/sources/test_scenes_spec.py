"""What scenes are drawn of: random numbers, the vocabulary, and the composition split."""

import itertools

import pytest
from scenes_judge import SPLITS, pairs_of

from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_spec import COLORS, SHAPES, SIZES, TEXTURES, Rng


def test_random_numbers_are_splitmix64():
    # The published sequence of seed 1234567 (rosettacode.org, "Pseudo-random numbers/Splitmix64").
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    rng = Rng()
    rng.state = 1234567
    assert [rng.below(2**53) for _ in published] == [number >> 11 for number in published]


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
