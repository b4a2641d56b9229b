"""Ranks, against sorting everything and against cases worked out by hand."""

import numpy as np
import pytest

from mmjax.evals import ranking
from mmjax.evals.ranking import order, rank, recall, scores


def unit_rows(seed, count, width):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ranks_by_sorting(query, candidate, query_id, candidate_id):
    """Sorts (-score, index) for every query and looks for the first right one."""
    found = []
    for z, wanted in zip(query, query_id, strict=True):
        score = [float(np.dot(z, c)) for c in candidate]
        by_place = sorted(range(len(candidate)), key=lambda i: (-score[i], i))
        found.append(1 + [candidate_id[i] == wanted for i in by_place].index(True))
    return np.array(found)


def test_ranks_of_a_case_worked_out_by_hand():
    query = np.array([[1.0, 0.0], [0.0, 1.0]])
    candidate = np.array([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    found = rank(query, candidate, query_id_Q=np.array([1, 1]), candidate_id_C=np.array([0, 1, 2]))
    np.testing.assert_array_equal(found.rank_Q, [2, 2])  # query 0 scores 0, 0.6, 1; query 1 scores 1, 0.8, 0
    np.testing.assert_allclose(found.margin_Q, [0.6 - 1.0, 0.8 - 1.0], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 100, 1 << 24], ids=["query_by_query", "few", "all_at_once"])
def test_ranks_equal_those_of_sorting_everything(block, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", block)
    random = np.random.default_rng(0)
    query_id, candidate_id = random.integers(0, 9, 40), np.r_[np.arange(9), random.integers(0, 9, 21)]
    query, candidate = unit_rows(1, 40, 5), unit_rows(2, 30, 5)
    found = rank(query, candidate, query_id_Q=query_id, candidate_id_C=candidate_id)
    expected = ranks_by_sorting(query, candidate, query_id, candidate_id)
    np.testing.assert_array_equal(found.rank_Q, expected)
    np.testing.assert_array_equal(found.margin_Q > 0, expected == 1)


# Odd sizes end in the partial tiles of BLAS kernels, whose sums round differently.
@pytest.mark.parametrize(("count", "width"), [(5, 3), (37, 100), (67, 257), (501, 512)])
def test_constant_embeddings_get_no_more_than_chance(count, width):
    constant = np.tile(unit_rows(0, 1, width), (count, 1))
    ids = np.arange(count)
    found = rank(constant, constant, query_id_Q=ids, candidate_id_C=ids)
    np.testing.assert_array_equal(found.rank_Q, ids + 1)
    assert recall(found.rank_Q, 1) == 1 / count


def test_the_first_of_equal_candidates_comes_first():
    rows = unit_rows(3, 50, 100)
    twice = np.concatenate([rows, rows])
    first = rank(rows, twice, query_id_Q=np.arange(50), candidate_id_C=np.arange(100))
    second = rank(rows, twice, query_id_Q=np.arange(50, 100), candidate_id_C=np.arange(100))
    np.testing.assert_array_equal(first.rank_Q, np.full(50, 1))
    np.testing.assert_array_equal(second.rank_Q, np.full(50, 2))
    np.testing.assert_array_equal(second.margin_Q, np.zeros(50))
    np.testing.assert_array_equal(order(scores(rows, twice))[:, :2], np.c_[np.arange(50), np.arange(50, 100)])


def test_embeddings_that_are_not_numbers_rank_like_constant_ones():
    nothing = np.full((6, 4), np.nan, np.float32)
    found = rank(nothing, nothing, query_id_Q=np.arange(6), candidate_id_C=np.arange(6))
    np.testing.assert_array_equal(found.rank_Q, np.arange(6) + 1)


def test_one_diverged_candidate_comes_last():
    candidate = np.array([[np.nan, np.nan], [-1.0, 0.0], [1.0, 0.0]])
    assert order(scores(np.array([[1.0, 0.0]]), candidate)).tolist() == [[2, 1, 0]]


def test_a_query_whose_every_candidate_is_right_has_an_infinite_margin():
    found = rank(np.eye(2), np.eye(2), query_id_Q=np.zeros(2), candidate_id_C=np.zeros(2))
    assert found.rank_Q.tolist() == [1, 1]
    assert found.margin_Q.tolist() == [np.inf, np.inf]


def test_recall_counts_ranks_up_to_k():
    assert recall(np.array([1, 2, 5, 6]), 5) == 0.75


def test_a_query_without_a_right_candidate_is_refused():
    with pytest.raises(ValueError, match="1 of 2 queries .* query 1 with id 7"):
        rank(np.eye(2), np.eye(2), query_id_Q=np.array([0, 7]), candidate_id_C=np.array([0, 1]))
