import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import splits
from itemic.data.splits import leave_one_out, positions, temporal_by_share, temporal_by_time, time_order, windows

LENGTHS = st.lists(st.integers(1, 6), max_size=8)


def users_of(lengths):
    return np.repeat(np.arange(len(lengths)), lengths).astype(np.int64)


def times_of(lengths, draw):
    return np.array(
        [t for n in lengths for t in sorted(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))], dtype=np.int64
    )


def test_positions_and_lengths():
    position, length = positions(np.array([4, 4, 4, 2, 7, 7]))
    assert position.tolist() == [0, 1, 2, 0, 0, 1]
    assert length.tolist() == [3, 3, 3, 1, 2, 2]
    assert [len(array) for array in positions(np.zeros(0, dtype=np.int64))] == [0, 0]


def test_leave_one_out_by_hand():
    # Sequences of 1, 2, 3 and 5; with three, the first goes with the second, which is for valid.
    assert leave_one_out(*positions(users_of([1, 2, 3, 5]))).tolist() == [0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2]


def test_temporal_shares_cut_where_minionerec_cuts():
    # Industrial: 45,324 targets give 36,259 / 4,532 / 4,533.
    users = np.repeat(np.arange(45_324), 2)
    position, _ = positions(users)
    time = np.arange(len(users))
    split = temporal_by_share(time, position, 0.1, 0.1)
    assert np.bincount(split[position > 0]).tolist() == [36_259, 4_532, 4_533]


def test_temporal_by_hand():
    users = users_of([3, 2, 1, 1])
    position, _ = positions(users)
    time = np.array([1, 2, 9, 3, 5, 4, 9])
    # Targets by time: row 1 (2), row 4 (5), row 2 (9): one for each split with thirds.
    assert time_order(time, position).tolist() == [1, 4, 2]
    assert temporal_by_share(time, position, 1 / 3, 1 / 3).tolist() == [0, 0, 2, 1, 1, 0, 2]
    assert temporal_by_time(time, position, 5, 9).tolist() == [0, 0, 2, 1, 1, 0, 2]


def test_ties_in_time_are_ordered_by_user_then_position():
    position, _ = positions(users_of([3, 3]))
    assert time_order(np.array([1, 7, 7, 1, 7, 7]), position).tolist() == [1, 2, 4, 5]


@given(st.data(), LENGTHS, st.sampled_from([0.0, 0.1, 0.25, 0.4]), st.sampled_from([0.0, 0.1, 0.25, 0.4]))
def test_a_temporal_split_never_teaches_what_comes_later(data, lengths, valid, test):
    position, _ = positions(users_of(lengths))
    time = times_of(lengths, data.draw)
    split = temporal_by_share(time, position, valid, test)
    target_times = [time[(position > 0) & (split == code)] for code in range(3)]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        if len(target_times[earlier]) and len(target_times[later]):
            assert target_times[earlier].max() <= target_times[later].min()
    num_targets = int((position > 0).sum())
    assert len(target_times[2]) >= int(num_targets * test)


@given(LENGTHS, st.integers(1, 7))
def test_windows_equal_slices(lengths, max_history):
    users = users_of(lengths)
    items = (np.arange(len(users)) * 7 + 3).astype(np.int64)
    position, _ = positions(users)
    rows = np.flatnonzero(position > 0)[::-1].copy()
    expected = [items[max(row - position[row], row - max_history) : row].tolist() for row in rows]
    assert windows(items, rows, position, max_history).to_list() == expected


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_windows_do_not_depend_on_the_size_of_the_pieces(monkeypatch, piece):
    items, position = np.arange(10), np.arange(10)
    expected = [list(range(max(0, row - 4), row)) for row in range(1, 10)]
    monkeypatch.setattr(splits, "_PIECE", piece)
    assert windows(items, np.arange(1, 10), position, 4).to_list() == expected
