import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itemic.sid.order import lexicographic_order, run_starts, same_row_ids

tables = st.tuples(st.integers(0, 20), st.integers(1, 4), st.integers(0, 2**32)).map(
    lambda shape: np.random.default_rng(shape[2]).integers(0, 3, size=shape[:2])
)


def test_equal_rows_keep_their_order():
    codes = np.array([[1, 0], [0, 2], [1, 0], [0, 1]])
    assert lexicographic_order(codes).tolist() == [3, 1, 0, 2]
    assert run_starts(codes[[3, 1, 0, 2]]).tolist() == [True, True, True, False]
    assert same_row_ids(codes).tolist() == [2, 1, 2, 0]


def test_rows_without_columns_are_all_equal():
    codes = np.empty((3, 0), dtype=np.int64)
    assert lexicographic_order(codes).tolist() == [0, 1, 2]
    assert run_starts(codes).tolist() == [True, False, False]


@given(tables)
def test_order_is_that_of_tuples(codes):
    in_order = [tuple(row) for row in codes[lexicographic_order(codes)].tolist()]
    assert in_order == sorted(map(tuple, codes.tolist()))


@given(tables)
def test_rows_share_a_number_exactly_when_they_are_equal(codes):
    ids = same_row_ids(codes)
    equal = (codes[:, None] == codes[None]).all(axis=2)
    np.testing.assert_array_equal(ids[:, None] == ids[None], equal)


@given(tables, st.integers(-(2**40), 2**40), st.sampled_from([1, 255, 2**20, 2**50]))
def test_order_is_that_of_lexsort_whether_or_not_a_row_fits_into_one_integer(codes, shift, factor):
    spread = codes * factor + shift
    np.testing.assert_array_equal(lexicographic_order(spread), np.lexsort(spread.T[::-1]))
