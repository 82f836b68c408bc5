"""Flat arrays and sparse matrices, against plain loops."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from itemic.baselines.interactions import TrainingLog, break_ties, history_ages, history_matrix, top_of_each_row
from itemic.core.errors import DataError

HISTORIES = st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=4)


def test_only_training_interactions_are_kept(make_dataset):
    log = TrainingLog.from_dataset(make_dataset([[3, 1, 3, 0, 2], [1, 0, 2], [4, 2]], 5))
    assert log.item.tolist() == [3, 1, 3, 1]
    assert log.user.tolist() == [0, 0, 0, 1]
    assert log.counts().tolist() == [0, 2, 0, 2, 0]
    assert log.binary_matrix().toarray().tolist() == [[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]]


def test_nothing_to_learn_from_is_refused(make_dataset):
    with pytest.raises(DataError, match="no training interactions"):
        TrainingLog.from_dataset(make_dataset([[0, 1]], 2))


@given(histories=HISTORIES)
def test_ages_count_back_from_the_latest_occurrence(histories):
    found = sorted(zip(*(column.tolist() for column in history_ages(histories, 5)), strict=True))
    expected = [
        (row, item, history[::-1].index(item)) for row, history in enumerate(histories) for item in sorted(set(history))
    ]
    assert found == sorted(expected)


def test_the_history_matrix_decays_with_age():
    assert history_matrix([[2, 0, 2, 1], []], 3, 0.5).toarray().tolist() == [[1 / 4, 1, 1 / 2], [0, 0, 0]]
    assert history_matrix([[2, 0, 2, 1]], 4, 1.0).toarray().tolist() == [[1, 1, 1, 0]]


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=4),
    num_kept=st.integers(1, 6),
)
def test_the_largest_entries_of_each_row_are_kept(rows, num_kept):
    dense = np.array(rows, dtype=np.float64)
    found = top_of_each_row(scipy.sparse.csr_array(dense), num_kept).toarray()
    for row, values in enumerate(dense):
        kept = np.lexsort((np.arange(5), -values))[:num_kept]
        expected = np.zeros(5)
        expected[kept] = values[kept]
        assert found[row].tolist() == expected.tolist()


def test_popularity_orders_equals_and_moves_no_real_difference():
    scores = break_ties(np.array([[0.0, 0.0, 1e-6, 0.5]]), np.array([1, 9, 0, 0]))
    assert np.argsort(-scores[0]).tolist() == [3, 2, 1, 0]
