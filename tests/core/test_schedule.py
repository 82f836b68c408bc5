"""Rates by hand."""

import pytest

from itemic.core.schedule import learning_rate_factor


def test_rates_rise_then_fall() -> None:
    assert learning_rate_factor(0.05, "cosine", 0.1) == 0.5
    assert learning_rate_factor(0.1, "cosine", 0.1) == 1.0
    assert learning_rate_factor(0.55, "cosine", 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, "cosine", 0.1) == pytest.approx(0.0)
    assert learning_rate_factor(0.55, "linear", 0.1, floor=0.2) == pytest.approx(0.6)
    assert learning_rate_factor(0.9, "constant", 0.1) == 1.0
    assert learning_rate_factor(1.0, "constant", 0.1) == 1.0
