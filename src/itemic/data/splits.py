"""Which interaction is learned from, chosen by and tested on, and the history before each; arrays in, arrays out.

Rows are a log sorted by user and time; ties in time have been put in order before. Knows no files and no names.
"""

from fractions import Fraction
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int, Int8, Int64

__all__ = [
    "SPLITS",
    "leave_one_out",
    "positions",
    "temporal_by_share",
    "temporal_by_time",
    "time_order",
    "windows",
]

SPLITS: Final = ("train", "valid", "test")
"""Names of the split codes 0, 1 and 2."""

_MIN_HELD_OUT = 3
_PIECE = 1 << 17


def positions(users: Int[np.ndarray, "R"]) -> tuple[Int64[np.ndarray, "R"], Int64[np.ndarray, "R"]]:
    """Returns each row's position in its user's sequence (0 for the first) and the length of that sequence.

    Args:
        users: User of each row; a user's rows stand together.
    """
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]]) if len(users) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(users)])
    return np.arange(len(users)) - np.repeat(starts, lengths), np.repeat(lengths, lengths)


def leave_one_out(position: Int[np.ndarray, "R"], length: Int[np.ndarray, "R"]) -> Int8[np.ndarray, "R"]:
    """Returns split codes: a user's last interaction is for test, the one before for valid, the rest for train.

    A user with fewer than three is for train only; a first interaction, never a target, goes with the second.
    """
    from_end = length - 1 - position
    split = np.where(from_end == 0, 2, np.where(from_end == 1, 1, 0))
    return _first_with_second(np.where(length < _MIN_HELD_OUT, 0, split).astype(np.int8), position)


def time_order(time: Int64[np.ndarray, "R"], position: Int[np.ndarray, "R"]) -> Int64[np.ndarray, "E"]:
    """Returns the rows that are targets (position 1 and later), sorted by time, ties by user and then by position."""
    targets = np.flatnonzero(position > 0)
    return targets[np.argsort(time[targets], kind="stable")]


def temporal_by_share(
    time: Int64[np.ndarray, "R"], position: Int[np.ndarray, "R"], valid_share: float, test_share: float
) -> Int8[np.ndarray, "R"]:
    """Returns split codes of a global temporal split: the first targets in time for train, the last for test.

    With E targets the cuts lie at floor(E (1 - valid - test)) and floor(E (1 - test)), as in MiniOneRec, so targets of
    one instant may fall on both sides. A first interaction goes with the second, an only one by its own time.
    """
    order = time_order(time, position)
    valid, test = Fraction(str(valid_share)), Fraction(str(test_share))
    cuts = [int(len(order) * (1 - valid - test)), int(len(order) * (1 - test))]
    starts = [int(time[order[cut]]) if cut < len(order) else np.iinfo(np.int64).max for cut in cuts]
    split = _by_time(time, *starts)
    split[order] = np.searchsorted(cuts, np.arange(len(order)), side="right")
    return _first_with_second(split, position)


def temporal_by_time(
    time: Int64[np.ndarray, "R"], position: Int[np.ndarray, "R"], valid_start: int, test_start: int
) -> Int8[np.ndarray, "R"]:
    """Returns split codes: before ``valid_start`` for train, before ``test_start`` for valid, all others for test.

    A first interaction goes with the second, an only one by its own time.
    """
    return _first_with_second(_by_time(time, valid_start, test_start), position)


def _by_time(time: Int64[np.ndarray, "R"], valid_start: int, test_start: int) -> Int8[np.ndarray, "R"]:
    return np.searchsorted([valid_start, test_start], time, side="right").astype(np.int8)


def _first_with_second(split: Int8[np.ndarray, "R"], position: Int[np.ndarray, "R"]) -> Int8[np.ndarray, "R"]:
    is_first = np.flatnonzero((position[:-1] == 0) & (position[1:] == 1))
    moved = split.copy()
    moved[is_first] = split[is_first + 1]
    return moved


def windows(
    items: Int64[np.ndarray, "R"], rows: Int64[np.ndarray, "E"], position: Int[np.ndarray, "R"], max_history: int
) -> pl.Series:
    """Returns for each of ``rows`` the last ``max_history`` items before it, oldest first, as lists.

    Args:
        items: Item of every row of the log.
        rows: The rows that are targets.
        position: Position of every row in its user's sequence.
        max_history: At least 1.
    """
    # In pieces: the index arrays are three times as large as the lists that they make.
    pieces = [rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE)]
    lists = [_windows(items, piece, np.minimum(position[piece], max_history)) for piece in pieces]
    return pl.concat([pl.Series("history", [], dtype=pl.List(pl.Int64)), *lists])


def _windows(items: Int64[np.ndarray, "R"], rows: Int64[np.ndarray, "E"], lengths: Int[np.ndarray, "E"]) -> pl.Series:
    offsets = np.r_[0, np.cumsum(lengths)]
    source = np.arange(offsets[-1]) + np.repeat(rows - offsets[1:], lengths)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(items[source]))
    return pl.Series("history", lists, dtype=pl.List(pl.Int64))
