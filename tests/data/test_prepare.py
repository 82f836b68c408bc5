import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.files import write_json
from itemic.core.run import Run, stage_fingerprint
from itemic.data import (
    ExamplesConfig,
    InteractionColumns,
    MovielensConfig,
    PrepareConfig,
    TableConfig,
    prepare,
    prepare_dataset,
)
from itemic.recipe import load_recipe

LOG = """user_id,item_id,rating,timestamp,what
u1,a,5,10,view
u2,b,4,5,buy
u1,b,3,20,view
u1,c,5,15,view
u2,c,1,30,buy
u1,d,2,40,view
"""
ITEMS = """item_id,title,description,year
a,Alpha,,1
b,Beta &amp; Co,,2
c,Gamma,,3
d,Delta,,4
e,Unused,,5
"""
COLUMNS = InteractionColumns(rating="rating", behaviour="what")


@pytest.fixture
def write(tmp_path):
    def write_source(log=LOG, items=ITEMS, columns=COLUMNS):
        (tmp_path / "log.csv").write_text(log)
        (tmp_path / "items.csv").write_text(items)
        paths = {"interactions": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv")}
        return TableConfig(**paths, interaction_columns=columns)

    return write_source


def interactions(dataset):
    return (
        dataset.interactions.join(dataset.items, on="item_index", maintain_order="left")
        .select("user_id", "item_id")
        .rows()
    )


def test_leave_one_out_of_a_worked_log(write):
    dataset, rejects = prepare_dataset(PrepareConfig(source=write(), max_history=2))
    assert rejects.is_empty()
    assert dataset.items["title"].to_list() == ["Alpha", "Beta & Co", "Gamma", "Delta"]
    assert dataset.items.columns == ["item_index", "item_id", "title", "description", "year"]
    # u1 by time: a c b d; u2: b c, too short for anything but train.
    assert dataset.interactions.rows() == [
        ("u1", 0, 10, "view", "train"),
        ("u1", 2, 15, "view", "train"),
        ("u1", 1, 20, "view", "valid"),
        ("u1", 3, 40, "view", "test"),
        ("u2", 1, 5, "buy", "train"),
        ("u2", 2, 30, "buy", "train"),
    ]
    assert dataset.train.rows() == [(0, "u1", [0], 2, 15), (1, "u2", [1], 2, 30)]
    assert dataset.valid.rows() == [(2, "u1", [0, 2], 1, 20)]
    assert dataset.test.rows() == [(3, "u1", [2, 1], 3, 40)]
    assert dict(dataset.interactions.schema) == INTERACTION_SCHEMA
    assert dict(dataset.test.schema) == EXAMPLE_SCHEMA


def test_the_figures_of_a_worked_log(write):
    info = prepare_dataset(PrepareConfig(source=write()))[0].info
    assert info["counts"] == {
        **{"users": 2, "items": 4, "interactions": 6, "train": 2, "valid": 1, "test": 1},
        **{"density": 6 / 8, "mean_length": 3},
    }
    assert info["steps"] == {"read": 6, "drop_duplicates": 6}
    assert (info["split"], info["keeps_repeats"], info["rejects"]) == ("leave_one_out", False, {})
    assert info["config"]["source"]["format"] == "table"
    json.dumps(info)


def test_a_temporal_split_by_shares_and_by_dates(write):
    # Targets by time: c of u1 at 15, b at 20, c of u2 at 30, d at 40.
    by_share = PrepareConfig(source=write(), split="temporal", valid_share=0.25, test_share=0.25)
    by_date = PrepareConfig(
        source=write(), split="temporal", valid_start="1970-01-01T00:00:30", test_start="1970-01-01T00:00:40+00:00"
    )
    for config in (by_share, by_date):
        dataset, _ = prepare_dataset(config)
        assert dataset.train.rows() == [(0, "u1", [0], 2, 15), (1, "u1", [0, 2], 1, 20)]
        assert dataset.valid.rows() == [(2, "u2", [1], 2, 30)]
        assert dataset.test.rows() == [(3, "u1", [0, 2, 1], 3, 40)]
        assert dataset.train_sequences() == {"u1": [0, 2, 1]}


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"behaviours": ("buy",)}, [("u2", "b"), ("u2", "c")]),
        ({"min_rating": 4.0}, [("u1", "a"), ("u1", "c"), ("u2", "b")]),
        ({"start": "1970-01-01T00:00:15", "end": "1970-01-01T00:00:30"}, [("u1", "c"), ("u1", "b")]),
        ({"min_title_words": 2}, [("u1", "b"), ("u2", "b")]),
        ({"max_title_words": 1}, [("u1", "a"), ("u1", "c"), ("u1", "d"), ("u2", "c")]),
        ({"forbidden_in_title": ("lph", "elt")}, [("u1", "c"), ("u1", "b"), ("u2", "b"), ("u2", "c")]),
        ({"min_item_interactions": 2}, [("u1", "c"), ("u1", "b"), ("u2", "b"), ("u2", "c")]),
        ({"min_user_interactions": 3}, [("u1", "a"), ("u1", "c"), ("u1", "b"), ("u1", "d")]),
    ],
)
def test_each_filter_by_hand(write, settings_, expected):
    dataset, _ = prepare_dataset(PrepareConfig(source=write(), **settings_))
    assert interactions(dataset) == expected
    assert set(dataset.items["item_id"]) == {item for _, item in expected}


