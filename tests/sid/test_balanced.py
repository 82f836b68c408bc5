import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from itemic.core.errors import ConfigError
from itemic.sid.quantizers import balanced
from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.candidate_prices import ascend_prices
from itemic.sid.quantizers.prices import balancing_prices
from itemic.sid.quantizers.protocol import complete_codes
from itemic.sid.quantizers.residual import squared_distances
from itemic.sid.quantizers.rqkmeans import RQKMeans


def clusters(num_items=400, width=6, seed=0):
    """Most items in one cluster: without prices its codes would hold nearly all."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, width))
    which = rng.choice(5, size=num_items, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    return (centres[which] + 0.3 * rng.normal(size=(num_items, width))).astype(np.float32)


def counts_of(codes, size):
    return np.bincount(codes, minlength=size)


def test_two_codes_on_a_line_are_balanced_by_the_price_that_moves_their_border():
    # Costs x² and (x − 4)²: the border lies at 2 + w/8, and must lie between 0 and 1 for two items on either side.
    x = np.array([-1.0, 0.0, 1.0, 1.5], dtype=np.float32)
    cost = np.stack([x**2, (x - 4) ** 2], axis=1)
    prices = balancing_prices(cost, 2, 2)
    assert (cost + prices).argmin(axis=1).tolist() == [0, 0, 1, 1]
    assert prices[1] == 0
    assert 8 < prices[0] < 16


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(2, 12))
def test_it_costs_no_more_than_the_exact_assignment_with_the_same_counts(seed, num_codes, items_a_code):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_codes * items_a_code, 3)).astype(np.float32)
    cost = squared_distances(x, rng.normal(size=(num_codes, 3)).astype(np.float32))
    codes = (cost + balancing_prices(cost, items_a_code, items_a_code)).argmin(axis=1)
    counts = counts_of(codes, num_codes)
    assert abs(counts - items_a_code).max() <= 1
    columns = np.repeat(np.arange(num_codes), counts)
    rows, places = linear_sum_assignment(cost[:, columns])
    exact = cost[rows, columns[places]].sum()
    np.testing.assert_allclose(cost[np.arange(len(x)), codes].sum(), exact, rtol=1e-4)


def test_prices_begun_at_those_of_similar_costs_balance_as_well():
    x = clusters()
    cost = squared_distances(x, x[:20])
    prices = balancing_prices(cost, 18, 22)
    moved = squared_distances(x, x[:20] + np.float32(0.05))
    again = balancing_prices(moved, 18, 22, start=prices)
    counts = counts_of((moved + again).argmin(axis=1), 20)
    assert counts.min() >= 18
    assert counts.max() <= 22


def test_every_code_of_every_level_holds_about_as_many_items():
    x = clusters()
    codes = BalancedRQKMeans((16, 10, 7), BalancedRQKMeansConfig(tolerance=0.05)).fit(x, np.random.default_rng(0))
    for level, size in enumerate((16, 10, 7)):
        counts = counts_of(codes.encode(x)[:, level], size)
        assert np.floor(0.95 * 400 / size) <= counts.min()
        assert counts.max() <= np.ceil(1.05 * 400 / size)
    plain = RQKMeans((16, 10, 7)).fit(x, np.random.default_rng(0)).encode(x)
    assert counts_of(plain[:, 0], 16).max() > 1.5 * 400 / 16


def test_new_items_are_coded_by_the_same_rule_and_nearly_as_balanced():
    x = clusters(4000)
    quantizer = BalancedRQKMeans((8, 8)).fit(x[:2000], np.random.default_rng(0))
    counts = counts_of(quantizer.encode(x[2000:])[:, 0], 8)
    assert counts.min() > 0.75 * 250
    assert counts.max() < 1.25 * 250


def test_distances_are_squared_distances_plus_prices_and_encoding_minimises_them():
    x = clusters()
    quantizer = BalancedRQKMeans((6, 5)).fit(x, np.random.default_rng(0))
    codes = quantizer.encode(x)
    for level in range(2):
        left = x - quantizer.decode(codes[:, :level])
        expected = np.square(left[:, None] - quantizer.codebooks[level]).sum(axis=2) + quantizer.prices[level]
        np.testing.assert_allclose(quantizer.distances(x, codes[:, :level]), expected, atol=1e-4)
        assert quantizer.prices[level].min() == 0
    np.testing.assert_array_equal(codes, complete_codes(quantizer, x, np.empty((len(x), 0), dtype=np.int64)))


def test_from_a_fitted_start_codes_keep_their_meaning():
    x = clusters()
    start = BalancedRQKMeans((8, 6)).fit(x, np.random.default_rng(0))
    changed = np.concatenate([x[20:], clusters(20, seed=1)])
    again = BalancedRQKMeans((8, 6)).fit(changed, np.random.default_rng(2), start=start)
    assert (again.encode(x)[:, 0] == start.encode(x)[:, 0]).mean() > 0.8


def test_identical_vectors_are_said_to_be_the_reason_for_codes_out_of_balance(caplog):
    with caplog.at_level(logging.WARNING, logger="itemic"):
        BalancedRQKMeans((4,)).fit(np.ones((20, 3), dtype=np.float32), np.random.default_rng(0))
    expected = "no price tells identical vectors apart, and the fullest code's 20 are 1 distinct"
    assert f"level 0: codes hold 0 to 20 vectors, expected 4 to 6: {expected}" in caplog.text


def test_half_precision_and_mapped_vectors_make_no_difference(tmp_path):
    half = clusters().astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    expected = BalancedRQKMeans((6, 5)).fit(half.astype(np.float32), np.random.default_rng(0))
    for x in (half, np.load(tmp_path / "x.npy", mmap_mode="r")):
        found = BalancedRQKMeans((6, 5)).fit(x, np.random.default_rng(0))
        np.testing.assert_array_equal(found.encode(x), expected.encode(half.astype(np.float32)))


def test_many_codes_are_balanced_by_a_search_among_each_rows_cheapest_as_few_are_among_all():
    x = clusters(3000)
    cost = squared_distances(x, x[:150])
    exact = (cost + balancing_prices(cost, 18, 22)).argmin(axis=1)
    for num_candidates in (32, 150):
        prices, codes = ascend_prices(cost, 18, 22, num_candidates=num_candidates)
        np.testing.assert_array_equal(codes, (cost + prices).argmin(axis=1))
        counts = counts_of(codes, 150)
        assert counts.min() >= 18
        assert counts.max() <= 22
        assert prices.min() == 0
        rows = np.arange(len(x))
        # Counts may differ within the bounds, so costs agree but nearly.
        assert cost[rows, codes].mean() < 1.05 * cost[rows, exact].mean()
        assert (codes == exact).mean() > 0.8


def test_a_search_begun_at_prices_that_balance_changes_none():
    x = clusters(3000)
    cost = squared_distances(x, x[:150])
    prices, _ = ascend_prices(cost, 18, 22)
    np.testing.assert_array_equal(ascend_prices(cost, 18, 22, start=prices)[0], prices)


def test_codebooks_too_large_for_the_exact_method_are_balanced_and_each_level_has_its_own_sample():
    x = clusters(6000, width=8)
    quantizer = BalancedRQKMeans((8, 300), BalancedRQKMeansConfig(num_iterations=1)).fit(x, np.random.default_rng(0))
    codes = quantizer.encode(x)
    for level, size in enumerate((8, 300)):
        counts = counts_of(codes[:, level], size)
        assert counts.min() >= np.floor(0.85 * 6000 / size)
        assert counts.max() <= np.ceil(1.15 * 6000 / size)
    large = BalancedRQKMeans((256, 1024, 8192))
    assert [large._num_points(size) for size in (256, 1024, 8192)] == [65_536, 65_536, 64 * 8192]


def test_prices_that_were_not_found_are_not_blamed_on_identical_vectors(caplog, monkeypatch):
    monkeypatch.setattr(balanced, "balancing_prices", lambda cost, low, high, start: np.zeros(cost.shape[1], "f4"))
    with caplog.at_level(logging.WARNING, logger="itemic"):
        BalancedRQKMeans((16,)).fit(clusters(), np.random.default_rng(0))
    assert "the search for prices ended before all were found; raise tolerance" in caplog.text
    assert "identical" not in caplog.text


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="num_iterations 0"):
        BalancedRQKMeansConfig(num_iterations=0)
    with pytest.raises(ConfigError, match=r"tolerance 1\.5: expected a share"):
        BalancedRQKMeansConfig(tolerance=1.5)
