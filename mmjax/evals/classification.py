"""What every evaluator that classifies reports of its answers: metrics and pictures.

Letters: N pictures, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.evals import Confusion, Gallery, Picture, Reliability, galleries, ranking, scores


def metrics(prefix: str, score_NC: np.ndarray, label_N: np.ndarray, *, detail: bool) -> dict[str, float]:
    """`<prefix>_acc1` and the like; with `detail` those of scikit-learn, too."""
    rank_N = scores.ranks(score_NC, label_N)
    found = scores.top(rank_N, label_N, classes=score_NC.shape[1])
    found |= scores.detailed(score_NC, label_N) if detail else {}
    return {f"{prefix}_{name}": value for name, value in found.items()}


def names(prefix: str, *, detail: bool, calibrated: bool = False) -> tuple[str, ...]:
    """Of the metrics that `metrics` finds and, where it is asked for, too, `calibration`."""
    found = (*scores.TOP, *(scores.DETAILED if detail else ()), *(("ece",) if calibrated else ()))
    return tuple(f"{prefix}_{name}" for name in found)


def calibration(
    prefix: str, probability_NC: np.ndarray, label_N: np.ndarray
) -> tuple[dict[str, float], Reliability]:
    """`<prefix>_ece`, the expected calibration error, and its diagram."""
    found = scores.calibration(probability_NC, label_N)
    note = (
        f"How many answers of a certain confidence are right; on the diagonal as many as it says. "
        f"Expected calibration error {found.error:.3f}."
    )
    shown = Reliability("Reliability", note, found.confidence_M, found.accuracy_M, found.count_M)
    return {f"{prefix}_ece": found.error}, shown


def pictures(
    score_NC: np.ndarray, label_N: np.ndarray, names: tuple[str, ...], queries: Sequence[Any]
) -> tuple[Picture, ...]:
    """Which classes were taken for which others, and the worst mistakes with what was answered.

    Args:
        queries: as `Row` has them, read when indexed.
    """
    return confusion(score_NC, label_N, names), _mistakes(score_NC, label_N, names, queries)


def confusion(score_NC: np.ndarray, label_N: np.ndarray, names: tuple[str, ...]) -> Confusion:
    """The confusion matrix."""
    answer_N = ranking.order(score_NC)[:, 0]
    counts_CC = scores.confusion(answer_N, label_N, classes=len(names))
    note = "Examples of a class (rows) by the class that they were taken for (columns)."
    return Confusion("Confusion matrix", note, names, counts_CC)


def multilabel_mistakes(
    probs_NC: np.ndarray, truth_NC: np.ndarray, threshold_C: np.ndarray, names, queries: Sequence[Any]
) -> Gallery:
    """The examples of which a wrong decision lies farthest from its threshold, and what was said of them."""
    answer_NC = probs_NC >= threshold_C
    margin_N = np.where(answer_NC != truth_NC, np.abs(probs_NC - threshold_C), 0).max(axis=1)
    worst_N = np.argsort(-margin_N, kind="stable")[: galleries.ROWS]
    rows = (
        galleries.labelled_row(queries[n], names, probs_NC[n], truth_NC[n])
        for n in worst_N
        if margin_N[n] > 0
    )
    return Gallery(
        "Worst mistakes",
        "Where a wrong decision is the surest. The most probable classes; those that it is of are marked.",
        tuple(rows),
    )


def _mistakes(score_NC, label_N, names, queries) -> Gallery:
    own_N = score_NC[np.arange(len(label_N)), label_N]
    others_NC = np.where(np.arange(len(names)) == label_N[:, None], -np.inf, score_NC)
    found = ranking.Ranked(scores.ranks(score_NC, label_N), own_N - others_NC.max(axis=1))
    chosen = galleries.mistakes(found)
    rows = (galleries.row(queries[n], names, score_NC[n], label_N[n]) for n in chosen)
    return Gallery(
        "Worst mistakes", "Where a wrong class beats the right one by the widest margin.", tuple(rows)
    )
