"""Reads what a run folder holds for the page of its semantic IDs; knows not how the page looks.

Only the catalog must be there. What is missing is None or empty here; what is there but damaged raises.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.core.errors import ArtifactError
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.sid.catalog import Catalog
from itemic.sid.labels import read_labels
from itemic.sid.moves import read_codes_before
from itemic.sid.vectors import read_embeddings

__all__ = ["SidArtifacts", "read_sid_artifacts", "write_sid"]

log = logging.getLogger("itemic")


@dataclass(frozen=True, kw_only=True, eq=False)
class SidArtifacts:
    """Everything the page is made of."""

    name: str
    """Name of the run folder."""
    catalog: Catalog
    quality: Mapping[str, Any] | None
    """``catalog/quality.json``."""
    codes_before: Int[np.ndarray, "N M"] | None
    """Codes as the quantizer gave them; None where the run does not say."""
    titles: Sequence[str]
    """Of every item; its id where it has none."""
    labels: Mapping[str, Sequence[Sequence[str]]]
    """Labels of every item, by column."""
    x: Float[np.ndarray, "N D"] | None
    """Text embeddings of exactly the catalog's items."""


def read_sid_artifacts(run: Run) -> SidArtifacts:
    """Returns what lies in the run folder.

    Raises:
        ArtifactError: if there is no catalog, or an artefact is damaged or of an earlier version.
    """
    folder = run.require("catalog", "tokenize")
    catalog = Catalog.load(folder)
    quality = _read_quality(run)
    items = _read_items(run, catalog)
    num_levels = quality["num_levels"]["before"] if quality else catalog.num_levels
    return SidArtifacts(
        name=run.folder.resolve().name,
        catalog=catalog,
        quality=quality,
        codes_before=read_codes_before(folder, catalog.codes, num_levels),
        titles=_titles(items),
        labels=read_labels(items, None),
        x=_read_vectors(run, catalog),
    )


def write_sid(codes: Sequence[int]) -> str:
    """Returns codes as the page writes them, ``12-4-91``: the same in every spelling."""
    return "-".join(map(str, codes))


def _read_quality(run: Run) -> Mapping[str, Any] | None:
    path = run.path("catalog") / "quality.json"
    if not path.is_file():
        return None
    quality: dict[str, Any] = read_json(path)
    if "prefixes" not in quality:
        raise ArtifactError(f"{path}: written by an earlier version of itemic; run itemic tokenize again")
    return quality


def _read_items(run: Run, catalog: Catalog) -> pl.DataFrame:
    """Returns the dataset's row of every item of the catalog, in the catalog's order; nulls where it has none."""
    ids = pl.DataFrame({"item_id": catalog.item_ids}, schema={"item_id": pl.String})
    path = run.path("dataset") / "items.parquet"
    if not path.is_file():
        return ids
    return ids.join(pl.read_parquet(path), on="item_id", how="left", maintain_order="left")


def _titles(items: pl.DataFrame) -> list[str]:
    if "title" not in items.columns:
        return items["item_id"].to_list()
    title = items["title"].str.replace_all(r"\s+", " ").str.strip_chars().replace("", None)
    return title.fill_null(items["item_id"]).to_list()


def _read_vectors(run: Run, catalog: Catalog) -> Float[np.ndarray, "N D"] | None:
    path = run.path("embeddings.safetensors")
    if not path.is_file():
        return None
    try:
        return read_embeddings(path, catalog.item_ids)
    except ArtifactError as error:
        log.warning("%s: the page shows no neighbours", error)
        return None
