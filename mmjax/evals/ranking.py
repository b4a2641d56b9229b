"""Ranks of right answers among candidates, by cosine similarity of their embeddings.

The rule for ties: of two candidates with equal scores, the one with the lower index comes first, everywhere.
Embeddings that are all equal then get no more than chance, where a rule that counts ties in favour of the
right answer would give them R@1 = 1.

Letters: Q queries, C candidates, U distinct candidates, E embedding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_NOT_A_NUMBER = -2.0  # below every cosine, so that a diverged model ties everywhere instead of winning
_BLOCK = 1 << 24  # scores held at once: 64 MB, whatever Q times C is


class Ranked(NamedTuple):
    """How queries fared."""

    rank_Q: np.ndarray  # int, 1 is best: place of the right candidate that comes first
    margin_Q: np.ndarray  # its score less the best wrong candidate's; +inf where no candidate is wrong


def scores(query_QE: np.ndarray, candidate_CE: np.ndarray) -> np.ndarray:
    """Cosine of each query with each candidate, float32 [Q, C]; equal candidates score exactly equal."""
    return _score(query_QE, *_distinct(candidate_CE))


def blocks(query_QE: np.ndarray, candidate_CE: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """`scores` of a block of queries at a time, and which: memory grows with Q + C, never with Q times C."""
    unique_UE, copy_C = _distinct(candidate_CE)
    step = max(1, _BLOCK // len(candidate_CE))
    for start in range(0, len(query_QE), step):
        of = slice(start, start + step)
        yield of, _score(query_QE[of], unique_UE, copy_C)


def order(scores_QC: np.ndarray) -> np.ndarray:
    """Candidates of each query from best to worst, int [Q, C]; ties by the rule of this module."""
    return np.argsort(-scores_QC, axis=1, kind="stable")


def rank(
    query_QE: np.ndarray, candidate_CE: np.ndarray, *, query_id_Q: np.ndarray, candidate_id_C: np.ndarray
) -> Ranked:
    """Ranks each query's best right candidate, by `blocks`; it is right where its id equals the query's.

    Raises:
        ValueError: a query has no right candidate.
    """
    orphans_Q = np.flatnonzero(~np.isin(query_id_Q, candidate_id_C))
    if len(orphans_Q):
        raise ValueError(
            f"{len(orphans_Q)} of {len(query_id_Q)} queries have no right candidate, the first is query "
            f"{orphans_Q[0]} with id {query_id_Q[orphans_Q[0]]}; give each id at least one candidate"
        )
    found = [
        _rank_block(scores_QC, query_id_Q[of, None] == candidate_id_C)
        for of, scores_QC in blocks(query_QE, candidate_CE)
    ]
    return Ranked(*(np.concatenate(part) for part in zip(*found, strict=True)))


def recall(rank_Q: np.ndarray, k: int) -> float:
    """R@k: the share of queries with a right candidate among the first `k`."""
    return float(np.mean(rank_Q <= k))


def _distinct(candidate_CE: np.ndarray) -> tuple[np.ndarray, np.ndarray | slice]:
    """The distinct rows, and for each candidate the row that it equals.

    Each is multiplied once: a BLAS kernel gives equal rows that fall into different tiles scores that differ
    in the last bit (seen with OpenBLAS), and noise would break the tie.
    """
    rows_CE = np.ascontiguousarray(candidate_CE, np.float32)
    bytes_C = rows_CE.view(np.dtype((np.void, rows_CE.shape[1] * rows_CE.itemsize)))[:, 0]
    _, first_U, copy_C = np.unique(bytes_C, return_index=True, return_inverse=True)
    if len(first_U) == len(rows_CE):
        return rows_CE, slice(None)
    return rows_CE[first_U], copy_C


def _score(query_QE: np.ndarray, unique_UE: np.ndarray, copy_C: np.ndarray | slice) -> np.ndarray:
    scores_QU = np.asarray(query_QE, np.float32) @ unique_UE.T
    scores_QU[np.isnan(scores_QU)] = _NOT_A_NUMBER
    return scores_QU[:, copy_C]


def _rank_block(scores_QC: np.ndarray, right_QC: np.ndarray) -> Ranked:
    # argmax takes the first of equals, which is the rule for ties.
    best_Q1 = np.where(right_QC, scores_QC, -np.inf).argmax(axis=1)[:, None]
    score_Q1 = np.take_along_axis(scores_QC, best_Q1, axis=1)
    earlier_QC = np.arange(scores_QC.shape[1]) < best_Q1
    ahead_QC = (scores_QC > score_Q1) | ((scores_QC == score_Q1) & earlier_QC)
    wrong_Q = np.where(right_QC, -np.inf, scores_QC).max(axis=1)
    return Ranked(1 + ahead_QC.sum(axis=1), score_Q1[:, 0] - wrong_Q)
