import json

import numpy as np
import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.core.run import Run
from itemic.data import ExamplesConfig, MinionerecConfig, PrepareConfig, export_minionerec, prepare, prepare_dataset

CODES = np.array([[0, 1, 2], [3, 4, 5], [0, 1, 7]])


def token(level, code):
    return f"<{'abc'[level]}_{code}>"


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "items.csv").write_text(
        'item_id,title,description,brand,year\nX,"It\'s ""A""",dx,b,1\nY,"B, b",,,2\nZ,C,,,\n'
    )
    (tmp_path / "train.csv").write_text("user_id,history,target\nA1,X,Y\nA2,X Z,X\n")
    (tmp_path / "valid.csv").write_text("user_id,history,target\nA1,X Y,Z\n")
    (tmp_path / "test.csv").write_text("user_id,history,target\nA1,X Y Z,Z\n")
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("items", "train", "valid", "test")}
    return prepare_dataset(PrepareConfig(source=ExamplesConfig(**paths), split="given"))[0]


def test_the_train_file_is_written_as_minionerec_writes_it(dataset, tmp_path):
    files = export_minionerec(dataset, CODES, token, tmp_path / "out", "Toys")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in files) == [
        *("index/Toys.index.json", "index/Toys.item.json", "info/Toys.txt"),
        *("test/Toys.csv", "train/Toys.csv", "valid/Toys.csv"),
    ]
    assert (tmp_path / "out/train/Toys.csv").read_text() == (
        "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
        'A1,"[\'It\\\'s ""A""\']","B, b",[0],1,[\'<a_0><b_1><c_2>\'],<a_3><b_4><c_5>\n'
        'A2,"[\'It\\\'s ""A""\', \'C\']","It\'s ""A""","[0, 2]",0,'
        "\"['<a_0><b_1><c_2>', '<a_0><b_1><c_7>']\",<a_0><b_1><c_2>\n"
    )
    assert (tmp_path / "out/info/Toys.txt").read_text().splitlines()[1] == "<a_3><b_4><c_5>\tB, b\t1"
    entry = json.loads((tmp_path / "out/index/Toys.item.json").read_text())["0"]
    assert entry == {
        **{"title": 'It\'s "A"', "description": "dx", "brand": "b", "categories": "", "year": "1"},
        "source_item_id": "X",
    }


@pytest.mark.parametrize("with_items", [True, False], ids=["item.json", "info.txt"])
def test_what_is_written_reads_back_equal(dataset, tmp_path, with_items):
    out = tmp_path / "out"
    export_minionerec(dataset, CODES, token, out, "Toys")
    if not with_items:
        (out / "index" / "Toys.item.json").unlink()
    run = Run(tmp_path / "run")
    config = PrepareConfig(source=MinionerecConfig(path=str(out), category="Toys"), split="given")
    prepare(config, run, seed=0)
    back, _ = prepare_dataset(config)
    for split in ("train", "valid", "test"):
        assert back.split(split).equals(dataset.split(split))
    assert back.interactions.equals(dataset.interactions)
    assert back.items["title"].equals(dataset.items["title"])
    assert pl.read_parquet(run.path("given_sids.parquet"))["codes"].to_list() == CODES.tolist()


def test_codes_of_another_catalogue_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="a semantic ID for each of 3 items, found 2"):
        export_minionerec(dataset, CODES[:2], token, tmp_path, "Toys")
