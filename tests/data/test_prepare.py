import polars as pl
import pytest

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.core.run import Run
from itemic.data import PrepareConfig, RecboleConfig, prepare, prepare_dataset

LOG = """user_id:token\titem_id:token\trating:float\ttimestamp:float
u1\ta\t5\t10
u2\tb\t4\t5
u1\tb\t3\t20
u1\tc\t5\t15
u2\tc\t1\t30
u1\td\t2\t40
"""
ITEMS = """item_id:token\ttitle:token_seq\tyear:token
a\tAlpha\t1
b\tBeta &amp; Co\t2
c\tGamma\t3
d\tDelta\t4
e\tUnused\t5
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.inter").write_text(LOG)
    (folder / "tiny.item").write_text(ITEMS)
    return RecboleConfig(path=str(folder))


def test_leave_one_out_of_a_worked_log(source):
    dataset, rejects = prepare_dataset(PrepareConfig(source=source, max_history=2))
    assert rejects.is_empty()
    assert dataset.items["title"].to_list() == ["Alpha", "Beta & Co", "Gamma", "Delta"]
    assert dataset.items.columns == ["item_index", "item_id", "title", "description", "year"]
    # u1 by time: a c b d; u2: b c, too short for anything but train.
    assert dataset.interactions.select("user_id", "item_index", "timestamp", "split").rows() == [
        ("u1", 0, 10, "train"),
        ("u1", 2, 15, "train"),
        ("u1", 1, 20, "valid"),
        ("u1", 3, 40, "test"),
        ("u2", 1, 5, "train"),
        ("u2", 2, 30, "train"),
    ]
    assert dataset.train.rows() == [(0, "u1", [0], 2, 15), (1, "u2", [1], 2, 30)]
    assert dataset.valid.rows() == [(2, "u1", [0, 2], 1, 20)]
    assert dataset.test.rows() == [(3, "u1", [2, 1], 3, 40)]
    assert dict(dataset.interactions.schema) == INTERACTION_SCHEMA
    assert dict(dataset.test.schema) == EXAMPLE_SCHEMA
    assert not dataset.keeps_repeats


def test_the_stage_writes_and_then_skips(source, tmp_path):
    run, config = Run(tmp_path / "run"), PrepareConfig(source=source)
    assert not prepare(config, run, seed=0).skipped
    assert prepare(config, run, seed=0).skipped
    assert Dataset.load(run.path("dataset")).info["counts"]["interactions"] == 6
    assert pl.read_parquet(run.path("rejects.parquet")).is_empty()
