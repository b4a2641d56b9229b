"""Every implementation of attention against a reference in float64, for every mask, shape and dtype.

Kernels are interpreted here, so this is about what they compute, not about what compiles.
"""

import itertools

import attending
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attending import MASKS, MEMBERS, RESULTS, Example
from attention_examples import ALL, QUICK, QUICK_HEADS, QUICK_LENGTHS
from flax import linen as nn

PADDED = [example for example in QUICK if not example.real.all()]


# Of bfloat16, with every mask, norms and angles among them.
MIXED = [
    Example(
        length=50, width=128, heads=1, dtype="bfloat16", norm=True, rope=True, **dict.fromkeys(MASKS, True)
    ),
    Example(length=77, width=80, dtype="bfloat16"),
]


@pytest.mark.parametrize("example", QUICK, ids=str)
@pytest.mark.parametrize("member", MEMBERS)
def test_output_and_gradients_are_those_of_the_reference(member, example):
    """In bfloat16 kernels are as near as XLA's attention here, and that as near as JAX's own below."""
    if member != "xla" or example.dtype == "float32":
        assert attending.beyond(member, example, standard="xla") == {}


@pytest.mark.parametrize("example", MIXED, ids=str)
def test_in_bfloat16_the_attention_of_xla_is_as_near_to_it_as_that_of_jax(example):
    assert attending.beyond("xla", example) == {}


@pytest.mark.slow
@pytest.mark.parametrize("example", ALL, ids=str)
def test_so_are_those_of_every_published_length_and_head(example):
    try:
        for member in MEMBERS:
            assert attending.beyond(member, example) == {}
    finally:
        attending.forget(example)


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


def test_a_pooling_query_is_normalised_like_keys():
    """As Flax does it; padding stays without a say, and without a gradient that is no number."""
    q, k, v = attending.random((2, 1, 16)), attending.random((2, 5, 16), 1), attending.random((2, 5, 16), 2)
    gains = attending.random((2, 8), 3)
    lengths = np.array([5, 2], np.int32)

    def normalised(x, gain):
        norm = nn.LayerNorm(use_bias=False, epsilon=1e-6)
        return norm.apply({"params": {"scale": gain}}, x.reshape(*x.shape[:2], 2, 8)).reshape(x.shape)

    def plain(q, k, gains):
        q, k = normalised(q, gains[0]), normalised(k, gains[1])
        return attending.attention(q, k, v, num_heads=2, lengths=lengths).sum()

    def ours(q, k, gains):
        return attending.attention(q, k, v, num_heads=2, lengths=lengths, qk_norm=tuple(gains)).sum()

    expected = jax.jit(jax.value_and_grad(plain, argnums=(0, 1, 2)))(q, k, gains)
    found = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(q, k.at[1, 2:].set(np.nan), gains)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_masks_of_another_sequence_are_of_its_keys_alone():
    """As if queries were one more, by which it shows that they are not the keys' positions."""
    q, k, v = (attending.random((2, 5, 16), seed) for seed in range(3))
    gains = attending.random((2, 8), 3)
    options = dict(num_heads=2, kv_len=4, lengths=np.array([3, 0], np.int32), qk_norm=tuple(gains))

    def plain(q, k, v):
        q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
        return jnp.sin(attending.attention(q, k, v, **options)[:, :5]).sum()

    def ours(q, k, v):
        return jnp.sin(attending.attention(q, k, v, cross=True, **options)).sum()

    poisoned = (x.at[0, 3:].set(np.nan).at[1].set(np.nan) for x in (k, v))
    found = jax.value_and_grad(ours, argnums=(0, 1, 2))(q, *poisoned)
    assert found[1][0][0, 4].any()  # a query beyond its keys' length counts
    for one, other in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(jax.value_and_grad(plain, argnums=(0, 1, 2))(q, k, v)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_without_a_mask_it_does_not_matter_whose_keys_they_are():
    """So that kernels serve it."""
    q, k = attending.random((1, 3, 8)), attending.random((1, 3, 8), 1)
    options = dict(num_heads=1, kv_len=3)
    found = attending.attention(q, k, k, cross=True, implementation="pallas_tpu", **options)
    np.testing.assert_allclose(found, attending.attention(q, k, k, **options), atol=1e-6)


@pytest.mark.parametrize("member", MEMBERS)
def test_angles_are_constants(member):
    x, angles = attending.random((1, 5, 16)), attending.random((1, 5, 4))

    def run(angles):
        return attending.attention(x, x, x, num_heads=2, angles=angles, implementation=member)[0, 0, 0]

    value, gradient = jax.value_and_grad(run)(angles)
    assert value != run(angles + angles**2) and not gradient.any()


def test_the_quick_examples_have_every_mask_and_pair_every_value_with_every_other():
    for masks in attending.EVERY_MASK:
        assert any(masks == {name: getattr(example, name) for name in masks} for example in QUICK), masks
    choices = dict(length=QUICK_LENGTHS, width=attending.WIDTHS, heads=QUICK_HEADS)
    choices |= dict(dtype=attending.DTYPES) | dict.fromkeys(
        (*attending.MASKS, *attending.PREPARATIONS), (False, True)
    )
    for one, other in itertools.combinations(choices, 2):
        met = {(getattr(example, one), getattr(example, other)) for example in QUICK}
        assert met >= set(itertools.product(choices[one], choices[other])), (one, other)
