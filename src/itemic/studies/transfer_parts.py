"""What carries a model from one catalogue to another: codes, the model itself, prompts in titles; knows no study.

Each function is a stage of a run folder, so that it is skipped while nothing it reads has changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import CatalogError, ConfigError
from itemic.core.files import atomic_folder
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.core.trained_model import find_model
from itemic.decode.recommender import LanguageModelRecommender
from itemic.evaluate.evaluate import evaluate_all
from itemic.evaluate.report.focus import OWN_NAME
from itemic.inference import load_trained
from itemic.language.prompts import PROMPTS, title_list
from itemic.language.spelling import Spelling
from itemic.language.tasks import ItemTexts
from itemic.model.new_rows import mean_rows
from itemic.model.sid_model import SidModel
from itemic.model.vocabulary import expand_vocabulary
from itemic.recipe import Recipe
from itemic.sid.build import settle_catalog
from itemic.sid.catalog import Catalog
from itemic.sid.quantizers.fit import fit_quantizer
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import load_quantizer, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans
from itemic.sid.tokenize import TokenizeConfig
from itemic.sid.vectors import read_embeddings

__all__ = ["START", "adopt_model", "code_like", "evaluate_titles", "extend_codes", "fit_union"]

START = "start/model"
"""Artefact of the model that a further training of the target begins from."""


def code_like(run: Run, donor: Run, config: TokenizeConfig, *, extra_codes: int = 0, seed: int) -> StageResult:
    """Writes ``catalog/`` of the run's items, coded by the quantizer of the donor's catalog.

    Args:
        run: Holds dataset and embeddings of the target.
        donor: Holds a catalog with its quantizer.
        config: How collisions are settled and SIDs are spelled.
        extra_codes: Codes of a further level fitted to what the quantizer leaves of the run's items; 0 for none.
        seed: The run's seed.

    Raises:
        ArtifactError: if the donor has no quantizer.
        CatalogError: if its vectors have another width.
    """
    inputs = {
        "items": run.require("dataset", "prepare") / "items.parquet",
        "embeddings": run.require("embeddings.safetensors", "embed"),
        "quantizer": donor.require("catalog/quantizer.safetensors", "tokenize"),
    }

    def work() -> dict[str, Any]:
        item_ids, x = _items(run)
        quantizer: Quantizer = load_quantizer(inputs["quantizer"])
        width = quantizer.decode(np.zeros((1, 1), dtype=np.int64)).shape[1]
        if x.shape[1] != width:
            raise CatalogError(
                f"{inputs['embeddings']}: vectors of {x.shape[1]} dimensions, but the source's quantizer knows "
                f"{width}; both must come from one encoder"
            )
        codes = quantizer.encode(x)
        sizes = quantizer.codebook_sizes
        if extra_codes:
            codes, sizes = extend_codes(quantizer, x, codes, extra_codes, derive_rng(seed, "transfer", "extra"))
            quantizer = RQKMeans.from_codes(x, codes, sizes)
        return _write_catalog(run, config, codes, sizes, item_ids, x, quantizer)

    settings = {"transfer": "given quantizer", "extra_codes": extra_codes, **_settling(config)}
    return run.stage("tokenize", work, config=settings, inputs=inputs, outputs=["catalog"], seed=seed)


def extend_codes(
    quantizer: Quantizer,
    x: Float[np.ndarray, "N D"],
    codes: Int[np.ndarray, "N L"],
    num_codes: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "N M"], tuple[int, ...]]:
    """Returns codes with one more level, M = L + 1, and the sizes of all levels.

    The level is k-means of what the quantizer leaves, r = x - decode(codes), so items of equal codes may differ in it.

    Args:
        quantizer: What gave the codes.
        x: A vector of each item.
        codes: Of each item.
        num_codes: Size of the new level, at most one an item.
        rng: Of the k-means.
    """
    size = min(num_codes, len(x))
    left = x - quantizer.decode(codes)
    level = RQKMeans((size,)).fit(left, rng).encode(left)
    return np.concatenate([codes, level], axis=1), (*quantizer.codebook_sizes, size)


def fit_union(run: Run, other: Run, config: TokenizeConfig, *, seed: int) -> StageResult:
    """Writes ``catalog/`` of the run's items by a quantizer fitted to the items of both runs, the other's included.

    Raises:
        CatalogError: if the two have vectors of different widths.
    """
    inputs = {
        "items": run.require("dataset", "prepare") / "items.parquet",
        "embeddings": run.require("embeddings.safetensors", "embed"),
        "others": other.require("embeddings.safetensors", "embed"),
    }

    def work() -> dict[str, Any]:
        item_ids, x = _items(run)
        others = _items(other)[1]
        if x.shape[1] != others.shape[1]:
            raise CatalogError(f"vectors of {x.shape[1]} and of {others.shape[1]} dimensions have no common codebook")
        quantizer = make_quantizer(config.quantizer, config.codebook_sizes)
        fit_quantizer(quantizer, np.concatenate([x, others]), derive_rng(seed, "tokenize"), collaborative=None)
        return _write_catalog(run, config, quantizer.encode(x), quantizer.codebook_sizes, item_ids, x, quantizer)

    settings = {"transfer": "union", **config_to_mapping(config)}
    return run.stage("tokenize", work, config=settings, inputs=inputs, outputs=["catalog"], seed=seed)


def adopt_model(run: Run, donor: Run, *, stage: str = "sft", output: str = "model", seed: int) -> StageResult:
    """Writes the donor's model as one that speaks the run's catalog; its weights stay as they are.

    Levels that the catalog has beyond the model's get new rows, which only a training can tell apart.

    Args:
        run: Holds the catalog.
        donor: Holds the model that sft wrote.
        stage: Name in the run's manifest.
        output: Where the model goes.
        seed: Of new rows.

    Raises:
        CatalogError: if the catalog's first levels are not those of the model.
    """
    found = find_model(donor, "sft")
    inputs = {"model": found.path, "catalog": run.require("catalog", "tokenize")}

    def work() -> dict[str, Any]:
        model, catalog = SidModel.load(found.path), Catalog.load(inputs["catalog"])
        known, sizes = model.spelling.codebook_sizes, catalog.codebook_sizes
        if tuple(sizes[: len(known)]) != tuple(known) or catalog.spelling != model.spelling.style:
            raise CatalogError(
                f"{found.path}: speaks {model.spelling.style} SIDs of {known} codes, but the target has "
                f"{catalog.spelling} ones of {sizes}: tokenize both with the same settings, collisions: unique or share"
            )
        if len(sizes) > len(known):
            model = _with_levels(model, Spelling.of(catalog.spelling, sizes), seed)
        model.catalog_version = catalog.version
        model.save(run.path(output))
        return {"num_parameters": model.num_parameters}

    # What find_model reads of a training.
    settings = {"transfer": "adopted", "max_history": found.max_history}
    return run.stage(stage, work, config=settings, inputs=inputs, outputs=[output], seed=seed)


def evaluate_titles(recipe: Recipe, run: Run) -> StageResult:
    """Evaluates the run's model asked by the titles of a history, as the task titles_to_sid does."""
    config = recipe.evaluate
    inputs = {name: run.require(name, "sft") for name in ("dataset", "catalog", "model")}

    def work() -> dict[str, Any]:
        dataset = Dataset.load(inputs["dataset"])
        recommender = _asked_by_titles(recipe, run, dataset)
        figures = evaluate_all([recommender], dataset, config, run.folder, recipe.seed)
        return {"num_metrics": len(figures["recommenders"][OWN_NAME]["metrics"])}

    settings = {**config_to_mapping(config), "prompt": "titles_to_sid"}
    outputs = ["metrics.json", "rankings"]
    return run.stage("evaluate", work, config=settings, inputs=inputs, outputs=outputs, seed=recipe.seed)


