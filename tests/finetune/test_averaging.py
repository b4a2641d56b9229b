"""Weights between weights."""

import jax
import numpy as np
import pytest

from mmjax.finetune.averaging import interpolate, soup

RNG = np.random.default_rng(0)
# Values of many sizes, among them some that arithmetic would change: -0.0 + 0.0 is 0.0.
TREES = [
    {"a": {"w": RNG.normal(size=(3, 2)).astype(np.float32) * 10.0**e}, "b": np.float32([-0.0, e, np.inf])}
    for e in (-3, 0, 4)
]


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
def test_the_ends_are_the_models_themselves_bit_for_bit(alpha):
    found, expected = interpolate(TREES[0], TREES[1], alpha), TREES[int(alpha)]
    assert [x.tobytes() for x in jax.tree.leaves(found)] == [x.tobytes() for x in jax.tree.leaves(expected)]


def test_between_the_ends_lies_the_straight_line():
    found = interpolate(TREES[0], TREES[1], 0.3)["a"]["w"]
    expected = 0.7 * np.float64(TREES[0]["a"]["w"]) + 0.3 * np.float64(TREES[1]["a"]["w"])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_soup_is_the_mean_and_of_two_the_middle_of_the_line():
    w = [tree["a"]["w"] for tree in TREES]
    np.testing.assert_allclose(soup(TREES)["a"]["w"], np.mean(np.float64(w), axis=0), rtol=1e-6)
    np.testing.assert_array_equal(soup(TREES[:2])["a"]["w"], interpolate(*TREES[:2], 0.5)["a"]["w"])
    weighted = soup(TREES, [0.5, 0.25, 0.25])["a"]["w"]
    np.testing.assert_allclose(weighted, np.einsum("t,tij->ij", [0.5, 0.25, 0.25], np.float64(w)), rtol=1e-6)


def test_models_of_other_shapes_have_no_mean():
    other = {"a": {"w": np.zeros((3, 4), np.float32)}, "b": TREES[0]["b"]}
    for mean in (lambda: soup([TREES[0], other]), lambda: interpolate(TREES[0], other, 0.5)):
        with pytest.raises(
            ValueError, match=r"\['a'\]\['w'\] is \(3, 2\) in one model and \(3, 4\) in another"
        ):
            mean()


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6, 0.2]])
def test_weights_that_are_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="give one weight each, that sum to 1"):
        soup(TREES, weights)


def test_no_place_beyond_the_ends():
    with pytest.raises(ValueError, match="alpha=1.5 must lie in"):
        interpolate(*TREES[:2], 1.5)
