"""A filtered log, or given examples, to the tables of a Dataset. Knows no source format, filter or split rule."""

import numpy as np
import polars as pl
from jaxtyping import Int8, Int64

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.core.errors import DataError
from itemic.data.raw import RawLog
from itemic.data.splits import SPLITS, positions, windows

__all__ = ["by_user_and_time", "dataset_from_examples", "dataset_from_log", "numbered_users"]

_US_PER_S = 10**6


def numbered_users(user_ids: pl.Series) -> tuple[pl.Series, Int64[np.ndarray, "R"]]:
    """Returns the distinct users in order of first appearance, and for every row the number of its user."""
    users = user_ids.unique(maintain_order=True).alias("user_id")
    numbers = users.to_frame().with_row_index("user")
    joined = user_ids.alias("user_id").to_frame().join(numbers, on="user_id", how="left", maintain_order="left")
    return users, joined["user"].cast(pl.Int64).to_numpy()


def by_user_and_time(log: pl.DataFrame) -> pl.DataFrame:
    """Returns a log with the columns user and time_us sorted by both; ties in time keep the order of the rows.

    Where any row has no time, all rows of a user keep their order.
    """
    keys = ["user"] if log["time_us"].has_nulls() else ["user", "time_us"]
    return log.sort(keys, maintain_order=True)


def dataset_from_log(
    items: pl.DataFrame,
    users: pl.Series,
    log: pl.DataFrame,
    split: Int8[np.ndarray, "R"],
    targets: Int64[np.ndarray, "E"],
    max_history: int,
) -> Dataset:
    """Returns the dataset of a log whose rows have split codes: every target with its sliding window is an example.

    Args:
        items: The catalogue; row i is item i of the log.
        users: User ids; row u is user u of the log.
        log: Columns user, item, time_us and behaviour, sorted by user and time.
        split: Code (0, 1, 2 for train, valid, test) of every row of the log.
        targets: Rows of the log that are targets, in the order in which the examples shall stand.
        max_history: Most items in a history.
    """
    user, item = log["user"].to_numpy(), log["item"].to_numpy()
    position, _ = positions(user)
    interactions = pl.DataFrame(
        {
            "user_id": users.gather(log["user"]),
            "item_index": log["item"],
            "timestamp": log["time_us"] // _US_PER_S,
            "behaviour": log["behaviour"],
            "split": pl.Series(SPLITS).gather(split.astype(np.int64)),
        },
        schema=INTERACTION_SCHEMA,
    )
    examples = interactions.select("user_id", pl.col("item_index").alias("target"), "timestamp", "split")[targets]
    examples = examples.with_columns(windows(item, targets, position, max_history))
    # A stable sort: within a split the targets keep their order.
    examples = examples[np.argsort(split[targets], kind="stable")].with_row_index("example_id")
    return _dataset(items, interactions, examples.with_columns(pl.col("example_id").cast(pl.Int64)))


def dataset_from_examples(raw: RawLog, max_history: int, *, rebuild_histories: bool = False) -> Dataset:
    """Returns the dataset of a source's own split, its examples kept row for row and in order.

    The interactions are the source's log, or are rebuilt from the examples: a user's first history, then the targets
    in order (train, valid, test; in each the source's order). A user's last interactions are its targets; those
    before the first target go with it. An interaction of a user without examples has no split (null).

    Args:
        raw: A source with examples.
        max_history: Most items in a history; of longer ones the last stay.
        rebuild_histories: Whether each history is taken from the log instead: the user's interactions before the
            target, which may be more than the source gives. That is another protocol than the source's.

    Raises:
        DataError: if the source has no examples, or a log in which a user's last items are not its targets.
    """
    if not raw.examples:
        raise DataError("split is given, but the source has no examples of its own: take leave_one_out or temporal")
    examples = _indexed_examples(raw, max_history)
    log = _log_of_examples(examples) if raw.interactions is None else _log_of_source(raw)
    log = _with_splits(log, examples)
    if rebuild_histories:
        examples = examples.with_columns(_histories_of_log(log, examples, max_history))
    return _dataset(raw.items.rows, log.select(*INTERACTION_SCHEMA), examples)


def _dataset(items: pl.DataFrame, interactions: pl.DataFrame, examples: pl.DataFrame) -> Dataset:
    # In one piece: pl.format of polars 2.1 panics on the empty chunks that filtering a concatenation leaves.
    examples = examples.rechunk()
    train, valid, test = (examples.filter(pl.col("split") == name).select(*EXAMPLE_SCHEMA) for name in SPLITS)
    return Dataset(items=_indexed(items), interactions=interactions, train=train, valid=valid, test=test)


