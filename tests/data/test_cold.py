"""The cold-start protocol: exact on a worked log, and no cold item in anything that teaches."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.config import config_from_mapping
from itemic.core.dataset import EXAMPLE_SCHEMA, Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.run import Run
from itemic.data import PrepareConfig, prepare, prepare_dataset
from itemic.data.assemble import dataset_from_log
from itemic.data.cold import ColdConfig, hold_out
from itemic.data.leaks import check_leaks
from itemic.data.splits import leave_one_out, positions

NUM_ITEMS = 6


def make_dataset(sequences, max_history=3) -> Dataset:
    user = np.repeat(np.arange(len(sequences)), [len(items) for items in sequences])
    item = np.concatenate([np.array(items, dtype=np.int64) for items in sequences])
    position, length = positions(user)
    times = np.arange(len(user)) * 10**6
    log = pl.DataFrame({"user": user, "item": item, "time_us": times, "behaviour": [None] * len(user)})
    ids = [f"i{index}" for index in range(NUM_ITEMS)]
    items = pl.DataFrame({"item_id": ids, "title": ids, "description": [""] * NUM_ITEMS})
    names = pl.Series([f"u{number}" for number in range(len(sequences))])
    return dataset_from_log(
        items, names, log, leave_one_out(position, length), np.flatnonzero(position > 0), max_history
    )


# Targets of valid and test: 2 and 4, 3 and 2, 4 and 5. Of these 2, 3 and 4 have training interactions.
SEQUENCES = [[0, 2, 1, 3, 0, 2, 4], [2, 4, 3, 2], [1, 2, 2, 0, 4, 5]]


def without_item_2(dataset) -> Dataset:
    """Returns the dataset for a seed that draws item 2 of the three that can be drawn."""
    found = (hold_out(dataset, ColdConfig(share=1 / 3), seed=seed) for seed in range(60))
    return next(one for one in found if 2 in one.cold_items)


def histories(table):
    return [(user, history, target) for user, history, target in table.select("user_id", "history", "target").rows()]


def test_a_worked_log():
    cold = without_item_2(make_dataset(SEQUENCES))
    # 5 is nobody's in training, and 4 was u1's alone, who has no train example left, so that it goes with valid.
    assert cold.cold_items.tolist() == [2, 4, 5]
    assert cold.train_sequences() == {"u0": [0, 1, 3, 0], "u2": [1, 0]}
    # Learned were 0 2 1 3 0 | 2 4 | 1 2 2 0.
    assert histories(cold.train) == [
        ("u0", [0], 1),
        ("u0", [0, 1], 3),
        ("u0", [0, 1, 3], 0),
        ("u2", [1], 0),
    ]
    # Filled up with earlier items to the length they had; what happens in valid stays in the histories of test.
    assert histories(cold.valid) == [("u0", [1, 3, 0], 2), ("u1", [4], 3), ("u2", [1, 0], 4)]
    assert histories(cold.test) == [("u0", [3, 0, 2], 4), ("u1", [4, 3], 2), ("u2", [1, 0, 4], 5)]
    assert cold.interactions.filter(user_id="u1")["split"].to_list() == ["valid", "valid", "test"]
    assert cold.info["cold"] == {
        "share": 1 / 3,
        "min_interactions": 1,
        "num_items": 3,
        "num_drawn": 1,
        "interactions_dropped": 4,
        "train_examples_dropped": 4,
        "valid_examples": 2,
        "test_examples": 3,
    }
    assert check_leaks(cold, split="leave_one_out")["histories_not_in_log"] == 0


def test_histories_may_be_empty_in_valid_and_test():
    cold = without_item_2(make_dataset([[2, 2, 2, 2], [0, 1, 0, 1, 0]]))
    assert histories(cold.valid)[0] == ("u0", [], 2)
    assert histories(cold.test)[0] == ("u0", [2], 2)


def test_published_histories_that_the_log_does_not_have_lose_cold_items_alone():
    dataset = make_dataset(SEQUENCES)
    odd = dataset.valid["history"].to_list()
    odd[2] = [2, 5, 3]
    dataset = replace(dataset, valid=dataset.valid.with_columns(pl.Series("history", odd)).cast(dict(EXAMPLE_SCHEMA)))
    assert histories(without_item_2(dataset).valid)[2] == ("u2", [5, 3], 4)


def test_items_that_too_few_had_are_not_drawn():
    dataset = make_dataset(SEQUENCES)
    with pytest.raises(DataError, match="0 targets of valid and test have 9 or more training interactions"):
        hold_out(dataset, ColdConfig(min_interactions=9), seed=0)
    cold = hold_out(dataset, ColdConfig(share=1.0, min_interactions=2), seed=0)  # 2 alone has so many
    assert cold.cold_items.tolist() == [2, 4, 5]
    with pytest.raises(DataError, match="no train example is left"):
        hold_out(make_dataset([[0, 0, 0, 0]]), ColdConfig(share=1.0), seed=0)
    with pytest.raises(ConfigError, match="expected a share above 0 and at most 1"):
        ColdConfig(share=0.0)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=9), min_size=2, max_size=6),
    st.floats(0.05, 1),
    st.integers(0, 3),
)
def test_nothing_that_teaches_holds_a_cold_item_and_nothing_else_is_lost(sequences, share, seed):
    dataset = make_dataset(sequences)
    try:
        cold = hold_out(dataset, ColdConfig(share=share), seed=seed)
    except DataError:
        return
    assert check_leaks(cold, split="leave_one_out")["histories_not_in_log"] == 0
    gone = set(cold.cold_items.tolist())
    learned = [item for items in cold.train_sequences().values() for item in items]
    assert gone == set(range(NUM_ITEMS)) - set(learned)
    taught = [item for history, target in cold.train.select("history", "target").rows() for item in [*history, target]]
    assert not gone & set(taught)
    for name in ("valid", "test"):
        before, after = dataset.split(name), cold.split(name)
        assert after.select("example_id", "user_id", "target").equals(before.select("example_id", "user_id", "target"))
        lengths = before["history"].list.len().to_list(), after["history"].list.len().to_list()
        assert all(now <= then for then, now in zip(*lengths, strict=True))
    assert cold.items.drop("is_cold").equals(dataset.items)
    assert hold_out(dataset, ColdConfig(share=share), seed=seed).test.equals(cold.test)


def test_a_cold_item_that_is_learned_from_is_found():
    cold = without_item_2(make_dataset(SEQUENCES))
    marked = cold.items.with_columns((pl.col("is_cold") | (pl.col("item_index") == 3)).alias("is_cold"))
    with pytest.raises(DataError, match="user 'u0': a training interaction is with cold item 3"):
        check_leaks(replace(cold, items=marked), split="leave_one_out")
    told = pl.Series("history", [[2], *cold.train["history"].to_list()[1:]])
    with pytest.raises(DataError, match=r"train example 1 \(user 'u0'\): holds a cold item"):
        check_leaks(replace(cold, train=cold.train.with_columns(told)), split="given")


def write_log(folder, column="year"):
    rows = [f"u{user},i{item},{at}" for user, seq in enumerate(SEQUENCES) for at, item in enumerate(seq)]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    shelf = [f"item_id,title,description,{column}", *(f"i{n},T{n},,1" for n in range(NUM_ITEMS))]
    (folder / "items.csv").write_text("\n".join(shelf) + "\n")
    return {"format": "table", "interactions": str(folder / "log.csv"), "items": str(folder / "items.csv")}


def test_the_stage_marks_the_items_and_says_what_it_did(tmp_path):
    source = write_log(tmp_path)
    config = config_from_mapping(PrepareConfig, {"source": source, "cold": {"share": 0.5}}, source="test")
    run = Run(tmp_path / "run")
    prepare(config, run, seed=3)
    dataset = Dataset.load(run.path("dataset"))
    assert dataset.items["is_cold"].sum() == len(dataset.cold_items) == dataset.info["cold"]["num_items"] > 1
    assert dataset.info["config"]["cold"] == {"share": 0.5, "min_interactions": 1}
    assert dataset.info["counts"]["interactions"] == dataset.interactions.height
    assert prepare_dataset(config, seed=3)[0].cold_items.tolist() == dataset.cold_items.tolist()


def test_without_the_protocol_nothing_is_marked(tmp_path):
    config = config_from_mapping(PrepareConfig, {"source": write_log(tmp_path)}, source="test")
    dataset, _ = prepare_dataset(config)
    assert dataset.cold_items.tolist() == []
    assert "is_cold" not in dataset.items.columns
    assert "cold" not in dataset.info["config"]


def test_a_catalogue_with_a_column_of_that_name_is_refused(tmp_path):
    config = config_from_mapping(PrepareConfig, {"source": write_log(tmp_path, "is_cold")}, source="test")
    with pytest.raises(DataError, match="the catalogue has a column is_cold"):
        prepare_dataset(config)
