"""The ablation study: a recipe, some of its keys with other values, and what each change is worth.

Reads top to bottom: plan the variants, run each under each seed, compare on the same examples, write the page. Stages
that a change does not reach are taken from the runs before it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from itemic.core.errors import ConfigError
from itemic.core.files import read_json
from itemic.evaluate.evaluate import ranking_file_name
from itemic.evaluate.metrics.labels import parse_label
from itemic.evaluate.significance import holm
from itemic.pipeline import recipe_stages, run_recipe
from itemic.recipe import Recipe
from itemic.studies.ablation_page import AblationRow, describe_ablation
from itemic.studies.ledger import Ledger, Outcome, Trial, recipe_fingerprint
from itemic.studies.page import write_study
from itemic.studies.sharing import borrow
from itemic.studies.values import ExampleValues, compare_values, mean_values, read_values
from itemic.studies.variants import Variant, find_variants, with_protocol

__all__ = ["AblationConfig", "ablate"]

log = logging.getLogger("itemic")

_NUM_RESAMPLES = 10_000
_OTHER_ROWS = ("baselines", "blend")


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Which recipe, what varies, and how it is judged."""

    recipe: Path
    """YAML file of the base."""
    out: Path
    """Folder of the study."""
    vary: Mapping[str, tuple[Any, ...]]
    """Values of each dotted key of the recipe."""
    changes: tuple[str, ...] = ()
    """Changes to the recipe that all variants share, ``sft.training.epochs=3`` or ``data=FOLDER``."""
    grid: bool = False
    """Whether every value meets every other key's values; otherwise one key at a time differs from the base."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each variant's runs; all of a run, from prepare on, follows its seed."""
    metric: str = "NDCG@10"
    """Ranking metric with its cut-off."""
    split: Literal["valid", "test"] = "valid"
    """Examples that judge; a choice is made on valid."""
    test_best: bool = False
    """Whether the best variant and the base are then evaluated on test, that comparison alone."""
    row: str = ""
    """Recommender that is judged, by its name in ``metrics.json``; empty takes the model, or the table's first row
    where there is none or a key of ``baselines`` or ``blend`` varies."""
    confidence: float = 0.95
    """Probability mass inside an interval."""

    def __post_init__(self) -> None:
        parse_label(self.metric)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: expected one or more different numbers, found {self.seeds}")
        if self.test_best and self.split == "test":
            raise ConfigError("test_best: a choice is made on valid; with split test there is nothing left to test on")


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One variant under one seed."""

    trial: Trial
    variant: Variant
    recipe: Recipe
    donors: list[Recipe] = field(default_factory=list)


def ablate(config: AblationConfig) -> dict[str, Any]:
    """Runs the study as far as it is not done, writes ``report.html`` and ``report.md``, and returns the table.

    A variant of which a run failed has the error in its row instead of figures; where that is the base, no variant is
    compared with it.

    Raises:
        ConfigError: if a variant is no recipe, before anything runs; or the row is not one of a run's recommenders.
        ArtifactError: if a source's file is missing.
    """
    ledger = Ledger(config.out, "ablation")
    variants = find_variants(config.recipe, config.changes, config.vary, is_grid=config.grid)
    runs = _plan(variants, config, ledger, config.split)
    outcomes = _run_all(runs, ledger)
    rows = _compare(variants, runs, outcomes, config)
    tested: list[AblationRow] = []
    best = _best(rows)
    if config.test_best and best is not None:
        chosen = [variant for variant in variants if variant.name in (rows[0].name, best.name)]
        test_runs = _plan(chosen, config, ledger, "test", lenders=runs)
        tested = _compare(chosen, test_runs, _run_all(test_runs, ledger), config)
    write_study(config.out, describe_ablation(rows, tested, best, config, sum(one.wall_time_s for one in outcomes)))
    return {"rows": [row.as_mapping() for row in rows], "test": [row.as_mapping() for row in tested]}


def _plan(
    variants: Sequence[Variant], config: AblationConfig, ledger: Ledger, split: str, lenders: Sequence[_Run] = ()
) -> list[_Run]:
    """Returns the runs, seed by seed, so that a variant finds the base of its seed done."""
    is_model_alone = not config.row and not any(key.partition(".")[0] in _OTHER_ROWS for key in config.vary)
    planned: list[_Run] = []
    for seed in config.seeds:
        for variant in variants:
            name = f"{variant.folder}-seed{seed}" + ("" if split == config.split else f"-{split}")
            recipe = _trial_recipe(variant.recipe, config, split)
            if config.row and config.row not in recipe.table_names:
                raise ConfigError(f"row {config.row!r}: {variant.name} evaluates {', '.join(recipe.table_names)}")
            recipe = _without_other_rows(recipe) if is_model_alone else recipe
            recipe = replace(recipe, seed=seed, run=ledger.run_folder(name).as_posix())
            facts = {"variant": variant.name, "seed": seed, "split": split}
            trial = Trial(name=name, fingerprint=recipe_fingerprint(recipe, config.row), facts=facts)
            donors = [run.recipe for run in (*lenders, *planned) if run.recipe.seed == seed]
            planned.append(_Run(trial=trial, variant=variant, recipe=recipe, donors=donors))
    return planned


def _trial_recipe(recipe: Recipe, config: AblationConfig, split: str) -> Recipe:
    if recipe.evaluate.max_examples and len(config.seeds) > 1:
        raise ConfigError(
            f"evaluate.max_examples {recipe.evaluate.max_examples}: each seed would draw other examples, which cannot "
            "be averaged; leave it 0, or give one seed"
        )
    cutoff = parse_label(config.metric)[1]
    cutoffs = tuple(sorted({*recipe.evaluate.cutoffs, cutoff}))
    return with_protocol(recipe, split=split, cutoffs=cutoffs, before_rl=False)


def _without_other_rows(recipe: Recipe) -> Recipe:
    """Returns the recipe of the model alone, where it has one; the row that its answers in titles need stays."""
    if recipe.sft is None:
        return recipe
    assistant = recipe.evaluate.titles.assistant
    rows = {name: row for name, row in recipe.baselines.items() if name == assistant}
    return replace(recipe, baselines=rows, blend=None)


def _run_all(runs: Sequence[_Run], ledger: Ledger) -> list[Outcome]:
    by_name = {run.trial.name: run for run in runs}

    def work(trial: Trial) -> Mapping[str, Any]:
        run = by_name[trial.name]
        taken = borrow(run.recipe, run.donors)
        if taken:
            log.info("%s: %s from the runs before", trial.name, ", ".join(taken))
        run_recipe(run.recipe, stages=[name for name in recipe_stages(run.recipe) if name != "report"])
        metrics = read_json(Path(run.recipe.run) / "metrics.json")["recommenders"]
        return {name: {label: one["value"] for label, one in row["metrics"].items()} for name, row in metrics.items()}

    return ledger.run_all([run.trial for run in runs], work)


def _compare(
    variants: Sequence[Variant], runs: Sequence[_Run], outcomes: Sequence[Outcome], config: AblationConfig
) -> list[AblationRow]:
    """Returns a row a variant, the base first; p-values corrected over all variants that could be compared."""
    values: dict[str, ExampleValues] = {}
    errors: dict[str, str] = {}
    for variant in variants:
        own = [(run, one) for run, one in zip(runs, outcomes, strict=True) if run.variant is variant]
        failed = [one for _, one in own if one.figures is None]
        if failed:
            errors[variant.name] = f"{failed[0].trial.name}: {failed[0].error}"
        else:
            values[variant.name] = read_values([_rankings(run, one, config.row) for run, one in own], config.metric)
    base = values.get(variants[0].name)
    settings = {"num_resamples": _NUM_RESAMPLES, "confidence": config.confidence, "seed": config.seeds[0]}
    means = {name: mean_values(found, **settings) for name, found in values.items()}  # type: ignore[arg-type]
    differences = {
        name: difference
        for name, found in values.items()
        if base is not None and found is not base
        if (difference := compare_values(base, found, **settings)) is not None  # type: ignore[arg-type]
    }
    corrected = dict(zip(differences, holm([one.p_value for one in differences.values()]), strict=True))
    return [
        AblationRow(
            name=variant.name,
            changes=dict(variant.changes),
            mean=means.get(variant.name),
            difference=differences.get(variant.name),
            corrected=corrected.get(variant.name),
            error=errors.get(variant.name, ""),
            also=variant.also,
        )
        for variant in variants
    ]


def _rankings(run: _Run, outcome: Outcome, row: str) -> Path:
    assert outcome.figures is not None
    name = row or next(iter(outcome.figures))
    if name not in outcome.figures:
        raise ConfigError(f"row {name!r}: {run.trial.name} has {', '.join(outcome.figures)}")
    return Path(run.recipe.run) / "rankings" / ranking_file_name(name)


def _best(rows: Sequence[AblationRow]) -> AblationRow | None:
    """Returns the variant of the highest mean, the base included; None where all failed."""
    found = [row for row in rows if row.mean is not None]
    return max(found, key=lambda row: row.mean.value if row.mean else 0.0) if found else None