def _indexed(items: pl.DataFrame) -> pl.DataFrame:
    further = pl.exclude("item_index", "item_id", "title", "description", "source_row")
    numbered = items.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("item_index"))
    return numbered.select("item_index", "item_id", "title", "description", further)


def _indexed_examples(raw: RawLog, max_history: int) -> pl.DataFrame:
    """Returns all examples with item indices and their split, numbered over train, valid and test."""
    item_ids = raw.items.rows["item_id"]
    index = {"old": item_ids, "new": pl.int_range(len(item_ids), dtype=pl.Int64, eager=True)}
    parts = [part.rows.with_columns(pl.lit(name).alias("split")) for name, part in raw.examples.items()]
    history = pl.col("history").list.tail(max_history)
    return pl.concat(parts).select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("example_id"),
        "user_id",
        history.list.eval(pl.element().replace_strict(**index, return_dtype=pl.Int64)),
        pl.col("target").replace_strict(**index, return_dtype=pl.Int64),
        (pl.col("time_us") // _US_PER_S).alias("timestamp"),
        "split",
    )


def _log_of_examples(examples: pl.DataFrame) -> pl.DataFrame:
    """Returns each user's first history followed by its targets."""
    first = examples.filter(pl.col("user_id").is_first_distinct())
    before = first.select("user_id", pl.col("history").alias("item_index"), pl.lit(None, pl.Int64).alias("timestamp"))
    before = before.explode("item_index").drop_nulls("item_index")
    targets = examples.select("user_id", pl.col("target").alias("item_index"), "timestamp")
    log = pl.concat([before, targets]).with_columns(pl.lit(None, pl.String).alias("behaviour"))
    return log.with_columns(user=numbered_users(log["user_id"])[1]).sort("user", maintain_order=True)


def _log_of_source(raw: RawLog) -> pl.DataFrame:
    assert raw.interactions is not None
    index = raw.items.rows.select("item_id", pl.int_range(pl.len(), dtype=pl.Int64).alias("item_index"))
    log = raw.interactions.rows.join(index, on="item_id", how="inner", maintain_order="left")
    log = by_user_and_time(log.with_columns(user=numbered_users(log["user_id"])[1]))
    return log.select("user_id", "item_index", (pl.col("time_us") // _US_PER_S).alias("timestamp"), "behaviour")


def _with_splits(log: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
    """Returns the log with each interaction's split, matching a user's targets with its last interactions."""
    from_end = (pl.len() - 1 - pl.int_range(pl.len())).over("user_id").alias("from_end")
    held = examples.select("user_id", "target", "split", from_end)
    aligned = log.with_columns(from_end).join(held, on=["user_id", "from_end"], how="left", maintain_order="left")
    wrong = aligned.filter(pl.col("target") != pl.col("item_index"))
    num_matched = aligned["target"].count()
    if not wrong.is_empty() or num_matched != examples.height:
        user = wrong["user_id"][0] if not wrong.is_empty() else _first_unmatched(log, examples)
        raise DataError(
            f"user {user!r}: the last items in the interactions are not the targets of the examples, in order; "
            "without interactions the log is rebuilt from the examples"
        )
    return aligned.with_columns(pl.col("split").fill_null(strategy="backward").over("user_id"))


def _histories_of_log(log: pl.DataFrame, examples: pl.DataFrame, max_history: int) -> pl.Series:
    """Returns what precedes each example's target in a log whose users' last interactions are their targets."""
    from_end = (pl.len() - 1 - pl.int_range(pl.len())).over("user_id").alias("from_end")
    rows = log.select("user_id", from_end, pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
    held = examples.select("user_id", from_end)
    targets = held.join(rows, on=["user_id", "from_end"], how="left", maintain_order="left")["row"].to_numpy()
    position, _ = positions(log["user_id"].rle_id().cast(pl.Int64).to_numpy())
    return windows(log["item_index"].to_numpy(), targets, position, max_history)


def _first_unmatched(log: pl.DataFrame, examples: pl.DataFrame) -> str:
    counts = examples.group_by("user_id", maintain_order=True).len("num_examples")
    lengths = log.group_by("user_id").len("num_interactions")
    joined = counts.join(lengths, on="user_id", how="left", maintain_order="left")
    short = joined.filter(pl.col("num_interactions").fill_null(0) < pl.col("num_examples"))
    user: str = short["user_id"][0]
    return user