def test_items_that_nobody_touched_stay_when_asked(write):
    dataset, _ = prepare_dataset(PrepareConfig(source=write(), min_item_interactions=0))
    assert dataset.items["item_id"].to_list() == list("abcde")


def test_titles_stay_as_they_are_when_asked(write):
    dataset, _ = prepare_dataset(PrepareConfig(source=write(), clean_titles=False))
    assert dataset.items["title"][1] == "Beta &amp; Co"


def test_duplicates_repeats_and_ties_in_time(write):
    log = "user_id,item_id,rating,timestamp,what\n" + "".join(
        f"u,{item},5,{time},view\n" for item, time in [("b", 7), ("a", 7), ("a", 7), ("b", 9), ("c", 8)]
    )
    source = write(log)
    # The tie at 7 keeps the order of the rows; the second (a, 7) is the same event once more.
    assert [item for _, item in interactions(prepare_dataset(PrepareConfig(source=source))[0])] == list("bacb")
    kept = prepare_dataset(PrepareConfig(source=source, drop_duplicates=False))[0]
    assert [item for _, item in interactions(kept)] == list("baacb")
    first = prepare_dataset(PrepareConfig(source=source, keep_repeats=False))[0]
    assert [item for _, item in interactions(first)] == list("bac")
    assert kept.keeps_repeats
    assert not first.keeps_repeats


def test_without_times_the_rows_are_in_order(write):
    source = write(columns=InteractionColumns(timestamp=""))
    dataset, _ = prepare_dataset(PrepareConfig(source=source))
    assert [item for user, item in interactions(dataset) if user == "u1"] == list("abcd")
    assert dataset.test["timestamp"].to_list() == [None]
    with pytest.raises(DataError, match="rows without a timestamp, which the split or a filter needs"):
        prepare_dataset(PrepareConfig(source=source, split="temporal"))
    with pytest.raises(DataError, match="rows without a rating"):
        prepare_dataset(PrepareConfig(source=source, min_rating=1.0))


def test_bad_rows_are_reported_and_too_many_stop_the_run(write):
    source = write(LOG + "u1,unheard,5,50,view\nu1,a,5,soon,view\n", ITEMS + "f,,,6\n")
    with pytest.raises(DataError, match=r"log\.csv: 2 of 8 rows cannot be used \(25\.0%, allowed are 10\.0%\)"):
        prepare_dataset(PrepareConfig(source=source, max_reject_share=0.1))
    dataset, rejects = prepare_dataset(PrepareConfig(source=source, max_reject_share=0.25))
    assert rejects.with_columns(pl.col("file").str.extract(r"(\w+)\.csv$")).select("file", "row", "reason").rows() == [
        ("items", 7, "empty title"),
        ("log", 9, "unparsable timestamp"),
        ("log", 8, "unknown item"),
    ]
    assert dataset.info["rejects"] == {"empty title": 1, "unknown item": 1, "unparsable timestamp": 1}


def test_an_interaction_with_an_item_that_was_set_aside_says_so(write):
    source = write(LOG + "u1,f,5,50,view\nu1,g,5,60,view\n", ITEMS + "f,,,6\n")
    _, rejects = prepare_dataset(PrepareConfig(source=source, max_reject_share=0.5))
    assert rejects["reason"].to_list() == ["empty title", "item was set aside", "unknown item"]


def test_a_log_without_quoting_is_read_when_said_so(write):
    source = write(items=ITEMS.replace("Alpha", '"Alpha').replace("Gamma", '"Gamma'))
    with pytest.raises(DataError, match=r"items\.csv: row 2: a quoted cell goes over 1 lines that look like rows"):
        prepare_dataset(PrepareConfig(source=source))
    dataset, _ = prepare_dataset(PrepareConfig(source=replace(source, quoted=False)))
    assert dataset.items["title"].to_list() == ['"Alpha', "Beta & Co", '"Gamma', "Delta"]


