"""The cold-start protocol: some items that valid and test ask for are taken out of all that teaches. Knows no model.

It is as if those items had come into the catalogue on the day on which training ended: their texts are known, what
happened with them before is not, and what happens with them afterwards is, in the histories of valid and test.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from itemic.core.dataset import COLD_COLUMN, Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.seeds import derive_rng
from itemic.data.log_rows import all_examples, differing_histories, target_rows
from itemic.data.splits import positions

__all__ = ["ColdConfig", "hold_out"]


@dataclass(frozen=True, kw_only=True)
class ColdConfig:
    """Which items are held out of training."""

    share: float = 0.1
    """Share of the items that can be drawn which are. A tenth leaves training nearly what it was and gives hundreds of
    cold examples on the sets of the papers."""
    min_interactions: int = 1
    """Least number of training interactions of an item that can be drawn: those that have none are cold as they are."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.min_interactions < 0:
            raise ConfigError(
                f"cold: expected a share above 0 and at most 1 and min_interactions of at least 0, found {self.share} "
                f"and {self.min_interactions}"
            )


def hold_out(dataset: Dataset, config: ColdConfig, *, seed: int) -> Dataset:
    """Returns the dataset without the training interactions of some of the items that valid and test ask for.

    Drawn are items that are targets in valid or test. Cold, and marked so in the items, are they and all that nobody
    has in training anyway, so that warm items are exactly those that a model can have learned. A cold item's training
    interactions leave the log, the train examples and every history; histories are filled up with earlier items, to
    at most the length they had, and may be empty in valid and test, whose examples all stay with their ids. What a
    user does with a cold item in valid or test stays in the later histories, as a system that runs sees it.

    Args:
        dataset: The finished tables.
        config: Which items.
        seed: Of the run.

    Raises:
        DataError: if no item can be drawn, or nothing is left to learn from.
    """
    drawn = _draw(dataset, config, seed)
    held = _without(dataset, drawn)
    if held.train.is_empty():
        raise DataError(f"cold: without {int(drawn.sum())} of {dataset.num_items} items no train example is left")
    cold = held.train_counts() == 0
    # Histories of a given split may hold what the log does not have.
    train = held.train.with_columns(_filtered(held.train["history"], ~cold))
    info: dict[str, Any] = {
        "share": config.share,
        "min_interactions": config.min_interactions,
        "num_items": int(cold.sum()),
        "num_drawn": int(drawn.sum()),
        "interactions_dropped": dataset.interactions.height - held.interactions.height,
        "train_examples_dropped": dataset.train.height - train.height,
        **{f"{name}_examples": int(cold[held.split(name)["target"].to_numpy()].sum()) for name in ("valid", "test")},
    }
    items = held.items.with_columns(pl.Series(COLD_COLUMN, cold))
    return replace(held, items=items, train=train, info={**dataset.info, "cold": info})


def _draw(dataset: Dataset, config: ColdConfig, seed: int) -> Bool[np.ndarray, "N"]:
    asked_for = np.unique(pl.concat([dataset.valid["target"], dataset.test["target"]]).to_numpy())
    able = asked_for[dataset.train_counts()[asked_for] >= config.min_interactions]
    num_drawn = round(config.share * len(able))
    if num_drawn == 0:
        raise DataError(
            f"cold: no item to hold out: {len(able)} targets of valid and test have {config.min_interactions} or more "
            f"training interactions, of which the share {config.share} is none"
        )
    drawn = np.zeros(dataset.num_items, dtype=bool)
    drawn[derive_rng(seed, "prepare", "cold").choice(able, num_drawn, replace=False)] = True
    return drawn


def _without(dataset: Dataset, drawn: Bool[np.ndarray, "N"]) -> Dataset:
    """Returns the dataset without the training interactions of these items."""
    log, examples = dataset.interactions, all_examples(dataset)
    rows = target_rows(log, examples)
    differs = differing_histories(log, examples["history"], rows)
    stays = ~((log["split"] == "train").fill_null(False).to_numpy() & drawn[log["item_index"].to_numpy()])
    kept = stays[rows]
    examples, differs, rows = examples.filter(kept), differs[kept], (np.cumsum(stays) - 1)[rows[kept]]
    log = log.filter(stays)
    lengths = examples["history"].list.len().to_numpy().astype(np.int64)
    examples = examples.with_columns(_histories(log, examples["history"], rows, differs, ~drawn))
    lost = (examples["history"].list.len() == 0).to_numpy() & (lengths > 0) & (examples["split"] == "train").to_numpy()
    # An empty history stands before a user's first interaction, or was published unlike the log: the example of such a
    # row is needed, since examples and log are matched by their number.
    examples = examples.filter(~(lost & ~differs))
    tables: dict[str, Any] = {
        name: examples.filter(pl.col("split") == name).drop("split").rechunk() for name in ("train", "valid", "test")
    }
    return replace(dataset, interactions=_with_splits(log, tables["train"]), **tables)


def _histories(
    log: pl.DataFrame,
    given: pl.Series,
    rows: Int64[np.ndarray, "E"],
    differs: Bool[np.ndarray, "E"],
    may_stay: Bool[np.ndarray, "N"],
) -> pl.Series:
    """Returns what stands before each target in the log, no longer than was given; of others what may stay of it."""
    position, _ = positions(log["user_id"].rle_id().cast(pl.Int64).to_numpy())
    lengths = np.minimum(given.list.len().to_numpy().astype(np.int64), position[rows])
    ends = np.cumsum(lengths)
    source = np.arange(ends[-1] if len(ends) else 0) + np.repeat(rows - ends, lengths)
    flat = pl.DataFrame({"example": np.repeat(np.arange(len(rows)), lengths), "item": log["item_index"][source]})
    found = flat.group_by("example", maintain_order=True).agg(pl.col("item").alias("found"))
    table = pl.DataFrame({"example": np.arange(len(rows)), "own": _filtered(given, may_stay), "differs": differs})
    joined = table.join(found, on="example", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(pl.Int64))
    chosen = pl.when("differs").then("own").otherwise(pl.col("found").fill_null(empty))
    return joined.select(chosen.alias("history")).to_series()


def _filtered(histories: pl.Series, may_stay: Bool[np.ndarray, "N"]) -> pl.Series:
    """Returns the histories with only the items that may stay."""
    allowed = pl.Series(np.flatnonzero(may_stay)).implode()
    return histories.list.eval(pl.element().filter(pl.element().is_in(allowed))).alias("history")


def _with_splits(log: pl.DataFrame, train: pl.DataFrame) -> pl.DataFrame:
    """Returns the log in which a user without a train example has no training interaction either.

    What is left there before the user's first target goes with that target, as in every dataset.
    """
    learns = pl.col("user_id").is_in(train["user_id"].unique().implode())
    split = pl.when((pl.col("split") == "train") & ~learns).then(None).otherwise("split")
    changed = log.with_columns(split.alias("split"))
    gone = pl.col("split").is_null() & (pl.Series(log["split"] == "train"))
    filled = pl.col("split").fill_null(strategy="backward").over("user_id")
    return changed.with_columns(pl.when(gone).then(filled).otherwise("split").alias("split"))
