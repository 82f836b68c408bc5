from dataclasses import replace

import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data.assemble import dataset_from_examples, numbered_users
from itemic.data.leaks import check_leaks
from itemic.data.raw import RAW_EXAMPLE_SCHEMA, RAW_INTERACTION_SCHEMA, RawLog
from itemic.data.rejects import SourceRows, no_rejects

EXAMPLES = {
    # User v comes first in the file; u's three targets are spread over the splits.
    "train": [("v", ["a", "b"], "a"), ("u", ["c"], "a")],
    "valid": [("u", ["c", "a"], "a")],
    "test": [("u", ["a", "a"], "b"), ("w", ["d"], "c")],
}
LOG = [("v", "a"), ("u", "c"), ("v", "b"), ("u", "a"), ("u", "a"), ("v", "a"), ("w", "d"), ("u", "b"), ("w", "c")]


def part(rows, schema, file):
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return SourceRows(file=file, rows=table, rejects=no_rejects())


def raw(examples=EXAMPLES, log=None, items="abcde"):
    catalogue = [(item, item.upper(), "", row) for row, item in enumerate(items, start=1)]
    schema = {"item_id": pl.String, "title": pl.String, "description": pl.String, "source_row": pl.Int64}
    return RawLog(
        items=part(catalogue, schema, "items.csv"),
        interactions=log
        and part([(*pair, None, None, None, row) for row, pair in enumerate(log)], RAW_INTERACTION_SCHEMA, "log.csv"),
        examples={
            split: part([(*row, None, number) for number, row in enumerate(rows)], RAW_EXAMPLE_SCHEMA, f"{split}.csv")
            for split, rows in examples.items()
        },
    )


@pytest.mark.parametrize("log", [None, LOG], ids=["rebuilt", "from the source"])
def test_rebuilt_histories_are_all_that_precedes_the_target_and_nothing_else(log):
    short = {
        "train": [("v", ["a", "b"], "a"), ("u", ["c"], "a")],
        "valid": [("u", ["a"], "a")],
        "test": [("u", ["a"], "b"), ("w", ["d"], "c")],
    }
    given = dataset_from_examples(raw(short, log=log), max_history=10)
    dataset = dataset_from_examples(raw(short, log=log), max_history=10, rebuild_histories=True)
    assert given.test["history"].to_list() == [[0], [3]]
    assert dataset.train["history"].to_list() == [[0, 1], [2]]
    assert dataset.valid["history"].to_list() == [[2, 0]]
    assert dataset.test["history"].to_list() == [[2, 0, 0], [3]]
    for split in ("train", "valid", "test"):
        assert dataset.split(split).drop("history").equals(given.split(split).drop("history"))
    assert check_leaks(dataset, split="given")["histories_not_in_log"] == 0
    cut = dataset_from_examples(raw(short, log=log), max_history=2, rebuild_histories=True)
    assert cut.test["history"].to_list() == [[0, 0], [3]]


def test_users_are_numbered_by_first_appearance():
    users, numbers = numbered_users(pl.Series(["b", "a", "b", "c"]))
    assert users.to_list() == ["b", "a", "c"]
    assert numbers.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("log", [None, LOG], ids=["rebuilt", "from the source"])
def test_a_given_split_is_kept_row_for_row_and_its_log_found(log):
    dataset = dataset_from_examples(raw(log=log), max_history=10)
    assert dataset.train.rows() == [(0, "v", [0, 1], 0, None), (1, "u", [2], 0, None)]
    assert dataset.valid.rows() == [(2, "u", [2, 0], 0, None)]
    assert dataset.test.rows() == [(3, "u", [0, 0], 1, None), (4, "w", [3], 2, None)]
    assert dataset.items["item_id"].to_list() == list("abcde")
    assert dataset.interactions.select("user_id", "item_index", "split").rows() == [
        *[("v", 0, "train"), ("v", 1, "train"), ("v", 0, "train")],
        *[("u", 2, "train"), ("u", 0, "train"), ("u", 0, "valid"), ("u", 1, "test")],
        *[("w", 3, "test"), ("w", 2, "test")],
    ]
    assert dataset.train_sequences() == {"v": [0, 1, 0], "u": [2, 0]}
    assert check_leaks(dataset, split="given")["histories_not_in_log"] == 0


def test_a_long_history_keeps_its_last_items():
    dataset = dataset_from_examples(raw(), max_history=1)
    assert dataset.train["history"].to_list() == [[1], [2]]


def test_a_log_that_does_not_end_in_the_targets_is_refused():
    with pytest.raises(DataError, match="user 'w': the last items in the interactions are not the targets"):
        dataset_from_examples(raw(log=[*LOG[:-1], ("w", "d")]), max_history=10)
    with pytest.raises(DataError, match="user 'w': the last items"):
        dataset_from_examples(raw(log=[*LOG[:6], ("u", "b")]), max_history=10)


def test_a_log_with_times_is_sorted_by_them():
    source = raw(log=[*LOG[:-2], LOG[-1], LOG[-2]])
    times = [1, 1, 2, 2, 3, 4, 1, 2, 5]
    rows = source.interactions.rows.with_columns(pl.Series("time_us", times) * 10**6)
    timed = replace(source, interactions=replace(source.interactions, rows=rows))
    interactions = dataset_from_examples(timed, max_history=10).interactions
    assert interactions.filter(pl.col("user_id") == "u")["item_index"].to_list() == [2, 0, 0, 1]
    assert interactions["timestamp"].to_list() == [1, 2, 4, 1, 2, 3, 5, 1, 2]


def test_a_source_without_examples_has_no_given_split():
    with pytest.raises(DataError, match="the source has no examples of its own"):
        dataset_from_examples(raw(examples={}, log=LOG), max_history=10)


def test_histories_that_skip_an_interaction_are_counted():
    examples = {**EXAMPLES, "test": [("u", ["c", "a"], "b")]}
    assert check_leaks(dataset_from_examples(raw(examples), 10), split="given")["histories_not_in_log"] == 1


def test_rows_that_name_an_item_that_was_set_aside_say_so():
    source = raw(EXAMPLES, log=LOG, items="acd")
    known = replace(source, items=replace(source.items, ids_set_aside=frozenset("b"))).with_known_items()
    assert set(known.interactions.rejects["reason"]) == {"item was set aside"}
    assert [part.rejects["reason"].to_list() for part in known.examples.values()] == [
        ["item in the history was set aside"],
        [],
        ["target item was set aside"],
    ]


def test_rows_that_name_an_unknown_item_are_set_aside():
    known = raw(log=LOG, items="abc").with_known_items()
    assert known.interactions.rejects.select("row", "reason").rows() == [(6, "unknown item")]
    assert known.examples["test"].rejects.select("row", "reason").rows() == [(1, "unknown item in the history")]
    fewer = raw(items="acd").with_known_items()
    assert [part.rejects["reason"].to_list() for part in fewer.examples.values()] == [
        ["unknown item in the history"],
        [],
        ["unknown target item"],
    ]
