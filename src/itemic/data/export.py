"""A Dataset and its semantic IDs as MiniOneRec's files, so that its scripts, and others', run on the same rows.

Knows nothing of how a semantic ID is spelled: the caller says how one code is written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.core.files import atomic_path, write_json

__all__ = ["export_minionerec"]

_ITEM_FIELDS = ("title", "description", "brand", "categories")


def export_minionerec(
    dataset: Dataset,
    codes: Int64[np.ndarray, "N L"],
    token: Callable[[int, int], str],
    folder: Path,
    category: str,
) -> list[Path]:
    """Returns the files written: train, valid and test CSV, the index, the items and the info table.

    As MiniOneRec numbers items by the rows of their embeddings, an item is written as its item_index; its own id goes
    to ``item.json`` as ``source_item_id``.

    Args:
        dataset: What to write.
        codes: Semantic ID of every item.
        token: From (level, code) to the token, ``Spelling.token`` say.
        folder: Gets ``train/``, ``valid/``, ``test/``, ``index/`` and ``info/``.
        category: How the files are named.

    Raises:
        DataError: if there is not one semantic ID for every item.
    """
    if len(codes) != dataset.num_items:
        raise DataError(f"expected a semantic ID for each of {dataset.num_items} items, found {len(codes)}")
    tokens = [[token(level, int(code)) for level, code in enumerate(sid)] for sid in codes]
    items = dataset.items.with_columns(pl.Series("sid", ["".join(sid) for sid in tokens]))
    index = folder / "index" / f"{category}.index.json"
    catalogue = folder / "index" / f"{category}.item.json"
    info = folder / "info" / f"{category}.txt"
    write_json(index, {str(row): sid for row, sid in enumerate(tokens)})
    write_json(catalogue, _item_entries(dataset.items))
    with atomic_path(info) as temporary:
        rows = items.select("sid", pl.col("title").str.replace_all(r"\s", " "), "item_index")
        rows.write_csv(temporary, separator="\t", include_header=False, quote_style="never")
    written = [index, catalogue, info]
    for split in ("train", "valid", "test"):
        path = folder / split / f"{category}.csv"
        with atomic_path(path) as temporary:
            _example_table(dataset.split(split), items).write_csv(temporary)
        written.append(path)
    return written


def _item_entries(items: pl.DataFrame) -> dict[str, dict[str, Any]]:
    further = [name for name in items.columns if name not in ("item_index", "item_id", *_ITEM_FIELDS)]
    fields = [pl.col(name) if name in items.columns else pl.lit("").alias(name) for name in _ITEM_FIELDS]
    entries = items.select(*fields, *further, pl.col("item_id").alias("source_item_id"))
    return {str(row): entry for row, entry in enumerate(entries.iter_rows(named=True))}


def _example_table(examples: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Returns MiniOneRec's columns; lists are written as Python writes them, which is what its scripts read."""
    written = items.select(
        pl.col("title").map_elements(repr, return_dtype=pl.String),
        pl.col("item_index").cast(pl.String),
        pl.col("sid").map_elements(repr, return_dtype=pl.String),
    )
    return examples.select(
        "user_id",
        _listed(written["title"]).alias("history_item_title"),
        _looked_up("target", items["title"]).alias("item_title"),
        _listed(written["item_index"]).alias("history_item_id"),
        pl.col("target").alias("item_id"),
        _listed(written["sid"]).alias("history_item_sid"),
        _looked_up("target", items["sid"]).alias("item_sid"),
    )


def _listed(written: pl.Series) -> pl.Expr:
    elements = pl.col("history").list.eval(pl.element().replace_strict(range(len(written)), written)).list.join(", ")
    return pl.concat_str(pl.lit("["), elements, pl.lit("]"))


def _looked_up(column: str, values: pl.Series) -> pl.Expr:
    return pl.col(column).replace_strict(range(len(values)), values)
