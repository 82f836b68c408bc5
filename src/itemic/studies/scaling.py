"""The scaling study: a grid of decoder sizes and shares of the data, and the law that its losses follow.

Reads top to bottom: prepare data and semantic IDs once, train each size on each share, fit, write the page.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.files import read_json, write_json
from itemic.core.run import Run
from itemic.core.seeds import derive_rng
from itemic.model.backbone import DecoderConfig
from itemic.pipeline import recipe_stages, run_recipe, run_stage
from itemic.recipe import Recipe, load_recipe
from itemic.studies.ledger import Ledger, Outcome, Trial, recipe_fingerprint
from itemic.studies.page import write_study
from itemic.studies.scaling_law import ScalingFit, ScalingLaw, bootstrap_law, doubts, fit_law, intervals
from itemic.studies.scaling_page import ScalingPoint, arrays, describe_scaling
from itemic.studies.sharing import borrow_stage
from itemic.studies.thin import thin_dataset
from itemic.studies.variants import model_alone, with_protocol

__all__ = ["ScalingConfig", "decoder_of_size", "scale"]

log = logging.getLogger("itemic")

_BASE = "data"
_METRIC = "NDCG@10"
_CATALOG_STAGES = ("embed", "collaborative", "tokenize")


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Which recipe, which grid, and how the law is fitted."""

    recipe: Path
    """YAML file; its decoder's head width and feed-forward ratio are those of every size."""
    out: Path
    """Folder of the study."""
    sizes: tuple[str, ...]
    """Decoders, width x layers: ``64x2``."""
    shares: tuple[float, ...]
    """Shares of the users whose training sequences are learned, each above 0 and at most 1."""
    changes: tuple[str, ...] = ()
    """Changes to the recipe, ``sft.training.epochs=2`` or ``data=FOLDER``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each cell: first values, order, and which users are in a share. Semantic IDs have the recipe's."""
    parameters: Literal["non-embedding", "total"] = "non-embedding"
    """What N counts. The rows of a small decoder's vocabulary are most of it and cost no computation."""
    tokens: Literal["seen", "unique"] = "seen"
    """What D counts: tokens trained on up to the lowest validation loss, every epoch anew; or tokens of the share's
    sequences, once each."""
    num_bootstrap: int = 200
    """Resamples of the runs behind the intervals."""
    confidence: float = 0.95
    """Probability mass inside an interval."""

    def __post_init__(self) -> None:
        for name in ("sizes", "shares", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: expected one or more different values, found {values}")
        num_runs = len(self.sizes) * len(self.shares) * len(self.seeds)
        if min(len(self.sizes), len(self.shares)) < 2 or num_runs < 6:
            raise ConfigError(
                "a law of five figures, with intervals, needs six trainings of two sizes and two shares, found "
                f"{len(self.sizes)} sizes x {len(self.shares)} shares x {len(self.seeds)} seeds"
            )
        for share in self.shares:
            if not 0 < share <= 1:
                raise ConfigError(f"shares: expected above 0 and at most 1, found {share}")
        if self.num_bootstrap < 1 or not 0 < self.confidence < 1:
            raise ConfigError("num_bootstrap must be at least 1, and confidence lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class _Cell:
    trial: Trial
    recipe: Recipe
    size: str
    share: float


def scale(config: ScalingConfig) -> dict[str, Any]:
    """Runs the grid as far as it is not done, fits the law, writes the page and ``law.json``, and returns the law.

    Raises:
        ConfigError: if a size is no decoder, or the recipe trains no decoder from scratch.
        DataError: if fewer than six runs succeeded, too few to fit a law with intervals.
    """
    ledger = Ledger(config.out, "scaling")
    recipe = _base_recipe(config, ledger)
    cells = _plan(config, recipe, ledger)
    base = Run(recipe.run)
    todo = [cell for cell in cells if not ledger.is_done(cell.trial)]
    if todo:
        run_recipe(recipe, stages=_first_stages(recipe))
    outcomes = ledger.run_all([cell.trial for cell in cells], _trainer(cells, base))
    points = [_point(cell, outcome, config) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.figures]
    n, d, loss = arrays(points)
    fit = fit_law(n, d, loss)
    rng = derive_rng(config.seeds[0], "study", "scaling")
    laws = bootstrap_law(n, d, loss, fit, num_resamples=config.num_bootstrap, rng=rng)
    found = intervals(laws, config.confidence)
    words = [*doubts(n, d, loss, fit, found), *_doubts_of_trainings(recipe, points)]
    failed = [f"{one.trial.name}: {one.error}" for one in outcomes if one.figures is None]
    wall_time_s = sum(one.wall_time_s for one in outcomes)
    write_study(config.out, describe_scaling(config, points, fit, laws, found, words, failed, wall_time_s))
    result = _as_mapping(config, points, fit, found, words)
    write_json(config.out / "law.json", result)
    return result


def decoder_of_size(size: str, like: DecoderConfig) -> DecoderConfig:
    """Returns the decoder of ``64x2``: 64 wide, 2 layers, heads as wide and feed-forward as many times wider as given.

    Raises:
        ConfigError: if the size is not written so, or the width does not suit the heads.
    """
    width, _, layers = size.partition("x")
    if not width.isdecimal() or not layers.isdecimal():
        raise ConfigError(f"size {size!r}: expected width x layers, 64x2 say")
    hidden, head = int(width), like.hidden_size // like.num_heads
    if hidden % min(head, hidden):
        raise ConfigError(f"size {size!r}: the width is no multiple of {head}, the recipe's width of a head")
    return replace(
        like,
        hidden_size=hidden,
        num_layers=int(layers),
        num_heads=max(1, hidden // head),
        intermediate_size=max(1, round(hidden * like.intermediate_size / like.hidden_size)),
    )


def _base_recipe(config: ScalingConfig, ledger: Ledger) -> Recipe:
    recipe = load_recipe(config.recipe, config.changes)
    if recipe.sft is None:
        raise ConfigError(f"{config.recipe}: has no decoder to scale, for it says sft: null")
    if recipe.sft.backbone:
        raise ConfigError(f"{config.recipe}: a scaling study trains decoders from scratch: sft without a backbone")
    return replace(model_alone(recipe), run=ledger.run_folder(_BASE).as_posix(), align=None, rl=None)


def _first_stages(recipe: Recipe) -> list[str]:
    return [name for name in recipe_stages(recipe) if name in ("prepare", *_CATALOG_STAGES)]


def _plan(config: ScalingConfig, recipe: Recipe, ledger: Ledger) -> list[_Cell]:
    """Returns the cells, cheap ones first, so that what a killed study has is a grid of its own."""
    assert recipe.sft is not None
    cells = []
    for share in sorted(config.shares):
        for size in config.sizes:
            for seed in config.seeds:
                decoder = decoder_of_size(size, recipe.sft.decoder)
                # All trainings follow one schedule to its end; what is untrained has seen nothing and fits no law.
                training = replace(recipe.sft.training, patience=0, validate_at_start=False)
                sft = replace(recipe.sft, decoder=decoder, select_by="loss", training=training)
                name = f"{size}-share{share:g}-seed{seed}"
                own = with_protocol(replace(recipe, sft=sft, seed=seed), split="valid", before_rl=False)
                own = replace(own, run=ledger.run_folder(name).as_posix())
                facts = {"size": size, "share": share, "seed": seed}
                fingerprint = recipe_fingerprint(own, json.dumps(facts), str(recipe.seed))
                trial = Trial(name=name, fingerprint=fingerprint, facts=facts)
                cells.append(_Cell(trial=trial, recipe=own, size=size, share=share))
    return cells


def _trainer(cells: Sequence[_Cell], base: Run) -> Any:
    by_name = {cell.trial.name: cell for cell in cells}

    def work(trial: Trial) -> dict[str, Any]:
        cell = by_name[trial.name]
        run = Run(cell.recipe.run)
        for stage in _CATALOG_STAGES:
            borrow_stage(run, base, stage)
        _thin(run, base, cell.share, cell.recipe.seed)
        trained = run_stage(cell.recipe, "sft")
        run_stage(cell.recipe, "evaluate")
        steps = {name: trained.metrics[name] for name in ("num_steps", "best_step")}
        return {**_count(run), **steps, "valid_loss": trained.metrics["best_valid"], _METRIC: _ndcg(run)}

    return work


def _thin(run: Run, base: Run, share: float, seed: int) -> None:
    source = base.require("dataset", "prepare")

    def work() -> dict[str, Any]:
        thinned = thin_dataset(Dataset.load(source), share, seed=seed)
        thinned.save(run.path("dataset"))
        return {"users": thinned.info["thinned"]["users"], "train": thinned.train.height}

    run.stage("thin", work, config={"share": share}, inputs={"dataset": source}, outputs=["dataset"], seed=seed)


def _count(run: Run) -> dict[str, int]:
    """Returns a training's parameters, with and without the vocabulary's rows, and its tokens.

    ``seen`` are those up to the parameters that were kept, whose loss is fitted; ``trained`` those of all steps;
    ``unique`` those of the sequences.
    """
    card = read_json(run.path("model") / "config.json")
    metrics = run.manifest()["stages"]["sft"]["metrics"]
    total = metrics["num_parameters"]
    rows = card["vocab_size"] * card["hidden_size"] * (1 if card["tie_word_embeddings"] else 2)
    levels = len(read_json(run.path("catalog") / "catalog.json")["codebook_sizes"])
    lessons = Dataset.load(run.path("dataset")).train_sequences().values()
    return {
        "total": total,
        "non-embedding": total - rows,
        "seen": metrics["best_tokens"],
        "trained": metrics["num_tokens"],
        "unique": levels * sum(map(len, lessons)),
    }


def _doubts_of_trainings(recipe: Recipe, points: Sequence[ScalingPoint]) -> list[str]:
    """Returns in words where the trainings were not alike in all but size and share."""
    words = []
    if recipe.tokenize.needs_collaborative:
        words.append(
            "The semantic IDs are made with vectors of the whole log's interactions, so that a decoder on a small "
            "share has codes that know all users: data may help more than β says. tokenize.vectors={kind: text} and "
            "collaborative=null leave them out."
        )
    early = [point for point in points if point.figures["best_step"] < point.figures["num_steps"]]
    if early:
        words.append(
            f"{len(early)} of {len(points)} trainings had their lowest loss before their last step, which is where "
            "their D ends: the learning rate was not yet at its end there, and what followed only taught the share "
            "by heart. Fewer epochs, or more dropout, let them end together."
        )
    return words


def _ndcg(run: Run) -> float | None:
    rows = read_json(run.path("metrics.json"))["recommenders"]
    figure = next(iter(rows.values()))["metrics"].get(_METRIC)
    return None if figure is None else figure["value"]


def _point(cell: _Cell, outcome: Outcome, config: ScalingConfig) -> ScalingPoint:
    assert outcome.figures is not None
    return ScalingPoint(
        size=cell.size,
        share=cell.share,
        seed=cell.recipe.seed,
        num_parameters=outcome.figures[config.parameters],
        num_tokens=outcome.figures[config.tokens],
        loss=outcome.figures["valid_loss"],
        ndcg=outcome.figures[_METRIC],
        figures=outcome.figures,
        wall_time_s=outcome.wall_time_s,
    )


def _as_mapping(
    config: ScalingConfig, points: Sequence[ScalingPoint], fit: ScalingFit, found: Mapping[str, Any], words: list[str]
) -> dict[str, Any]:
    law: ScalingLaw = fit.law
    exponents = {"parameter_exponent": law.parameter_exponent, "data_exponent": law.data_exponent}
    return {
        "law": {**config_to_mapping(law), **exponents},
        "intervals": {name: config_to_mapping(interval) for name, interval in found.items()},
        "error": fit.error,
        "doubts": words,
        "counts": {"parameters": config.parameters, "tokens": config.tokens},
        "points": [config_to_mapping(point) for point in points],
    }
