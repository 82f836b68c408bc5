"""The rank of a target in a list: better items, ties, ties beyond the cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.core.ranking import Recommendations, top_k
from itemic.evaluate import check_recommendations, target_ranks
from itemic.evaluate.ranks import is_cut_by_tie


def lists(items, scores, beyond=None) -> Recommendations:
    return Recommendations(
        item_index=np.array(items, dtype=np.int64),
        score=np.array(scores, dtype=np.float64),
        num_tied_beyond=np.array(beyond or [0] * len(items), dtype=np.int64),
    )


def test_the_counts_of_a_listed_target():
    ranked = lists([[5, 3, 4]] * 3, [[3, 2, 2]] * 3, [4, 4, 4])
    ranks = target_ranks(ranked, np.array([5, 3, 9]))
    assert ranks.num_better.tolist() == [0, 1, 3]
    assert ranks.num_tied.tolist() == [1, 2 + 4, 0]  # the tie of two goes on for four items beyond the list
    assert is_cut_by_tie(ranked, ranks).tolist() == [False, False, True]


def test_empty_slots_are_neither_better_nor_tied():
    ranked = lists([[5, -1, -1], [5, -1, -1]], [[1, -np.inf, -np.inf]] * 2)
    ranks = target_ranks(ranked, np.array([5, 6]))
    assert ranks.num_better.tolist() == [0, 1]
    assert ranks.num_tied.tolist() == [1, 0]
    assert not is_cut_by_tie(ranked, ranks).any()


@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=8), target=st.integers(0, 7), k=st.integers(1, 10))
def test_counts_from_a_list_equal_counts_from_all_scores(scores, target, k):
    target %= len(scores)
    ranked = top_k(np.array([scores], dtype=np.float64), k)
    ranks = target_ranks(ranked, np.array([target]))
    if ranks.num_tied[0]:
        assert ranks.num_better[0] == sum(score > scores[target] for score in scores)
        assert ranks.num_tied[0] == scores.count(scores[target])
    elif is_cut_by_tie(ranked, ranks)[0]:
        assert sum(score > scores[target] for score in scores) + scores.count(scores[target]) > k
    else:
        assert sum(score > scores[target] for score in scores) >= k


@pytest.mark.parametrize(
    ("ranked", "problem"),
    [
        (lists([[1, 2, 3]], [[3, 2, 1]]), r"expected lists of shape \(1, 2\)"),
        (lists([[1, 2]], [[1, 2]]), "row 0 has a score that rises"),
        (lists([[1, 2]], [[1, np.nan]]), "row 0 has a score that is no number"),
        (lists([[-1, 2]], [[1, 1]]), "row 0 has an item after an empty slot"),
    ],
)
def test_a_malformed_list_is_refused(ranked, problem):
    with pytest.raises(DataError, match=f"Mine: {problem}"):
        check_recommendations(ranked, 1, 2, "Mine")
