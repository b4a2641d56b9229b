"""What every evaluator that classifies reports of its answers: metrics and pictures.

Letters: N pictures, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.evals import Confusion, Gallery, Picture, Reliability, galleries, ranking, scores

_CONFUSED = 20  # classes of the confusion matrix


def metrics(prefix: str, score_NC: np.ndarray, label_N: np.ndarray, *, detail: bool) -> dict[str, float]:
    """`<prefix>_acc1` and the like; with `detail` those of scikit-learn, too."""
    rank_N = scores.ranks(score_NC, label_N)
    found = scores.top(rank_N, label_N, classes=score_NC.shape[1])
    found |= scores.detailed(score_NC, label_N) if detail else {}
    return {f"{prefix}_{name}": value for name, value in found.items()}


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
    """The confusion matrix, of the classes that are confused most where there are many."""
    answer_N = ranking.order(score_NC)[:, 0]
    counts_CC = scores.confusion(answer_N, label_N, classes=len(names))
    wrong_CC = counts_CC - np.diag(np.diag(counts_CC))
    worst_C = np.argsort(-(wrong_CC.sum(axis=0) + wrong_CC.sum(axis=1)), kind="stable")
    shown_C = np.sort(worst_C[:_CONFUSED])
    note = "Examples of a class (rows) by the class that they were taken for (columns)."
    if len(shown_C) < len(names):
        note += f" Of {len(names):,} classes the {len(shown_C)} that are confused most."
    shown = tuple(names[c] for c in shown_C)
    return Confusion("Confusion matrix", note, shown, counts_CC[np.ix_(shown_C, shown_C)])


def _mistakes(score_NC, label_N, names, queries) -> Gallery:
    own_N = score_NC[np.arange(len(label_N)), label_N]
    others_NC = np.where(np.arange(len(names)) == label_N[:, None], -np.inf, score_NC)
    found = ranking.Ranked(scores.ranks(score_NC, label_N), own_N - others_NC.max(axis=1))
    chosen = galleries.mistakes(found)
    rows = (galleries.row(queries[n], names, score_NC[n], label_N[n]) for n in chosen)
    return Gallery(
        "Worst mistakes", "Where a wrong class beats the right one by the widest margin.", tuple(rows)
    )
