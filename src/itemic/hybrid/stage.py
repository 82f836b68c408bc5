"""The stage ``blend``: weighs what a run has fitted, on valid, and writes ``blend.json``; and reads it back."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from itemic.baselines.registry import load_baseline
from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError, DataError
from itemic.core.files import file_hash, read_json, text_hash, write_json
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.core.trained_model import ModelChoice, find_model
from itemic.decode.recommender import LanguageModelRecommender
from itemic.decode.walk import Normalization
from itemic.evaluate.protocol import EvaluateConfig, EvaluationSet, evaluation_set
from itemic.hybrid.blend import Blend, SearchedBlend
from itemic.hybrid.choices import make_choices
from itemic.hybrid.config import DENSE_HEAD, LANGUAGE_MODEL, BlendConfig
from itemic.hybrid.dense_head import DenseHead
from itemic.hybrid.features import FeatureSet, Member, popularity_counts
from itemic.hybrid.fit import fit_weights, ranking_figures
from itemic.hybrid.members import LanguageMember, RowMember
from itemic.model.precision import Precision
from itemic.sid.catalog import Catalog
from itemic.sid.vectors import read_embeddings

__all__ = ["LoadModel", "LoadedModel", "blend", "load_blend"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A language model of a run, ready to recommend."""

    recommender: LanguageModelRecommender
    """Ranks by it."""
    num_parameters: int
    """Numbers of its network as it was trained, each once."""


LoadModel = Callable[[Path, ModelChoice, Normalization], LoadedModel]
"""From a run's folder, which of its models and what scores are normalised over to the model."""

_FORMAT = 2
_FILE = "blend.json"
_HEAD_FILE = "dense_head.safetensors"
_NUM_MEASURED = 256
"""Histories by which quantiles of scores are measured."""


