from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.ranking import Recommendations
from itemic.core.run import Run
from itemic.evaluate.ranks import target_ranks
from itemic.evaluate.report.artifacts import read_artifacts
from itemic.evaluate.report.hits import (
    are_log_probabilities,
    listed_items,
    metric_curve,
    overlap,
    prefix_hit_rates,
    reliability,
    wilson_interval,
)


def _table(target: list[int], items: list[list[int]], scores: list[list[float]] | None = None) -> pl.DataFrame:
    scores = scores or [[-float(rank) for rank in range(len(one))] for one in items]
    width = max(map(len, items))
    lists = Recommendations(
        item_index=np.array([one + [-1] * (width - len(one)) for one in items]),
        score=np.array([one + [-np.inf] * (width - len(one)) for one in scores]),
        num_tied_beyond=np.zeros(len(items), dtype=np.int64),
    )
    ranks = target_ranks(lists, np.array(target))
    return pl.DataFrame(
        {
            "example_id": list(range(len(target))),
            "target": target,
            "num_better": ranks.num_better,
            "num_tied": ranks.num_tied,
            "items": items,
            "scores": scores,
        }
    )


def test_the_curve_passes_through_the_metrics(whole_run: Run) -> None:
    artifacts = read_artifacts(whole_run)
    for name, table in artifacts.rankings.items():
        metrics = artifacts.metrics["recommenders"][name]["metrics"]
        for metric in ("HR", "NDCG"):
            expected = [metrics[f"{metric}@{cutoff}"]["value"] for cutoff in (1, 5, 10, 20, 50)]
            assert metric_curve(table, metric, (1, 5, 10, 20, 50)) == pytest.approx(expected, abs=1e-12)


def test_overlap_counts_who_hits() -> None:
    first = _table([1, 2, 3, 4], [[1, 0], [2, 0], [0, 5], [0, 5]])
    second = _table([1, 2, 3, 4], [[0, 1], [0, 5], [3, 0], [0, 5]])
    found = overlap(first, second, 2)
    assert (found.both, found.only_first, found.only_second) == (Fraction(1, 4), Fraction(1, 4), Fraction(1, 4))
    assert found.either == Fraction(3, 4)


def test_overlap_matches_examples_by_id_not_by_row() -> None:
    first = _table([1, 2], [[1], [0]])
    assert overlap(first, first.reverse(), 1).both == Fraction(1, 2)


def test_ties_count_by_their_chance() -> None:
    tied = _table([1], [[0, 1]], [[0.0, 0.0]])
    sure = _table([1], [[1, 0]])
    assert overlap(tied, sure, 1).both == Fraction(1, 2)
    assert overlap(tied, sure, 1).only_second == Fraction(1, 2)


def test_prefix_hit_rates_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    table = _table([0, 3], [[1, 2], [2, 1]])
    # Example 0 (target 00) lists 01, 10: right in the first code; example 1 (target 11) lists 10, 01: the same.
    assert prefix_hit_rates(table, codes, 2).tolist() == [1, 0]
    # Only the first item of each list: 01 for 00, 10 for 11.
    assert prefix_hit_rates(_table([0, 3], [[2, 0], [3]]), codes, 1).tolist() == [Fraction(1, 2), Fraction(1, 2)]


def test_an_empty_slot_shares_no_prefix() -> None:
    codes = np.array([[0], [1]])
    assert prefix_hit_rates(_table([1], [[0]]), codes, 5).tolist() == [0]


@given(st.data())
def test_prefix_hit_rates_fall_to_the_hit_rate(data: st.DataObject) -> None:
    codes = np.array([[a, b, c] for a in range(2) for b in range(3) for c in range(2)])
    lists = st.lists(st.integers(0, len(codes) - 1), min_size=1, max_size=6, unique=True)
    items = data.draw(st.lists(lists, min_size=1, max_size=5))
    target = data.draw(st.lists(st.integers(0, len(codes) - 1), min_size=len(items), max_size=len(items)))
    table = _table(target, items)
    rates = prefix_hit_rates(table, codes, 4)
    assert (np.diff(rates) <= 0).all()
    assert rates[-1] == pytest.approx(metric_curve(table, "HR", [4])[0])


def test_lists_of_different_lengths_are_filled_up() -> None:
    assert listed_items(_table([0, 0], [[3, 4, 5], [6]]), 2).tolist() == [[3, 4], [6, -1]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[np.log(0.5), np.log(0.5), np.log(0.5)]], True),  # items on one SID share its probability
        ([[np.log(0.6), np.log(0.5)]], False),
        ([[0.2, -1.0]], False),
        ([[-1.0, -2.0], [3.0, 2.0]], False),
    ],
)
def test_log_probabilities_are_told_from_other_scores(scores: list[list[float]], expected: bool) -> None:
    items = [list(range(len(one))) for one in scores]
    assert are_log_probabilities(_table([0] * len(scores), items, scores)) is expected


def test_honest_probabilities_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    probabilities = np.array([0.5, 0.3, 0.2])
    target = rng.choice(3, size=4000, p=probabilities)
    table = _table(target.tolist(), [[0, 1, 2]] * 4000, [np.log(probabilities).tolist()] * 4000)
    found = reliability(table, 2, num_bins=2)
    assert found.stated == pytest.approx((0.3, 0.5))
    assert found.observed == pytest.approx(found.stated, abs=0.03)
    assert found.expected_hit_rate == pytest.approx(0.8)
    assert sum(found.counts) == 8000
    assert not found.promise_is_off


def test_a_broken_promise_is_told_from_bad_luck() -> None:
    sure = [[np.log(0.9)]]
    assert reliability(_table([1] * 50, [[0]] * 50, sure * 50), 1).promise_is_off
    assert not reliability(_table([1], [[0]], [[np.log(0.5)]]), 1).promise_is_off


def test_bins_have_hits() -> None:
    table = _table([0] * 16 + [1] * 84, [[0, 2]] * 100, [[np.log(0.2), np.log(0.1)]] * 100)
    assert len(reliability(table, 2, num_bins=12).counts) == 2


def test_wilson_by_hand() -> None:
    # No success in n: 0 to z² / (n + z²).
    low, high = wilson_interval(0, 96)
    assert low == 0
    assert high == pytest.approx(1.96**2 / (96 + 1.96**2))
    low, high = wilson_interval(5, 10)
    assert (low + high) / 2 == pytest.approx(0.5)
