"""Which items got other codes than the quantizer gave them, as a file beside the catalog; knows no reasons."""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.errors import ArtifactError
from itemic.core.files import write_parquet

__all__ = ["read_codes_before", "write_moves"]

MOVES_NAME = "moved.parquet"
"""Name of the file in the catalog's folder."""


def write_moves(folder: Path, before: Int[np.ndarray, "N M"], after: Int[np.ndarray, "N L"]) -> None:
    """Writes ``moved.parquet``: item_index and the codes before, of the items whose codes changed.

    A level that was added changes nothing. Without a moved item the file has no rows.
    """
    num_common = min(before.shape[1], after.shape[1])
    rows = np.flatnonzero((before[:, :num_common] != after[:, :num_common]).any(axis=1))
    table = pl.DataFrame(
        {"item_index": rows, "codes": before[rows].tolist()},
        schema={"item_index": pl.Int64, "codes": pl.List(pl.Int64)},
    )
    write_parquet(folder / MOVES_NAME, table)


def read_codes_before(folder: Path, after: Int[np.ndarray, "N L"], num_levels: int) -> Int[np.ndarray, "N M"] | None:
    """Returns the codes of all items before collisions were resolved; None if the folder does not say.

    Args:
        folder: Of the catalog.
        after: Codes in the catalog; items that were appended later count as never moved.
        num_levels: Levels that the quantizer has, M; fewer than L where a level was added.

    Raises:
        ArtifactError: if the file speaks of other items.
    """
    path = folder / MOVES_NAME
    if not path.is_file():
        return None
    table = pl.read_parquet(path)
    before = after[:, :num_levels].copy()
    rows = table["item_index"].to_numpy()
    if len(rows) == 0:
        return before
    if rows.max() >= len(after) or (table["codes"].list.len() != num_levels).any():
        raise ArtifactError(f"{path}: made for another catalog; run itemic tokenize again")
    before[rows] = table["codes"].explode().to_numpy().reshape(len(rows), num_levels)
    return before
