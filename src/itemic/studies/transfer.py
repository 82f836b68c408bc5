"""The transfer study: a model trained on one catalogue recommends from another one.

Reads top to bottom: plan the runs of each direction and seed, run each (references, sources, modes), compare on the
same examples of the target, write the page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itemic.core.errors import ArtifactError
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.evaluate.evaluate import ranking_file_name
from itemic.evaluate.report.focus import OWN_NAME
from itemic.evaluate.significance import holm
from itemic.pipeline import run_stage
from itemic.recipe import Recipe
from itemic.studies.ledger import Ledger, Outcome, Trial, recipe_fingerprint
from itemic.studies.page import write_study
from itemic.studies.sharing import borrow_stage
from itemic.studies.transfer_config import (
    MODES,
    REFERENCES,
    SOURCE,
    SOURCE_TEXT,
    SOURCE_UNION,
    TARGET,
    TransferConfig,
    load_side,
    recipe_of,
)
from itemic.studies.transfer_page import TransferRow, describe_transfer
from itemic.studies.transfer_parts import START, adopt_model, code_like, evaluate_titles, fit_union
from itemic.studies.values import compare_values, mean_values, read_values
from itemic.train.sft import sft

__all__ = ["transfer"]

_SOURCE_OF = {"refitted": SOURCE_UNION, "text": SOURCE_TEXT}
_SOURCES = (SOURCE, SOURCE_TEXT, SOURCE_UNION)
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of a direction: a source, the references, or a mode."""

    trial: Trial
    kind: str
    direction: str
    recipe: Recipe


def transfer(config: TransferConfig) -> dict[str, Any]:
    """Runs the study as far as it is not done, writes the page, and returns the table of each direction.

    Raises:
        ConfigError: if a recipe trains no model, or its codes cannot be carried over.
        ArtifactError: if a source's file is missing.
    """
    ledger = Ledger(config.out, "transfer")
    source, target = load_side(config, config.recipe, SOURCE), load_side(config, config.target, TARGET)
    names = config.recipe.stem, config.target.stem
    there, back = names if names[0] != names[1] else (SOURCE, TARGET)
    directions = {f"{there} to {back}": (source, target)}
    if config.both:
        directions[f"{back} to {there}"] = (target, source)
    runs = [
        run
        for place, (direction, pair) in enumerate(directions.items())
        for run in _plan(config, ledger, direction, "back-" * place, *pair)
    ]
    outcomes = ledger.run_all([run.trial for run in runs], _worker(config, ledger, runs))
    results = list(zip(runs, outcomes, strict=True))
    tables = {name: _compare([each for each in results if each[0].direction == name], config) for name in directions}
    failed = [f"{one.trial.name}: {one.error}" for one in outcomes if one.figures is None]
    write_study(config.out, describe_transfer(config, tables, MODES, failed, sum(one.wall_time_s for one in outcomes)))
    return {"tables": {name: [row.as_mapping() for row in rows] for name, rows in tables.items()}, "failed": failed}


def _plan(
    config: TransferConfig, ledger: Ledger, direction: str, prefix: str, source: Recipe, target: Recipe
) -> list[_Run]:
    """Returns the runs of a direction: references first, then the sources that the modes need, then the modes."""
    # The plain source first, whose embeddings the others take.
    sources = sorted({_SOURCE_OF.get(mode, SOURCE) for mode in config.modes if mode != "in-domain"})
    planned = []
    for seed in config.seeds:
        for kind in (TARGET, *sources, *config.modes):
            recipe = recipe_of(kind, config, source, target)
            name = f"{prefix}{kind}-seed{seed}"
            recipe = replace(recipe, seed=seed, run=ledger.run_folder(name).as_posix())
            decides = [recipe_fingerprint(replace(each, seed=seed)) for each in (source, target)]
            extra = config.extra_codes if kind == "extended" else config.words if kind in ("text", SOURCE_TEXT) else 0
            fingerprint = recipe_fingerprint(recipe, *decides, kind, str(extra))
            trial = Trial(name=name, fingerprint=fingerprint, facts={"kind": kind, "direction": direction})
            planned.append(_Run(trial=trial, kind=kind, direction=direction, recipe=recipe))
    return planned


