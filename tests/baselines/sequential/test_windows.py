"""Windows of training sequences: every target once, nothing across users."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sequential.windows import Windows
from itemic.core.errors import DataError


def make_log(lengths: list[int]) -> TrainingLog:
    """Items are numbered through the whole log, so that an item tells its row."""
    user = np.repeat(np.arange(len(lengths)), lengths)
    return TrainingLog(user=user, item=np.arange(len(user)), num_items=len(user))


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 1),
    max_length=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_every_target_is_in_one_window_of_its_user(lengths, max_length, seed):
    log = make_log(lengths)
    windows = Windows.cut(log, max_length, np.random.default_rng(seed))
    assert ((windows.length >= 1) & (windows.length <= max_length)).all()
    targets = [
        start + 1 + step for start, length in zip(windows.start, windows.length, strict=True) for step in range(length)
    ]
    first_of_each = np.cumsum([0, *lengths[:-1]])
    assert sorted(targets) == sorted(set(range(len(log.user))) - set(first_of_each.tolist()))
    assert (log.user[windows.start] == log.user[windows.start + windows.length]).all()


def test_a_short_sequence_is_one_window_and_a_long_one_is_cut_anew_each_time():
    log = make_log([4, 30])
    cuts = [Windows.cut(log, 8, np.random.default_rng(seed)) for seed in range(20)]
    assert all((windows.start[0], windows.length[0]) == (0, 3) for windows in cuts)
    assert len({windows.length[1] for windows in cuts}) > 4


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=8), batch_tokens=st.integers(1, 30))
def test_batches_hold_every_window_once_and_keep_to_their_size(lengths, batch_tokens):
    rng = np.random.default_rng(0)
    windows = Windows.cut(make_log(lengths), 5, rng)
    batches = windows.batches(batch_tokens, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows.start)))
    assert all(windows.length[rows].sum() < batch_tokens + 5 for rows in batches)


def test_a_batch_is_padded_to_the_right():
    log = make_log([3, 5])
    windows = Windows(np.array([0, 3]), np.array([2, 4]))
    batch = windows.load(log, np.array([0, 1]))
    assert batch.scored.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.items[batch.scored].tolist() == [0, 1, 3, 4, 5, 6]
    assert batch.targets.tolist() == [1, 2, 4, 5, 6, 7]
    assert batch.items.dtype == batch.targets.dtype == torch.int64


def test_sequences_of_one_item_teach_nothing():
    with pytest.raises(DataError, match="no user has two training interactions"):
        Windows.cut(make_log([1, 1]), 5, np.random.default_rng(0))
