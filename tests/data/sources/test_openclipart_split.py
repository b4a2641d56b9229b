"""Copies, groups and splits of drawings."""

import itertools

import numpy as np
import pytest

from mmjax.data.sources import openclipart_split
from mmjax.data.sources.openclipart_split import ALIKE, alike, first_of_each, groups, split_of


def test_of_copies_the_first_that_was_filed_is_kept():
    paths = ["unsorted/a", "animals/b", "animals/a", "food/c", "unsorted/d"]
    assert first_of_each(paths, ["x", "x", "x", "y", "z"]) == [2, 3, 4]


def components(edges, n):
    """The smallest number that each one reaches, by walking until nothing changes."""
    lowest = list(range(n))
    for _ in range(n):
        for one, other in edges:
            lowest[one] = lowest[other] = min(lowest[one], lowest[other])
    return lowest


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_components_of_same_caption_same_name_and_alike_look(seed):
    rng, n = np.random.default_rng(seed), 60
    captions = [f"c{number}" for number in rng.integers(0, 50, n)]
    names = [f"n{number}" for number in rng.integers(0, 60, n)]
    hashes = [int(number) for number in rng.integers(0, 2**63, n)]
    for one, other in rng.integers(0, n, (10, 2)):
        hashes[one] = hashes[other] ^ 0b101
    edges = [
        (one, other)
        for one, other in itertools.combinations(range(n), 2)
        if captions[one] == captions[other]
        or names[one] == names[other]
        or (hashes[one] ^ hashes[other]).bit_count() <= ALIKE
    ]
    found = groups(captions, names, hashes)
    assert found == components(edges, n)
    assert 1 < len(set(found)) < n


def test_pictures_are_alike_up_to_three_bits():
    assert list(alike([0, 0b111, 0b1111, 2**63])) == [(0, 1), (0, 3), (1, 2)]


def test_splits_have_their_shares_and_do_not_depend_on_other_drawings():
    keys = [f"food/drawing_{number}.svg" for number in range(4_000)]
    shares = {split: np.mean([split_of(key) == split for key in keys]) for split in openclipart_split.SPLITS}
    # Five standard deviations of a share of 4,000.
    assert abs(shares["test"] - 0.10) < 0.024 and abs(shares["val"] - 0.06) < 0.019
    assert sum(shares.values()) == pytest.approx(1)