def test_semantic_ids_of_an_earlier_source_do_not_stay(write, tmp_path):
    run = Run(tmp_path / "run")
    stale = run.path("given_sids.parquet")
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_bytes(b"of another source")
    prepare(PrepareConfig(source=write()), run, seed=0)
    assert not stale.exists()


def test_the_recipe_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    recipe = text.split("The same as a recipe:")[1].split("```yaml")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(recipe)
    expected = PrepareConfig(source=MovielensConfig(), keep_repeats=False, max_history=50)
    assert load_recipe(tmp_path / "recipe.yaml").prepare == expected


def test_a_filter_that_leaves_nothing_says_where(write):
    with pytest.raises(DataError, match=r"no interaction is left after k_core; left after each step: \{'read': 6"):
        prepare_dataset(PrepareConfig(source=write(), min_user_interactions=9))
    with pytest.raises(DataError, match="no interaction is left after title_rules"):
        prepare_dataset(PrepareConfig(source=write(), min_title_words=9))
    empty = write(LOG.splitlines(keepends=True)[0])
    with pytest.raises(DataError, match=r"no interaction is left; left after each step: \{'read': 0\}"):
        prepare_dataset(PrepareConfig(source=empty, drop_duplicates=False))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_history": 0}, "max_history must be at least 1, found 0"),
        ({"min_title_words": -1}, "min_title_words must not be negative"),
        ({"test_share": 1.5}, r"test_share must lie in \[0, 1\], found 1.5"),
        ({"split": "temporal", "valid_share": 0.5, "test_share": 0.5}, "leave nothing to learn from"),
        ({"split": "leave_one_out", "test_share": 0.2}, "test_share: only a temporal split has it"),
        (
            {"split": "given", "min_user_interactions": 5, "min_rating": 3.0},
            "min_rating, min_user_interactions: a given",
        ),
        ({"split": "temporal", "test_start": "2020-01-01"}, "valid_start and test_start go together"),
        ({"split": "temporal", "valid_start": "2021-01-01", "test_start": "2020-01-01"}, "is not before test_start"),
        (
            {"split": "temporal", "valid_start": "2019-01-01", "test_start": "2020-01-01", "test_share": 0.2},
            "shares or dates",
        ),
        ({"start": "last week"}, "start: expected an ISO date such as 2017-10-01, found 'last week'"),
        ({"start": "2020-01-01", "end": "2020-01-01"}, "start 2020-01-01 is not before end 2020-01-01"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(PrepareConfig, {"source": {"format": "movielens"}, **values})


def test_a_recipe_round_trips_and_names_the_known_formats():
    mapping = {"source": {"format": "table", "interactions": "l.csv", "items": "i.csv"}, "keep_repeats": False}
    config = config_from_mapping(PrepareConfig, mapping)
    assert config == PrepareConfig(source=TableConfig(interactions="l.csv", items="i.csv"), keep_repeats=False)
    assert config_from_mapping(PrepareConfig, config_to_mapping(config)) == config
    with pytest.raises(ConfigError, match=r"source: .*'movielens', 'recbole', 'amazon', 'minionerec', 'examples'"):
        config_from_mapping(PrepareConfig, {"source": {"format": "netflix"}})


def test_the_stage_writes_skips_and_runs_again_when_the_source_changes(write, tmp_path):
    run, config = Run(tmp_path / "run"), PrepareConfig(source=write())
    first = prepare(config, run, seed=0)
    assert not first.skipped
    assert first.metrics["interactions"] == 6
    assert prepare(config, run, seed=0).skipped
    assert Dataset.load(run.path("dataset")).info["counts"]["interactions"] == 6
    assert pl.read_parquet(run.path("rejects.parquet")).is_empty()
    write(LOG + "u2,d,5,50,view\n")
    assert prepare(config, run, seed=0).metrics["interactions"] == 7


def test_a_source_of_examples_takes_only_the_given_split(tmp_path):
    (tmp_path / "items.csv").write_text(ITEMS)
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.csv").write_text(
            "user_id,history,target\nu,a b,c\n" if name == "test" else "user_id,history,target\n"
        )
    source = ExamplesConfig(**{name: str(tmp_path / f"{name}.csv") for name in ("items", "train", "valid", "test")})
    dataset, _ = prepare_dataset(PrepareConfig(source=source, split="given"))
    assert dataset.test["history"].to_list() == [[0, 1]]
    assert dataset.num_items == 5
    with pytest.raises(DataError, match="only examples of its own: take split: given"):
        prepare_dataset(PrepareConfig(source=source))


