"""All stages in order over one run folder: what is unchanged is skipped, what was killed goes on.

Each stage is a function elsewhere; here they only get their config and what they need of each other.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from itemic.baselines.item_vectors import collaborative
from itemic.baselines.registry import BASELINES
from itemic.baselines.stage import FittedRow, baselines, load_rows
from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import atomic_path, read_json
from itemic.core.ranking import Recommender
from itemic.core.run import Run, StageResult
from itemic.core.trained_model import ModelChoice, TrainedModel, find_model
from itemic.data.prepare import prepare
from itemic.embed.embed import embed
from itemic.evaluate.evaluate import RowFacts, evaluate_all
from itemic.evaluate.report.focus import BEFORE_RL, OWN_NAME
from itemic.evaluate.report.report import report
from itemic.hybrid.config import DENSE_HEAD, BlendConfig
from itemic.hybrid.stage import LoadModel, blend, load_blend
from itemic.inference import TrainedRun, load_trained, model_loader
from itemic.lineage import blend_lineage, model_lineage, row_lineage, training_times
from itemic.recipe import ComparisonConfig, Recipe
from itemic.sid.tokenize import tokenize
from itemic.sid.vectors import read_embeddings
from itemic.titled import title_recommender
from itemic.train.rl.rewards.custom import check_custom_rewards
from itemic.train.rl.stage import rl
from itemic.train.sft import align, sft

__all__ = ["STAGES", "evaluate", "recipe_stages", "run_recipe", "run_stage"]

log = logging.getLogger("itemic")

_RECIPE_NAME = "recipe.yaml"
_OPTIONAL_STAGES = ("align", "collaborative", "sft", "rl", "blend")
_MODEL_NAMES = {"model": OWN_NAME, "before_rl": BEFORE_RL}


def evaluate(
    config: ComparisonConfig,
    run: Run,
    *,
    seed: int,
    has_model: bool = True,
    has_blend: bool = False,
    force: bool = False,
) -> StageResult:
    """Returns the stage's result after writing ``metrics.json`` and ``rankings/`` for the model and the baselines.

    After RL the model before it is evaluated as well, on the same examples. The baselines are those that the stage of
    that name has fitted. Blend and model are each compared with every other row; where there is neither, the best row.

    Args:
        config: Protocol and decoding.
        run: Holds dataset, catalog, model and baselines.
        seed: The run's seed.
        has_model: Whether there is a language model to evaluate; without it the baselines stand alone.
        has_blend: Whether the run's blend is evaluated too, first of all.
        force: Evaluates even where nothing changed.

    Raises:
        ArtifactError: if the dataset, the catalog, the model or the baselines are missing, or RL began from an older
            model.
        CatalogError: if the model was trained on another catalog and that is not allowed.
    """
    inputs = {
        "dataset": run.require("dataset", "prepare"),
        "baselines": run.require("baselines", "baselines"),
    }
    models = _models(config, run) if has_model else {}
    if has_model:
        inputs["catalog"] = run.require("catalog", "tokenize")
    if run.path("embeddings.safetensors").exists():
        inputs["embeddings"] = run.path("embeddings.safetensors")
    inputs |= {key: model.path for key, model in models.items()}
    if has_blend:
        inputs["blend"] = run.require("blend.json", "blend")

    def work() -> dict[str, Any]:
        dataset = Dataset.load(inputs["dataset"])
        trained = [_load(config, run, model.stage, _MODEL_NAMES[key]) for key, model in models.items()]
        rows = load_rows(run, device=config.device).values()
        facts = {each.recommender.name: _model_facts(config, run, each) for each in trained}
        facts |= {row.baseline.name: _row_facts(run, row) for row in rows}
        blended: list[Recommender] = []
        if has_blend:
            blended.append(load_blend(run, _model_loader(config), device=config.device))
            facts[blended[0].name] = _blend_facts(run)
        answering = [_answering(config, run, each) for each in trained]
        recommenders = [*blended, *answering, *(row.baseline for row in rows)]
        figures = evaluate_all(
            recommenders,
            dataset,
            config,
            run.folder,
            seed,
            facts=facts,
            benchmark=config.benchmark,
            vectors=_vectors(inputs.get("embeddings"), dataset),
            # A page is about the model where there is one, so it is compared with every row even beside a blend.
            references=[one.name for one in (*blended, *answering[:1])],
        )
        headline = (f"HR@{config.headline_cutoff}", f"NDCG@{config.headline_cutoff}")
        return {
            name: {label: round(entry["metrics"][label]["value"], 5) for label in headline}
            for name, entry in figures["recommenders"].items()
        }

    return run.stage(
        "evaluate",
        work,
        config={**config_to_mapping(config), "has_model": has_model, "has_blend": has_blend},
        inputs=inputs,
        outputs=["metrics.json", "rankings"],
        seed=seed,
        force=force,
    )


def _model_facts(config: ComparisonConfig, run: Run, trained: TrainedRun) -> RowFacts:
    fit_s, fit_cpu_s = training_times(run, trained.stage)
    return RowFacts(
        fit_s=fit_s,
        fit_cpu_s=fit_cpu_s,
        num_parameters=trained.num_parameters,
        dtype=str(trained.precision),
        # A published figure is of the method as a whole, which is the model in question, not that before RL.
        published=config.published if trained.recommender.name == OWN_NAME else "",
        made_from=model_lineage(run, trained.stage, config, str(trained.precision)),
    )


def _vectors(path: Path | None, dataset: Dataset) -> np.ndarray | None:
    """Returns the text vectors of exactly the dataset's items, None where the run has none of them."""
    if path is None:
        return None
    try:
        return read_embeddings(path, dataset.items["item_id"].to_list())
    except ArtifactError as error:
        log.warning("%s. The diversity of lists is not measured without them", error)
        return None


