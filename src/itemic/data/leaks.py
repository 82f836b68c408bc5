"""Whether a dataset keeps what it holds out apart from what it teaches, checked on the finished tables.

Trusts nothing of how the tables were made: every example is found again in the log and compared with it.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.log_rows import all_examples, differing_histories, target_rows
from itemic.data.splits import SPLITS

__all__ = ["check_leaks"]


def check_leaks(dataset: Dataset, *, split: str) -> dict[str, Any]:
    """Returns figures on how far test lies from train, after checking that nothing held out is taught.

    Checked: every example's target is the interaction of its user that the log says, in the same split; a user's
    train interactions come before those of valid, and these before those of test; every history is what stands right
    before its target in the log; under a temporal split no train target is later than a valid one, no valid target
    later than a test one; nothing that is learned from holds a cold item, where there are some. A given
    split keeps histories as published: those that the log does not have so are counted.

    Args:
        dataset: The finished tables.
        split: ``leave_one_out``, ``temporal`` or ``given``.

    Raises:
        DataError: naming the first example or user at fault.
    """
    examples = all_examples(dataset)
    rows = target_rows(dataset.interactions, examples)
    _check_order(dataset.interactions)
    num_other = _count_other_histories(dataset.interactions, examples, rows, may_differ=split == "given")
    if split == "temporal":
        _check_times(dataset)
    if len(dataset.cold_items):
        _check_cold(dataset)
    return {"histories_not_in_log": num_other, **_times(dataset), **_distance(dataset)}


def _check_order(log: pl.DataFrame) -> None:
    code = pl.col("split").replace_strict(list(SPLITS), [0, 1, 2], return_dtype=pl.Int8)
    falls = log.select("user_id", (code.diff() < 0).over("user_id").alias("falls")).filter("falls")
    if not falls.is_empty():
        user = falls["user_id"][0]
        raise DataError(f"user {user!r}: a later split's interaction comes before an earlier split's")


def _count_other_histories(
    log: pl.DataFrame, examples: pl.DataFrame, rows: Int64[np.ndarray, "E"], *, may_differ: bool
) -> int:
    differs = differing_histories(log, examples["history"], rows)
    if differs.any() and not may_differ:
        raise DataError(f"{_name(examples, int(np.argmax(differs)))}: the history is not what precedes the target")
    return int(differs.sum())


def _check_cold(dataset: Dataset) -> None:
    """Raises if anything that is learned from holds a cold item."""
    cold = pl.Series(dataset.cold_items).implode()
    learned = pl.col("split") == "train"
    events = dataset.interactions.filter(learned & pl.col("item_index").is_in(cold))
    if not events.is_empty():
        raise DataError(
            f"user {events['user_id'][0]!r}: a training interaction is with cold item {events['item_index'][0]}"
        )
    history = pl.col("history").list.eval(pl.element().is_in(cold)).list.any()
    examples = dataset.train.filter(pl.col("target").is_in(cold) | history)
    if not examples.is_empty():
        raise DataError(
            f"train example {examples['example_id'][0]} (user {examples['user_id'][0]!r}): holds a cold item"
        )


def _check_times(dataset: Dataset) -> None:
    for earlier, later in (("train", "valid"), ("valid", "test"), ("train", "test")):
        last, first = dataset.split(earlier)["timestamp"].max(), dataset.split(later)["timestamp"].min()
        if last is not None and first is not None and last > first:  # type: ignore[operator]
            raise DataError(f"a {earlier} target at {last!r} s is later than a {later} target at {first!r} s")


def _times(dataset: Dataset) -> dict[str, Any]:
    return {
        f"{name}_{which}_s": value
        for name in SPLITS
        for which, value in (
            ("first", dataset.split(name)["timestamp"].min()),
            ("last", dataset.split(name)["timestamp"].max()),
        )
    }


def _distance(dataset: Dataset) -> dict[str, Any]:
    learned = dataset.interactions.filter(pl.col("split") == "train")
    test = dataset.test
    repeated = pl.col("history").list.contains(pl.col("target"))
    return {
        "test_targets_unseen_in_train": _share(~test["target"].is_in(learned["item_index"].unique().implode())),
        "test_users_unseen_in_train": _share(~test["user_id"].is_in(learned["user_id"].unique().implode())),
        "test_targets_in_own_history": _share(test.select(repeated).to_series()),
    }


def _share(flags: pl.Series) -> float | None:
    return float(flags.mean()) if len(flags) else None  # type: ignore[arg-type]


def _name(examples: pl.DataFrame, row: int) -> str:
    example = examples.row(row, named=True)
    return f"{example['split']} example {example['example_id']} (user {example['user_id']!r})"
