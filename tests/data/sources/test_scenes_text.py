"""Captions that are true, and negatives that are not."""

import itertools
import re

import pytest
from scenes_judge import CHANGED, SPLITS, Said, is_true, pairs_of, parse

from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_text import NEGATIVES


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true_and_negatives_are_not(split):
    source = Scenes(split=split)
    for i in range(500):
        scene = source.scene(i)
        assert is_true(parse(source.caption(i)), scene)
        for kind, text in source.negatives(i):
            assert not is_true(parse(text), scene), (kind, source.caption(i), text)


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
