import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.sid.order import same_row_ids
from itemic.sid.quality import gini, level_use, prefix_use
from itemic.sid.quality.prefixes import draw_pairs, pair_chance, prefix_ids, shared_length

CODES = np.array([[1, 0], [0, 2], [1, 1], [1, 0]])


def test_prefixes_are_numbered_in_order():
    assert prefix_ids(CODES).tolist() == [[1, 1], [0, 0], [1, 2], [1, 1]]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_prefix_numbers_are_those_of_equal_rows(num_items, num_levels, size, seed):
    codes = np.random.default_rng(seed).integers(0, size, size=(num_items, num_levels))
    ids = prefix_ids(codes)
    for level in range(num_levels):
        assert ids[:, level].tolist() == same_row_ids(codes[:, : level + 1]).tolist()


def test_use_of_prefixes_by_hand():
    first, second = prefix_use(prefix_ids(CODES))
    assert (first["num"], second["num"]) == (2, 3)
    assert (first["max_items"], second["max_items"]) == (3, 2)
    assert first["entropy"] == pytest.approx(3 / 4 * math.log(4 / 3) + 1 / 4 * math.log(4))
    assert second["entropy"] == pytest.approx(1 / 2 * math.log(2) + 2 * 1 / 4 * math.log(4))
    assert second["perplexity"] == pytest.approx(2**1.5)
    # Only below code 1 is there a choice left: of its three items two go on with 0 and one with 1.
    below = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)
    assert second["entropy_of_last"] == pytest.approx(3 / 4 * below)


def test_gini_by_hand():
    assert gini(np.array([2, 2, 2])) == 0
    assert gini(np.array([0, 5, 0, 0])) == pytest.approx(3 / 4)
    # Counts 1, 3: mean absolute difference over both orders and twice itself (0 + 2 + 2 + 0) / 4, over 2 * mean 2.
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)
    assert level_use(np.array([0, 0, 0, 1]), 2)["gini"] == pytest.approx(1 / 4)


def test_chance_of_one_prefix_by_hand():
    # Of the 12 ordered pairs of four items, 6 lie in the group of three.
    assert pair_chance(np.array([0, 0, 1, 0])) == pytest.approx(6 / 12)
    assert pair_chance(np.array([0])) == 0


def test_pairs_are_two_items_of_one_group_all_equally_often():
    ids = np.array([4, 0, 4, 2, 4, 0])
    pairs = draw_pairs(ids, 12_000, np.random.default_rng(0))
    assert (ids[pairs[:, 0]] == ids[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    assert found.tolist() == [[0, 2], [0, 4], [1, 5], [2, 0], [2, 4], [4, 0], [4, 2], [5, 1]]
    # Five items are drawn equally often; in the group of three each has two to go with.
    expected = 12_000 / 5 / np.where(found[:, 0] % 2 == 1, 1, 2)
    assert np.abs(counts / expected - 1).max() < 0.1


def test_there_are_no_pairs_of_loners():
    assert draw_pairs(np.array([2, 0, 1]), 5, np.random.default_rng(0)).shape == (0, 2)


def test_shared_length_counts_first_codes_only():
    codes = np.array([[1, 2, 3], [1, 0, 3], [1, 2, 3], [0, 2, 3]])
    assert shared_length(codes, np.array([[0, 1], [0, 2], [0, 3]])).tolist() == [1, 3, 0]
