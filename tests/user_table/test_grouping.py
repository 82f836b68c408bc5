from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.user_table import grouping
from itemic.user_table.grouping import group_log, grouped_users, in_chunks

Log = list[tuple[str, int | None, int]]


def pieces(log: Log, size: int) -> list[pl.DataFrame]:
    table = pl.DataFrame(log, schema={"user_id": pl.String, "item_index": pl.Int64, "time": pl.Int64}, orient="row")
    return [table.with_row_index("row", offset=1)[first : first + size] for first in range(0, len(log), size)]


def by_hand(log: Log) -> dict[str, tuple[list[int], int]]:
    users: dict[str, list[tuple[int, int, int | None]]] = {}
    for row, (user, item, time) in enumerate(log):
        users.setdefault(user, []).append((time, row, item))
    return {
        user: ([item for *_, item in sorted(rows, key=lambda each: each[:2]) if item is not None],
               sum(item is None for *_, item in rows))
        for user, rows in users.items()
    }  # fmt: skip


interaction = st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 9), st.integers(0, 3))


@settings(max_examples=30)
@given(st.lists(interaction, max_size=40), st.integers(1, 9), st.integers(1, 20), st.integers(1, 5))
def test_users_come_out_in_the_order_of_the_log_with_their_items_by_time(
    tmp_path_factory: pytest.TempPathFactory, log: Log, piece: int, rows_per_bucket: int, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("grouping") / "users"
    group_log(pieces(log, piece), len(log), folder, rows_per_bucket)
    chunks = list(grouped_users(folder, chunk))
    assert all(each.height == chunk for each in chunks[:-1])
    found = {user: (history, unknown) for each in chunks for user, history, unknown in each.iter_rows()}
    assert list(found.items()) == list(by_hand(log).items())


def test_ranges_are_even_though_most_users_come_early(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users = [f"u{row}" for row in range(200)] + [f"u{row}" for row in rng.integers(0, 200, 4000)]
    log: Log = [(user, 0, row) for row, user in enumerate(users)]
    group_log(pieces(log, 500), len(log), tmp_path / "users", 420)
    sizes = [sum(map(len, pl.read_parquet(each)["history"])) for each in (tmp_path / "users").iterdir()]
    assert len(sizes) == 11
    assert max(sizes) < 3 * len(log) / 11


def test_there_is_a_file_a_range_whatever_the_pieces_and_never_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file a piece and bucket a log of a thousand million rows would make millions."""
    made: list[Path] = []
    true_writer = grouping.pq.ParquetWriter

    def count(path: Path, schema: Any) -> Any:
        made.append(path)
        return true_writer(path, schema)

    monkeypatch.setattr(grouping.pq, "ParquetWriter", count)
    monkeypatch.setattr(grouping, "_MOST_BUCKETS", 7)
    log: Log = [(f"u{row % 50}", row % 10, row) for row in range(400)]
    group_log(pieces(log, 3), len(log), tmp_path / "users", 10)
    assert len(made) == len(set(made)) <= 2 * 7
    found = pl.concat(grouped_users(tmp_path / "users", 9))
    assert found["user_id"].to_list() == [f"u{user}" for user in range(50)]


def test_a_bucket_without_users_does_not_put_all_into_one_range(tmp_path: Path) -> None:
    num_buckets = 1 + 40 // 4
    empty_first = [user for user in (f"u{n}" for n in range(400)) if pl.Series([user]).hash(0)[0] % num_buckets > 0]
    log: Log = [(user, 0, row) for row, user in enumerate(empty_first[:40])]
    group_log(pieces(log, 7), len(log), tmp_path / "users", 4)
    sizes = [len(pl.read_parquet(each)) for each in (tmp_path / "users").iterdir()]
    assert max(sizes) < 40
    assert sum(sizes) == 40


def test_a_grouped_log_is_not_grouped_again(tmp_path: Path) -> None:
    group_log(pieces([("a", 1, 0)], 1), 1, tmp_path / "users")
    group_log(iter(()), 0, tmp_path / "users")
    assert next(grouped_users(tmp_path / "users", 5))["history"].to_list() == [[1]]


def test_chunks_are_cut_across_frames() -> None:
    frames = [pl.DataFrame({"x": list(range(a, b))}) for a, b in ((0, 2), (2, 2), (2, 9))]
    assert [each["x"].to_list() for each in in_chunks(frames, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert list(in_chunks([], 4)) == []
