"""Diversity inside lists, by hand and against a loop over pairs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.evaluate.metrics import diversity

VECTORS = np.array([[1, 0], [0, 2], [3, 0], [-1, 0], [0, 0], [1, 1]], dtype=np.float32)


def slow_diversity(lists, vectors):
    def distance(a, b):
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return 1 - a @ b / lengths if lengths else 1.0

    means = []
    for items in lists:
        pairs = list(itertools.combinations([vectors[item].astype(float) for item in items if item >= 0], 2))
        if pairs:
            means.append(sum(distance(a, b) for a, b in pairs) / len(pairs))
    return sum(means) / len(means) if means else None


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[0, 1]], 1),
        ([[0, 2]], 0),
        ([[0, 3]], 2),
        ([[0, 4]], 1),
        ([[0, 1, 2]], 2 / 3),
        ([[0, 5]], 1 - 1 / math.sqrt(2)),
        ([[0, 1], [0, 3]], 3 / 2),
        ([[0, 1, -1], [0, -1, -1]], 1),
        ([[0, 0]], 0),
    ],
)
def test_values_by_hand(lists, expected):
    assert diversity(np.array(lists), VECTORS) == pytest.approx(expected)


def test_lists_of_fewer_than_two_items_have_none():
    assert diversity(np.array([[3, -1], [-1, -1]]), VECTORS) is None
    assert diversity(np.array([[3], [1]]), VECTORS) is None


@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=4, max_size=4), min_size=1, max_size=5), st.permutations(range(4))
)
def test_it_equals_a_loop_over_pairs_and_does_not_depend_on_the_order_in_a_list(lists, order):
    items = np.array(lists)
    found, expected = diversity(items, VECTORS), slow_diversity(lists, VECTORS)
    assert (found is None) == (expected is None)
    if found is not None:
        assert found == pytest.approx(expected, abs=1e-12)
        assert 0 <= found <= 2
        assert diversity(items[:, list(order)], VECTORS) == pytest.approx(found, abs=1e-12)


def test_many_lists_are_read_in_pieces():
    rng = np.random.default_rng(0)
    lists, vectors = rng.integers(0, 50, size=(600, 3)), rng.normal(size=(50, 4)).astype(np.float32)
    assert diversity(lists, vectors) == pytest.approx(slow_diversity(lists, vectors))