def _blend_facts(run: Run) -> RowFacts:
    """Returns the facts of the run's blend; its cost is that of the stage and of everything that it weighs."""
    stage, path = run.manifest()["stages"]["blend"], run.require("blend.json", "blend")
    card = read_json(path)
    config = config_from_mapping(BlendConfig, card["config"], source=str(path))
    costs = [(stage["wall_time_s"], stage.get("cpu_time_s"))]
    for row in config.rows:
        fitted = read_json(run.path(f"baselines/{row}.json"))
        costs.append((fitted["fit_s"], fitted["fit_cpu_s"]))
    if config.needs_model:
        runs = [run, *map(Run, config.runs)]
        costs += [training_times(each, find_model(each, config.model).stage) for each in runs]
    cpu_times = [cpu_s for _, cpu_s in costs if cpu_s is not None]
    return RowFacts(
        fit_s=round(sum(wall_s for wall_s, _ in costs), 3),
        fit_cpu_s=round(sum(cpu_times), 3) if len(cpu_times) == len(costs) else None,
        num_parameters=card["num_parameters"],
        settings=card["config"],
        published=config.published,
        made_from=blend_lineage(run),
    )


def _model_loader(config: ComparisonConfig) -> LoadModel:
    return model_loader(
        batch_size=config.decode_batch_size,
        device=config.device,
        dtype=config.dtype,
        allow_catalog_change=config.allow_catalog_change,
    )


def _answering(config: ComparisonConfig, run: Run, trained: TrainedRun) -> Recommender:
    """Returns the model as it is asked: for semantic IDs, or for titles."""
    if config.answer == "sid":
        return trained.recommender
    return title_recommender(
        trained,
        run,
        config.answer,
        config.titles,
        num_beams=config.num_beams,
        normalize=config.normalize,
        batch_size=config.decode_batch_size,
        device=config.device,
    )


def _row_facts(run: Run, row: FittedRow) -> RowFacts:
    known = {name: row.card[name] for name in ("fit_s", "fit_cpu_s", "settings", "published")}
    return RowFacts(num_parameters=row.baseline.num_parameters, **known, made_from=row_lineage(run, row.card))


def _models(config: ComparisonConfig, run: Run) -> dict[str, TrainedModel]:
    """Returns what is evaluated of the run's models, by the stage's name for them, the one in question first."""
    model = find_model(run, config.model, before_rl="--model sft, or evaluate.model=sft in a recipe")
    if model.stage == "sft" or not config.before_rl:
        return {"model": model}
    return {"model": model, "before_rl": find_model(run, "sft")}


def _load(config: ComparisonConfig, run: Run, model: ModelChoice, name: str) -> TrainedRun:
    return load_trained(
        run.folder,
        model=model,
        name=name,
        num_beams=config.num_beams,
        normalize=config.normalize,
        batch_size=config.decode_batch_size,
        device=config.device,
        dtype=config.dtype,
        allow_catalog_change=config.allow_catalog_change,
        # Ranks need no probabilities, so a calibration, which an earlier model may have left, is not read.
        calibrated=False,
    )


def _sft(recipe: Recipe, run: Run, force: bool) -> StageResult:
    if recipe.sft is None:
        raise ConfigError("sft: the recipe leaves it out")
    return sft(recipe.sft, run, seed=recipe.seed, start="align/model" if recipe.align else "", force=force)


def _collaborative(recipe: Recipe, run: Run, force: bool) -> StageResult:
    if recipe.collaborative is None:
        raise ConfigError("collaborative: the recipe has no section collaborative")
    return collaborative(recipe.collaborative, run, seed=recipe.seed, force=force)


def _align(recipe: Recipe, run: Run, force: bool) -> StageResult:
    if recipe.align is None:
        raise ConfigError("align: the recipe has no section align")
    return align(recipe.align, run, seed=recipe.seed, force=force)


def _rl(recipe: Recipe, run: Run, force: bool) -> StageResult:
    if recipe.rl is None:
        raise ConfigError("rl: the recipe has no section rl; rl={} takes its defaults")
    return rl(recipe.rl, run, seed=recipe.seed, force=force)


def _baselines(recipe: Recipe, run: Run, force: bool, quiet: bool = False) -> StageResult:
    exclude_history = recipe.evaluate.exclude_history
    return baselines(recipe.baselines, run, seed=recipe.seed, exclude_history=exclude_history, force=force, quiet=quiet)


