"""The tokenize stage: item vectors, or SIDs made elsewhere, become ``catalog/`` and ``quality.json`` in the run."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped

from itemic.core.config import config_to_mapping
from itemic.core.dataset import cold_mask
from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.core.files import atomic_folder, write_json
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.sid.build import settle_catalog
from itemic.sid.catalog import Catalog
from itemic.sid.collisions.settle import CollisionStrategy
from itemic.sid.growth import append_items
from itemic.sid.labels import read_labels
from itemic.sid.moves import write_moves
from itemic.sid.quality import collisions, measure_quality
from itemic.sid.quantizers.fit import fit_quantizer, uses_collaborative
from itemic.sid.quantizers.protocol import Quantizer, check_codebook_sizes
from itemic.sid.quantizers.registry import QuantizerConfig, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.vectors import (
    CollaborativeItems,
    JointTransform,
    JointVectors,
    TextTransform,
    TextVectors,
    VectorsConfig,
    VectorTransform,
    fit_transform,
    read_collaborative,
    read_embeddings,
    require_collaborative,
)

__all__ = ["TokenizeConfig", "summarize", "tokenize", "write_catalog"]

log = logging.getLogger("itemic")


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How items get their semantic IDs."""

    source: Literal["embeddings", "given"] = "embeddings"
    """Where the codes come from: a quantizer fitted to ``embeddings.safetensors``, or ``given_sids.parquet``, the SIDs
    that the prepare stage found in the source (MiniOneRec's index file)."""
    vectors: VectorsConfig = field(default_factory=TextVectors)
    """What is quantized: the text embeddings, or these joined to the vectors of the stage collaborative; its key
    ``kind`` says which."""
    quantizer: QuantizerConfig = field(default_factory=RQKMeansConfig)
    """What makes the codes for ``source: embeddings``; its key ``kind`` says which. Default: residual k-means
    (OpenOneRec)."""
    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """Codes a level, coarse first; no level may have more codes than there are items. Default: MiniOneRec, 3 x 256."""
    collisions: CollisionStrategy = "unique"
    """What becomes of items with the same codes: ``unique`` moves them to free SIDs of the same length, ``suffix`` adds
    a level that numbers them (TIGER), ``sinkhorn`` codes them anew and may leave some (MiniOneRec), ``share`` lets them
    share (metrics then use the expected rank)."""
    spelling: Literal["plain", "wrapped"] = "plain"
    """How SIDs are written as text: ``<a_1><b_2><c_3>`` (MiniOneRec) or OpenOneRec's wrapped form."""
    label_columns: tuple[str, ...] | None = None
    """Columns of the items that the quality figures hold the codes against: how pure in them the prefixes are. Default:
    those of brand, store, main_category, category, categories and genres that are there and tell items apart."""

    def __post_init__(self) -> None:
        if self.source == "given" and self.vectors.kind == "joint":
            raise ConfigError(
                "vectors.kind joint: needs source embeddings; SIDs made elsewhere are not quantized again"
            )
        check_codebook_sizes(self.codebook_sizes)
        if self.source == "embeddings":
            # What does not fit the sizes shall be known before hours of encoding, not after.
            make_quantizer(self.quantizer, self.codebook_sizes)

    @property
    def needs_collaborative(self) -> bool:
        """Whether ``collaborative.safetensors`` is read: for joint vectors, or a quantizer that learns from it."""
        return self.source == "embeddings" and (self.vectors.kind == "joint" or uses_collaborative(self.quantizer))


