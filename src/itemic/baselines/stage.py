"""The baselines stage: every row of the recipe is fitted once and kept, ``baselines/<row>.safetensors`` and its card.

A row whose data and settings are unchanged is not fitted again, whatever happens to the others, and a search that was
killed goes on behind its last trial.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from itemic.baselines.materials import Materials
from itemic.baselines.registry import BASELINES, Baseline, BaselineRow, fit_baseline, load_baseline
from itemic.baselines.search import best_settings, combinations, write_settings
from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.files import path_hash, read_json, text_hash, write_json
from itemic.core.run import Run, StageResult
from itemic.evaluate.evaluate import evaluate_recommender
from itemic.evaluate.protocol import EvaluateConfig
from itemic.sid.catalog import Catalog
from itemic.sid.vectors import read_embeddings

__all__ = ["FittedRow", "baselines", "check_row_names", "load_rows"]

log = logging.getLogger("itemic")

_FOLDER = "baselines"
_CUTOFF = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedRow:
    """A row of the recipe, read back."""

    baseline: Baseline
    """The recommender under the row's name."""
    card: Mapping[str, Any]
    """What fitting it took and chose: kind, name, published, settings, trials, fit_s, fit_cpu_s, num_parameters."""


def baselines(
    rows: Mapping[str, BaselineRow],
    run: Run,
    *,
    seed: int,
    exclude_history: bool | Literal["auto"] = "auto",
    force: bool = False,
    quiet: bool = False,
) -> StageResult:
    """Returns the stage's result after fitting every row that is not up to date.

    Args:
        rows: What to fit, by the names of their files.
        run: Holds the dataset, and the text vectors and the catalog where a row needs them.
        seed: The run's seed.
        exclude_history: The protocol's, by which a search judges.
        force: Fits everything again.
        quiet: Whether to say nothing where nothing changed.

    Raises:
        ArtifactError: if something that a row needs is missing.
        ConfigError: if a row's search names no setting of it.
    """
    check_row_names(rows)
    inputs = _inputs(rows, run)
    folder = run.path(_FOLDER)

    def work() -> dict[str, Any]:
        given = _materials(inputs)
        hashes = {name: path_hash(path) for name, path in inputs.items()}
        folder.mkdir(parents=True, exist_ok=True)
        cards = {}
        for key, row in rows.items():
            needs = {"dataset", *BASELINES[row.settings.kind].needs}
            made_from = _made_from(row, {name: hashes[name] for name in sorted(needs)}, exclude_history, seed)
            cards[key] = _fit_row(key, row, given, folder, made_from, exclude_history, seed, force=force)
        _remove_others(folder, set(rows))
        return {key: {"fit_s": card["fit_s"], "valid": card["valid"]} for key, card in cards.items()}

    config = {"rows": {key: config_to_mapping(row) for key, row in rows.items()}, "exclude_history": exclude_history}
    return run.stage(
        _FOLDER, work, config=config, inputs=inputs, outputs=[_FOLDER], seed=seed, force=force, quiet=quiet
    )


def load_rows(run: Run, *, device: str = "auto") -> dict[str, FittedRow]:
    """Returns every row that the stage fitted, in the order of the recipe.

    Raises:
        ArtifactError: if the stage did not run or a file is damaged.
    """
    folder = run.require(_FOLDER, "baselines")
    rows = {}
    for key in run.manifest()["stages"][_FOLDER]["config"]["rows"]:
        card = read_json(folder / f"{key}.json")
        baseline = load_baseline(card["kind"], folder / f"{key}.safetensors", card["made_from"], device=device)
        baseline.name = card["name"]
        rows[key] = FittedRow(baseline=baseline, card=card)
    return rows


def _inputs(rows: Mapping[str, BaselineRow], run: Run) -> dict[str, Path]:
    inputs = {"dataset": run.require("dataset", "prepare")}
    needs = {need for row in rows.values() for need in BASELINES[row.settings.kind].needs}
    if "vectors" in needs:
        inputs["vectors"] = run.require("embeddings.safetensors", "embed")
    if "catalog" in needs:
        inputs["catalog"] = run.require("catalog", "tokenize")
    return inputs


def _materials(inputs: Mapping[str, Path]) -> Materials:
    dataset = Dataset.load(inputs["dataset"])
    item_ids = dataset.items["item_id"].to_list()
    catalog = Catalog.load(inputs["catalog"]) if "catalog" in inputs else None
    if catalog is not None:
        catalog.check_fits(item_ids)
    vectors = read_embeddings(inputs["vectors"], item_ids) if "vectors" in inputs else None
    return Materials(dataset=dataset, vectors=vectors, catalog=catalog)


