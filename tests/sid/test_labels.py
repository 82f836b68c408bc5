import polars as pl
import pytest

from itemic.core.errors import ConfigError
from itemic.sid.labels import read_labels


def test_texts_lists_and_written_lists_become_labels():
    items = pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "brand": ["Pumps, Inc.", "", None],
            "genres": ["War, Noir", "War", "Noir|Heist"],
            "category": [["Tools", "Saws"], ["Tools"], None],
        }
    )
    assert read_labels(items, None) == {
        "brand": [["Pumps, Inc."], [], []],
        "category": [["Tools", "Saws"], ["Tools"], []],
        "genres": [["War", "Noir"], ["War"], ["Noir", "Heist"]],
    }


def test_what_every_item_carries_is_no_label():
    items = pl.DataFrame({"categories": ["Shop, Tools", "Shop, Saws"], "store": ["one", "one"], "brand": ["", None]})
    assert read_labels(items, None) == {"categories": [["Tools"], ["Saws"]]}


def test_named_columns_are_taken_whatever_they_hold():
    items = pl.DataFrame({"shelf": [1, 2, None], "brand": ["a", "b", "c"]})
    assert read_labels(items, ["shelf"]) == {"shelf": [["1"], ["2"], []]}
    assert read_labels(items, []) == {}
    with pytest.raises(ConfigError, match=r"no column 'genre'; items.parquet has shelf, brand"):
        read_labels(items, ["genre"])
