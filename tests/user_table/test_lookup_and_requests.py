from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.data.lookup import ItemRows
from itemic.user_table.requests import make_requests

IDS = pl.Series([f"i{row}" for row in range(6)])
ACTIVE = np.array([True, True, True, True, True, False])


def block(**columns: object) -> pl.DataFrame:
    return pl.DataFrame(columns, strict=False).with_row_index("row", offset=1)


def requests(unknown_items: str = "error", **columns: object):  # type: ignore[no-untyped-def]
    return make_requests(block(**columns), ItemRows(IDS), ACTIVE, unknown_items, "users.parquet")  # type: ignore[arg-type]


@settings(max_examples=50)
@given(st.lists(st.text(max_size=6), unique=True, min_size=1), st.lists(st.text(max_size=6)))
def test_ids_are_found_as_a_dict_finds_them(ids: list[str], queries: list[str]) -> None:
    ids = list({each.strip(): None for each in ids})
    rows = {each: row for row, each in enumerate(ids)}
    asked = [*queries, *ids]
    found = ItemRows(pl.Series(ids, dtype=pl.String)).find(pl.Series(asked, dtype=pl.String))
    stripped = pl.Series(asked, dtype=pl.String).str.strip_chars()
    assert found.tolist() == [rows.get(each, -1) for each in stripped]


def test_whole_numbers_are_ids_too_and_nulls_are_nothing() -> None:
    rows = ItemRows(pl.Series(["10", "7"]))
    assert rows.find(pl.Series([7, 10, 8, None])).tolist() == [1, 0, -1, -1]


def test_lists_become_rows_of_items() -> None:
    made = requests(
        user_id=["a", "b", "c"],
        history=[["i1", "i0"], [], ["i5"]],
        exclude=[None, ["i2"], []],
        allow=[["i3"], None, []],
    )
    everyone = np.arange(3)
    assert made.history.select(everyone) == [[1, 0], [], [5]]
    assert made.exclude.select(everyone) == [[], [2], []]
    assert made.allow.select(everyone) == [[3], [], []]
    assert made.has_allow.tolist() == [True, False, True]
    assert made.num_dropped == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": ["a", "b"], "history": [["i1"], ["i1", "x9"]]},
            r"row 2 \(user 'b'\): history holds 'x9', which is",
        ),
        ({"user_id": ["a"], "history": [["i1", None]]}, r"row 1 \(user 'a'\): history holds a null"),
        ({"user_id": ["a", "b"], "history": [["i1"], None]}, "row 2: history is null; write an empty list"),
        ({"user_id": ["a", None], "history": [["i1"], []]}, "row 2: user_id is null"),
        ({"user_id": ["a"], "history": [[]], "exclude": [["y"]]}, "exclude holds 'y'"),
        ({"user_id": [7], "history": [[]], "allow": [["i1", "i5"]]}, r"\(user 7\): allow holds 'i5', which is retired"),
    ],
)
def test_a_bad_cell_is_named(columns: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=f"users.parquet {message}" if message.startswith("row") else message):
        requests(**columns)


def test_unknown_items_can_be_left_out_and_are_counted() -> None:
    made = requests(
        "drop",
        user_id=["a", "b"],
        history=[["x", "i1", "y", "i2"], ["z"]],
        exclude=[["i0", "x"], None],
        allow=[["i5", "i4"], None],
    )
    assert made.history.select(np.arange(2)) == [[1, 2], []]
    assert made.exclude.select(np.arange(2)) == [[0], []]
    assert made.allow.select(np.arange(2)) == [[4], []]
    assert made.num_dropped == 5


def test_a_hash_that_two_ids_share_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    true_hash = pl.Series.hash
    seeds = []

    def clash(self: pl.Series, seed: int) -> pl.Series:
        seeds.append(seed)
        return true_hash(self, seed) % 2 if seed == 0 else true_hash(self, seed)

    monkeypatch.setattr(pl.Series, "hash", clash)
    assert ItemRows(IDS).find(pl.Series(["i4", "nothing"])).tolist() == [4, -1]
    assert seeds == [0, 1, 1]
