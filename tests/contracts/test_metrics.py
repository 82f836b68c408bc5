"""The contract of every metric: bounds, monotony, order, determinism, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import ConfigError
from itemic.evaluate.metrics import RANK_METRICS, coverage, gini, invalid_rate, novelty, valid_slots

NUM_ITEMS = 12
COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=8)
LISTS = st.lists(st.lists(st.integers(-1, NUM_ITEMS + 2), min_size=3, max_size=3), min_size=1, max_size=6)

every_rank_metric = pytest.mark.parametrize("metric", RANK_METRICS.values(), ids=RANK_METRICS.keys())


@every_rank_metric
@given(counts=COUNTS, cutoff=st.integers(1, 20))
def test_rank_metrics_lie_between_0_and_1_and_grow_with_the_cutoff(metric, counts, cutoff):
    num_better, num_tied = np.array(counts, dtype=np.int64).T
    values = metric(num_better, num_tied, cutoff)
    assert values.shape == (len(counts),)
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert (metric(num_better, num_tied, cutoff + 1) >= values - 1e-12).all()


@every_rank_metric
@given(counts=COUNTS, cutoff=st.integers(1, 20))
def test_a_better_rank_is_never_worth_less(metric, counts, cutoff):
    num_better, num_tied = np.array(counts, dtype=np.int64).T
    assert (metric(num_better + 1, num_tied, cutoff) <= metric(num_better, num_tied, cutoff) + 1e-12).all()


@every_rank_metric
def test_the_first_place_is_worth_1_and_an_empty_batch_gives_none(metric):
    assert metric(np.array([0]), np.array([1]), 1).tolist() == [1]
    assert metric(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 5).shape == (0,)


@every_rank_metric
def test_a_cutoff_below_1_is_refused(metric):
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        metric(np.array([0]), np.array([1]), 0)


@given(lists=LISTS, excluded=st.sets(st.integers(0, NUM_ITEMS - 1)), seed=st.integers(0, 99))
def test_list_metrics_keep_their_bounds_and_do_not_depend_on_the_order_of_users(lists, excluded, seed):
    exclude = [sorted(excluded)] * len(lists)

    def values(items: np.ndarray) -> list[float]:
        valid = valid_slots(items, NUM_ITEMS, exclude)
        listed = np.where(valid, items, -1)
        num_allowed = np.full(len(items), NUM_ITEMS - len(excluded))
        bounded = [coverage(listed, NUM_ITEMS), invalid_rate(items, valid, num_allowed)]
        if not valid.any():
            return bounded
        return [*bounded, gini(listed, NUM_ITEMS), novelty(listed, np.arange(NUM_ITEMS))]

    items = np.array(lists, dtype=np.int64)
    found = values(items)
    assert all(0 <= value <= 1 for value in found[:3])
    assert values(np.random.default_rng(seed).permutation(items)) == pytest.approx(found)
