"""What each example's user had interacted with before the target: the whole log, not the cut history alone."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from itemic.core.dataset import Dataset
from itemic.data.log_rows import all_examples, target_rows

__all__ = ["SeenItems", "seen_items"]


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

    @property
    def num_interactions(self) -> Int[np.ndarray, "B"]:
        """Interactions of the user before each target, repeats counted: the length of the whole history."""
        lengths: np.ndarray = self.target_row - self.first_row
        return lengths


def seen_items(dataset: Dataset, examples: pl.DataFrame) -> SeenItems:
    """Returns for each example the items its user had interacted with before the target.

    An example's history is cut to the prepared maximum, so excluding it alone would leave older items in the lists.

    Args:
        dataset: The log, and all examples: together they tell the row of each target.
        examples: Some examples of the dataset, recognised by ``example_id``.

    Raises:
        DataError: if the dataset's examples are not the last interactions of their users in the log.
    """
    log, everything = dataset.interactions, all_examples(dataset)
    rows = everything.select("example_id", pl.Series("row", target_rows(log, everything)))
    row = examples.select("example_id").join(rows, on="example_id", how="left", maintain_order="left")["row"].to_numpy()
    numbered = log.select("user_id", "item_index", pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
    first = numbered.select(
        pl.col("row").min().over("user_id").alias("of_user"),
        pl.col("row").min().over("user_id", "item_index").alias("of_item"),
    )
    return SeenItems(
        item_index=log["item_index"].to_numpy(),
        first_row=first["of_user"].to_numpy()[row],
        target_row=row,
        holds_target=first["of_item"].to_numpy()[row] < row,
    )
