"""Groups of examples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itemic.evaluate.breakdown import HISTORY_LENGTH_EDGES, TARGET_POPULARITY_EDGES, bucket_names, buckets


def test_names_tell_the_first_and_last_value():
    assert bucket_names(HISTORY_LENGTH_EDGES) == ["0", "1-2", "3-5", "6-10", "11-20", "21-50", "51+"]
    assert bucket_names(TARGET_POPULARITY_EDGES) == ["0", "1-5", "6-20", "21-100", "101+"]


def test_groups_keep_the_order_of_the_edges_and_leave_out_empty_ones():
    groups = buckets(np.array([2, 60, 1, 3]), HISTORY_LENGTH_EDGES)
    assert [(name, rows.tolist()) for name, rows in groups] == [("1-2", [0, 2]), ("3-5", [3]), ("51+", [1])]


@given(values=st.lists(st.integers(0, 200), min_size=1))
def test_every_example_is_in_one_group(values):
    groups = buckets(np.array(values), TARGET_POPULARITY_EDGES)
    assert sorted(row for _, rows in groups for row in rows) == list(range(len(values)))