def _blend(recipe: Recipe, run: Run, force: bool, quiet: bool = False) -> StageResult:
    if recipe.blend is None:
        raise ConfigError("blend: the recipe has no section blend; blend={} takes its defaults")
    _baselines(recipe, run, False, quiet=True)
    return blend(
        recipe.blend,
        run,
        _model_loader(recipe.evaluate),
        seed=recipe.seed,
        exclude_history=recipe.evaluate.exclude_history,
        normalize=recipe.evaluate.normalize,
        dtype=recipe.evaluate.dtype,
        device=recipe.evaluate.device,
        force=force,
        quiet=quiet,
    )


def _evaluate(recipe: Recipe, run: Run, force: bool) -> StageResult:
    _baselines(recipe, run, False, quiet=True)
    if recipe.blend is not None:
        _blend(recipe, run, False, quiet=True)
    has_model, has_blend = recipe.sft is not None, recipe.blend is not None
    return evaluate(recipe.evaluate, run, seed=recipe.seed, has_model=has_model, has_blend=has_blend, force=force)


STAGES: dict[str, Callable[[Recipe, Run, bool], StageResult]] = {
    "prepare": lambda recipe, run, force: prepare(recipe.prepare, run, seed=recipe.seed, force=force),
    "embed": lambda recipe, run, force: embed(recipe.embed, run, seed=recipe.seed, force=force),
    "collaborative": _collaborative,
    "tokenize": lambda recipe, run, force: tokenize(recipe.tokenize, run, seed=recipe.seed, force=force),
    "align": _align,
    "sft": _sft,
    "rl": _rl,
    "baselines": _baselines,
    "blend": _blend,
    "evaluate": _evaluate,
    "report": lambda recipe, run, force: report(recipe.report, run, seed=recipe.seed, force=force),
}
"""Every stage by name, in the order of the road."""


def run_stage(recipe: Recipe, name: str, *, seed: int | None = None, force: bool = False) -> StageResult:
    """Runs one stage of a recipe and keeps the recipe, all defaults written out, beside the artefacts.

    Args:
        recipe: What to do.
        name: The stage.
        seed: Of this stage alone, which the run's recipe does not keep; None takes the recipe's.
        force: Runs even what is unchanged.

    Raises:
        ItemicError: as the stage does.
    """
    run = Run(Path(recipe.run))
    if not run.path(_RECIPE_NAME).exists():
        _keep_recipe(recipe, run)
    result = STAGES[name](recipe if seed is None else dataclasses.replace(recipe, seed=seed), run, force)
    _keep_recipe(recipe, run)
    return result


def _keep_recipe(recipe: Recipe, run: Run) -> None:
    """Writes the recipe: at first so that a killed run can go on, then only what a stage has accepted."""
    with atomic_path(run.path(_RECIPE_NAME)) as temporary:
        temporary.write_text(yaml.safe_dump(config_to_mapping(recipe), sort_keys=False), encoding="utf-8")


def run_recipe(recipe: Recipe, *, stages: Sequence[str] = (), force: bool = False) -> list[StageResult]:
    """Runs the stages of a recipe in order and returns their results.

    Args:
        recipe: What to do.
        stages: Some of the stages; all of the recipe's where empty.
        force: Runs even what is unchanged.

    Raises:
        ConfigError: if a stage does not exist, or a reward of the user's cannot be imported.
        ItemicError: as the stages do.
    """
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise ConfigError(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    wanted = [name for name in STAGES if name in stages] if stages else recipe_stages(recipe)
    if "rl" in wanted and recipe.rl is not None and recipe.rl.objective == "grpo":
        check_custom_rewards(recipe.rl.rewards)
    return [run_stage(recipe, name, force=force) for name in wanted]


def recipe_stages(recipe: Recipe) -> list[str]:
    """Returns the stages that a recipe has, in order."""
    return [name for name in STAGES if _is_in(recipe, name)]


def _is_in(recipe: Recipe, name: str) -> bool:
    """Returns whether a recipe has a stage: those left out by default if asked for, embed unless no SID needs it."""
    if name in _OPTIONAL_STAGES:
        return getattr(recipe, name) is not None
    reads_catalog = recipe.sft is not None or any("catalog" in needs for needs in _needs(recipe))
    if name == "tokenize":
        return reads_catalog
    if name == "embed":
        codes_need_vectors = recipe.tokenize.source == "embeddings" or recipe.tokenize.collisions in (
            "unique",
            "sinkhorn",
        )
        return (
            (reads_catalog and codes_need_vectors)
            or (recipe.sft is not None and recipe.sft.new_rows == "codebook")
            or any("vectors" in needs for needs in _needs(recipe))
            or (recipe.blend is not None and DENSE_HEAD in recipe.blend.members)
        )
    return name in {field.name for field in dataclasses.fields(recipe)}


def _needs(recipe: Recipe) -> list[tuple[str, ...]]:
    """Returns what each row of the baselines reads beside the dataset."""
    return [BASELINES[row.settings.kind].needs for row in recipe.baselines.values()]
