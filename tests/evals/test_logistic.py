"""Logistic regression against scikit-learn's, and what must not change it."""

import logging

import numpy as np
import pytest
from points import table
from sklearn.linear_model import LogisticRegression

from mmjax.evals import logistic

TRAIN = 300


@pytest.fixture(scope="module")
def data():
    return table(0, 500, noise=1.2)


def of_scikit_learn(z_NE, label_N, l2, weight_N=None):
    count = len(z_NE) if weight_N is None else weight_N.sum()
    model = LogisticRegression(C=1 / (l2 * count), max_iter=20_000, tol=1e-7)
    return model.fit(z_NE, label_N, sample_weight=weight_N)


def test_a_sweep_finds_the_classifiers_of_scikit_learn(data):
    z_NE, label_N = data.z_NE[:TRAIN], data.label_N[:TRAIN]
    l2 = (1e-1, 1e-2, 1e-3)
    for strength, found in zip(l2, logistic.fit(z_NE, label_N, classes=5, l2=l2), strict=True):
        theirs = of_scikit_learn(z_NE, label_N, strength)
        # Ours stops where the largest of 85 slopes is below 1e-5: at most 1e-4 / l2 from the optimum.
        np.testing.assert_allclose(found.weight_DC, theirs.coef_.T, atol=1e-4 / strength)
        ours_NC = logistic.probabilities(found(data.z_NE[TRAIN:]))
        np.testing.assert_allclose(ours_NC, theirs.predict_proba(data.z_NE[TRAIN:]), atol=2e-3)
        accuracy = np.mean(ours_NC.argmax(axis=1) == data.label_N[TRAIN:])
        assert abs(accuracy - theirs.score(data.z_NE[TRAIN:], data.label_N[TRAIN:])) <= 0.002


def test_a_weak_regulariser_ends_at_the_optimum_though_directions_differ_in_spread(caplog):
    # Spread as embeddings of a tower are: a hundred times from the first direction to the last.
    points, spread_D = table(3, 3_000, noise=1.5), np.geomspace(1, 1e-2, 16)
    x_ND, label_N, l2 = (points.z_NE * spread_D).astype(np.float32), points.label_N, 1e-6
    with caplog.at_level(logging.WARNING, logger="mmjax"):
        *_, ours = logistic.fit(x_ND[:1_000], label_N[:1_000], classes=5, l2=[1e-3, l2])
    assert not caplog.records
    theirs = of_scikit_learn(x_ND[:1_000].astype(float), label_N[:1_000], l2)
    np.testing.assert_allclose(np.linalg.norm(ours.weight_DC), np.linalg.norm(theirs.coef_), rtol=0.02)
    answer_N = ours(x_ND[1_000:]).argmax(axis=1)
    accuracy = np.mean(answer_N == label_N[1_000:])
    assert abs(accuracy - theirs.score(x_ND[1_000:], label_N[1_000:])) <= 0.002


def test_a_fit_that_its_steps_end_is_warned_of(data, monkeypatch, caplog):
    monkeypatch.setattr(logistic, "_STEPS", 3)
    # Of a shape that no other test has compiled the fit for.
    with caplog.at_level(logging.WARNING, logger="mmjax"):
        logistic.fit(data.z_NE[:83], data.label_N[:83], classes=5, l2=[1e-3])
    assert "no optimum in 3 steps with l2=0.001; the largest slope is" in caplog.text


def test_examples_of_weight_zero_are_as_if_they_were_not_there(data):
    # 61 rows are padded to 64 on eight devices, 300 to 304.
    few = slice(0, 61)
    (alone,) = logistic.fit(data.z_NE[few], data.label_N[few], classes=5, l2=[1e-2])
    weight_N = np.arange(TRAIN) < 61
    (hidden,) = logistic.fit(data.z_NE[:TRAIN], data.label_N[:TRAIN], classes=5, l2=[1e-2], weight_N=weight_N)
    np.testing.assert_allclose(hidden.weight_DC, alone.weight_DC, atol=2e-3)
    np.testing.assert_allclose(hidden.bias_C, alone.bias_C, atol=2e-3)


def test_weights_count_as_repetitions_do(data):
    z_NE, label_N = data.z_NE[:TRAIN], data.label_N[:TRAIN]
    weight_N = 1.0 + np.arange(TRAIN) % 3
    (weighted,) = logistic.fit(z_NE, label_N, classes=5, l2=[1e-2], weight_N=weight_N)
    theirs = of_scikit_learn(z_NE, label_N, 1e-2, weight_N)
    np.testing.assert_allclose(weighted.weight_DC, theirs.coef_.T, atol=2e-3)


def test_a_shift_of_all_features_changes_the_bias_alone(data):
    z_NE, label_N = data.z_NE[:TRAIN], data.label_N[:TRAIN]
    (here,) = logistic.fit(z_NE, label_N, classes=5, l2=[1e-2])
    (there,) = logistic.fit(z_NE + 3.0, label_N, classes=5, l2=[1e-2])
    np.testing.assert_allclose(there.weight_DC, here.weight_DC, atol=2e-3)
    np.testing.assert_allclose(there(z_NE + 3.0), here(z_NE), atol=1e-2)
