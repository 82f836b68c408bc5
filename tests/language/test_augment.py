"""Perturbed sequences: what is true of a target stays true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import ConfigError
from itemic.language.augment import AugmentConfig, augmented

SHARES = st.floats(0, 0.9)


def test_nothing_changes_by_default() -> None:
    rng = np.random.default_rng(0)
    place, is_target = augmented(5, AugmentConfig(), rng)
    assert AugmentConfig().is_idle
    assert place.tolist() == [0, 1, 2, 3, 4]
    assert is_target.all()
    assert rng.random() == np.random.default_rng(0).random(), "no number is drawn"


@given(length=st.integers(1, 12), crop=SHARES, drop=SHARES, swap=SHARES, seed=st.integers(0, 99))
def test_a_target_never_sees_what_came_after_it(length: int, crop: float, drop: float, swap: float, seed: int) -> None:
    config = AugmentConfig(crop=crop, drop_items=drop, swap_items=swap)
    place, is_target = augmented(length, config, np.random.default_rng(seed))
    assert len(np.unique(place)) == len(place) >= 1
    for index in np.flatnonzero(is_target):
        assert (place[:index] < place[index]).all()
    assert is_target[0] == (place[0] == 0)
    again = augmented(length, config, np.random.default_rng(seed))
    assert np.array_equal(again[0], place)


def test_of_two_swapped_items_the_later_one_is_learned() -> None:
    config = AugmentConfig(swap_items=0.999999)
    place, is_target = augmented(5, config, np.random.default_rng(0))
    assert place.tolist() == [1, 0, 3, 2, 4]
    assert is_target.tolist() == [False, False, True, False, True]


def test_dropping_and_cropping_keep_the_order() -> None:
    rng = np.random.default_rng(0)
    dropped = [augmented(10, AugmentConfig(drop_items=0.5), rng) for _ in range(50)]
    assert all((np.diff(place) > 0).all() for place, _ in dropped)
    assert 4 < np.mean([len(place) for place, _ in dropped]) < 6
    cropped = [augmented(10, AugmentConfig(crop=0.5), rng)[0] for _ in range(50)]
    assert all(place.tolist() == list(range(10 - len(place), 10)) for place in cropped)
    assert 15 < sum(len(place) == 10 for place in cropped) < 40


@pytest.mark.parametrize("field", ["crop", "drop_items", "swap_items"])
def test_a_share_of_one_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        AugmentConfig(**{field: 1.0})
