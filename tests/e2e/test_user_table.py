"""Everybody in a table: the same lists as one by one, the same file after a kill, and a name for every bad cell."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import itemic
from itemic.cli.main import main
from itemic.core.errors import ConfigError, DataError
from itemic.decode.conditions import ItemSelector
from itemic.user_table import source

FOUR = {
    "user_id": ["a", "b", "a", "c"],
    "history": [["i1", "i14"], [], ["i7"], [f"i{item}" for item in range(20)]],
    "exclude": [["i7", "i8"], None, [], None],
    "allow": [None, ["i3", "i4", "i5"], [], None],
}


@pytest.fixture(scope="module")
def trained(shop_run: Path) -> itemic.TrainedRun:
    return itemic.load_trained(shop_run, num_beams=20, batch_size=16)


@pytest.fixture
def write_users(tmp_path: Path) -> Callable[..., Path]:
    def write(**columns: Any) -> Path:
        path = tmp_path / "users.parquet"
        pl.DataFrame(columns).write_parquet(path, row_group_size=3)
        return path

    return write


def lists(path: Path) -> list[list[str]]:
    """The item ids of each request in a long table: a new one begins wherever the rank is 1."""
    found: list[list[str]] = []
    for rank, item in pl.read_parquet(path).select("rank", "item_id").iter_rows():
        if rank == 1:
            found.append([])
        assert rank == len(found[-1]) + 1
        found[-1].append(item)
    return found


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_a_table_gets_what_its_users_get_one_by_one(
    trained: itemic.TrainedRun, write_users: Callable[..., Path], tmp_path: Path, chunk_rows: int
) -> None:
    target = tmp_path / "recs.parquet"
    summary = itemic.recommend_table(trained, write_users(**FOUR), target, k=5, chunk_rows=chunk_rows)
    found = pl.read_parquet(target)
    expected = [
        (user, item.rank, item.item_id, item.title, item.probability)
        for user, history, exclude, allow in zip(*FOUR.values(), strict=True)
        for item in trained.recommend(history, 5, exclude=exclude or (), allow=allow)
    ]
    assert found.select("user_id", "rank", "item_id", "title").rows() == [row[:4] for row in expected]
    np.testing.assert_allclose(found["probability"], [row[4] for row in expected], rtol=1e-4)
    np.testing.assert_allclose(found["score"].exp(), found["probability"], rtol=1e-5)
    assert summary.num_users == 4
    assert summary.num_recommendations == found.height
    assert summary.num_empty_histories == 1
    assert summary.num_short_users == 2 + (0 if trained.dataset.keeps_repeats else 1)
    assert list(tmp_path.glob(".recs*")) == []


def test_lists_are_the_long_table_folded(
    trained: itemic.TrainedRun, write_users: Callable[..., Path], tmp_path: Path
) -> None:
    users = write_users(**{**FOUR, "user_id": [3, 1, 2, 9]})
    itemic.recommend_table(trained, users, tmp_path / "long.parquet", k=5)
    itemic.recommend_table(trained, users, tmp_path / "lists.parquet", k=5, layout="lists", titles=False)
    folded, long = pl.read_parquet(tmp_path / "lists.parquet"), pl.read_parquet(tmp_path / "long.parquet")
    assert folded["user_id"].to_list() == [3, 1, 2, 9]
    assert folded.schema == {
        "user_id": pl.Int64,
        "item_id": pl.List(pl.String),
        "score": pl.List(pl.Float32),
        "probability": pl.List(pl.Float32),
    }
    assert folded["item_id"].list.len().to_list()[2] == 0
    opened = folded.filter(pl.col("item_id").list.len() > 0).explode("item_id", "score", "probability")
    assert opened.equals(long.drop("rank", "title"))


def test_a_log_and_a_table_of_its_users_and_the_run_itself_agree(
    trained: itemic.TrainedRun, shop: Path, write_users: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(source, "_ROWS_AT_ONCE", 100)
    log = pl.read_csv(shop / "log.csv").rename({"user": "user_id", "item": "item_id", "time": "timestamp"})
    shuffled = log.sample(fraction=1, shuffle=True, seed=1)
    users = log.group_by("user_id").agg(pl.col("item_id").sort_by("timestamp").alias("history"))
    shuffled.write_parquet(tmp_path / "log.parquet")
    shuffled.with_columns(pl.from_epoch("timestamp")).write_csv(tmp_path / "log.csv")
    targets = {name: tmp_path / f"{name}.parquet" for name in ("rows", "log-parquet", "log-csv", "all")}
    itemic.recommend_table(trained, write_users(**users.to_dict()), targets["rows"], k=3)
    itemic.recommend_table(trained, tmp_path / "log.parquet", targets["log-parquet"], k=3)
    itemic.recommend_table(trained, tmp_path / "log.csv", targets["log-csv"], k=3)
    summary = itemic.recommend_table(trained, "all", targets["all"], k=3, chunk_rows=32)
    assert summary.num_users == 140
    found = {name: pl.read_parquet(path) for name, path in targets.items()}
    assert found["log-parquet"].equals(found["log-csv"])
    assert (
        found["all"]["user_id"].unique(maintain_order=True).to_list()
        == log["user_id"].unique(maintain_order=True).to_list()
    )
    assert (
        found["log-csv"]["user_id"].unique(maintain_order=True).to_list()
        == shuffled["user_id"].unique(maintain_order=True).to_list()
    )
    in_order = [each.sort("user_id", "rank").drop("score", "probability") for each in found.values()]
    assert all(each.equals(in_order[0]) for each in in_order)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_seen_items_are_left_out_or_not_as_asked(
    trained: itemic.TrainedRun, write_users: Callable[..., Path], tmp_path: Path, exclude_seen: bool
) -> None:
    seen = ["i1", "i14", "i7"]
    users = write_users(user_id=["a"], history=[seen])
    itemic.recommend_table(trained, users, tmp_path / "recs.parquet", k=20, exclude_seen=exclude_seen)
    (found,) = lists(tmp_path / "recs.parquet")
    assert len(found) == (17 if exclude_seen else 20)
    assert bool(set(found) & set(seen)) != exclude_seen


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    true_recommend = itemic.TrainedRun.recommend_many
    left = [0]

    def recommend(self: Any, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise StoppedError
        return true_recommend(self, *arguments, **options)

    monkeypatch.setattr(itemic.TrainedRun, "recommend_many", recommend)
    return lambda num_calls: left.__setitem__(0, num_calls)


def test_a_stopped_table_goes_on_and_is_the_same_file(
    trained: itemic.TrainedRun, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    whole, target = tmp_path / "whole.parquet", tmp_path / "recs.parquet"
    stop_after(10**6)
    first = itemic.recommend_table(trained, "all", whole, k=4, chunk_rows=30)
    assert first.num_resumed_users == 0
    stop_after(2)  # a chunk of 30 is one call
    with pytest.raises(StoppedError):
        itemic.recommend_table(trained, "all", target, k=4, chunk_rows=30)
    assert not target.exists()
    stop_after(10**6)
    second = itemic.recommend_table(trained, "all", target, k=4, chunk_rows=30)
    assert second.num_resumed_users == 60
    assert second.num_recommendations == first.num_recommendations
    assert target.read_bytes() == whole.read_bytes()


def test_what_is_done_of_another_table_or_setting_is_kept_unless_told(
    trained: itemic.TrainedRun,
    write_users: Callable[..., Path],
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    users, target = write_users(**FOUR), tmp_path / "recs.parquet"

    def recommend(run: itemic.TrainedRun = trained, **settings: Any) -> itemic.TableSummary:
        return itemic.recommend_table(run, users, target, **{"k": 2, "chunk_rows": 1, **settings})

    stop_after(2)
    with pytest.raises(StoppedError):
        recommend(where=pl.col("item_id").is_in([f"i{item}" for item in range(20)]))
    stop_after(10**6)
    another = pl.col("item_id").is_in([f"i{item}" for item in (0, 1, *range(100, 117), 19)])
    for message, change in (
        ("2 users are done, but begun otherwise: k was 2, is 3; where .*--restart", {"k": 3}),
        ("where was", {"where": another}),
        ("dtype was float32, is bfloat16", {"run": replace(trained, precision="bfloat16")}),
    ):
        with pytest.raises(ConfigError, match=message):
            recommend(**change)
    write_users(**{**FOUR, "user_id": ["d", "e", "f", "g"]})
    with pytest.raises(ConfigError, match="users_file was"):
        recommend()
    assert recommend(restart=True).num_resumed_users == 0
    assert pl.read_parquet(target)["user_id"][0] == "d"


def test_a_table_that_goes_on_later_counts_back_from_its_beginning(
    trained: itemic.TrainedRun, tmp_path: Path, stop_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items were released an hour apart; between the two starts eight hours go by."""
    day = datetime(2024, 1, 2)
    items = trained.dataset.items.with_columns(released=pl.Series([day - timedelta(hours=h) for h in range(20)]))
    run = replace(trained, dataset=replace(trained.dataset, items=items))
    selector = ItemSelector(items, trained.recommender._trie)
    monkeypatch.setattr(trained.recommender, "_selector", selector)
    hour = [0]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return (day + timedelta(hours=hour[0])).replace(tzinfo=tz)

    monkeypatch.setattr("itemic.user_table.recommend.datetime", Clock)

    def recommend(name: str) -> itemic.TableSummary:
        where = "released within 10 hours"
        return itemic.recommend_table(run, "all", tmp_path / name, k=20, where=where, chunk_rows=30)

    stop_after(10**6)
    recommend("whole.parquet")
    stop_after(2)
    with pytest.raises(StoppedError):
        recommend("recs.parquet")
    hour[0] = 8
    stop_after(10**6)
    assert recommend("recs.parquet").num_resumed_users == 60
    assert (tmp_path / "recs.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    recommend("later.parquet")
    assert pl.read_parquet(tmp_path / "later.parquet")["item_id"].n_unique() == 3


def test_the_format_asked_for_and_the_one_taken_are_two_things(shop_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itemic.model.precision._is_faster_in_bfloat16", lambda network: False)
    asked = itemic.load_trained(shop_run, dtype="bfloat16")
    assert (asked.identity["dtype"], asked.precision) == ("bfloat16", "float32")


@pytest.mark.slow
def test_a_killed_process_goes_on_and_makes_the_same_file(shop_run: Path, tmp_path: Path) -> None:
    users = pl.DataFrame({"user_id": list(range(60)), "history": [[f"i{user % 20}"] for user in range(60)]})
    users.write_parquet(tmp_path / "users.parquet")
    arguments = ["recommend", "--run", str(shop_run), "--users", str(tmp_path / "users.parquet"), "--chunk-rows", "1"]
    arguments += ["--num-beams", "5", "--out", str(tmp_path / "killed.parquet")]
    command = [sys.executable, "-c", "from itemic.cli.main import main; main()", *arguments]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    parts, deadline = tmp_path / ".killed.parquet.parts", time.monotonic() + 120
    while len(list(parts.glob("0*.parquet"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.parquet").exists()
    main(arguments)
    main([*arguments[:-1], str(tmp_path / "whole.parquet")])
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a"], "history": [["i1"]]}, "cannot tell what it is.*found user, history"),
        ({"user_id": ["a"]}, "cannot tell what it is"),
        ({"user_id": ["a"], "history": [["i1"]], "item_id": ["i1"]}, "cannot tell what it is"),
        ({"user_id": ["a"], "history": ["i1 i2"]}, "column history: expected lists of item ids, found (large_)?string"),
        ({"user_id": [1.5], "history": [["i1"]]}, "column user_id: expected texts or whole numbers, found double"),
        ({"user_id": ["a"], "history": [[1.0]]}, "column history: expected lists of item ids"),
        ({"user_id": ["a"], "history": [["i1"]], "allow": ["i1"]}, "column allow: expected lists"),
        ({"user_id": ["a", "b"], "history": [["i1"], ["i99"]]}, r"users.parquet row 2 \(user 'b'\): history .*'i99'"),
        ({"user_id": ["a", "b"], "history": [["i1"], None]}, "row 2: history is null"),
        ({"user_id": ["a"], "item_id": ["i99"], "timestamp": [1]}, r"row 1 \(user 'a'\): item_id holds 'i99'"),
        ({"user_id": ["a"], "item_id": ["i1"], "timestamp": ["1"]}, "column timestamp: expected numbers, dates"),
        ({"user_id": ["a", None], "item_id": ["i1", "i2"], "timestamp": [1, 2]}, "row 2: user_id is null"),
        ({"user_id": ["a", "b"], "item_id": ["i1", "i2"], "timestamp": [1, None]}, "row 2: timestamp is null"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_decoded(
    trained: itemic.TrainedRun,
    write_users: Callable[..., Path],
    tmp_path: Path,
    stop_after: Callable[[int], None],
    columns: dict[str, Any],
    message: str,
) -> None:
    stop_after(0)
    with pytest.raises(DataError, match=message):
        itemic.recommend_table(trained, write_users(**columns), tmp_path / "recs.parquet")


def test_a_file_that_is_no_table_is_refused(trained: itemic.TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "users.parquet").write_text("user_id,history\n")
    with pytest.raises(DataError, match="expected a Parquet file, or a CSV file named"):
        itemic.recommend_table(trained, tmp_path / "users.parquet", tmp_path / "recs.parquet")
    with pytest.raises(DataError, match=r"nobody.parquet: no such file; .* or 'all'"):
        itemic.recommend_table(trained, tmp_path / "nobody.parquet", tmp_path / "recs.parquet")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na,i1,1\nb,i2,1\nb,i77,2\n")
    with pytest.raises(DataError, match=r"log.csv row 4 \(user 'b'\): item_id holds 'i77'"):
        itemic.recommend_table(trained, tmp_path / "log.csv", tmp_path / "recs.parquet")


@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_unknown_items_can_be_dropped(
    trained: itemic.TrainedRun, tmp_path: Path, write_users: Callable[..., Path], chunk_rows: int
) -> None:
    target = tmp_path / "recs.parquet"
    users = write_users(user_id=["a", "b"], history=[["i1", "x"], ["y", "z"]])
    summary = itemic.recommend_table(trained, users, target, k=3, unknown_items="drop", chunk_rows=chunk_rows)
    assert (summary.num_dropped_items, summary.num_empty_histories) == (3, 1)
    rows = lists(target)
    log = write_users(user_id=["a", "b", "a", "b"], item_id=["i1", "y", "x", "z"], timestamp=[1, 1, 2, 2])
    summary = itemic.recommend_table(trained, log, target, k=3, unknown_items="drop", chunk_rows=chunk_rows)
    assert (summary.num_dropped_items, summary.num_empty_histories) == (3, 1)
    assert lists(target) == rows


@pytest.mark.parametrize("layout", ["long", "lists"])
@pytest.mark.parametrize("column", ["history", "item_id"])
def test_a_table_of_nobody_gives_a_table_of_nothing(
    trained: itemic.TrainedRun, tmp_path: Path, column: str, layout: Any
) -> None:
    kinds = {"history": pl.List(pl.String), "item_id": pl.String}
    pl.DataFrame(schema={"user_id": pl.Int32, column: kinds[column]}).write_parquet(tmp_path / "users.parquet")
    summary = itemic.recommend_table(trained, tmp_path / "users.parquet", tmp_path / "recs.parquet", layout=layout)
    assert summary.num_users == 0
    found = pl.read_parquet(tmp_path / "recs.parquet")
    assert found.height == 0
    assert found.schema["user_id"] == pl.Int32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1"),
        ({"target": "recs.csv"}, "expected a name ending in .parquet"),
        ({"target": "users.parquet"}, "is the table of users itself"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(
    trained: itemic.TrainedRun,
    write_users: Callable[..., Path],
    tmp_path: Path,
    settings: dict[str, Any],
    message: str,
) -> None:
    target = tmp_path / settings.pop("target", "recs.parquet")
    with pytest.raises(ConfigError, match=message):
        itemic.recommend_table(trained, write_users(**FOUR), target, **settings)


def test_the_command_says_what_it_did_and_refuses_mixed_flags(
    shop_run: Path, write_users: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users, target = str(write_users(**FOUR)), str(tmp_path / "recs.parquet")
    run = ["recommend", "--run", str(shop_run)]
    main([*run, "--users", users, "--out", target, "-k", "5"])
    shown = capsys.readouterr()
    assert "recommendations for 4 users" in shown.out
    assert "users got fewer than 5" in shown.out
    assert "1 users have an empty history" in shown.out
    main([*run, "--users", users, "--out", target, "-k", "5", "--format", "lists", "--no-titles", "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out)["num_users"] == 4
    assert shown.err == ""
    for arguments, message in (
        (["--users", users], "--users needs --out"),
        (
            ["--users", users, "--out", target, "--history", "i1"],
            "--history is for one history and --users for a table",
        ),
        (["--history", "i1", "--out", target], "--out is for a table of users: name it with --users"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*run, *arguments])
        assert message in capsys.readouterr().err


def test_flags_decide_on_unknown_and_seen_items(
    shop_run: Path, write_users: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users, target = write_users(user_id=["a"], history=[["i1", "x"]]), tmp_path / "recs.parquet"
    run = ["recommend", "--run", str(shop_run), "--users", str(users), "--out", str(target), "-k", "20"]
    with pytest.raises(SystemExit, match="2"):
        main(run)
    assert "'x'" in capsys.readouterr().err
    main([*run, "--unknown-items", "drop"])
    assert "1 unknown ids were left out" in capsys.readouterr().out
    assert "i1" not in pl.read_parquet(target)["item_id"]
    main([*run, "--unknown-items", "drop", "--no-exclude-seen"])
    assert "i1" in pl.read_parquet(target)["item_id"]


def test_a_run_that_changed_starts_a_table_over(shop_run: Path, trained: itemic.TrainedRun, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shop_run, copy)
    assert itemic.load_trained(copy, num_beams=20, batch_size=8).identity == trained.identity
    assert itemic.load_trained(copy, num_beams=21).identity != trained.identity


def test_a_condition_holds_for_every_user(
    trained: itemic.TrainedRun, write_users: Callable[..., Path], tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(10**6)
    users, target = write_users(**FOUR), tmp_path / "recs.parquet"
    where = ["item_index < 6", "title != 'Thing 2'"]
    itemic.recommend_table(trained, users, target, k=20, where=where)
    expected = [
        (user, item.item_id)
        for user, history, exclude, allow in zip(*FOUR.values(), strict=True)
        for item in trained.recommend(history, 20, exclude=exclude or (), allow=allow, where=where)
    ]
    assert pl.read_parquet(target).select("user_id", "item_id").rows() == expected
    stop_after(0)
    with pytest.raises(ConfigError, match="colour"):
        itemic.recommend_table(trained, tmp_path / "nobody.parquet", target, where="colour = 'red'")
