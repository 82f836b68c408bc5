import datetime

import polars as pl
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.data.columns import (
    InteractionColumns,
    ItemColumns,
    check_time_format,
    make_interactions,
    make_items,
    parse_time,
)
from itemic.data.rejects import SourceRows, no_rejects


def source(**columns):
    height = len(next(iter(columns.values())))
    table = pl.DataFrame({**columns, "source_row": range(2, 2 + height)}, strict=False)
    return SourceRows(file="t.csv", rows=table, rejects=no_rejects())


@pytest.mark.parametrize(
    ("time_format", "cell", "expected_us"),
    [
        ("s", "881250949", 881250949 * 10**6),
        ("s", " 881250949.5 ", 881250949 * 10**6 + 500_000),
        ("ms", "1545000000123", 1545000000123 * 10**3),
        ("us", "17", 17),
        ("ns", "1999", 1),
        ("d", "2", 2 * 86_400 * 10**6),
        ("iso", "1970-01-02", 86_400 * 10**6),
        ("iso", "1970-01-01 00:01", 60 * 10**6),
        ("iso", "1970-01-01T01:00:00.25+01:00", 250_000),
        ("iso", "1970-01-01T00:00:01Z", 10**6),
        ("iso", "1970-01-01 02:00:01+0200", 10**6),
        ("iso", "1970-01-01 02:30:01 +02:30", 10**6),
        ("iso", "1969-12-31T22:00:01-02", 10**6),
        ("iso", "1970-01-01 00:00:01 UTC", 10**6),
        ("iso", "1970-01-01 00:01UTC", 60 * 10**6),
        ("iso", "1970-01-01 00:00:01 CET", None),
        ("iso", "1970-01-01-02", None),
        ("%m %d, %Y", "01 02, 1970", 86_400 * 10**6),
        ("%d.%m.%Y %H:%M", "01.01.1970 00:02", 120 * 10**6),
        ("s", "nan", None),
        ("s", "1e400", None),
        ("s", "yesterday", None),
        ("iso", "1970-13-01", None),
        ("%Y-%m-%d", "70-1-1-1", None),
    ],
)
def test_times_in_every_format(time_format, cell, expected_us):
    table = pl.DataFrame({"t": [cell]})
    assert table.select(parse_time(table, "t", time_format)).item() == expected_us


def test_typed_parquet_times_need_no_format():
    table = pl.DataFrame({"day": [datetime.date(1970, 1, 2)], "instant": [datetime.datetime(1970, 1, 1, 0, 0, 1)]})
    assert table.select(parse_time(table, "day", "s")).item() == 86_400 * 10**6
    assert table.select(parse_time(table, "instant", "s")).item() == 10**6


def test_an_unknown_time_format_is_refused():
    with pytest.raises(ConfigError, match="time format 'sec': expected s, ms, us, ns, d"):
        check_time_format("sec")


def test_interactions_without_ids_time_or_rating_are_set_aside():
    log = source(
        u=["u", None, "u", " ", "u", "u", "u", "u"],
        i=["a", "a", None, "a", "a", "a", " b ", "a"],
        t=["1", "1", "1", "1", None, "soon", "2", "1545000000123"],
        r=["5", "5", "5", "5", "5", "5", "x", "5"],
    )
    columns = InteractionColumns(user_id="u", item_id="i", timestamp="t", rating="r")
    made = make_interactions(log, columns)
    assert made.rows.rows() == [("u", "a", 10**6, None, 5.0, 2)]
    assert made.rejects.select("row", "reason").rows() == [
        (3, "missing user_id"),
        (4, "missing item_id"),
        (5, "missing user_id"),
        (6, "missing timestamp"),
        (7, "unparsable timestamp"),
        (8, "unparsable rating"),
        (9, "timestamp outside 1970 to 2100"),
    ]


def test_a_log_without_times_and_with_behaviours():
    columns = InteractionColumns(user_id="u", item_id="i", timestamp="", behaviour="b")
    made = make_interactions(source(u=[1], i=[7], b=["click"]), columns)
    assert made.rows.rows() == [("1", "7", None, "click", None, 2)]


def test_a_missing_column_names_those_that_are_there():
    with pytest.raises(DataError, match=r"t\.csv: no column 'timestamp'; it has user_id, item_id\. Name another, or"):
        make_interactions(source(user_id=["u"], item_id=["i"]), InteractionColumns())


def test_items_without_id_or_title_and_conflicting_ones_are_set_aside_and_equal_ones_dropped():
    catalogue = source(
        item_id=["a", None, "b", "a", "a", "c"],
        title=["Alpha", "x", "  ", "Alpha", "Other", "Gamma"],
        description=["['one', 'two']", "", "", "['one', 'two']", "", None],
        tags=['["x", "y"]', "", "", '["x", "y"]', "", "z"],
    )
    made = make_items(catalogue, ItemColumns())
    assert made.rows.rows() == [("a", "Alpha", "one two", "x, y", 2), ("c", "Gamma", "", "z", 7)]
    assert made.rejects.select("row", "reason").rows() == [
        (3, "missing item_id"),
        (4, "empty title"),
        (6, "item_id once more with other content"),
    ]
    assert made.ids_set_aside == {"b"}


def test_columns_with_our_names_but_another_meaning_are_renamed():
    catalogue = source(asin=["B1"], title=["T"], item_id=["7"], description=["long"])
    made = make_items(catalogue, ItemColumns(item_id="asin", description=""))
    assert made.rows.columns == [
        "item_id",
        "title",
        "description",
        "source_item_id",
        "source_description",
        "source_row",
    ]
    assert made.rows.row(0)[:3] == ("B1", "T", "")


def test_lists_and_records_of_parquet_become_text():
    catalogue = source(item_id=[1], title=["T"], description=[["one", None, "two"]], shop=[{"name": "S"}])
    made = make_items(catalogue, ItemColumns())
    assert made.rows.row(0)[:4] == ("1", "T", "one two", '{"name":"S"}')


@pytest.mark.parametrize("make", [lambda: InteractionColumns(user_id=""), lambda: ItemColumns(title="")])
def test_a_mapping_without_its_ids_is_refused(make):
    with pytest.raises(ConfigError, match="needs"):
        make()
