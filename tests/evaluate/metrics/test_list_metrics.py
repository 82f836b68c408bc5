"""Coverage, Gini, novelty and invalid rate: hand-worked values."""

from fractions import Fraction

import numpy as np
import pytest

from itemic.evaluate.metrics import coverage, gini, invalid_rate, novelty, valid_slots

LISTS = np.array([[0, 1], [0, 2], [0, -1]])


def test_coverage_is_the_share_of_the_catalogue_that_is_listed():
    assert coverage(LISTS, 8) == float(Fraction(3, 8))


def test_gini_of_equal_shares_is_zero_and_of_one_item_is_almost_one():
    assert gini(np.array([[0, 1], [2, 3]]), 4) == 0
    assert gini(np.array([[2], [2], [2]]), 5) == pytest.approx(float(1 - Fraction(1, 5)))


def test_gini_equals_half_the_relative_mean_difference():
    times_listed = np.array([3, 1, 1, 0])
    pairs = np.abs(times_listed[:, None] - times_listed[None, :])
    assert gini(LISTS, 4) == pytest.approx(pairs.mean() / times_listed.mean() / 2)


def test_novelty_is_mean_self_information_with_one_added_to_each_count():
    counts = np.array([3, 1, 0, 0])  # shares 4/8, 2/8, 1/8, 1/8: 1, 2, 3, 3 bits
    assert novelty(LISTS, counts) == pytest.approx(float(Fraction(1 + 2 + 1 + 3 + 1, 5)))


def test_a_slot_is_valid_with_an_allowed_item_not_listed_before():
    items = np.array([[0, 0, 4, 7, -1], [4, 1, -1, -1, -1]])
    expected = [[True, False, True, False, False], [False, True, False, False, False]]
    assert valid_slots(items, 5, [[], [4]]).tolist() == expected
    assert valid_slots(items, 8)[0].tolist() == [True, False, True, True, False]


def test_an_empty_slot_is_invalid_only_where_a_candidate_was_left():
    items = np.array([[0, -1, -1]])
    valid = valid_slots(items, 10)
    assert invalid_rate(items, valid, np.array([10])) == pytest.approx(float(Fraction(2, 3)))
    assert invalid_rate(items, valid, np.array([2])) == float(Fraction(1, 2))
    assert invalid_rate(items, valid, np.array([1])) == 0


def test_with_no_candidate_every_listed_item_is_invalid():
    items = np.array([[0, 1]])
    assert invalid_rate(items, valid_slots(items, 2, [[0, 1]]), np.array([0])) == 1
    empty = np.full((1, 2), -1)
    assert invalid_rate(empty, valid_slots(empty, 2, [[0, 1]]), np.array([0])) == 0
