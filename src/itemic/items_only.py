"""Semantic IDs for a catalogue alone: items or vectors from a file, no log, no recipe, no model.

The run folder is like any other, with a dataset in which nobody has met an item yet, so its catalog can be looked at,
appended to and exported.
"""

from pathlib import Path
from typing import Any

import polars as pl

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.errors import CatalogError, ConfigError
from itemic.core.files import read_json
from itemic.core.run import Run, StageResult
from itemic.data.additions import read_items
from itemic.embed.embed import EmbedConfig, embed
from itemic.embed.given import find_rows, read_vectors
from itemic.sid.quantizers.fsq import RQKMeansFSQConfig
from itemic.sid.tokenize import TokenizeConfig, tokenize

__all__ = ["tokenize_items"]

_PROTOCOL = "items only"


def tokenize_items(
    config: TokenizeConfig,
    run: Run,
    *,
    items: Path | None = None,
    embed_config: EmbedConfig | None = None,
    seed: int,
    force: bool = False,
) -> StageResult:
    """Returns the tokenize stage's result after making a run folder of a catalogue without a log.

    Args:
        config: How items get their semantic IDs.
        run: A new folder, or one that this function made before.
        items: Table of items with item_id and title, and a description and further columns where it has them: .csv,
            .tsv, .jsonl (each also .gz) or .parquet. None takes ids from ``embed_config.vectors``, without titles.
        embed_config: How texts are encoded, or the file of vectors made elsewhere.
        seed: From which every random stream is derived.
        force: Runs even what is unchanged.

    Raises:
        ConfigError: if there are neither items nor vectors, or the folder holds a run with a log, or of other items
            that ``force`` does not give up.
        DataError: if a file has a row that cannot be used, or an item has neither text nor vector.
        CatalogError: as ``tokenize``.
    """
    embed_config = embed_config or EmbedConfig()
    if items is None and not embed_config.vectors:
        raise ConfigError("expected a table of items, a file of vectors, or both")
    vector_ids = _vector_ids(embed_config)
    table = _untitled(vector_ids) if items is None else read_items(items)
    _check_before_writing(table, config, run, force=force)
    if embed_config.vectors:
        find_rows(table["item_id"].to_list(), vector_ids, embed_config.vectors)
    _write_dataset(table, items or Path(embed_config.vectors), run)
    embed(embed_config, run, seed=seed, force=force)
    return tokenize(config, run, seed=seed, force=force)


def _check_before_writing(table: pl.DataFrame, config: TokenizeConfig, run: Run, *, force: bool) -> None:
    """Raises for what would fail later, when the folder has been changed and hours of encoding have passed."""
    path = run.path("dataset") / "dataset.json"
    if path.exists() and read_json(path).get("split") != _PROTOCOL:
        raise ConfigError(f"{run.folder}: holds a run with a log, whose items are in dataset/; name another folder")
    if path.exists() and not force:
        known = pl.read_parquet(run.path("dataset") / "items.parquet", columns=["item_id"])["item_id"].to_list()
        if known != table["item_id"].to_list():
            raise ConfigError(
                f"{run.folder}: holds a catalog of {len(known)} other items; name another folder, or replace it with "
                "--force, or add to it with itemic catalog append"
            )
    learned = config.codebook_sizes[:-1] if isinstance(config.quantizer, RQKMeansFSQConfig) else config.codebook_sizes
    if max(learned, default=0) > table.height:
        raise CatalogError(
            f"codebook_sizes {config.codebook_sizes}: a level has more codes than the {table.height} items to learn "
            f"from; set at most {table.height} a level"
        )


def _vector_ids(config: EmbedConfig) -> list[str]:
    """Returns the item ids of the vectors made elsewhere; none where texts are encoded."""
    if not config.vectors:
        return []
    return read_vectors(Path(config.vectors), Path(config.vector_ids) if config.vector_ids else None)[0]


def _untitled(item_ids: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"item_id": item_ids, "title": "", "description": ""}).with_row_index("item_index")


def _write_dataset(items: pl.DataFrame, source: Path, run: Run) -> None:
    examples = pl.DataFrame(schema=EXAMPLE_SCHEMA)
    info: dict[str, Any] = {"split": _PROTOCOL, "source": source.name, "counts": {"items": items.height}}
    Dataset(
        items=items.with_columns(pl.col(name).cast(dtype) for name, dtype in ITEM_SCHEMA.items()),
        interactions=pl.DataFrame(schema=INTERACTION_SCHEMA),
        train=examples,
        valid=examples,
        test=examples,
        info=info,
    ).save(run.path("dataset"))
