"""Which interaction of the log each example's target is; knows nothing of how the examples were made."""

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.splits import SPLITS

__all__ = ["all_examples", "target_rows"]


def all_examples(dataset: Dataset) -> pl.DataFrame:
    """Returns the examples of train, valid and test in this order, with the name of their ``split``."""
    return pl.concat([dataset.split(name).with_columns(pl.lit(name).alias("split")) for name in SPLITS])


def target_rows(log: pl.DataFrame, examples: pl.DataFrame) -> Int64[np.ndarray, "E"]:
    """Returns the row of the log that holds each example's target.

    A user's last example belongs to its last interaction, the one before to the one before, and so on. Neither items
    nor times are looked up: a user may have one item twice, at one time or without any.

    Args:
        log: ``Dataset.interactions``.
        examples: What ``all_examples`` returns.

    Raises:
        DataError: naming the first example whose target is not its user's interaction in that row, in its split.
    """
    rows = _aligned_rows(log, examples)
    same = _holds_targets(log, examples, rows)
    if not same.all():
        example = examples.row(int(np.argmin(same)), named=True)
        raise DataError(
            f"{example['split']} example {example['example_id']} (user {example['user_id']!r}): "
            "the target is not this user's interaction in the log"
        )
    return rows


def _aligned_rows(log: pl.DataFrame, examples: pl.DataFrame) -> Int64[np.ndarray, "E"]:
    users = log.with_row_index("row").group_by("user_id").agg(pl.col("row").last().cast(pl.Int64))
    from_end = (pl.len() - 1 - pl.int_range(pl.len())).over("user_id")
    joined = examples.select("user_id", from_end.alias("from_end")).join(
        users, on="user_id", how="left", maintain_order="left"
    )
    rows = joined.select((pl.col("row") - pl.col("from_end")).fill_null(-1)).to_series()
    return rows.to_numpy().astype(np.int64)


def _holds_targets(log: pl.DataFrame, examples: pl.DataFrame, rows: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    found = log[np.clip(rows, 0, max(log.height - 1, 0))]
    return np.asarray(
        (rows >= 0)
        & (found["user_id"] == examples["user_id"]).to_numpy()
        & (found["item_index"] == examples["target"]).to_numpy()
        & (found["split"] == examples["split"]).to_numpy()
    )
