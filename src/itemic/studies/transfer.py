"""The transfer study: a model trained on one catalogue recommends from another one.

Reads top to bottom: plan the runs of each direction and seed, run each (references, sources, modes), compare on the
same examples of the target, write the page.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from itemic.baselines.registry import BASELINES, BaselineRow
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.evaluate.evaluate import ranking_file_name
from itemic.evaluate.metrics.labels import parse_label
from itemic.evaluate.report.focus import OWN_NAME
from itemic.evaluate.significance import holm
from itemic.language.augment import AugmentConfig
from itemic.language.recency import RecencyConfig
from itemic.pipeline import run_stage
from itemic.recipe import Recipe, load_recipe
from itemic.studies.ledger import Ledger, Outcome, Trial, recipe_fingerprint
from itemic.studies.page import write_study
from itemic.studies.sharing import borrow_stage
from itemic.studies.transfer_page import TransferRow, describe_transfer
from itemic.studies.transfer_parts import START, adopt_model, code_like, evaluate_titles, fit_union
from itemic.studies.values import compare_values, mean_values, read_values
from itemic.studies.variants import with_protocol
from itemic.train.rl.config import RlConfig
from itemic.train.sft import SftConfig, sft

__all__ = ["MODES", "TransferConfig", "transfer"]

log = logging.getLogger("itemic")

MODES = {
    "shared": "the source's codebooks code the target's items; the source's model as it is, zero-shot",
    "refitted": "codebooks fitted to both catalogues, source model trained on those; zero-shot",
    "text": "a source model that reads words, asked by the titles of the target's histories; zero-shot",
    "extended": "one more level fitted to the target under the shared codes, trained on the target from the source",
    "rl": "the shared mode's model after RL on the target's training part, without fine-tuning there",
    "in-domain": "the target's recipe alone: a model that never saw the source",
}
"""What each mode means, in the order of the table."""

_REFERENCES = ("popularity", "covisit-knn", "text-knn")
_SOURCE, _TARGET = "source", "target"
_SOURCE_OF = {"refitted": "source-union", "text": "source-text"}
_TEXT_TASKS = ("titles_to_sid", "title_to_sid")
_TEXT_ROW_TOKENS = 1024
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """From where to where, by which modes, and how it is judged."""

    recipe: Path
    """YAML file of the source; its encoder, tokenization and model are used throughout."""
    target: Path
    """YAML file of the target: its data, protocol, decoding, and settings of trainings there."""
    out: Path
    """Folder of the study."""
    modes: tuple[str, ...] = ("shared", "refitted", "text", "extended", "rl")
    """Names of ``MODES``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each mode's runs."""
    changes: tuple[str, ...] = ()
    """Changes to the recipes: ``source.data=FOLDER`` to the source's, ``target.data=FOLDER`` to the target's, others to
    both."""
    both: bool = False
    """Whether the other direction is run too, target to source."""
    metric: str = "NDCG@10"
    """Ranking metric with its cut-off."""
    split: Literal["valid", "test"] = "valid"
    """Examples of the target that judge."""
    against: Literal["popularity", "covisit-knn", "text-knn"] = "text-knn"
    """Reference that every mode is compared with; text-knn needs no training either."""
    extra_codes: int = 16
    """Codes of the level that ``extended`` adds."""
    words: int = 4000
    """Words that a source model from scratch learns for ``text``, where its recipe has none."""
    confidence: float = 0.95
    """Probability mass inside an interval."""

    def __post_init__(self) -> None:
        parse_label(self.metric)
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len(set(self.modes)) < len(self.modes):
            found = repr(unknown[0]) if unknown else self.modes
            raise ConfigError(f"modes: expected some of {', '.join(MODES)}, each once; found {found}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: expected one or more different numbers, found {self.seeds}")
        if self.extra_codes < 2 or self.words < 1:
            raise ConfigError("extra_codes must be at least 2, and words at least 1")


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
    source, target = _load(config, config.recipe, _SOURCE), _load(config, config.target, _TARGET)
    names = config.recipe.stem, config.target.stem
    there, back = names if names[0] != names[1] else (_SOURCE, _TARGET)
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


def _load(config: TransferConfig, path: Path, side: str) -> Recipe:
    own = [text.removeprefix(f"{side}.") for text in config.changes if text.startswith(f"{side}.")]
    common = [text for text in config.changes if not text.startswith((f"{_SOURCE}.", f"{_TARGET}."))]
    recipe = load_recipe(path, (*common, *own))
    if recipe.sft is None:
        raise ConfigError(f"{path}: a transfer needs a model; the recipe has sft: null")
    if recipe.tokenize.source != "embeddings" or recipe.tokenize.needs_collaborative:
        raise ConfigError(
            f"{path}: tokenize must quantize text embeddings alone: given SIDs have no codebook for other items, and "
            "vectors from one shop's log say nothing of another's items"
        )
    if recipe.evaluate.max_examples and len(config.seeds) > 1:
        raise ConfigError(f"{path}: evaluate.max_examples must be 0 with several seeds; each would draw other examples")
    cutoff = parse_label(config.metric)[1]
    cutoffs = tuple(sorted({*recipe.evaluate.cutoffs, cutoff}))
    recipe = with_protocol(recipe, split=config.split, cutoffs=cutoffs, before_rl=False, model="last", answer="sid")
    return replace(recipe, baselines={}, blend=None, collaborative=None)


