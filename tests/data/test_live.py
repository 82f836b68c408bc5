import logging
from pathlib import Path

import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data.live import lay_over

ITEMS = pl.DataFrame(
    {"item_index": [0, 1, 2], "item_id": ["b", "7", "c"], "title": ["B", "Seven", "C"], "stock": ["5", "5", "5"]}
)


def test_live_columns_take_the_place_of_the_catalogues_by_id(caplog: pytest.LogCaptureFixture) -> None:
    live = pl.DataFrame(
        {"item_index": [9, 9, 9], "price": [1.0, 2.0, 3.0], "item_id": ["c", " 7", "x"], "stock": [1, 0, 8]}
    )
    found, content = lay_over(ITEMS, live)
    assert found.rows() == [(0, "b", "B", None, None), (1, "7", "Seven", 0, 2.0), (2, "c", "C", 1, 1.0)]
    assert found.columns == ["item_index", "item_id", "title", "stock", "price"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "table of live columns: 1 rows have an item_id that no item has, 'x' first; they are left out"
    ]
    assert lay_over(ITEMS, live.reverse().drop("item_index"))[1] == content, "neither order nor unknown items count"
    assert lay_over(ITEMS, live.with_columns(stock=pl.Series([1, 1, 8])))[1] != content


@pytest.mark.parametrize("name", ["live.parquet", "live.csv"])
def test_live_columns_from_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    table = pl.DataFrame({"item_id": [7], "stock": [3]})
    if name.endswith("csv"):
        table.write_csv(path)
    else:
        table.write_parquet(path)
    found, _ = lay_over(ITEMS, path)
    assert found["stock"].cast(pl.String).to_list() == [None, "3", None]
    assert lay_over(ITEMS, str(path))[0].equals(found)


@pytest.mark.parametrize(
    ("live", "message"),
    [
        (pl.DataFrame({"id": ["b"]}), "needs a column item_id, found id"),
        (pl.DataFrame({"item_id": [1.0]}), "item_id is Float64; expected text or whole numbers"),
        (pl.DataFrame({"item_id": ["b", None, " "]}), "2 rows have no item_id"),
        (pl.DataFrame({"item_id": ["b", "c", "b "]}), "expected each item once, found 'b' in several rows"),
        (pl.DataFrame({"item_id": ["x", "y"]}), "none of its 2 rows has the item_id of an item"),
        ("nowhere.csv", "nowhere.csv: no such file"),
    ],
    ids=str,
)
def test_tables_that_cannot_be_laid_over_are_named(live: pl.DataFrame | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lay_over(ITEMS, live)


def test_a_malformed_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "live.csv"
    path.write_text("item_id,stock\nb,1\nc,1,2,3\n")
    with pytest.raises(DataError, match="row 3: "):
        lay_over(ITEMS, path)
