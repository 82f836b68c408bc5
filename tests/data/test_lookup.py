import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data import find_items

ITEMS = pl.DataFrame(
    {
        "item_index": range(5),
        "item_id": ["10", "11", "12", "13", "Jaws"],
        "title": ["Toy Story (1995)", "Jaws", "Sabrina", " sabrina", "Fargo"],
    }
)


def test_ids_come_before_titles_and_case_does_not_matter():
    assert find_items(ITEMS, ["11", "Jaws", "toy STORY (1995) ", "fargo"]) == [1, 4, 0, 4]
    assert find_items(ITEMS, []) == []


def test_an_unknown_title_names_the_nearest():
    with pytest.raises(
        DataError, match=r"no item has the id or title 'toy story'; the nearest titles are 'Toy Story \(1995\)'"
    ):
        find_items(ITEMS, ["toy story"])
    with pytest.raises(DataError, match="'Fargo'"):
        find_items(ITEMS, ["frago"])


def test_a_title_of_several_items_asks_for_an_id():
    with pytest.raises(DataError, match="2 items have the title 'Sabrina': give one of the ids 12, 13"):
        find_items(ITEMS, ["Sabrina"])