def _plan(
    config: TransferConfig, ledger: Ledger, direction: str, prefix: str, source: Recipe, target: Recipe
) -> list[_Run]:
    """Returns the runs of a direction: references first, then the sources that the modes need, then the modes."""
    # The plain source first, whose embeddings the others take.
    sources = sorted({_SOURCE_OF.get(mode, _SOURCE) for mode in config.modes if mode != "in-domain"})
    planned = []
    for seed in config.seeds:
        for kind in (_TARGET, *sources, *config.modes):
            recipe = _recipe_of(kind, config, source, target)
            name = f"{prefix}{kind}-seed{seed}"
            recipe = replace(recipe, seed=seed, run=ledger.run_folder(name).as_posix())
            decides = [recipe_fingerprint(replace(each, seed=seed)) for each in (source, target)]
            extra = config.extra_codes if kind == "extended" else config.words if kind in ("text", "source-text") else 0
            fingerprint = recipe_fingerprint(recipe, *decides, kind, str(extra))
            trial = Trial(name=name, fingerprint=fingerprint, facts={"kind": kind, "direction": direction})
            planned.append(_Run(trial=trial, kind=kind, direction=direction, recipe=recipe))
    return planned


def _recipe_of(kind: str, config: TransferConfig, source: Recipe, target: Recipe) -> Recipe:
    assert source.sft is not None
    assert target.sft is not None
    if kind == "in-domain":
        return replace(target, align=None, rl=None)
    if kind in (_SOURCE, "source-union", "source-text"):
        own = _reading_words(source.sft, config.words) if kind == "source-text" else source.sft
        return replace(source, sft=own, rl=None, align=None if kind == "source-text" else source.align)
    rows = {kind: BaselineRow(settings=BASELINES[kind].settings(), name=kind) for kind in _REFERENCES}
    embed = target.embed if source.embed.vectors else source.embed
    sft_config = replace(source.sft, training=target.sft.training, max_history=source.sft.max_history)
    return replace(
        target,
        embed=embed,
        tokenize=source.tokenize,
        align=None,
        sft=None if kind == _TARGET else _reading_words(sft_config, config.words) if kind == "text" else sft_config,
        rl=(target.rl or source.rl or RlConfig()) if kind == "rl" else None,
        baselines=rows if kind == _TARGET else {},
    )


def _reading_words(config: SftConfig, words: int) -> SftConfig:
    """Returns the training of a model that reads titles: with words, where it has none, and with tasks of titles."""
    tasks = {**config.tasks, **{task: config.tasks.get(task, 1.0) for task in _TEXT_TASKS}}
    if config.prompt_mode == "chat":
        return replace(config, tasks=tasks)
    row_tokens = max(config.row_tokens, _TEXT_ROW_TOKENS)
    plain = {"augment": AugmentConfig(), "recency": RecencyConfig()}
    return replace(config, words=words, tasks=tasks, row_tokens=row_tokens, **plain)  # type: ignore[arg-type]


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
        if own.kind in (_SOURCE, "source-union", "source-text"):
            return _train_source(own, donors)
        if own.kind == "in-domain":
            for stage in ("prepare", "embed", "tokenize", "sft", "evaluate"):
                run_stage(own.recipe, stage)
        elif own.kind == _TARGET:
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
    _take(own.recipe, run, donors.get(_SOURCE))
    if own.kind == "source-union":
        fit_union(run, _done(_TARGET, donors), own.recipe.tokenize, seed=own.recipe.seed)
    else:
        run_stage(own.recipe, "tokenize")
    if own.recipe.align is not None:
        run_stage(own.recipe, "align")
    metrics = run_stage(own.recipe, "sft").metrics
    return {name: metrics[name] for name in ("num_parameters", "num_steps", "best_valid")}


def _run_mode(own: _Run, donors: Mapping[str, Run], config: TransferConfig) -> None:
    """Gives the target's items codes and a model of the source, trains it there where the mode says so, evaluates."""
    recipe, run = own.recipe, Run(own.recipe.run)
    source = _done(_SOURCE_OF.get(own.kind, _SOURCE), donors)
    _take(recipe, run, _done(_TARGET, donors))
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
    kinds = {name: (_TARGET, name) for name in _REFERENCES}
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
