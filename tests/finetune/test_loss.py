"""The losses of a classification against their formulas, in float64."""

import jax
import numpy as np
import pytest

from mmjax.finetune.loss import binary_cross_entropy, class_weights, cross_entropy, mixed

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32) * 3
ONE = np.eye(4, dtype=np.float32)[[0, 1, 1, 3, 2, 0]]
MANY = RNG.integers(0, 2, (6, 4)).astype(np.float32)
WEIGHTS = np.array([0.5, 1, 2, 1.5], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula(smoothing):
    logits = LOGITS.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    label = ONE.argmax(axis=1)
    own, other = 1 - smoothing + smoothing / 4, smoothing / 4
    rows = [
        -sum(WEIGHTS[c] * (own if c == label[i] else other) * log_p[i, c] for c in range(4)) for i in range(6)
    ]
    found = cross_entropy(LOGITS, ONE, WEIGHTS, smoothing=smoothing)
    np.testing.assert_allclose(found, np.mean(rows), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_is_its_formula(smoothing):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    target = (1 - smoothing) * MANY + smoothing / 2
    expected = -np.mean(WEIGHTS * target * np.log(p) + (1 - target) * np.log(1 - p))
    found = binary_cross_entropy(LOGITS, MANY, WEIGHTS, smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_balanced_weights_give_every_class_the_same_say():
    """n / (C x count), as scikit-learn's class_weight="balanced" has it."""
    count_C = np.array([70, 20, 10])
    full = class_weights("full", count_C)
    np.testing.assert_allclose(full, 100 / (3 * count_C), rtol=1e-6)
    root = class_weights("root", count_C)
    np.testing.assert_allclose(root / root[0], np.sqrt(70 / count_C), rtol=1e-6)
    for weight_C in (full, root, class_weights("none", count_C)):
        np.testing.assert_allclose(weight_C @ count_C / 100, 1, rtol=1e-6)


def test_mixed_pictures_and_targets_are_of_the_same_two_examples_in_the_same_shares():
    image_BHWC = RNG.uniform(size=(6, 2, 2, 3)).astype(np.float32)
    inputs, target = mixed(0.8, (image_BHWC, ONE), jax.random.key(3))
    others, other_targets = np.roll(image_BHWC, 1, axis=0), np.roll(ONE, 1, axis=0)
    share = np.sum((inputs - others) * (image_BHWC - others)) / np.sum((image_BHWC - others) ** 2)
    assert 0 < share < 1
    np.testing.assert_allclose(inputs, share * image_BHWC + (1 - share) * others, atol=1e-6)
    np.testing.assert_allclose(target, share * ONE + (1 - share) * other_targets, atol=1e-6)
    same = mixed(0.0, (image_BHWC, ONE), jax.random.key(3))
    assert same[0] is image_BHWC and same[1] is ONE
