import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data.additions import read_additions, read_items
from itemic.data.columns import ItemColumns
from itemic.data.sources.table import TableConfig

ITEMS = pl.DataFrame(
    {"item_index": [0, 1], "item_id": ["a", "b"], "title": ["A", "B"], "description": ["", ""], "year": ["1999", None]}
)
SOURCE = TableConfig(
    interactions="log.csv",
    items="items.csv",
    item_columns=ItemColumns(item_id="key", title="name", description="text"),
)


def write(folder, text, name="new.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_new_items_follow_the_old_ones_with_the_same_columns(tmp_path):
    path = write(tmp_path, "item_id,title,year\nc,C &amp; Co,2001\nd,D,\n")
    added = read_additions(path, ITEMS)
    assert added.schema == ITEMS.schema
    assert added.rows() == [(2, "c", "C & Co", "", "2001"), (3, "d", "D", "", None)]
    assert pl.concat([ITEMS, added])["item_index"].to_list() == [0, 1, 2, 3]
    assert read_additions(path, ITEMS, clean=False)["title"][0] == "C &amp; Co"


def test_columns_may_be_called_as_in_the_source_or_as_in_the_dataset(tmp_path):
    own = read_additions(write(tmp_path, "key,name,text\nc,C,words\n"), ITEMS, source=SOURCE)
    ours = read_additions(write(tmp_path, "item_id,title,description\nc,C,words\n"), ITEMS, source=SOURCE)
    assert own.rows() == ours.rows() == [(2, "c", "C", "words", None)]
    lines = write(tmp_path, '{"item_id": "c", "title": "C", "description": "words"}\n', "new.jsonl")
    assert read_additions(lines, ITEMS).rows() == own.rows()


def test_a_table_of_the_dataset_s_own_form_is_taken(tmp_path):
    path = tmp_path / "new.parquet"
    ITEMS.with_columns(pl.col("item_id") + "2").write_parquet(path)
    assert read_additions(path, ITEMS)["item_id"].to_list() == ["a2", "b2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,title\nc,C\nb,B\n", r"row 3: item 'b' is in the catalogue already \(rows like that: 1\)"),
        ("item_id,title\nc,C\nc,D\n", "row 3: item_id once more with other content"),
        ("item_id,title\nc,\n", "row 2: empty title"),
        ("item_id,title\n,C\n", "row 2: missing item_id"),
        ("item_id,title,price\nc,C,3\n", "no column 'price' in the dataset, whose items have item_index, item_id"),
        ("item_id,name\nc,C\n", "no column 'title'"),
        ("item_id,title\n", "has no items"),
    ],
)
def test_what_cannot_be_used_is_refused_whole(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_additions(write(tmp_path, text), ITEMS)


def test_a_type_that_the_dataset_does_not_have_is_refused(tmp_path):
    items = ITEMS.with_columns(pl.col("year").cast(pl.Int64))
    assert read_additions(write(tmp_path, "item_id,title,year\nc,C,2001\n"), items)["year"].to_list() == [2001]
    with pytest.raises(DataError, match="a column is not of the type"):
        read_additions(write(tmp_path, "item_id,title,year\nc,C,soon\n"), items)


def test_a_catalogue_of_its_own_keeps_all_its_columns(tmp_path):
    path = write(tmp_path, "item_id,title,brand\nc,C &amp; Co,X\nd,D,\n")
    items = read_items(path)
    assert items.columns == ["item_index", "item_id", "title", "description", "brand"]
    assert items.rows()[0] == (0, "c", "C & Co", "", "X")
    with pytest.raises(DataError, match="row 3: empty title"):
        read_items(write(tmp_path, "item_id,title\nc,C\nd,\n"))
