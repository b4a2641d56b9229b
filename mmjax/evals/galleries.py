"""Rows of galleries: chosen queries beside the candidates that they found.

Letters: N items of one side, E embedding, Q queries, C candidates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.evals import Match, Row, ranking

ROWS = 8
_MATCHES = 5


class Side(NamedTuple):
    """Things to search with or to search among."""

    z_NE: np.ndarray  # embeddings
    id_N: np.ndarray  # equal where two things belong together
    items: Sequence[Any]  # captions, or pictures that are read when indexed


def rows(queries: Side, candidates: Side, chosen: np.ndarray) -> tuple[Row, ...]:
    """The `chosen` queries with their five best candidates, and the truth where the first is wrong."""
    if len(chosen) == 0:
        return ()
    scores_QC = ranking.scores(queries.z_NE[chosen], candidates.z_NE)
    order_QC = ranking.order(scores_QC)
    right_QC = queries.id_N[chosen, None] == candidates.id_N
    return tuple(
        _row(queries.items[query], candidates.items, *found)
        for query, *found in zip(chosen, scores_QC, order_QC, right_QC, strict=True)
    )


def row(query: Any, names: Sequence[str], score_C: np.ndarray, label: int) -> Row:
    """A picture with the classes of its five best scores, and its own where the first is wrong."""
    order_C = ranking.order(score_C[None])[0]
    return _row(query, names, score_C, order_C, np.arange(len(names)) == label)


def labelled_row(query: Any, names: Sequence[str], score_C: np.ndarray, right_C: np.ndarray) -> Row:
    """An example of any number of classes with its five best scores, and all classes that it is of."""
    order_C = ranking.order(score_C[None])[0][:_MATCHES]
    matches = tuple(Match(names[c], float(score_C[c]), bool(right_C[c])) for c in order_C)
    return Row(query, matches, ", ".join(names[c] for c in np.flatnonzero(right_C)) or "none")


def mistakes(found: ranking.Ranked) -> np.ndarray:
    """Queries whose first candidate is wrong: those that beat the right one by most, worst first."""
    wrong = np.flatnonzero(found.rank_Q > 1)
    return wrong[np.argsort(found.margin_Q[wrong], kind="stable")][:ROWS]


def _row(query: Any, items: Sequence[Any], scores_C, order_C, right_C) -> Row:
    matches = tuple(Match(items[i], float(scores_C[i]), bool(right_C[i])) for i in order_C[:_MATCHES])
    best_right = order_C[np.argmax(right_C[order_C])]
    return Row(query, matches, None if matches[0].right else items[best_right])
