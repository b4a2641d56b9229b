"""Every implementation of attention against a reference in float64, for every mask, shape and dtype.

Kernels are interpreted here, so this is about what they compute, not about what compiles.
"""

import itertools

import attending
import numpy as np
import pytest
from attending import ALL, MEMBERS, QUICK, RESULTS

PADDED = [example for example in QUICK if not example.real.all()]


def check(member, example):
    """float32: to 2e-6 at the worst entry. bfloat16: no further off than 1.5 times what XLA is."""
    errors = attending.errors(member, example)
    if example.dtype == "float32":
        assert {name: worst for name, (_, worst) in errors.items() if not worst <= 2e-6} == {}
        return
    allowed = attending.errors("xla", example)
    assert {
        name: (norm, allowed[name][0])
        for name, (norm, _) in errors.items()
        if not norm <= 1.5 * allowed[name][0] + 1e-6
    } == {}


@pytest.mark.parametrize("example", QUICK, ids=str)
@pytest.mark.parametrize("member", MEMBERS)
def test_output_and_gradients_are_those_of_the_reference(member, example):
    check(member, example)


@pytest.mark.slow
@pytest.mark.parametrize("example", ALL, ids=str)
@pytest.mark.parametrize("member", MEMBERS)
def test_so_are_those_of_every_published_length_and_head(member, example):
    check(member, example)


@pytest.mark.parametrize("example", PADDED, ids=str)
@pytest.mark.parametrize("member", MEMBERS)
def test_padding_gives_zeros_and_has_no_gradient(member, example):
    for name in RESULTS:
        assert not attending.found(member, example)[name][~example.real].any(), name


@pytest.mark.parametrize("example", PADDED, ids=str)
@pytest.mark.parametrize("member", MEMBERS)
def test_what_padding_holds_changes_not_a_bit(member, example):
    clean = attending.compiled(member, example)(*example.arrays)
    for name in RESULTS:
        np.testing.assert_array_equal(attending.found(member, example)[name], clean[name], name)


@pytest.mark.parametrize("member", MEMBERS)
def test_two_runs_are_equal_to_the_bit(member):
    for example in QUICK[:8]:
        again = attending.compiled(member, example)(*example.poisoned)
        for name in RESULTS:
            np.testing.assert_array_equal(attending.found(member, example)[name], again[name], name)


@pytest.mark.parametrize("member", MEMBERS)
def test_large_scores_neither_overflow_nor_lose_their_order(member):
    """Of scores some hundreds apart only the largest counts: the output is its value."""
    length, width = 9, 64
    q = np.full((1, length, width), 30, np.float32)
    k = np.linspace(-30, 30, length, dtype=np.float32)[None, :, None] * np.ones((1, 1, width), np.float32)
    v = attending.random((1, length, width))
    output = attending.attention(q, k, v, num_heads=1, implementation=member)
    np.testing.assert_allclose(output, np.broadcast_to(v[:, -1:], v.shape), rtol=1e-6)


def test_the_quick_examples_have_every_mask_and_pair_every_value_with_every_other():
    for masks in attending.EVERY_MASK:
        assert any(masks == {name: getattr(example, name) for name in masks} for example in QUICK), masks
    choices = dict(length=attending.QUICK_LENGTHS, width=attending.WIDTHS, heads=attending.QUICK_HEADS)
    choices |= dict(dtype=attending.DTYPES) | dict.fromkeys(
        (*attending.MASKS, *attending.PREPARATIONS), (False, True)
    )
    for one, other in itertools.combinations(choices, 2):
        met = {(getattr(example, one), getattr(example, other)) for example in QUICK}
        assert met >= set(itertools.product(choices[one], choices[other])), (one, other)
