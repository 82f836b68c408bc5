import numpy as np
import polars as pl
import pytest

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.assemble import dataset_from_log
from itemic.data.log_rows import all_examples, target_rows
from itemic.data.splits import leave_one_out, positions


def make_dataset() -> Dataset:
    """Users with 4, 1 and 3 interactions; the first has item 0 three times, and nothing has a time."""
    user = np.repeat(np.arange(3), [4, 1, 3])
    log = pl.DataFrame(
        {"user": user, "item": [0, 1, 0, 0, 2, 1, 0, 2], "time_us": [None] * 8, "behaviour": [None] * 8},
        schema_overrides={"time_us": pl.Int64, "behaviour": pl.String},
    )
    position, length = positions(user)
    items = pl.DataFrame({"item_id": list("abc"), "title": list("ABC"), "description": [""] * 3})
    users = pl.Series(["u", "v", "w"])
    return dataset_from_log(items, users, log, leave_one_out(position, length), np.flatnonzero(position > 0), 2)


def test_every_target_is_found_where_it_was_made():
    dataset = make_dataset()
    examples = all_examples(dataset)
    assert examples.select("split", "user_id").rows() == [
        ("train", "u"),
        ("valid", "u"),
        ("valid", "w"),
        ("test", "u"),
        ("test", "w"),
    ]
    assert target_rows(dataset.interactions, examples).tolist() == [1, 2, 6, 3, 7]


def test_a_target_that_the_log_does_not_have_there_is_named():
    dataset = make_dataset()
    log = dataset.interactions
    for other in (log.filter(pl.col("user_id") != "w"), log.head(7), log.with_columns(split=pl.lit("test"))):
        with pytest.raises(DataError, match=r"example \d \(user '[uw]'\): the target is not this user's interaction"):
            target_rows(other, all_examples(dataset))
