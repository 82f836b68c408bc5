import numpy as np
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.evaluate.calibration import (
    CalibrateConfig,
    ListedProbabilities,
    calibrate,
    calibration_error,
    collect_probabilities,
    fit_curve,
    hold_out_probabilities,
    reliability_table,
)


def overconfident(num_users: int, seed: int = 0) -> ListedProbabilities:
    """Ten items a user, of which half as many are right as is stated."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.4, 2, size=10 * num_users).clip(1e-9, 1)
    return ListedProbabilities(
        probability=probability,
        is_hit=rng.random(len(probability)) < probability / 2,
        rank=np.tile(np.arange(1, 11), num_users),
        owner=np.repeat(np.arange(num_users), 10),
    )


def test_error_and_table_by_hand() -> None:
    probability = np.array([0.9, 0.1, 0.3, 0.5])
    is_hit = np.array([True, False, False, True])
    # Two bins: (0.1, 0.3) states 0.2 and has none; (0.5, 0.9) states 0.7 and has all.
    assert calibration_error(probability, is_hit, 2) == pytest.approx((0.2 + 0.3) / 2)
    assert calibration_error(probability, is_hit, 1) == pytest.approx(abs(1.8 / 4 - 1 / 2))
    assert calibration_error(probability, is_hit, 99) == pytest.approx((0.1 + 0.1 + 0.3 + 0.5) / 4)
    low, high = reliability_table(probability, is_hit, 2)
    assert low == {"num_items": 2, "mean_probability": pytest.approx(0.2), "hit_frequency": 0.0}
    assert high == {"num_items": 2, "mean_probability": pytest.approx(0.7), "hit_frequency": 1.0}


def test_an_overconfident_model_is_corrected_on_users_it_was_not_fitted_on() -> None:
    listed = overconfident(4000)
    curve = calibrate(listed, CalibrateConfig(), seed=0)
    np.testing.assert_allclose(curve.apply(np.array([0.1, 0.3, 0.6])), [0.05, 0.15, 0.3], atol=0.03)
    before, after = curve.figures["before"], curve.figures["after (held out)"]
    assert before["ECE"] == pytest.approx(listed.probability.mean() / 2, rel=0.1)
    assert after["ECE"] < before["ECE"] / 8
    assert after["ECE of the first"] < before["ECE of the first"] / 3
    assert before["expected hits / hits"] == pytest.approx(2, rel=0.05)
    assert after["expected hits / hits"] == pytest.approx(1, rel=0.05)
    fresh = overconfident(4000, seed=1)
    assert calibration_error(curve.apply(fresh.probability), fresh.is_hit) < before["ECE"] / 8


def test_the_curve_rises_and_keeps_the_number_of_hits() -> None:
    for seed in range(5):
        listed = overconfident(60, seed)
        stated, actual = fit_curve(listed.probability, listed.is_hit)
        assert (np.diff(stated) > 0).all()
        assert (np.diff(actual) >= 0).all()
        curve = calibrate(listed, CalibrateConfig(num_folds=2), seed=seed)
        calibrated = curve.apply(listed.probability)
        order = np.argsort(listed.probability)
        assert (np.diff(calibrated[order]) >= 0).all()
        assert calibrated.sum() == pytest.approx(listed.is_hit.sum(), rel=0.15)


def test_few_items_or_one_probability_make_one_knot() -> None:
    stated, actual = fit_curve(np.full(7, 0.25), np.array([True] * 2 + [False] * 5))
    np.testing.assert_allclose(stated, [0.25])
    np.testing.assert_allclose(actual, [2 / 7])


def test_held_out_means_fitted_without_the_user() -> None:
    """Two users who are the opposite of each other: each gets the other's share."""
    listed = ListedProbabilities(
        probability=np.full(200, 0.5),
        is_hit=np.repeat([True, False], 100),
        rank=np.ones(200, dtype=np.int64),
        owner=np.repeat([7, 9], 100),
    )
    found = hold_out_probabilities(listed, 2, seed=0)
    np.testing.assert_allclose(found, np.repeat([0.0, 1.0], 100))


def test_what_is_listed_is_collected_under_the_protocol(make_dataset, fixed_scores) -> None:
    dataset = make_dataset([[0, 1, 2, 3], [2, 3, 0, 1]], 5)
    recommender = fixed_scores(np.log([0.1, 0.2, 0.3, 0.15, 0.25]))
    listed = collect_probabilities(recommender, dataset, CalibrateConfig(list_length=4), seed=0)
    # Valid targets are 2 and 0; the history's two items are left out: three items a list.
    assert listed.rank.tolist() == [1, 2, 3] * 2
    np.testing.assert_allclose(listed.probability, [0.3, 0.25, 0.15, 0.25, 0.2, 0.1])
    assert listed.is_hit.tolist() == [True, False, False, False, False, True]
    assert len(set(listed.owner[:3])) == 1
    assert listed.owner[0] != listed.owner[3]


def test_what_cannot_be_calibrated_is_refused() -> None:
    listed = overconfident(3)
    none = ListedProbabilities(
        probability=listed.probability, is_hit=np.zeros_like(listed.is_hit), rank=listed.rank, owner=listed.owner
    )
    with pytest.raises(DataError, match="none of 30 listed items was the held-out one"):
        calibrate(none, CalibrateConfig(), seed=0)
    with pytest.raises(DataError, match="3 users for 5 folds"):
        hold_out_probabilities(listed, 5, seed=0)
    for setting in ({"num_folds": 1}, {"list_length": 0}, {"max_examples": -1}, {"num_bins": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            CalibrateConfig(**setting)
