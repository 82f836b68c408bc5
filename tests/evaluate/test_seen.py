"""What a user had seen before each target."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.evaluate import seen_items


def test_seen_items_reach_further_back_than_the_history(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3, 4], [4, 3, 2]], 5, max_history=1)
    assert dataset.test["history"].to_list() == [[3], [3]]
    assert seen_items(dataset, dataset.test).lists(np.array([0, 1])) == [[0, 1, 2, 3], [4, 3]]
    assert seen_items(dataset, dataset.valid).lists(np.array([1, 0])) == [[4], [0, 1, 2]]


def test_nothing_after_the_target_is_seen_and_repeats_are_told(make_dataset):
    dataset = make_dataset([[0, 1, 0, 2, 3], [1, 2, 3, 1]], 4, repeats=True)
    train = seen_items(dataset, dataset.train)
    assert train.lists(np.arange(3)) == [[0], [0, 1], [1]]
    assert train.holds_target.tolist() == [False, True, False]
    assert seen_items(dataset, dataset.test).holds_target.tolist() == [False, True]


def test_missing_times_still_find_the_target(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3]], 4)
    no_time = pl.lit(None, dtype=pl.Int64).alias("timestamp")
    timeless = type(dataset)(
        items=dataset.items,
        interactions=dataset.interactions.with_columns(no_time),
        train=dataset.train,
        valid=dataset.valid,
        test=dataset.test.with_columns(no_time),
    )
    assert seen_items(timeless, timeless.test).lists(np.array([0])) == [[0, 1, 2]]


def test_a_repeat_without_times_is_the_later_one(make_dataset):
    dataset = make_dataset([[1, 2, 3, 4, 1]], 5, repeats=True)
    no_time = pl.lit(None, dtype=pl.Int64).alias("timestamp")
    tables = {name: getattr(dataset, name).with_columns(no_time) for name in ("interactions", "train", "valid", "test")}
    seen = seen_items(replace(dataset, **tables), tables["test"])
    assert seen.lists(np.array([0])) == [[1, 2, 3, 4]]
    assert seen.holds_target.tolist() == [True]
    assert seen.num_interactions.tolist() == [4]


def test_some_examples_in_any_order_are_found(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3], [3, 2, 1], [1, 3, 0]], 4)
    some = dataset.test[[2, 0]]
    assert seen_items(dataset, some).lists(np.arange(2)) == [[1, 3], [0, 1, 2]]


def test_a_target_outside_the_log_is_refused(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3]], 5)
    wrong = replace(dataset, test=dataset.test.with_columns(target=pl.lit(4, dtype=pl.Int64)))
    with pytest.raises(DataError, match=r"test example 4 \(user 'u0'\): the target is not this user's interaction"):
        seen_items(wrong, wrong.test)