def test_a_given_split_without_examples_is_refused(tmp_path):
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "none.csv").write_text("user_id,history,target\n")
    files = dict.fromkeys(("train", "valid", "test"), str(tmp_path / "none.csv"))
    source = ExamplesConfig(items=str(tmp_path / "items.csv"), **files)
    with pytest.raises(DataError, match="no interaction is left"):
        prepare_dataset(PrepareConfig(source=source, split="given"))


def test_given_histories_that_are_cut_or_out_of_order_are_told(tmp_path, caplog):
    (tmp_path / "items.csv").write_text(ITEMS)
    for name, rows in (("train", "u,a b,c\nu,a,b\n"), ("valid", ""), ("test", "u,a b c,d\n")):
        (tmp_path / f"{name}.csv").write_text(f"user_id,history,target\n{rows}")
    source = ExamplesConfig(**{name: str(tmp_path / f"{name}.csv") for name in ("items", "train", "valid", "test")})
    dataset, _ = prepare_dataset(PrepareConfig(source=source, split="given", max_history=2))
    assert dataset.test["history"].to_list() == [[1, 2]]
    assert "1 given histories are longer than max_history 2" in caplog.text
    assert "2 given histories do not continue" in caplog.text


EVENTS = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcd"), st.integers(0, 6)), min_size=1, max_size=30
)


def slow_sequences(events, keep_repeats, min_user, min_item):
    """The rules of docs/data.md, one event at a time."""
    distinct = list(dict.fromkeys(events))
    users = list(dict.fromkeys(user for user, _, _ in events))
    ordered = sorted(distinct, key=lambda event: (users.index(event[0]), event[2]))
    if not keep_repeats:
        firsts = {}
        for event in ordered:
            firsts.setdefault(event[:2], event)
        ordered = list(firsts.values())
    while True:
        per_user, per_item = Counter(e[0] for e in ordered), Counter(e[1] for e in ordered)
        kept = [e for e in ordered if per_user[e[0]] >= min_user and per_item[e[1]] >= min_item]
        if kept == ordered:
            break
        ordered = kept
    sequences = {}
    for user, item, _ in ordered:
        sequences.setdefault(user, []).append(item)
    return sequences


def slow_examples(sequences, max_history):
    examples = {"train": [], "valid": [], "test": []}
    for user, items in sequences.items():
        for position in range(1, len(items)):
            from_end = len(items) - 1 - position
            split = "train" if len(items) < 3 or from_end > 1 else ("test", "valid")[from_end]
            examples[split].append((user, items[max(0, position - max_history) : position], items[position]))
    return examples


@settings(max_examples=40)
@given(EVENTS, st.booleans(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_the_fast_road_equals_the_slow_one(tmp_path_factory, events, keep_repeats, min_user, min_item, max_history):
    folder = tmp_path_factory.mktemp("log")
    rows = "".join(f"{user},{item},{time}\n" for user, item, time in events)
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (folder / "items.csv").write_text("item_id,title,description\n" + "".join(f"{i},{i},\n" for i in "abcd"))
    config = PrepareConfig(
        source=TableConfig(interactions=str(folder / "log.csv"), items=str(folder / "items.csv")),
        keep_repeats=keep_repeats,
        min_user_interactions=min_user,
        min_item_interactions=min_item,
        max_history=max_history,
    )
    sequences = slow_sequences(events, keep_repeats, min_user, min_item)
    if not sequences:
        with pytest.raises(DataError, match="no interaction is left"):
            prepare_dataset(config)
        return
    dataset, _ = prepare_dataset(config)
    ids = dataset.items["item_id"].to_list()
    for split, expected in slow_examples(sequences, max_history).items():
        found = dataset.split(split).select("user_id", "history", "target").rows()
        assert [(user, [ids[i] for i in history], ids[target]) for user, history, target in found] == expected


@pytest.mark.parametrize("missing", [["cold", "rebuild_histories"], ["cold"]])
def test_a_run_from_before_a_field_stays_up_to_date_while_the_field_changes_nothing(write, tmp_path, missing):
    config, run = PrepareConfig(source=write()), Run(tmp_path / "run")
    assert not prepare(config, run, seed=0).skipped
    manifest = run.manifest()
    entry = manifest["stages"]["prepare"]
    for name in missing:
        entry["config"].pop(name, None)
    entry["fingerprint"] = stage_fingerprint(entry["config"], entry["inputs"], 0, list(entry["outputs"]))
    write_json(run.manifest_path, manifest)
    assert prepare(config, run, seed=0).skipped
    assert not prepare(replace(config, max_history=3), run, seed=0).skipped


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_histories_are_rebuilt_of_a_given_split_alone(write, split):
    with pytest.raises(ConfigError, match=f"rebuild_histories: only a given split has .* the split is {split}"):
        PrepareConfig(source=write(), split=split, rebuild_histories=True)