def tokenize(config: TokenizeConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Returns the stage's result after writing ``catalog/`` with its quantizer and quality figures.

    Items that the cold-start protocol holds out are coded as a catalog takes in items that come later: all is fitted to
    the warm ones, whose SIDs are what they would be alone, and the cold ones get free SIDs from the frozen quantizer.

    Raises:
        ArtifactError: if the dataset, the embeddings or the given SIDs are missing or do not fit together.
        CatalogError: if the codebooks are too large for the items, or too small to keep them apart.
    """
    inputs = {"items": run.require("dataset", "prepare") / "items.parquet"}
    if config.source == "given":
        inputs["given_sids"] = run.require("given_sids.parquet", "prepare")
    if config.source == "embeddings" or run.path("embeddings.safetensors").exists():
        inputs["embeddings"] = run.require("embeddings.safetensors", "embed")
    if config.needs_collaborative:
        inputs["collaborative"] = require_collaborative(run.path("collaborative.safetensors"))

    def work() -> dict[str, Any]:
        items = pl.read_parquet(inputs["items"])
        is_warm = _warm_mask(config, items)
        item_ids = items["item_id"].to_list()
        coded = _code_items(config, inputs, item_ids, is_warm, seed)
        catalog = _keep_retired(_settle(config, coded, item_ids, is_warm), run.path("catalog"))
        rng = derive_rng(seed, "tokenize", "quality")
        figures = measure_quality(
            coded.codes,
            catalog.codes,
            catalog.codebook_sizes,
            coded.x,
            coded.quantizer,
            labels=read_labels(items, config.label_columns),
            active=catalog.active,
            log_vectors=coded.log_vectors,
            rng=rng,
        )
        if figures["reconstruction"] and figures["reconstruction"]["before"]["relative"] is None:
            log.warning("tokenize: the vectors of all items are equal, so the codes mean nothing; check the embeddings")
        # The page of other codes.
        run.path("sids.html").unlink(missing_ok=True)
        write_catalog(run.path("catalog"), catalog, coded.codes, coded.quantizer, coded.transform, figures)
        return summarize(catalog, figures)

    return run.stage(
        "tokenize",
        work,
        config=config_to_mapping(config),
        inputs=inputs,
        outputs=["catalog"],
        seed=seed,
        force=force,
    )


def _keep_retired(catalog: Catalog, old: Path) -> Catalog:
    """Returns the catalog without the items that were retired from the one whose place it takes."""
    if not (old / "catalog.json").is_file():
        return catalog
    try:
        before = Catalog.load(old)
    except (ArtifactError, CatalogError) as error:
        log.warning("%s: items retired in it, if any, are active again", error)
        return catalog
    gone = {item_id for item_id, active in zip(before.item_ids, before.active, strict=True) if not active}
    active = np.array([item_id not in gone for item_id in catalog.item_ids])
    if active.all():
        return catalog
    log.info("tokenize: %d items stay retired", len(active) - active.sum())
    return Catalog(
        codes=catalog.codes,
        item_ids=catalog.item_ids,
        codebook_sizes=catalog.codebook_sizes,
        active=active,
        shares=catalog.shares,
        spelling=catalog.spelling,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _CodedItems:
    codes: Int[np.ndarray, "N L"]
    """Before collisions are settled."""
    x: Float[np.ndarray, "N D"] | None
    """What was coded; None for codes made elsewhere without vectors."""
    quantizer: Quantizer | None
    """What explains the codes; goes with ``x``."""
    transform: VectorTransform
    """What makes ``x`` of text embeddings."""
    log_vectors: Float[np.ndarray, "N C"] | None = None
    """What the log says of the items, where the codes were learned with it."""


def _warm_mask(config: TokenizeConfig, items: pl.DataFrame) -> Bool[np.ndarray, "N"]:
    """Returns the items that may be learned from."""
    is_warm = ~cold_mask(items)
    if config.source == "given" and not is_warm.all():
        log.warning("tokenize: the given SIDs are kept; whoever made them may have learned from the cold items as well")
        return np.ones(len(is_warm), dtype=bool)
    return is_warm


def _settle(
    config: TokenizeConfig, coded: _CodedItems, item_ids: Sequence[str], is_warm: Bool[np.ndarray, "N"]
) -> Catalog:
    """Returns the catalog: the warm items as if there were no others, the cold ones added to them."""
    warm = settle_catalog(
        _taken(coded.codes, is_warm),
        config.codebook_sizes,
        list(itertools.compress(item_ids, is_warm)),
        collisions=config.collisions,
        spelling=config.spelling,
        x=None if coded.x is None else _taken(coded.x, is_warm),
        quantizer=coded.quantizer,
    )
    if is_warm.all():
        return warm
    assert coded.x is not None
    assert coded.quantizer is not None
    grown = append_items(warm, coded.quantizer, list(itertools.compress(item_ids, ~is_warm)), coded.x[~is_warm])
    codes = np.empty_like(grown.codes)
    codes[np.argsort(~is_warm, kind="stable")] = grown.codes
    return Catalog(
        codes=codes,
        item_ids=item_ids,
        codebook_sizes=grown.codebook_sizes,
        shares=grown.shares,
        spelling=grown.spelling,
    )


def _taken(rows: Shaped[np.ndarray, "N M"], chosen: Bool[np.ndarray, "N"]) -> Shaped[np.ndarray, "n M"]:
    """Returns the chosen rows; all of them uncopied, for they may lie in a file."""
    return rows if chosen.all() else rows[chosen]


def _code_items(
    config: TokenizeConfig,
    inputs: Mapping[str, Path],
    item_ids: Sequence[str],
    is_warm: Bool[np.ndarray, "N"],
    seed: int,
) -> _CodedItems:
    if config.source == "given":
        codes = _read_given(inputs["given_sids"], len(item_ids), config.codebook_sizes)
        x = _read_vectors_for(codes, inputs.get("embeddings"), item_ids, config)
        explains = None if x is None else RQKMeans.from_codes(x, codes, config.codebook_sizes)
        return _CodedItems(codes=codes, x=x, quantizer=explains, transform=TextTransform())
    known = read_collaborative(inputs["collaborative"], item_ids) if config.needs_collaborative else None
    x, transform = _transformed(config.vectors, read_embeddings(inputs["embeddings"], item_ids), known, is_warm)
    quantizer = make_quantizer(config.quantizer, config.codebook_sizes)
    from_log = None if known is None else known.vectors
    log_of_warm = None if from_log is None else _taken(from_log, is_warm)
    fit_quantizer(quantizer, _taken(x, is_warm), derive_rng(seed, "tokenize"), collaborative=log_of_warm)
    codes = np.empty((len(x), len(config.codebook_sizes)), dtype=np.int64)
    for group in (is_warm, ~is_warm):
        if group.any():
            codes[group] = quantizer.encode(_taken(x, group))
    return _CodedItems(codes=codes, x=x, quantizer=quantizer, transform=transform, log_vectors=from_log)


def _transformed(
    config: VectorsConfig,
    text: Float[np.ndarray, "N D"],
    known: CollaborativeItems | None,
    is_warm: Bool[np.ndarray, "N"],
) -> tuple[Float[np.ndarray, "N J"], VectorTransform]:
    """Returns the vectors that are quantized, and what makes them of an item's text embedding."""
    if known is None or not isinstance(config, JointVectors):
        return text, TextTransform()
    of_warm = CollaborativeItems(vectors=_taken(known.vectors, is_warm), seen=known.seen[is_warm])
    transform = fit_transform(config, _taken(text, is_warm), of_warm)
    return transform.transform(text, known), transform


def _needs_vectors(codes: Int[np.ndarray, "N L"], config: TokenizeConfig) -> bool:
    return config.collisions in ("unique", "sinkhorn") and collisions(codes)["rate"] > 0


def _read_vectors_for(
    codes: Int[np.ndarray, "N L"], path: Path | None, item_ids: Sequence[str], config: TokenizeConfig
) -> Float[np.ndarray, "N D"] | None:
    """Returns the vectors behind given codes; None if there are none, or none that fit and none are needed."""
    if path is None:
        return None
    try:
        return read_embeddings(path, item_ids)
    except ArtifactError as error:
        if _needs_vectors(codes, config):
            raise
        log.warning("%s. The given SIDs need no vectors: they are left out, and with them the quantizer", error)
        return None


def _read_given(path: Path, num_items: int, codebook_sizes: tuple[int, ...]) -> Int[np.ndarray, "N L"]:
    """Returns the codes of every item from a table of item_index and codes; codes past the last level are dropped."""
    table = pl.read_parquet(path).sort("item_index")
    rows = table["item_index"].to_numpy()
    if not np.array_equal(rows, np.arange(num_items)):
        missing = np.setdiff1d(np.arange(num_items), rows)[:5].tolist()
        detail = f"item rows {missing} ... have none" if missing else f"it has {len(rows)} rows"
        raise CatalogError(f"{path}: expected one SID for each of {num_items} items, but {detail}")
    num_levels = len(codebook_sizes)
    lengths = table["codes"].list.len().to_numpy()
    if lengths.min() < num_levels:
        row = int(lengths.argmin())
        raise CatalogError(f"{path}: item row {row} has {lengths[row]} codes, codebook_sizes has {num_levels} levels")
    if lengths.max() > num_levels:
        count = int((lengths > num_levels).sum())
        log.warning("%s: %d SIDs have more than %d codes; the further ones are dropped", path.name, count, num_levels)
    first_codes = table["codes"].list.head(num_levels).explode().to_numpy()
    codes: np.ndarray = first_codes.reshape(num_items, num_levels).astype(np.int64)
    if codes.min() < 0 or (codes.max(axis=0) >= codebook_sizes).any():
        raise CatalogError(
            f"{path}: codes reach {codes.max(axis=0).tolist()} and begin at {codes.min(axis=0).tolist()}, but "
            f"codebook_sizes {codebook_sizes} allow 0 to one less than each size; set codebook_sizes to fit"
        )
    return codes


def write_catalog(
    folder: Path,
    catalog: Catalog,
    codes_before: Int[np.ndarray, "N L"],
    quantizer: Quantizer | None,
    transform: VectorTransform,
    figures: dict[str, Any],
) -> None:
    """Writes ``catalog/``, atomically, with everything that goes with the table.

    Args:
        folder: ``catalog/`` of a run.
        catalog: The table.
        codes_before: As the quantizer gave them.
        quantizer: What made them; None for SIDs made elsewhere without vectors.
        transform: What makes the vectors that it codes.
        figures: For ``quality.json``.
    """
    with atomic_folder(folder) as temporary:
        catalog.save(temporary)
        write_json(temporary / "quality.json", figures)
        write_moves(temporary, codes_before, catalog.codes)
        if quantizer is not None:
            quantizer.save(temporary / "quantizer.safetensors")
        if isinstance(transform, JointTransform):
            transform.save(temporary / "vectors.safetensors")


def summarize(catalog: Catalog, figures: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of the stage: those that a line can show."""
    errors = figures["reconstruction"]
    return {
        "num_items": len(catalog),
        "catalog_version": catalog.version,
        "collision_rate_before": figures["collisions"]["before"]["rate"],
        "collision_rate_after": figures["collisions"]["after"]["rate"],
        "share_moved": figures["share_moved"],
        "perplexity": [level["perplexity"] for level in figures["levels"]],
        "relative_error_before": errors and errors["before"]["relative"],
        "relative_error_after": errors and errors["after"]["relative"],
    }
