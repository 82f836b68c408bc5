import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.core.ranking import allowed_mask, check_histories, top_k


def test_ties_are_listed_by_index_and_counted_beyond_the_cut() -> None:
    lists = top_k(np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 3.0, 2.0, 1.0]]), 2)
    assert lists.item_index.tolist() == [[0, 1], [1, 2]]
    assert lists.num_tied_beyond.tolist() == [1, 0]
    assert len(lists) == 2


def test_filters_leave_fewer_items_and_say_so() -> None:
    scores = np.array([[5.0, 4.0, 3.0]])
    lists = top_k(scores, 3, exclude=[[0]], allow=[[0, 2]])
    assert lists.item_index.tolist() == [[2, -1, -1]]
    assert lists.score.tolist() == [[3.0, -np.inf, -np.inf]]
    assert lists.num_tied_beyond.tolist() == [0]
    assert top_k(scores, 5).item_index.tolist() == [[0, 1, 2, -1, -1]]


@given(st.data(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12))
def test_equals_a_full_stable_sort(data: st.DataObject, num_users: int, num_items: int, k: int) -> None:
    values = st.integers(0, 4).map(float)
    row = st.lists(values, min_size=num_items, max_size=num_items)
    scores = np.array(data.draw(st.lists(row, min_size=num_users, max_size=num_users)))
    lists = top_k(scores, k)
    for user in range(num_users):
        order = np.argsort(-scores[user], kind="stable")[:k]
        found = lists.item_index[user]
        assert found[found >= 0].tolist() == order.tolist()
        last = scores[user, order[-1]]
        beyond = int((scores[user] == last).sum() - (scores[user, order] == last).sum()) if k <= num_items else 0
        assert lists.num_tied_beyond[user] == beyond


def test_bad_lists_are_refused() -> None:
    with pytest.raises(DataError, match=r"histories\[0\] holds item index 3; the catalogue has 0..2"):
        check_histories([[3]], 3)
    with pytest.raises(DataError, match="exclude has 2 lists for 1 histories"):
        allowed_mask(1, 3, [[], []], None)
    with pytest.raises(DataError, match="k must be at least 1"):
        top_k(np.zeros((1, 3)), 0)
