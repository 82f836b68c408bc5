from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.assemble import dataset_from_log
from itemic.data.leaks import check_leaks
from itemic.data.splits import leave_one_out, positions, temporal_by_share, time_order


def make_dataset(split="leave_one_out") -> Dataset:
    user = np.repeat(np.arange(3), [5, 4, 3])
    item = np.array([0, 1, 2, 1, 3, 1, 0, 2, 4, 3, 2, 0])
    time = np.array([1, 2, 5, 8, 11, 3, 4, 6, 9, 7, 10, 12]) * 10**6
    position, length = positions(user)
    log = pl.DataFrame({"user": user, "item": item, "time_us": time, "behaviour": [None] * 12})
    codes = leave_one_out(position, length) if split == "leave_one_out" else temporal_by_share(time, position, 0.3, 0.3)
    items = pl.DataFrame({"item_id": list("abcde"), "title": list("ABCDE"), "description": [""] * 5})
    targets = np.flatnonzero(position > 0) if split == "leave_one_out" else time_order(time, position)
    return dataset_from_log(items, pl.Series(["u", "v", "w"]), log, codes, targets, 2)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_our_own_splits_pass(split):
    assert check_leaks(make_dataset(split), split=split)["histories_not_in_log"] == 0


def test_figures_by_hand():
    # Test targets 3, 4, 0; learned: u 0 1 2, v 1 0, nothing of w, whose first goes with valid.
    figures = check_leaks(make_dataset(), split="leave_one_out")
    assert figures["test_targets_unseen_in_train"] == pytest.approx(2 / 3)
    assert figures["test_users_unseen_in_train"] == pytest.approx(1 / 3)
    assert figures["test_targets_in_own_history"] == 0
    assert (figures["train_first_s"], figures["test_last_s"]) == (2, 12)


def changed(dataset, table, column, row, value):
    values = getattr(dataset, table)[column].to_list()
    values[row] = value
    series = pl.Series(column, values, dtype=getattr(dataset, table).schema[column])
    return replace(dataset, **{table: getattr(dataset, table).with_columns(series)})


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "message"),
    [
        ("test", "target", 0, 1, r"test example 6 \(user 'u'\): the target is not this user's interaction"),
        ("test", "history", 0, [2, 3], r"test example 6 \(user 'u'\): the history is not what precedes the target"),
        ("train", "history", 0, [0, 1], "train example 0 .*: the history is not what precedes"),
        ("valid", "history", 1, [], None),
        ("train", "user_id", 0, "w", "the target is not"),
        ("interactions", "split", 3, "train", "valid example 3 .*: the target is not"),
        ("interactions", "split", 0, "test", "user 'u': a later split's interaction comes before"),
    ],
)
def test_what_is_moved_is_found(table, column, row, value, message):
    tampered = changed(make_dataset(), table, column, row, value)
    if message is None:
        check_leaks(tampered, split="leave_one_out")  # A shorter history is no leak.
        return
    with pytest.raises(DataError, match=message):
        check_leaks(tampered, split="leave_one_out")


def test_a_train_target_after_a_held_out_one_is_found():
    late = make_dataset("temporal")
    late = changed(late, "train", "timestamp", 0, 11)
    with pytest.raises(DataError, match="a train target at 11 s is later than a valid target"):
        check_leaks(late, split="temporal")


def test_a_leave_one_out_split_has_no_common_cut():
    with pytest.raises(DataError, match="is later than"):
        check_leaks(make_dataset("leave_one_out"), split="temporal")


def test_an_empty_test_split_has_no_shares():
    dataset = make_dataset()
    log = dataset.interactions.filter(pl.col("split") == "train")
    only = replace(dataset, interactions=log, valid=dataset.valid.head(0), test=dataset.test.head(0))
    assert check_leaks(only, split="leave_one_out")["test_targets_unseen_in_train"] is None
