"""What the answers of a classifier are worth: scikit-learn's metrics where it has them.

Of classes with equal scores the one of the lower index is the answer, as `ranking` has it. A mean over
classes (`macro`) leaves out those that occur neither as a label nor as an answer; `weighted` weighs each by
its labels, `micro` counts all decisions alike.

Letters: N examples, C classes, M bins.
"""

from typing import NamedTuple

import numpy as np

BINS = 15  # of confidence, as Guo et al. have them

_DECISIONS, _AVERAGES = ("precision", "recall", "f1"), ("macro", "micro", "weighted")
TOP = ("acc1", "acc5", "mpcr", "acc1_chance")  # what `top` finds
DETAILED = (*(f"{name}_{average}" for average in _AVERAGES for name in _DECISIONS), "roc_auc", "ap")
MULTILABEL = ("exact", *DETAILED)


class Calibration(NamedTuple):
    """How often answers of a certain confidence are right, by bins of confidence of equal width."""

    error: float  # mean distance of confidence and accuracy, weighted by examples
    confidence_M: np.ndarray  # mean of the bin; NaN where it is empty
    accuracy_M: np.ndarray
    count_M: np.ndarray


def require() -> None:
    """Raises ValueError with the remedy where scikit-learn is not installed."""
    _sklearn()


def ranks(score_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Place of each example's label among the classes, int [N], 1 is best; no number comes last."""
    score_NC = _finite(score_NC)
    own_N1 = np.take_along_axis(score_NC, label_N[:, None], axis=1)
    earlier_NC = np.arange(score_NC.shape[1]) < label_N[:, None]
    return 1 + ((score_NC > own_N1) | ((score_NC == own_N1) & earlier_NC)).sum(axis=1)


def top(rank_N: np.ndarray, label_N: np.ndarray, *, classes: int) -> dict[str, float]:
    """Top-1 and top-5 accuracy, their chance, and `mpcr`: balanced accuracy, the mean over the classes that
    occur of the share of their examples that is found."""
    count_C = np.bincount(label_N, minlength=classes)
    right_C = np.bincount(label_N, weights=rank_N == 1, minlength=classes)
    occurs_C = count_C > 0
    return {
        "acc1": float(np.mean(rank_N <= 1)),
        "acc5": float(np.mean(rank_N <= 5)),
        "mpcr": float(np.mean(right_C[occurs_C] / count_C[occurs_C])),
        "acc1_chance": 1 / classes,
    }


def detailed(score_NC: np.ndarray, label_N: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1, each macro, micro and weighted; ROC-AUC and average precision, macro.

    The two areas are means over the classes that tell one against the rest: with labels of both kinds.
    """
    score_NC = _finite(score_NC)
    one_hot_CC = np.eye(score_NC.shape[1], dtype=bool)
    truth_NC, answer_NC = one_hot_CC[label_N], one_hot_CC[score_NC.argmax(axis=1)]
    return _decisions(truth_NC, answer_NC) | _areas(truth_NC, score_NC)


def multilabel(
    score_NC: np.ndarray, truth_NC: np.ndarray, *, threshold: float | np.ndarray = 0.5
) -> dict[str, float]:
    """As `detailed`, where an example may have any number of classes; and `exact`, the share of examples of
    which every decision is right.

    Args:
        score_NC: a probability, or whatever `threshold` cuts.
        truth_NC: bool.
        threshold: a class is given where its score is at least this; one number, or one of each class.
    """
    score_NC = _finite(score_NC)
    answer_NC = score_NC >= threshold
    exact = {"exact": float(np.mean((answer_NC == truth_NC).all(axis=1)))}
    return exact | _decisions(truth_NC, answer_NC) | _areas(truth_NC, score_NC)


def confusion(answer_N: np.ndarray, label_N: np.ndarray, *, classes: int) -> np.ndarray:
    """Counts, int [C, C]: of each label (row) by answer (column)."""
    return np.bincount(label_N * classes + answer_N, minlength=classes**2).reshape(classes, classes)


def calibration(probability_NC: np.ndarray, label_N: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Expected calibration error of the answers: Guo et al. 2017, arXiv:1706.04599, eq. 3.

    The confidence of an answer is the greatest probability; bin m holds those in ((m - 1) / M, m / M].
    """
    probability_NC = np.nan_to_num(np.asarray(probability_NC, np.float64))
    confidence_N = probability_NC.max(axis=1)
    right_N = probability_NC.argmax(axis=1) == label_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    count_M = np.bincount(bin_N, minlength=bins)
    sums = (np.bincount(bin_N, weights=each, minlength=bins) for each in (confidence_N, right_N))
    confidence_M, accuracy_M = (
        np.divide(each, count_M, out=np.full(bins, np.nan), where=count_M > 0) for each in sums
    )
    gap_M = np.nan_to_num(np.abs(confidence_M - accuracy_M))
    return Calibration(float(gap_M @ count_M / len(label_N)), confidence_M, accuracy_M, count_M)


def _decisions(truth_NC: np.ndarray, answer_NC: np.ndarray) -> dict[str, float]:
    metrics = _sklearn()
    # As a matrix of decisions: of class numbers scikit-learn suspects a regression where there are many.
    occurs_C = truth_NC.any(axis=0) | answer_NC.any(axis=0)
    if not occurs_C.any():
        return {}
    truth_NC, answer_NC = truth_NC[:, occurs_C], answer_NC[:, occurs_C]
    found = {}
    for average in _AVERAGES:
        values = metrics.precision_recall_fscore_support(
            truth_NC, answer_NC, average=average, zero_division=0
        )
        names = (f"{name}_{average}" for name in _DECISIONS)
        found |= {name: float(value) for name, value in zip(names, values, strict=False)}
    return found


def _areas(truth_NC: np.ndarray, score_NC: np.ndarray) -> dict[str, float]:
    metrics = _sklearn()
    tells_C = truth_NC.any(axis=0) & ~truth_NC.all(axis=0)
    if not tells_C.any():
        return {}
    truth_NC, score_NC = truth_NC[:, tells_C], score_NC[:, tells_C]
    return {
        "roc_auc": float(metrics.roc_auc_score(truth_NC, score_NC, average="macro")),
        "ap": float(metrics.average_precision_score(truth_NC, score_NC, average="macro")),
    }


def _finite(score_NC: np.ndarray) -> np.ndarray:
    """Scores with what is not a number below all others."""
    score_NC = np.asarray(score_NC, np.float64)
    finite_NC = np.isfinite(score_NC)
    lowest = score_NC.min(initial=0.0, where=finite_NC)
    return np.where(np.isnan(score_NC), lowest - 1, np.nan_to_num(score_NC, neginf=lowest - 0.5))


def _sklearn():
    try:
        from sklearn import metrics
    except ModuleNotFoundError as error:
        raise ValueError("detailed metrics need scikit-learn; pip install scikit-learn") from error
    return metrics
