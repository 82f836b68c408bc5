"""Intervals and paired tests."""

import itertools

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import ArtifactError, ConfigError
from itemic.evaluate import bootstrap_intervals, compare_runs, paired_comparison
from itemic.evaluate.significance import holm, paired_p_values


def intervals(values, owner, num_bootstrap=2000, confidence=0.95, seed=0):
    return bootstrap_intervals(
        np.array(values, dtype=np.float64),
        np.array(owner),
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        rng=np.random.default_rng(seed),
    )


def rankings(hits, users=None) -> pl.DataFrame:
    users = users or [f"u{row}" for row in range(len(hits))]
    return pl.DataFrame(
        {
            "example_id": range(len(hits)),
            "user_id": users,
            "target": [7] * len(hits),
            "num_better": [0 if hit else 10 for hit in hits],
            "num_tied": [1 if hit else 0 for hit in hits],
            "items": [list(range(10))] * len(hits),
            "scores": [list(range(10, 0, -1))] * len(hits),
        }
    )


def test_the_interval_of_a_mean_is_the_normal_one_for_many_users():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(400, 2))
    low, high = intervals(values, range(400), num_bootstrap=4000)
    half_width = 1.96 * values.std(axis=0) / np.sqrt(400)
    assert low == pytest.approx(values.mean(axis=0) - half_width, abs=0.03)
    assert high == pytest.approx(values.mean(axis=0) + half_width, abs=0.03)


def test_equal_values_leave_no_doubt():
    low, high = intervals([[0.25, 0.0]] * 5, range(5))
    assert low.tolist() == high.tolist() == [0.25, 0.0]


def test_examples_of_one_user_are_drawn_together():
    values = np.random.default_rng(2).integers(0, 2, size=(100, 1)).astype(float)
    once = intervals(values, range(100), seed=3)
    copied = intervals(np.repeat(values, 5, axis=0), np.repeat(np.arange(100), 5), seed=3)
    assert copied == (pytest.approx(once[0]), pytest.approx(once[1]))


def test_users_of_different_size_weigh_by_their_examples():
    low, high = intervals([[1.0], [0.0], [0.0]], [0, 1, 1], num_bootstrap=4000, confidence=0.999)
    assert (low[0], high[0]) == (0, 1)
    means = [1, 0, 1 / 3]  # user 0 twice, user 1 twice, one of each
    single = [intervals([[1.0], [0.0], [0.0]], [0, 1, 1], num_bootstrap=1, seed=seed)[0][0] for seed in range(30)]
    assert {round(value, 6) for value in single} == {round(value, 6) for value in means}


def test_resampling_in_small_pieces_covers_every_resample(monkeypatch):
    monkeypatch.setattr("itemic.evaluate.significance._CHUNK_CELLS", 7)
    low, high = intervals(np.eye(5), range(5), num_bootstrap=999)
    assert ((low <= 0.2) & (high >= 0.2)).all()


def test_the_p_value_approaches_that_of_all_swaps():
    differences = np.array([True] * 7 + [False])
    first, second = rankings(differences), rankings(~differences)
    found = paired_comparison(
        (first, second), ("a", "b"), "HR@10", num_resamples=20_000, confidence=0.95, rng=np.random.default_rng(0)
    )
    sums = [abs(sum(signs)) for signs in itertools.product([1, -1], repeat=8)]
    exact = np.mean([value >= 6 for value in sums])
    assert exact == pytest.approx(scipy.stats.binomtest(7, 8).pvalue)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.difference == pytest.approx(6 / 8)


def test_runs_without_a_difference_have_p_1():
    table = rankings([True, False, True])
    found = paired_comparison(
        (table, table), ("a", "b"), "NDCG@5", num_resamples=100, confidence=0.9, rng=np.random.default_rng(0)
    )
    assert (found.difference, found.low, found.high, found.p_value, found.num_examples) == (0, 0, 0, 1, 3)


def test_compare_runs_matches_examples_and_changes_sign_with_the_order(tmp_path):
    rng = np.random.default_rng(5)
    first, second = rankings(rng.random(60) < 0.7), rankings(rng.random(60) < 0.3)
    first.write_parquet(tmp_path / "a.parquet")
    second[::-1].write_parquet(tmp_path / "b.parquet")
    forward = compare_runs(tmp_path / "a.parquet", tmp_path / "b.parquet", "HR@10", num_resamples=500)
    backward = compare_runs(tmp_path / "b.parquet", tmp_path / "a.parquet", "HR@10", num_resamples=500)
    assert forward.difference == -backward.difference > 0
    assert forward.p_value == backward.p_value < 0.05
    assert forward.low == pytest.approx(-backward.high)
    assert forward == compare_runs(tmp_path / "a.parquet", tmp_path / "b.parquet", "HR@10", num_resamples=500)


def test_compare_runs_refuses_what_cannot_be_compared(tmp_path):
    paths = {name: tmp_path / f"{name}.parquet" for name in ("a", "fewer", "other", "none")}
    rankings([True, False]).write_parquet(paths["a"])
    rankings([True]).write_parquet(paths["fewer"])
    pl.DataFrame({"example_id": [1]}).write_parquet(paths["other"])
    with pytest.raises(ArtifactError, match="rank other examples or targets"):
        compare_runs(paths["a"], paths["fewer"])
    with pytest.raises(ArtifactError, match="lacks the columns user_id, target"):
        compare_runs(paths["a"], paths["other"])
    with pytest.raises(ArtifactError, match=r"none\.parquet: missing; there are a\.parquet, fewer\.parquet, o"):
        compare_runs(paths["none"], paths["a"])
    with pytest.raises(ArtifactError, match=r"a\.parquet: missing; run itemic evaluate first"):
        compare_runs(tmp_path / "nowhere" / "a.parquet", paths["a"])
    with pytest.raises(ConfigError, match="at most 10 items, too few for NDCG@20"):
        compare_runs(paths["a"], paths["a"], "NDCG@20")


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .04: 3 * .01, 2 * .02, 1 * .04, none below the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p_values, kind="stable")] == sorted(corrected)


def test_many_differences_are_tested_under_the_same_swaps_as_one() -> None:
    differences = np.random.default_rng(0).integers(-1, 2, size=(40, 3)).astype(np.float64)
    differences[:, 2] = 0
    owner = np.repeat(np.arange(20), 2)
    together = paired_p_values(differences, owner, num_resamples=5000, rng=np.random.default_rng(1))
    for column in range(3):
        alone = paired_p_values(differences[:, [column]], owner, num_resamples=5000, rng=np.random.default_rng(2))
        assert together[column] == pytest.approx(alone[0], abs=0.03)
    assert together[2] == 1
