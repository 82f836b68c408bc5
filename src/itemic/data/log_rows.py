"""Which interaction of the log each example's target is; knows nothing of how the examples were made."""

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.splits import SPLITS, positions

__all__ = ["all_examples", "differing_histories", "target_rows"]

_PIECE = 1 << 17


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


def differing_histories(log: pl.DataFrame, histories: pl.Series, rows: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """Returns which histories are not what stands right before their targets in the log.

    Args:
        log: ``Dataset.interactions``.
        histories: Item indices, oldest first.
        rows: Row of the log that holds each target, as ``target_rows`` returns.
    """
    items = log["item_index"].to_numpy()
    position, _ = positions(log["user_id"].rle_id().cast(pl.Int64).to_numpy())
    pieces = [
        _differs(items, position, histories.slice(start, _PIECE), rows[start : start + _PIECE])
        for start in range(0, len(rows), _PIECE)
    ]
    return np.concatenate([np.zeros(0, dtype=bool), *pieces])


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


def _differs(
    items: Int64[np.ndarray, "R"],
    position: Int64[np.ndarray, "R"],
    histories: pl.Series,
    rows: Int64[np.ndarray, "E"],
) -> Bool[np.ndarray, "E"]:
    lengths = histories.list.len().to_numpy().astype(np.int64)
    too_long = lengths > position[rows]
    ends = np.cumsum(lengths)
    source = np.arange(ends[-1]) + np.repeat(rows - ends, lengths)
    values = histories.explode(empty_as_null=False).to_numpy()
    wrong = values != items[np.maximum(source, 0)]
    num_wrong = np.bincount(np.repeat(np.arange(len(rows)), lengths), weights=wrong, minlength=len(rows))
    return np.asarray(too_long | (num_wrong > 0))
