"""The screening study: which backbone suits the data, found by successive halving at small budgets.

Reads top to bottom: prepare data and semantic IDs once; train all candidates a little, keep the best share, double the
budget, and so on; fine-tune those that are left by the recipe's own settings; write the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itemic.core.errors import ConfigError
from itemic.core.files import path_hash, read_json
from itemic.core.run import Run
from itemic.evaluate.report.focus import OWN_NAME
from itemic.language.tasks import TASKS
from itemic.pipeline import recipe_stages, run_recipe, run_stage
from itemic.recipe import Recipe, load_recipe
from itemic.studies.backbones_page import CandidateRow, Rung, describe_backbones
from itemic.studies.ledger import Ledger, Outcome, Trial, recipe_fingerprint
from itemic.studies.page import write_study
from itemic.studies.screening import NDCG, Candidate, find_candidate, rank_scores, screen
from itemic.studies.sharing import borrow_stage
from itemic.studies.variants import folder_name, model_alone

__all__ = ["BackbonesConfig", "screen_backbones"]

_CATALOG_STAGES = ("prepare", "embed", "collaborative", "tokenize")


@dataclass(frozen=True, kw_only=True)
class BackbonesConfig:
    """Which candidates, on which tasks, with which budgets."""

    recipe: Path
    """YAML file: data, semantic IDs, and the settings of the last trainings."""
    out: Path
    """Folder of the study."""
    candidates: tuple[str, ...]
    """``decoder:64x2`` (from scratch, SID tokens alone), ``words:64x2`` (words too), a folder, or a model's name."""
    tasks: tuple[str, ...] = ("next_item", "titles_to_sid", "title_to_sid")
    """What the candidates are taught and judged by; their answers are semantic IDs, so that losses compare."""
    rungs: int = 3
    """Budgets, each twice the one before."""
    keep: float = 0.5
    """Share of the candidates that goes on after each budget, rounded up."""
    budget_steps: int = 50
    """Optimiser steps of the first budget."""
    changes: tuple[str, ...] = ()
    """Changes to the recipe, ``sft.training.epochs=2`` or ``data=FOLDER``."""
    seed: int | None = None
    """Of all runs; None takes the recipe's."""
    words: int = 4000
    """Most words that a ``words:`` candidate reads."""
    scratch_learning_rate: float = 2e-3
    """Of decoders from scratch, where the recipe trains a pretrained backbone; otherwise they have the recipe's."""
    backbone_learning_rate: float = 2e-4
    """Of pretrained backbones, where the recipe trains a decoder from scratch; otherwise they have the recipe's."""

    def __post_init__(self) -> None:
        if len(self.candidates) < 2 or len(set(self.candidates)) < len(self.candidates):
            raise ConfigError(f"candidates: expected two or more different ones, found {self.candidates}")
        allowed = [name for name, task in TASKS.items() if task.answer == "sid"]
        wrong = [task for task in self.tasks if task not in allowed]
        if wrong or "next_item" not in self.tasks:
            found = repr(wrong[0]) if wrong else f"{self.tasks} without next_item"
            raise ConfigError(
                f"tasks: expected next_item and any of {', '.join(allowed[1:])}, found {found}; losses of answers in "
                "words count each tokenizer's own tokens and do not compare"
            )
        if self.rungs < 1 or self.budget_steps < 1 or not 0 < self.keep <= 1:
            raise ConfigError("rungs and budget_steps must be at least 1, and keep above 0 and at most 1")


def screen_backbones(config: BackbonesConfig) -> dict[str, Any]:
    """Runs the study as far as it is not done, writes the page, and returns a row a candidate, the best first.

    Raises:
        ConfigError: if a candidate's name cannot be understood, or the recipe has no sft.
    """
    ledger = Ledger(config.out, "backbones")
    recipe = _base_recipe(config, ledger)
    assert recipe.sft is not None
    rates = {"scratch_rate": config.scratch_learning_rate, "backbone_rate": config.backbone_learning_rate}
    candidates = [
        find_candidate(name, recipe.sft, config.tasks, words=config.words, **rates) for name in config.candidates
    ]
    run_recipe(recipe, stages=[name for name in recipe_stages(recipe) if name in _CATALOG_STAGES])
    rows = {candidate.name: CandidateRow(name=candidate.name) for candidate in candidates}
    left = candidates
    for rung in range(config.rungs):
        left = _run_rung(rung, left, rows, config, recipe, ledger)
    _run_finals(left, rows, recipe, ledger)
    ordered = sorted(rows.values(), key=lambda row: row.standing, reverse=True)
    write_study(config.out, describe_backbones(config, ordered))
    return {"rows": [row.as_mapping() for row in ordered]}