def _made_from(row: BaselineRow, hashes: Mapping[str, str], exclude_history: bool | str, seed: int) -> str:
    config = {key: value for key, value in config_to_mapping(row).items() if key not in ("name", "published")}
    protocol = exclude_history if row.search else None
    return text_hash(json.dumps(config, sort_keys=True), json.dumps(dict(hashes)), str(protocol), str(seed))


def _fit_row(
    key: str,
    row: BaselineRow,
    given: Materials,
    folder: Path,
    made_from: str,
    exclude_history: bool | Literal["auto"],
    seed: int,
    *,
    force: bool,
) -> dict[str, Any]:
    """Returns the row's card, fitted now or before."""
    card_path, file = folder / f"{key}.json", folder / f"{key}.safetensors"
    card: dict[str, Any] = read_json(card_path) if card_path.is_file() and file.is_file() and not force else {}
    if card.get("made_from") != made_from:
        card = _fit(key, row, given, folder, made_from, exclude_history, seed)
    card |= {"name": row.name or card["own_name"], "published": row.published}
    write_json(card_path, card)
    return card


def _fit(
    key: str,
    row: BaselineRow,
    given: Materials,
    folder: Path,
    made_from: str,
    exclude_history: bool | Literal["auto"],
    seed: int,
) -> dict[str, Any]:
    kind = row.settings.kind
    options = combinations(row, seed=seed)
    trials_path = folder / f"{key}.trials.json"
    trials = _known_trials(trials_path, made_from)
    protocol = EvaluateConfig(split="valid", cutoffs=(_CUTOFF,), num_bootstrap=1, exclude_history=exclude_history)

    def score(some: Any) -> float:
        fitted = fit_baseline(kind, given, seed=seed, settings=some)
        found = evaluate_recommender(fitted, given.dataset, protocol, seed=seed).metrics[f"NDCG@{_CUTOFF}"]["value"]
        assert found is not None, "a ranking metric always has a value"
        return found

    def keep(place: int, value: float) -> None:
        trials[place] = value
        tried = write_settings(config_to_mapping(options[place]), row.search)
        log.info("%s: trial %d of %d (%s), valid NDCG@%d %.4f", key, place + 1, len(options), tried, _CUTOFF, value)
        write_json(trials_path, {"made_from": made_from, "valid": {str(at): value for at, value in trials.items()}})

    settings = best_settings(options, score, trials, keep) if len(options) > 1 else row.settings
    if trials:
        chosen, best = write_settings(config_to_mapping(settings), row.search), trials[options.index(settings)]
        log.info("%s: chose %s, valid NDCG@%d %.4f", key, chosen, _CUTOFF, best)
    started, started_cpu = time.perf_counter(), time.process_time()
    fitted = fit_baseline(kind, given, seed=seed, settings=settings)
    fit_s, fit_cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    log.info("fitted %s in %.1f s", row.name or fitted.name, fit_s)
    (folder / f"{key}.json").unlink(missing_ok=True)  # a kill must not leave it beside another fit's file
    fitted.save(folder / f"{key}.safetensors", made_from)
    trials_path.unlink(missing_ok=True)
    return {
        "kind": kind,
        "own_name": fitted.name,
        "made_from": made_from,
        "settings": config_to_mapping(settings),
        "trials": [
            {"settings": config_to_mapping(some), "valid": trials.get(place)} for place, some in enumerate(options)
        ],
        "valid": trials.get(options.index(settings)),
        "fit_s": round(fit_s, 3),
        "fit_cpu_s": round(fit_cpu_s, 3),
        "num_parameters": fitted.num_parameters,
    }


def _known_trials(path: Path, made_from: str) -> dict[int, float]:
    """Returns what a killed search found, by the places of its trials."""
    if not path.is_file():
        return {}
    stored = read_json(path)
    return {int(at): value for at, value in stored["valid"].items()} if stored["made_from"] == made_from else {}


def _remove_others(folder: Path, keys: set[str]) -> None:
    """Removes the files of rows that the recipe has no more."""
    for path in folder.iterdir():
        if path.name.split(".")[0] not in keys:
            path.unlink()


def check_row_names(rows: Mapping[str, BaselineRow]) -> None:
    """Refuses names that cannot be those of files.

    Raises:
        ConfigError: naming the row.
    """
    for key in rows:
        if not key or not all(letter.isalnum() or letter in "-_" for letter in key):
            raise ConfigError(f"baselines.{key}: expected a name of letters, digits, - and _; say it with name instead")
