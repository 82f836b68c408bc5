"""The law is recovered from a grid that it made, and what it says follows from its formula."""

import numpy as np
import pytest

from itemic.core.errors import DataError
from itemic.studies.scaling_law import Interval, ScalingLaw, _Points, bootstrap_law, doubts, fit_law, intervals

PUBLISHED = ScalingLaw(e=0.4232, a=502.32, alpha=0.3325, b=7.02, beta=0.1865)
"""OpenOneRec's fit."""


def grid(num_sizes: int = 5, num_amounts: int = 5) -> tuple[np.ndarray, np.ndarray]:
    n, d = np.meshgrid(np.geomspace(1e6, 1e10, num_sizes), np.geomspace(1e7, 1e11, num_amounts))
    return n.ravel(), d.ravel()


def test_the_published_law_is_recovered_from_its_own_grid() -> None:
    n, d = grid()
    fit = fit_law(n, d, PUBLISHED.loss(n, d))
    for name in ("e", "a", "alpha", "b", "beta"):
        assert getattr(fit.law, name) == pytest.approx(getattr(PUBLISHED, name), rel=1e-4)
    assert fit.error < 1e-8
    assert fit.law.parameter_exponent == pytest.approx(0.1865 / 0.519, rel=1e-4)
    assert fit.law.parameter_exponent + fit.law.data_exponent == pytest.approx(1.0)


def test_under_noise_the_intervals_hold_the_published_exponents() -> None:
    n, d = grid(5, 5)
    rng = np.random.default_rng(1)
    loss = PUBLISHED.loss(n, d) * np.exp(rng.normal(0, 0.002, n.size))
    fit = fit_law(n, d, loss)
    assert fit.law.alpha == pytest.approx(PUBLISHED.alpha, abs=0.01)
    assert fit.law.beta == pytest.approx(PUBLISHED.beta, abs=0.02)
    assert fit.law.e == pytest.approx(PUBLISHED.e, abs=0.03)
    found = intervals(bootstrap_law(n, d, loss, fit, num_resamples=12, rng=rng), 0.95)
    for name in ("alpha", "beta", "parameter_exponent"):
        assert found[name].low <= getattr(PUBLISHED, name) <= found[name].high
    assert doubts(n, d, loss, fit, found) == []


def test_the_gradient_is_that_of_the_objective() -> None:
    n, d = grid(3, 3)
    points = _Points.of(n, d, PUBLISHED.loss(n, d) * np.linspace(0.9995, 1.0005, 9))
    x = np.array([-1.0, -0.5, -1.5, 0.3, 0.2])
    found = points._objective(x)[1]
    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-6
        expected = (points._objective(x + step)[0] - points._objective(x - step)[0]) / 2e-6
        assert found[place] == pytest.approx(expected, rel=1e-4)


def test_the_frontier_is_where_the_loss_is_least_for_its_compute() -> None:
    law = ScalingLaw(e=1.0, a=8.0, alpha=0.5, b=4.0, beta=0.25)
    compute = np.array([6e12, 6e15])
    n, d = law.optimum(compute)
    np.testing.assert_allclose(6 * n * d, compute)
    for factor in (0.8, 1.25):
        assert (law.loss(n * factor, d / factor) > law.loss(n, d)).all()
    # beta / (alpha + beta) = 1/3: a thousand times the compute, ten times the parameters.
    np.testing.assert_allclose(n[1] / n[0], 10.0)
    np.testing.assert_allclose(d[1] / d[0], 100.0)


def test_a_grid_that_cannot_carry_the_law_is_doubted() -> None:
    n, d = (values.ravel() for values in np.meshgrid([1e6, 2e6], [1e7, 2e7, 4e7]))
    loss = PUBLISHED.loss(n, d)
    fit = fit_law(n, d, loss)
    wide = dict.fromkeys(("e", "alpha", "beta"), Interval(low=0.0, high=float(loss.max())))
    words = " ".join(doubts(n, d, loss, fit, wide))
    for text in (
        "2 sizes",
        "span a factor of 2.0",
        "E is not identified",
        "α is not identified",
        "β is not identified",
    ):
        assert text in words


def test_too_few_or_impossible_runs_are_refused() -> None:
    n, d = grid(2, 2)
    with pytest.raises(DataError, match="at least 5 runs of two sizes and two amounts"):
        fit_law(n, d, PUBLISHED.loss(n, d))
    n, d = grid(3, 3)
    with pytest.raises(DataError, match="losses above 0"):
        fit_law(n, d, np.zeros(9))


def test_runs_of_which_no_resample_could_be_fitted_give_no_intervals() -> None:
    """Of five runs a resample that can be fitted is all of them, and its interval would be a point."""
    n, d = (values[:5] for values in grid(2, 3))
    loss = PUBLISHED.loss(n, d)
    fit = fit_law(n, d, loss)
    with pytest.raises(DataError, match="at least 6 runs to draw from, found 5"):
        bootstrap_law(n, d, loss, fit, num_resamples=2, rng=np.random.default_rng(0))
    always_the_first = FirstRuns(0)
    n, d = grid(3, 3)
    with pytest.raises(DataError, match="none of 100 resamples of the 9 runs"):
        bootstrap_law(n, d, PUBLISHED.loss(n, d), fit, num_resamples=2, rng=always_the_first)


class FirstRuns(np.random.Generator):
    """Draws the first run again and again."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))

    def integers(self, low: int, high: int, size: int) -> np.ndarray:  # type: ignore[override]
        return np.full(size, low)


def test_resamples_follow_their_seed() -> None:
    n, d = grid(3, 3)
    loss = PUBLISHED.loss(n, d) * np.exp(np.random.default_rng(0).normal(0, 0.01, 9))
    fit = fit_law(n, d, loss)
    first, second = (bootstrap_law(n, d, loss, fit, num_resamples=3, rng=np.random.default_rng(2)) for _ in range(2))
    assert first == second