def _base_recipe(config: BackbonesConfig, ledger: Ledger) -> Recipe:
    recipe = load_recipe(config.recipe, config.changes)
    if recipe.sft is None:
        raise ConfigError(f"{config.recipe}: a screening trains candidates in place of the recipe's sft, which is null")
    cutoffs = tuple(sorted({*recipe.evaluate.cutoffs, 10}))
    recipe = model_alone(recipe, split="valid", before_rl=False, cutoffs=cutoffs)
    seed = recipe.seed if config.seed is None else config.seed
    run = ledger.run_folder("data").as_posix()
    return replace(recipe, run=run, seed=seed, align=None, rl=None)


def _run_rung(
    rung: int,
    candidates: Sequence[Candidate],
    rows: Mapping[str, CandidateRow],
    config: BackbonesConfig,
    recipe: Recipe,
    ledger: Ledger,
) -> list[Candidate]:
    """Trains the candidates up to the rung's budget, scores them, and returns those that go on, the best first."""
    num_steps, base = config.budget_steps * 2**rung, Run(recipe.run)
    by_trial = {}
    for candidate in candidates:
        own = replace(recipe, sft=candidate.screening)
        name = f"{folder_name(candidate.name)}-rung{rung}"
        trial = Trial(
            name=name,
            fingerprint=recipe_fingerprint(own, str(num_steps), _backbone_hash(candidate)),
            facts={"candidate": candidate.name, "rung": rung, "steps": num_steps},
        )
        by_trial[name] = (trial, candidate)

    def work(trial: Trial) -> Mapping[str, Any]:
        candidate = by_trial[trial.name][1]
        folder = ledger.run_folder(folder_name(candidate.name))
        found: Mapping[str, Any] = screen(
            candidate, base.path("dataset"), base.path("catalog"), folder, num_steps, seed=recipe.seed
        )
        return found

    outcomes = ledger.run_all([trial for trial, _ in by_trial.values()], work)
    done: list[tuple[Candidate, Mapping[str, Any]]] = []
    for candidate, outcome in zip(candidates, outcomes, strict=True):
        if outcome.figures is None:
            rows[candidate.name].error = f"after {rung} budgets: {outcome.error}"
        else:
            done.append((candidate, outcome.figures))
    scores = rank_scores([found["figures"] for _, found in done])
    for (candidate, found), score in zip(done, scores, strict=True):
        rows[candidate.name].add(Rung(num_steps=num_steps, score=score, **_kept(found)))
    order = sorted(range(len(done)), key=lambda index: (-scores[index], done[index][1]["num_parameters"]))
    return [done[index][0] for index in order[: max(1, math.ceil(config.keep * len(done)))]]


def _backbone_hash(candidate: Candidate) -> str:
    """Returns the hash of a local folder, so that another model in it is screened anew; empty for others."""
    folder = Path(candidate.full.backbone)
    return path_hash(folder) if candidate.full.backbone and folder.is_dir() else ""


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("figures", "num_parameters", "cpu_s")}


def _run_finals(
    candidates: Sequence[Candidate], rows: Mapping[str, CandidateRow], recipe: Recipe, ledger: Ledger
) -> None:
    """Fine-tunes the last candidates by the recipe's own settings and evaluates them on valid."""
    recipes, trials = {}, []
    for candidate in candidates:
        name = f"{folder_name(candidate.name)}-final"
        recipes[name] = replace(recipe, sft=candidate.full, run=ledger.run_folder(name).as_posix())
        fingerprint = recipe_fingerprint(recipes[name], _backbone_hash(candidate))
        trials.append(Trial(name=name, fingerprint=fingerprint, facts={"candidate": candidate.name}))
    outcomes = ledger.run_all(trials, _finisher(recipes, Run(recipe.run)))
    for candidate, outcome in zip(candidates, outcomes, strict=True):
        _enter_final(rows[candidate.name], outcome)


def _finisher(recipes: Mapping[str, Recipe], base: Run) -> Callable[[Trial], Mapping[str, Any]]:
    def work(trial: Trial) -> Mapping[str, Any]:
        recipe = recipes[trial.name]
        run = Run(recipe.run)
        for stage in _CATALOG_STAGES:
            borrow_stage(run, base, stage)
        run_stage(recipe, "sft")
        run_stage(recipe, "evaluate")
        row = read_json(run.path("metrics.json"))["recommenders"][OWN_NAME]
        return {"metric": row["metrics"][NDCG], "cpu_s": run.manifest()["stages"]["sft"]["cpu_time_s"]}

    return work


def _enter_final(row: CandidateRow, outcome: Outcome) -> None:
    if outcome.figures is None:
        row.error = f"in the last training: {outcome.error}"
        return
    metric = outcome.figures["metric"]
    row.final = (metric["value"], metric["low"], metric["high"])
    row.final_cpu_s = outcome.figures["cpu_s"]
