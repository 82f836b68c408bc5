"""What each example's user had interacted with before the target: the whole log, not the cut history alone."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError

__all__ = ["SeenItems", "seen_items"]

_KEY = ("user_id", "item_index", "timestamp")


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenItems:
    """For each example a range of the log, which is sorted by user and time."""

    item_index: Int[np.ndarray, "I"]
    """Item of every interaction."""
    first_row: Int[np.ndarray, "B"]
    """Row of the user's first interaction."""
    target_row: Int[np.ndarray, "B"]
    """Row of the target, just after the range."""
    holds_target: Bool[np.ndarray, "B"]
    """Whether the target itself is in the range: a repeat."""

    def lists(self, rows: Int[np.ndarray, "b"]) -> list[list[int]]:
        """Returns the seen items of some examples, oldest first."""
        ranges = zip(self.first_row[rows], self.target_row[rows], strict=True)
        return [self.item_index[first:last].tolist() for first, last in ranges]


def seen_items(dataset: Dataset, examples: pl.DataFrame) -> SeenItems:
    """Returns for each example the items its user had interacted with before the target.

    An example's history is cut to the prepared maximum, so excluding it alone would leave older items in the lists.
    Where a user has the same item twice at the same time, the range ends before the first.

    Raises:
        DataError: if a target is not in the log.
    """
    target_row = pl.col("target_row")
    log = dataset.interactions.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("target_row"), *_KEY).with_columns(
        target_row.min().over("user_id").alias("first_row"),
        target_row.min().over("user_id", "item_index").alias("first_seen"),
    )
    keyed = examples.select("example_id", "user_id", pl.col("target").alias("item_index"), "timestamp")
    first_of_each = log.unique(_KEY, keep="first", maintain_order=True)
    located = keyed.join(first_of_each, on=_KEY, how="left", nulls_equal=True, maintain_order="left")
    missing = located.filter(pl.col("target_row").is_null())
    if missing.height:
        example, user, item, timestamp = missing.row(0)[:4]
        raise DataError(
            f"example {example}: the interactions of user {user} have no item {item} at time {timestamp}, its target"
        )
    return SeenItems(
        item_index=dataset.interactions["item_index"].to_numpy(),
        first_row=located["first_row"].to_numpy(),
        target_row=located["target_row"].to_numpy(),
        holds_target=(located["first_seen"] < located["target_row"]).to_numpy(),
    )