def _asked_by_titles(recipe: Recipe, run: Run, dataset: Dataset) -> LanguageModelRecommender:
    config = recipe.evaluate
    trained = load_trained(run.folder, device=config.device, dtype=config.dtype, calibrated=False)
    titles, renderer = ItemTexts.from_items(dataset.items).titles, trained.renderer
    if renderer.mode != "chat":
        raise ConfigError("a model without words reads no titles; it needs sft.words or a backbone")
    num_read = trained.max_history or len(titles)

    def prompt(history: Sequence[int]) -> Sequence[int]:
        read = [titles[item] for item in list(history)[-num_read:] if titles[item]]
        words = PROMPTS["titles_to_sid"].format(titles=title_list(read))
        return [*renderer.prompt_ids(words), *renderer.sid_tokens.opening_ids]

    return LanguageModelRecommender(
        trained.model,
        trained.catalog,
        prompt,
        num_beams=config.num_beams,
        normalize=config.normalize,
        batch_size=config.decode_batch_size,
        name=OWN_NAME,
        items=dataset.items,
    )


def _with_levels(model: SidModel, spelling: Spelling, seed: int) -> SidModel:
    expand_vocabulary(model.network, model.tokenizer, spelling, mean_rows, rng=derive_rng(seed, "transfer", "rows"))
    return SidModel(
        model.network,
        model.tokenizer,
        spelling,
        prompt_mode=model.prompt_mode,
        prompt_version=model.prompt_version,
        catalog_version=model.catalog_version,
    )


def _items(run: Run) -> tuple[list[str], Float[np.ndarray, "N D"]]:
    item_ids = Dataset.load(run.path("dataset")).items["item_id"].to_list()
    path: Path = run.path("embeddings.safetensors")
    return item_ids, np.asarray(read_embeddings(path, item_ids), dtype=np.float32)


def _settling(config: TokenizeConfig) -> dict[str, str]:
    return {"collisions": config.collisions, "spelling": config.spelling}


def _write_catalog(
    run: Run,
    config: TokenizeConfig,
    codes: Int[np.ndarray, "N L"],
    sizes: tuple[int, ...],
    item_ids: Sequence[str],
    x: Float[np.ndarray, "N D"],
    quantizer: Quantizer,
) -> dict[str, Any]:
    """Settles collisions and writes the catalog with its quantizer; returns figures."""
    catalog = settle_catalog(
        codes, sizes, item_ids, collisions=config.collisions, spelling=config.spelling, x=x, quantizer=quantizer
    )
    with atomic_folder(run.path("catalog")) as temporary:
        catalog.save(temporary)
        quantizer.save(temporary / "quantizer.safetensors")
    num_shared = len(codes) - len(np.unique(codes, axis=0))
    error = float(((x - quantizer.decode(codes)) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())
    return {"num_items": len(catalog), "num_collided": num_shared, "relative_error": round(error, 4)}