def blend(
    config: BlendConfig,
    run: Run,
    load_model: LoadModel,
    *,
    seed: int,
    exclude_history: bool | Literal["auto"] = "auto",
    normalize: Normalization = "legal",
    dtype: Precision = "float32",
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> StageResult:
    """Returns the stage's result after fitting the weights to valid and writing them.

    The figures that it writes are out of fold for the weights. They are not for the members: those that chose an epoch,
    a setting or a checkpoint did so on the same examples.

    Args:
        config: Members and fit.
        run: Holds dataset, baselines and, where they are members, catalog, model and text vectors.
        load_model: Loads the language models.
        seed: The run's seed.
        exclude_history: The protocol's: items that are no candidates there are none here.
        normalize: What scores of language models are normalised over.
        dtype: Number format that ``load_model`` computes in, for weights are fitted to its rounding.
        device: Where baselines with networks compute.
        force: Fits again even where nothing changed.
        quiet: Whether to say nothing where nothing changed.

    Raises:
        ArtifactError: if a member is missing, or another run has other items.
        ConfigError: if a baseline cannot be a member.
        DataError: if valid has too few examples.
    """
    inputs = _inputs(config, run)
    made_from = _identities(config, run)
    outputs = [_FILE, _HEAD_FILE] if DENSE_HEAD in config.members else [_FILE]

    def work() -> dict[str, Any]:
        dataset = Dataset.load(inputs["dataset"])
        models = _load_models(config, run, load_model, normalize)
        recommenders = [each.recommender for each in models]
        if DENSE_HEAD in config.members:
            _fit_head(run, recommenders[0], dataset, _head_made_from(made_from), seed)
        members = _open_members(config, run, recommenders, dataset, made_from, device=device)
        protocol = EvaluateConfig(split="valid", exclude_history=exclude_history, max_examples=config.max_examples)
        cases = evaluation_set(dataset, protocol, seed=seed)
        fitted = _fit(config, members, cases, popularity_counts(dataset), _active_items(run, dataset), seed)
        fitted["num_parameters"] = len(fitted["weights"]) + _num_parameters(members, models)
        settings = {"config": config_to_mapping(config), "normalize": normalize, "dtype": dtype}
        write_json(run.path(_FILE), {"format": _FORMAT, **settings, "made_from": _with_head(made_from, run), **fitted})
        return {"out_of_fold": fitted["valid"]["out_of_fold"], "l2": fitted["l2"]}

    options = {
        **config_to_mapping(config),
        "exclude_history": exclude_history,
        "normalize": normalize,
        "dtype": dtype,
    }
    return run.stage("blend", work, config=options, inputs=inputs, outputs=outputs, seed=seed, force=force, quiet=quiet)


def load_blend(run: Run, load_model: LoadModel, *, device: str = "auto") -> Blend:
    """Returns the blend of a run's ``blend.json``.

    Args:
        run: The run.
        load_model: Loads the language models; it is asked for those, normalised so, that the weights were fitted to.
        device: Where baselines with networks compute.

    Raises:
        ArtifactError: if there is no blend, another itemic wrote it, or a member changed since it was fitted.
    """
    path = run.require(_FILE, "blend")
    card = read_json(path)
    if card.get("format") != _FORMAT:
        raise ArtifactError(f"{path}: expected format {_FORMAT}, found {card.get('format')}; run itemic blend again")
    config = config_from_mapping(BlendConfig, card["config"], source=str(path))
    made_from = _identities(config, run)
    for name, content in _with_head(made_from, run).items():
        if card["made_from"].get(name) != content:
            raise ArtifactError(f"{path}: {name} changed since the blend was fitted; run itemic blend again")
    dataset = Dataset.load(run.require("dataset", "prepare"))
    models = [each.recommender for each in _load_models(config, run, load_model, card["normalize"])]
    members = _open_members(config, run, models, dataset, made_from, device=device)
    features = FeatureSet.from_plain(card["epsilons"], popularity_counts(dataset))
    blended = Blend(members, features, card["weights"], _active_items(run, dataset), config.name)
    return SearchedBlend(blended, models[0].recommend_with_prior) if config.search == "prior" else blended


def _fit(
    config: BlendConfig,
    members: Sequence[Member],
    cases: EvaluationSet,
    counts: Mapping[str, Int[np.ndarray, "N"]],
    is_active: Bool[np.ndarray, "N"],
    seed: int,
) -> dict[str, Any]:
    """Returns what the blend's file says beside its members."""
    rows = _usable(cases, is_active)
    histories, excluded = cases.histories(rows), cases.excluded(rows)
    features = FeatureSet.measure(members, histories[:_NUM_MEASURED], counts)
    table = make_choices(
        members,
        features,
        histories,
        cases.target[rows],
        is_active,
        excluded,
        max_candidates=config.max_candidates,
        seed=seed,
    )
    rng = derive_rng(seed, "blend", "folds")
    fitted = fit_weights(table, cases.owner[rows], penalties=config.penalties, num_folds=config.num_folds, rng=rng)
    alone = {}
    for member in members:
        weights = np.array([float(name == member.name) for name in features.names])
        figures = ranking_figures(table, np.tile(weights, (len(rows), 1)))
        alone[member.name] = {label: figures[label] for label in ("HR@10", "NDCG@10")}
    return {
        "epsilons": features.plain(),
        "weights": dict(zip(features.names, fitted.weights.tolist(), strict=True)),
        "l2": fitted.l2,
        "num_folds": fitted.num_folds,
        "num_examples": len(rows),
        "valid": {
            "members": alone,
            "out_of_fold": fitted.out_of_fold,
            "log_likelihood": {str(l2): value for l2, value in fitted.log_likelihood.items()},
        },
    }


def _num_parameters(members: Sequence[Member], models: Sequence[LoadedModel]) -> int:
    """Returns the numbers fitted for the members, each language model once however many of them read it."""
    return sum(member.num_parameters for member in members) + sum(model.num_parameters for model in models)


def _usable(cases: EvaluationSet, is_active: Bool[np.ndarray, "N"]) -> Int[np.ndarray, "b"]:
    """Returns the examples whose target may be recommended."""
    usable = is_active[cases.target]
    if cases.seen is not None:
        usable &= ~cases.seen.holds_target
    if not usable.any():
        raise DataError("valid has no example whose target may be recommended: there is nothing to fit a blend to")
    return np.flatnonzero(usable)


def _fit_head(run: Run, model: LanguageModelRecommender, dataset: Dataset, made_from: str, seed: int) -> None:
    vectors = read_embeddings(run.path("embeddings.safetensors"), dataset.items["item_id"].to_list())
    rng = derive_rng(seed, "blend", DENSE_HEAD)
    histories, target = dataset.train["history"].to_list(), dataset.train["target"].to_numpy()
    DenseHead.fit(model, histories, target, vectors, rng).save(run.path(_HEAD_FILE), made_from)


def _load_models(config: BlendConfig, run: Run, load_model: LoadModel, normalize: Normalization) -> list[LoadedModel]:
    """Returns the run's own model and those of the others, with the blend's beam width.

    Raises:
        ArtifactError: if another run has other items.
    """
    if not config.needs_model:
        return []
    own = Dataset.load(run.path("dataset")).items["item_id"]
    for folder in config.runs:
        other = Dataset.load(Run(folder).require("dataset", "prepare")).items["item_id"]
        if not own.equals(other):
            raise ArtifactError(f"{folder}: a run of other items than {run.folder}, or of another order; cannot blend")
    models = [load_model(folder, config.model, normalize) for folder in (run.folder, *map(Path, config.runs))]
    return [replace(each, recommender=each.recommender.with_beams(config.num_beams)) for each in models]


def _open_members(
    config: BlendConfig,
    run: Run,
    models: Sequence[LanguageModelRecommender],
    dataset: Dataset,
    made_from: Mapping[str, str],
    *,
    device: str,
) -> list[Member]:
    members: list[Member] = []
    for name in config.members:
        if name == LANGUAGE_MODEL and config.average == "probability":
            members.append(_language_member(name, models, config, dataset))
        elif name == LANGUAGE_MODEL:
            members.append(_language_member(name, models[:1], config, dataset))
            members += [
                _language_member(f"{name} {place}", [other], config, dataset)
                for place, other in enumerate(models[1:], start=2)
            ]
        elif name == DENSE_HEAD:
            vectors = read_embeddings(run.path("embeddings.safetensors"), dataset.items["item_id"].to_list())
            members.append(DenseHead.load(run.path(_HEAD_FILE), _head_made_from(made_from), models[0], vectors))
        else:
            card = read_json(run.path(f"baselines/{name}.json"))
            row = load_baseline(
                card["kind"], run.path(f"baselines/{name}.safetensors"), card["made_from"], device=device
            )
            members.append(RowMember(name, row))
    return members


def _language_member(
    name: str, models: Sequence[LanguageModelRecommender], config: BlendConfig, dataset: Dataset
) -> LanguageMember:
    return LanguageMember(name, models, dataset.num_items, config.num_beams)


def _inputs(config: BlendConfig, run: Run) -> dict[str, Path]:
    inputs = {"dataset": run.require("dataset", "prepare")}
    for row in config.rows:
        inputs[f"baselines/{row}"] = run.require(f"baselines/{row}.safetensors", "baselines")
    if config.needs_model:
        inputs["catalog"] = run.require("catalog", "tokenize")
        inputs["model"] = find_model(run, config.model).path
        inputs |= {f"run {folder}": find_model(Run(folder), config.model).path for folder in config.runs}
    if DENSE_HEAD in config.members:
        inputs["vectors"] = run.require("embeddings.safetensors", "embed")
    return inputs


def _identities(config: BlendConfig, run: Run) -> Mapping[str, str]:
    """Returns the hash of everything that the stage reads, by a name for messages."""
    inputs = _inputs(config, run)
    found = {name: file_hash(path) for name, path in inputs.items() if path.is_file()}
    found["dataset"] = file_hash(inputs["dataset"] / "dataset.json")
    if config.needs_model:
        found["catalog"] = Catalog.load(inputs["catalog"]).version
        found["model"] = find_model(run, config.model).content
        found |= {f"run {folder}": find_model(Run(folder), config.model).content for folder in config.runs}
    return found


def _with_head(made_from: Mapping[str, str], run: Run) -> dict[str, str]:
    """Returns the same with the dense head's file where it is a member: only then are vectors read."""
    head = {DENSE_HEAD: file_hash(run.require(_HEAD_FILE, "blend"))} if "vectors" in made_from else {}
    return {**made_from, **head}


def _head_made_from(made_from: Mapping[str, str]) -> str:
    return text_hash(json.dumps([made_from[name] for name in ("dataset", "catalog", "model", "vectors")]))


def _active_items(run: Run, dataset: Dataset) -> Bool[np.ndarray, "N"]:
    if not run.path("catalog").exists():
        return np.ones(dataset.num_items, dtype=bool)
    active: np.ndarray = np.asarray(Catalog.load(run.path("catalog")).active)
    return active
