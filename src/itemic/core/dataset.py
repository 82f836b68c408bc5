"""The Dataset record: a catalogue, a log and its split, as they lie in a run folder; knows no source format."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from itemic.core.errors import ArtifactError
from itemic.core.files import atomic_folder, file_hash, read_json, write_json, write_parquet

__all__ = ["COLD_COLUMN", "EXAMPLE_SCHEMA", "INTERACTION_SCHEMA", "ITEM_SCHEMA", "Dataset", "cold_mask"]

ITEM_SCHEMA: dict[str, Any] = {
    "item_index": pl.Int64,
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
}
"""First columns of ``items.parquet``; any further columns of the catalogue follow."""

COLD_COLUMN = "is_cold"
"""Column of the items of a dataset prepared by the cold-start protocol: whether an item is kept from all learning."""

INTERACTION_SCHEMA: dict[str, Any] = {
    "user_id": pl.String,
    "item_index": pl.Int64,
    "timestamp": pl.Int64,
    "behaviour": pl.String,
    "split": pl.String,
}
"""Columns of ``interactions.parquet``: the timestamp is seconds since 1970 (null where the source has none); ``split``
is the part (train, valid, test) in which the interaction is a target; a user's first one goes with the second."""

EXAMPLE_SCHEMA: dict[str, Any] = {
    "example_id": pl.Int64,
    "user_id": pl.String,
    "history": pl.List(pl.Int64),
    "target": pl.Int64,
    "timestamp": pl.Int64,
}
"""Columns of ``train``, ``valid`` and ``test``: the history is oldest first and ends just before the target."""

_TABLES = ("items", "interactions", "train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A catalogue with its interactions and the examples of each split."""

    items: pl.DataFrame
    """ITEM_SCHEMA and further columns; row i is item_index i."""
    interactions: pl.DataFrame
    """INTERACTION_SCHEMA, sorted by user and time: every interaction kept, those of valid and test included."""
    train: pl.DataFrame
    """EXAMPLE_SCHEMA: what models may learn from."""
    valid: pl.DataFrame
    """EXAMPLE_SCHEMA: for early stopping and choices."""
    test: pl.DataFrame
    """EXAMPLE_SCHEMA: for the final figures only."""
    info: dict[str, Any] = field(default_factory=dict)
    """Protocol (split, filters, whether repeats are kept), counts, source: what ``dataset.json`` says."""

    @property
    def num_items(self) -> int:
        """Number of items N."""
        return self.items.height

    @property
    def keeps_repeats(self) -> bool:
        """Whether a user may interact with one item twice, so that a history item can be the target again."""
        return bool(self.info.get("keeps_repeats", True))

    @property
    def cold_items(self) -> Int64[np.ndarray, "C"]:
        """Item indices that the cold-start protocol keeps from all learning, rising; none without the protocol."""
        return np.flatnonzero(cold_mask(self.items)).astype(np.int64)

    def split(self, name: str) -> pl.DataFrame:
        """Returns the examples of ``train``, ``valid`` or ``test``."""
        if name not in ("train", "valid", "test"):
            raise ArtifactError(f"no split {name!r}; there are train, valid and test")
        table: pl.DataFrame = getattr(self, name)
        return table

    def train_counts(self) -> Int64[np.ndarray, "N"]:
        """Returns how many training interactions each item has."""
        learned = self.interactions.filter(pl.col("split") == "train")["item_index"].to_numpy()
        return np.bincount(learned, minlength=self.num_items).astype(np.int64)

    def train_sequences(self) -> dict[str, list[int]]:
        """Returns each user's training items, oldest first: what a sequence model may see, and nothing later.

        Users without a training target have none: what precedes a held-out target only is history, not a lesson.
        """
        kept = self.interactions.filter(pl.col("split") == "train")
        sequences = kept.group_by("user_id", maintain_order=True).agg(pl.col("item_index"))
        return dict(sequences.select("user_id", "item_index").iter_rows())

    def save(self, folder: Path) -> None:
        """Writes the tables as parquet and ``dataset.json`` with the hash of each, atomically as one folder."""
        with atomic_folder(folder) as temporary:
            for name in _TABLES:
                write_parquet(temporary / f"{name}.parquet", getattr(self, name))
            hashes = {f"{name}.parquet": file_hash(temporary / f"{name}.parquet") for name in _TABLES}
            write_json(temporary / "dataset.json", {**self.info, "files": hashes})

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Returns the Dataset in ``folder``.

        Raises:
            ArtifactError: if a table is missing or is not the one ``dataset.json`` was written with.
        """
        info = read_json(folder / "dataset.json")
        tables = {}
        for name in _TABLES:
            path = folder / f"{name}.parquet"
            if not path.is_file():
                raise ArtifactError(f"{path}: missing; run itemic prepare again")
            if file_hash(path) != info["files"][path.name]:
                raise ArtifactError(f"{path}: changed since dataset.json was written; run itemic prepare again")
            tables[name] = pl.read_parquet(path)
        return cls(**tables, info={key: value for key, value in info.items() if key != "files"})


def cold_mask(items: pl.DataFrame) -> Bool[np.ndarray, "N"]:
    """Returns which items the cold-start protocol keeps from all learning; an item added later is not marked.

    Args:
        items: ``Dataset.items``.
    """
    if COLD_COLUMN not in items.columns:
        return np.zeros(items.height, dtype=bool)
    return items[COLD_COLUMN].fill_null(False).to_numpy().astype(bool)
