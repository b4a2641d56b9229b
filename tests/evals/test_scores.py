"""Metrics of classification, against scikit-learn on labels, formulas and cases that can be counted."""

import sys

import numpy as np
import pytest
from sklearn import metrics

from mmjax.evals import scores


def answers(seed, n=200, classes=7, signal=1.0):
    """Labels of uneven classes, and scores that know something of them."""
    random = np.random.default_rng(seed)
    share_C = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    label_N = random.choice(classes, n, p=share_C)
    score_NC = random.normal(size=(n, classes))
    score_NC[np.arange(n), label_N] += signal
    return score_NC, label_N


def softmax(score_NC):
    exp_NC = np.exp(score_NC - score_NC.max(axis=1, keepdims=True))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_are_those_of_scikit_learn(seed):
    score_NC, label_N = answers(seed)
    found = scores.top(scores.ranks(score_NC, label_N), label_N, classes=7)
    assert found["acc1"] == metrics.accuracy_score(label_N, score_NC.argmax(axis=1))
    assert found["acc5"] == metrics.top_k_accuracy_score(label_N, score_NC, k=5)
    balanced = metrics.balanced_accuracy_score(label_N, score_NC.argmax(axis=1))
    np.testing.assert_allclose(found["mpcr"], balanced, rtol=1e-12)
    assert found["acc1_chance"] == 1 / 7


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_and_f1_are_those_of_scikit_learn_on_labels(seed):
    score_NC, label_N = answers(seed)
    found = scores.detailed(score_NC, label_N)
    for average in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            of_labels = getattr(metrics, f"{name}_score")(label_N, score_NC.argmax(axis=1), average=average)
            np.testing.assert_allclose(found[f"{name}_{average}"], of_labels, rtol=1e-12)


def test_a_macro_mean_counts_classes_that_occur_as_label_or_answer_and_no_others():
    # Of three classes two occur as labels, one of them never as an answer; the third is nowhere.
    label_N = np.array([0, 0, 1, 1])
    score_NC = np.array([[1.0, 0, 0]] * 4)
    found = scores.detailed(score_NC, label_N)
    assert (found["precision_macro"], found["recall_macro"]) == (1 / 4, 1 / 2)
    np.testing.assert_allclose(found["f1_macro"], (2 * (1 / 2) / (3 / 2)) / 2)


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    score_NC, label_N = answers(0, n=60, classes=3)
    score_NC = score_NC.round(1)  # with ties, which count half
    areas = []
    for c in range(3):
        ours, others = score_NC[label_N == c, c], score_NC[label_N != c, c]
        areas.append(np.mean((ours[:, None] > others) + 0.5 * (ours[:, None] == others)))
    np.testing.assert_allclose(scores.detailed(score_NC, label_N)["roc_auc"], np.mean(areas), rtol=1e-12)


def test_average_precision_is_the_mean_precision_at_every_right_example():
    score_NC, label_N = answers(1, n=60, classes=3)
    found = []
    for c in range(3):
        right_N = label_N[np.argsort(-score_NC[:, c])] == c
        precision_N = np.cumsum(right_N) / np.arange(1, 61)
        found.append(precision_N[right_N].mean())
    np.testing.assert_allclose(scores.detailed(score_NC, label_N)["ap"], np.mean(found), rtol=1e-12)


def test_areas_leave_out_classes_without_labels_of_both_kinds():
    score_NC, label_N = answers(2, n=50, classes=3)
    wider_NC = np.hstack([score_NC, np.full((50, 1), -9.0)])
    assert scores.detailed(wider_NC, label_N) == scores.detailed(score_NC, label_N)
    assert "roc_auc" not in scores.detailed(score_NC, np.zeros(50, int))


def test_as_many_classes_as_examples_are_no_regression():
    # scikit-learn warns of labels such as these, and warnings are errors here.
    found = scores.detailed(np.eye(40), np.arange(40))
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("threshold", [0.5, np.linspace(0.2, 0.8, 5)], ids=["one", "of each class"])
def test_metrics_of_several_labels_are_those_of_scikit_learn(threshold):
    random = np.random.default_rng(0)
    truth_NC = random.random((120, 5)) < 0.3
    score_NC = np.clip(0.4 * truth_NC + 0.7 * random.random((120, 5)), 0, 1)
    found = scores.multilabel(score_NC, truth_NC, threshold=threshold)
    answer_NC = score_NC >= threshold
    assert found["exact"] == metrics.accuracy_score(truth_NC, answer_NC)
    for average in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            theirs = getattr(metrics, f"{name}_score")(truth_NC, answer_NC, average=average)
            np.testing.assert_allclose(found[f"{name}_{average}"], theirs, rtol=1e-12)
    np.testing.assert_allclose(found["ap"], metrics.average_precision_score(truth_NC, score_NC), rtol=1e-12)
    np.testing.assert_allclose(found["roc_auc"], metrics.roc_auc_score(truth_NC, score_NC), rtol=1e-12)


def test_nothing_given_and_nothing_true_is_right():
    found = scores.multilabel(np.zeros((4, 2)), np.zeros((4, 2), bool))
    assert found == {"exact": 1.0}


def test_the_confusion_matrix_is_that_of_scikit_learn():
    score_NC, label_N = answers(3)
    answer_N = score_NC.argmax(axis=1)
    found = scores.confusion(answer_N, label_N, classes=9)
    np.testing.assert_array_equal(found, metrics.confusion_matrix(label_N, answer_N, labels=range(9)))


def test_the_calibration_error_is_that_of_its_formula():
    score_NC, label_N = answers(4)
    probability_NC = softmax(3 * score_NC)
    found = scores.calibration(probability_NC, label_N, bins=10)
    confidence_N, right_N = probability_NC.max(axis=1), probability_NC.argmax(axis=1) == label_N
    error = 0.0
    for m in range(10):
        of_bin = (confidence_N > m / 10) & (confidence_N <= (m + 1) / 10)
        assert found.count_M[m] == of_bin.sum()
        if of_bin.any():
            error += abs(right_N[of_bin].mean() - confidence_N[of_bin].mean()) * of_bin.sum() / len(label_N)
    np.testing.assert_allclose(found.error, error, rtol=1e-12)


def test_probabilities_that_are_frequencies_are_calibrated():
    # Of 10 answers with confidence 0.7 seven are right, of 5 with 1.0 all.
    probability_NC = np.array([[0.7, 0.3]] * 10 + [[1.0, 0.0]] * 5)
    label_N = np.array([0] * 7 + [1] * 3 + [0] * 5)
    assert scores.calibration(probability_NC, label_N).error < 1e-12


def test_ties_go_to_the_lower_index_and_what_is_no_number_comes_last():
    score_NC = np.array([[0.5, 0.5, 0.1], [np.nan, 0.2, 0.3], [np.nan] * 3, [-np.inf, np.nan, 0.0]])
    assert scores.ranks(score_NC, np.array([1, 0, 2, 0])).tolist() == [2, 3, 3, 2]
    assert scores.detailed(score_NC, np.array([1, 0, 2, 0]))["recall_micro"] == 0.0


def test_without_scikit_learn_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        scores.require()
