import polars as pl
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.embed.texts import item_texts

ITEMS = pl.DataFrame(
    {
        "item_id": ["i", "j", "k"],
        "title": ["Toy Story", " Heat ", ""],
        "description": ["A boy's toys.", None, "  "],
        "year": [1995, 1996, None],
        "genres": [["Animation", "Comedy"], [], None],
    }
)


def test_fields_are_joined_in_order_and_empty_ones_leave_nothing():
    fields = ["year", "title", "description", "genres"]
    texts = item_texts(ITEMS.head(2), fields)
    assert texts == ["1995 Toy Story A boy's toys. Animation, Comedy", "1996 Heat"]


def test_item_without_any_text_is_refused_by_id():
    with pytest.raises(DataError, match=r"1 of 3 items have no text in title, description: item ids k; name more"):
        item_texts(ITEMS, ["title", "description"])


def test_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match="no column 'titel'; did you mean title"):
        item_texts(ITEMS, ["titel"])