def _worker(config: TransferConfig, ledger: Ledger, runs: list[_Run]) -> Callable[[Trial], Mapping[str, Any]]:
    by_name = {run.trial.name: run for run in runs}

    def work(trial: Trial) -> Mapping[str, Any]:
        own = by_name[trial.name]
        # A run that failed may have left an older model, so only what is done is lent.
        donors = {
            run.kind: Run(run.recipe.run)
            for run in runs
            if (run.direction, run.recipe.seed) == (own.direction, own.recipe.seed) and ledger.is_done(run.trial)
        }
        if own.kind in _SOURCES:
            return _train_source(own, donors)
        if own.kind == "in-domain":
            for stage in ("prepare", "embed", "tokenize", "sft", "evaluate"):
                run_stage(own.recipe, stage)
        elif own.kind == TARGET:
            for stage in ("prepare", "embed", "baselines", "evaluate"):
                run_stage(own.recipe, stage)
        else:
            _run_mode(own, donors, config)
        rows = read_json(Path(own.recipe.run) / "metrics.json")["recommenders"]
        return {name: {label: one["value"] for label, one in row["metrics"].items()} for name, row in rows.items()}

    return work


def _train_source(own: _Run, donors: Mapping[str, Run]) -> dict[str, Any]:
    """Trains a source model and returns its figures; one with common codebooks fits these to both catalogues."""
    run = Run(own.recipe.run)
    _take(own.recipe, run, donors.get(SOURCE))
    if own.kind == SOURCE_UNION:
        fit_union(run, _done(TARGET, donors), own.recipe.tokenize, seed=own.recipe.seed)
    else:
        run_stage(own.recipe, "tokenize")
    if own.recipe.align is not None:
        run_stage(own.recipe, "align")
    metrics = run_stage(own.recipe, "sft").metrics
    return {name: metrics[name] for name in ("num_parameters", "num_steps", "best_valid")}


def _run_mode(own: _Run, donors: Mapping[str, Run], config: TransferConfig) -> None:
    """Gives the target's items codes and a model of the source, trains it there where the mode says so, evaluates."""
    recipe, run = own.recipe, Run(own.recipe.run)
    source = _done(_SOURCE_OF.get(own.kind, SOURCE), donors)
    _take(recipe, run, _done(TARGET, donors))
    extra_codes = config.extra_codes if own.kind == "extended" else 0
    code_like(run, source, recipe.tokenize, extra_codes=extra_codes, seed=recipe.seed)
    if own.kind == "extended":
        assert recipe.sft is not None
        adopt_model(run, source, stage="start", output=START, seed=recipe.seed)
        sft(recipe.sft, run, seed=recipe.seed, start=START)
    else:
        adopt_model(run, source, seed=recipe.seed)
    if own.kind == "rl":
        run_stage(recipe, "rl")
    if own.kind == "text":
        evaluate_titles(recipe, run)
    else:
        run_stage(recipe, "evaluate")


def _done(kind: str, donors: Mapping[str, Run]) -> Run:
    if kind not in donors:
        raise ArtifactError(f"the run {kind}, which this one builds on, has failed")
    return donors[kind]


def _take(recipe: Recipe, run: Run, donor: Run | None) -> None:
    """Leaves dataset and embeddings in the run, the donor's where these are up to date."""
    for stage in ("prepare", "embed"):
        if donor is not None and donor.folder != run.folder:
            borrow_stage(run, donor, stage)
        run_stage(recipe, stage)


def _compare(results: list[tuple[_Run, Outcome]], config: TransferConfig) -> list[TransferRow]:
    """Returns a row for each reference and mode; p-values corrected over the modes of this direction."""
    values, errors = {}, {}
    kinds = {name: (TARGET, name) for name in REFERENCES}
    kinds |= {mode: (mode, OWN_NAME) for mode in config.modes}
    for name, (kind, row) in kinds.items():
        own = [(run, outcome) for run, outcome in results if run.kind == kind]
        failed = [outcome for _, outcome in own if outcome.figures is None]
        if failed:
            errors[name] = failed[0].error
            continue
        paths = [Path(run.recipe.run) / "rankings" / ranking_file_name(row) for run, _ in own]
        values[name] = read_values(paths, config.metric)
    settings: dict[str, Any] = {
        "num_resamples": _NUM_RESAMPLES,
        "confidence": config.confidence,
        "seed": config.seeds[0],
    }
    base = values.get(config.against)
    differences = {
        name: found
        for name in config.modes
        if base is not None and name in values and (found := compare_values(base, values[name], **settings)) is not None
    }
    corrected = dict(zip(differences, holm([one.p_value for one in differences.values()]), strict=True))
    return [
        TransferRow(
            name=name,
            is_mode=name in config.modes,
            mean=mean_values(values[name], **settings) if name in values else None,
            difference=differences.get(name),
            corrected=corrected.get(name),
            error=errors.get(name, ""),
        )
        for name in kinds
    ]
