import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data import find_items
from itemic.data.lookup import ItemLookup, check_texts

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


def test_a_lookup_reads_the_catalogue_once_and_only_when_it_must(monkeypatch):
    num_folded = []
    monkeypatch.setattr("itemic.data.lookup._folded", lambda title: num_folded.append(1) or title.strip().casefold())
    lookup = ItemLookup(ITEMS)
    assert lookup.find([]) == []
    assert lookup.find(["11", "13"]) == [1, 3]
    assert not num_folded, "ids need no titles"
    assert lookup.find(["fargo", "10"]) == [4, 0]
    num_first = len(num_folded)
    assert lookup.find(["fargo", "10"]) == [4, 0]
    assert len(num_folded) - num_first < ITEMS.height


def test_items_without_a_title_are_found_by_id_only():
    items = ITEMS.with_columns(title=pl.when(pl.col("item_index") == 1).then(None).otherwise("title"))
    assert find_items(items, ["11"]) == [1]
    with pytest.raises(DataError, match="no item has the id or title 'jaws'; the nearest titles are"):
        find_items(ITEMS.with_columns(title=pl.col("title").replace({"Jaws": None})), ["jaws"])


def test_what_is_no_list_of_texts_is_refused():
    with pytest.raises(
        DataError, match=r"history is the one text 'Jaws'; expected a list of ids or titles: \['Jaws'\]"
    ):
        ItemLookup(ITEMS).find("Jaws", "history")
    with pytest.raises(DataError, match=r"history\[1\] is 50 \(int\); expected an id or title as text, '50' say"):
        check_texts(["10", 50], "history")
