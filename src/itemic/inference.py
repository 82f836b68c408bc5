"""A trained run, ready to recommend: dataset, catalog and model of a run folder behind ids and titles."""

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from itemic.core.allocator import tune_allocator
from itemic.core.calibration import Calibration
from itemic.core.dataset import Dataset
from itemic.core.device import pick_device
from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.core.files import file_hash
from itemic.core.ranking import Histories, Recommendations, check_histories
from itemic.core.run import Run
from itemic.core.trained_model import ModelChoice, TrainedModel, check_has_model, find_model
from itemic.data.live import lay_over
from itemic.data.lookup import ItemLookup
from itemic.decode.conditions import Where
from itemic.decode.diversity import MarginalRelevance, PrefixQuota
from itemic.decode.policy import CatalogPolicy
from itemic.decode.recommender import LanguageModelRecommender, check_search_settings, top_probabilities
from itemic.decode.think import ThinkConfig, Thoughts
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization
from itemic.hybrid.blend import Blend
from itemic.hybrid.stage import LoadedModel, LoadModel, load_blend
from itemic.language.prompts import PROMPT_VERSION, Renderer, is_current_version
from itemic.model.precision import Precision
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog

__all__ = ["RecommendedItem", "RecommendedItems", "TrainedRun", "load_trained", "model_loader", "save_calibration"]

log = logging.getLogger("itemic")

_CALIBRATIONS = {"sft": "calibration.json", "rl": "rl/calibration.json"}
"""Each model's own, by the stage that wrote it."""


@dataclass(frozen=True, kw_only=True)
class RecommendedItem:
    """One line of an answer."""

    rank: int
    item_id: str
    title: str
    sid: str
    probability: float
    """Of the item's semantic ID among all in the catalog, given the history; in a calibrated run the share of items
    with such a probability that were the user's next one."""


class RecommendedItems(list[RecommendedItem]):
    """An answer, best first; a list that also knows how many items might have been in it."""

    def __init__(
        self, items: Iterable[RecommendedItem], num_allowed: int, thought: str | None = None, num_seen: int = 0
    ) -> None:
        """Keeps the items, the number of items that the filters left, and what the model thought before, if it did.

        An answer shorter than both ``num_allowed`` and what was asked for did not reach all that were allowed.
        ``num_seen`` more would have been allowed, had they not been in the history.
        """
        super().__init__(items)
        self.num_allowed = num_allowed
        self.thought = thought
        self.num_seen = num_seen


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """What a finished run can do."""

    dataset: Dataset
    catalog: Catalog
    renderer: Renderer
    recommender: LanguageModelRecommender
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What its answers follow from beside the request: equal identities give equal lists, but for rounding."""
    calibration: Calibration | None = None
    """From the model's probabilities to how often they are right; None shows the model's own."""
    max_history: int | None = None
    """Items of a history that the model reads, the last ones; None for all."""
    precision: str | None = None
    """Number format that the layers compute in, where ``identity`` holds the one asked for; None if nobody said."""
    stage: Literal["sft", "rl"] = "sft"
    """The stage that wrote the model."""
    num_parameters: int | None = None
    """Numbers of the model's network, each once."""
    blend: Blend | None = None
    """What ranks instead of the model alone; None where the model does."""

    def __repr__(self) -> str:
        return f"TrainedRun({self.catalog!r}, {self.recommender!r})"

    @property
    def model(self) -> CatalogPolicy:
        """The language model, as ``decode.constrained_beam_search`` and its kin take it."""
        return self.recommender.model

    @property
    def trie(self) -> Trie:
        """The tree of the catalog's active items, on the model's device."""
        return self.recommender.trie

    def prompt(self, history: Sequence[int]) -> list[int]:
        """Returns the token ids of the prompt after which a next item's semantic ID follows.

        Args:
            history: Item indices, oldest first; only the last ``max_history`` are read, as in training and serving.

        Raises:
            DataError: if an item index is not in the catalogue.
        """
        check_histories([history], self.catalog.num_items, "history")
        return self.renderer.next_item_prompt(_last(history, self.max_history))

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        where: Where = (),
        exclude_seen: bool | None = None,
    ) -> RecommendedItems:
        """Returns the best items after a history, best first; fewer than ``k`` where fewer are allowed.

        Args:
            history: Item ids or titles, oldest first; may be empty.
            k: Number of items.
            exclude: Ids or titles that must not appear.
            allow: The only ids or titles that may appear; None allows the whole catalogue.
            where: A condition on the catalogue's columns that every item must fulfil, ``"stock > 0"`` say, or several;
                text or polars expressions (see ``decode.conditions``).
            exclude_seen: Whether items of the history are left out; None does so where the dataset holds no repeats.

        Raises:
            DataError: if an id or title is not in the catalogue; the nearest titles are named. If an allowed item is
                retired.
            ConfigError: if a condition cannot be understood, or goes with no column or its type.
        """
        items = self.dataset.items
        past = self._lookup.find(history, "history")
        forbidden = [self._lookup.find(exclude, "exclude")]
        allowed = None if allow is None else [self._recommendable(self._lookup.find(allow, "allow"))]
        lists, thoughts = self._ask([past], k, forbidden, allowed, [where], exclude_seen)
        found = zip(lists.item_index[0].tolist(), self.probabilities(lists)[0].tolist(), strict=True)
        listed = [
            RecommendedItem(
                rank=rank,
                item_id=items["item_id"][index],
                title=items["title"][index] or "",
                sid=self.renderer.sid_text(index),
                probability=probability,
            )
            for rank, (index, probability) in enumerate(found, start=1)
            if index >= 0
        ]
        assert lists.num_allowed is not None, "a language model counts what is allowed"
        thought = None if thoughts is None else self.renderer.tokenizer.decode(thoughts.lists()[0])
        num_allowed, num_seen = int(lists.num_allowed[0]), 0
        if past and self._leaves_out_seen(exclude_seen):
            num_seen = int(self.recommender.count_allowed(1, forbidden, allowed, [where])[0]) - num_allowed
        return RecommendedItems(listed, num_allowed, thought, num_seen)

    def recommend_many(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        where: Sequence[Where | None] | None = None,
        *,
        exclude_seen: bool | None = None,
        rows: Sequence[int] | None = None,
    ) -> Recommendations:
        """Returns the ``k`` best items after each history, all as item indices.

        Args:
            histories: For each user the item indices of the past, oldest first; may be empty.
            k: Number of items.
            exclude: For each user items that must not appear.
            allow: For each user the only items that may appear; None allows the whole catalogue.
            where: For each user a condition on the catalogue's columns that every item must fulfil, or several.
            exclude_seen: Whether items of the history are left out; None does so where the dataset holds no repeats.
            rows: For each user the number that the draws of a thought are made from, if the model thinks: a place in
                all of a table, say. The place in this call where None.

        Raises:
            DataError: if an item index is not in the catalogue or ``k`` is less than 1.
            ConfigError: if a condition cannot be understood, or goes with no column or its type.
        """
        return self._ask(histories, k, exclude, allow, where, exclude_seen, rows)[0]

    def at(self, moment: datetime) -> "TrainedRun":
        """Returns the same run for which it is always ``moment`` (with a zone): ``within`` counts back from it."""
        return replace(self, recommender=self.recommender.at(moment))

    def with_items(self, items: pl.DataFrame | Path | str) -> "TrainedRun":
        """Returns the same run whose conditions also read a table of live columns: today's stock, say.

        Those of another such table are gone. Prompts and titles stay as they are.

        Args:
            items: A table of ``item_id`` and any columns, or its Parquet or CSV file. Its columns take the place of
                the catalogue's of the same name; an item without a row has no value in them.

        Raises:
            DataError: if it cannot be read, has no ``item_id`` or one twice, or none that is an item's.
        """
        columns, content = lay_over(self.dataset.items, items)
        identity = {**self.identity, "items": content}
        return replace(self, recommender=self.recommender.with_items(columns), identity=identity)

    def after_thinking(self, config: ThinkConfig | None = None) -> "TrainedRun":
        """Returns the same run with the model thinking before each answer, which then holds the thought.

        Whether that helps is for the user to measure: the stages of itemic train no thoughts, so it is for backbones
        that learned to think elsewhere. Probabilities are not calibrated after a thought.

        Args:
            config: How thoughts are written.

        Raises:
            ConfigError: if the model was trained with sid-only prompts and so has no words.
        """
        if self.blend is not None:
            raise ConfigError("a blend does not think; load the run without it")
        config, frame, num_read = config or ThinkConfig(), self.renderer.thought_tokens(), self.max_history

        def prompt(history: Sequence[int]) -> Sequence[int]:
            return self.renderer.thinking_prompt(_last(history, num_read))

        recommender = self.recommender.after_thinking(prompt, frame, config)
        identity = {**self.identity, "think": asdict(config)}
        return replace(self, recommender=recommender, identity=identity, calibration=None)

    def _ask(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None,
        allow: Histories | None,
        where: Sequence[Where | None] | None,
        exclude_seen: bool | None = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Recommendations, Thoughts | None]:
        if exclude is not None and len(exclude) != len(histories):
            raise DataError(f"exclude has {len(exclude)} lists for {len(histories)} histories")
        check_histories(histories, self.catalog.num_items)
        if self._leaves_out_seen(exclude_seen):
            exclude = [[*items, *past] for items, past in zip(exclude or [()] * len(histories), histories, strict=True)]
        if self.blend is not None:
            allowed = self.recommender.allowed_items(len(histories), exclude, allow, where)
            return self.blend.recommend_allowed(histories, k, allowed), None
        return self.recommender.recommend_with_thoughts(histories, k, exclude, allow, where=where, rows=rows)

    def _leaves_out_seen(self, exclude_seen: bool | None) -> bool:
        return not self.dataset.keeps_repeats if exclude_seen is None else exclude_seen

    def probabilities(self, lists: Recommendations) -> Float[np.ndarray, "B k"]:
        """Returns each listed item's probability, calibrated where the run is, and 0 where a list has ended."""
        stated = top_probabilities(lists)
        return stated if self.calibration is None else self.calibration.apply(stated)

    @functools.cached_property
    def _lookup(self) -> ItemLookup:
        return ItemLookup(self.dataset.items)

    def _recommendable(self, rows: list[int]) -> list[int]:
        retired = [self.catalog.item_ids[row] for row in rows if not self.catalog.active[row]]
        if retired:
            raise DataError(f"{retired[0]!r} is retired and cannot be allowed (of those named: {len(retired)})")
        return rows


def load_trained(
    folder: Path | str,
    *,
    model: ModelChoice = "last",
    name: str = "itemic",
    num_beams: int = 50,
    normalize: Normalization = "legal",
    batch_size: int = 16,
    device: str = "auto",
    dtype: Precision = "auto",
    allow_catalog_change: bool = False,
    quota: PrefixQuota | None = None,
    mmr: MarginalRelevance | None = None,
    calibrated: bool = True,
    items: pl.DataFrame | Path | str | None = None,
    blend: bool = False,
) -> TrainedRun:
    """Returns a run's dataset, catalog and model, ready to recommend.

    Args:
        folder: A run folder in which the stages up to ``sft`` are done.
        model: Which of the run's models: ``last``, which is the one after RL where there is one, ``sft`` or ``rl``.
        name: What tables call it.
        num_beams: Beam width; a list longer than that raises it to its own length.
        normalize: What scores are normalised over.
        batch_size: Prompts decoded at once.
        device: Where to compute.
        dtype: Number format to compute in; ``auto`` is float32 on a CPU, bfloat16 on CUDA.
        allow_catalog_change: Whether another catalog than the model was trained on will do, one that grew since say.
        quota: At most so many items of a list under one prefix of codes.
        mmr: Re-ranks each list so that its items are unlike each other.
        calibrated: Whether to show calibrated probabilities where the run has a ``calibration.json``.
        items: What conditions read beside the catalogue's own columns, today's stock say; ``TrainedRun.with_items``.
        blend: Whether the run's blend ranks, with its own probabilities and beam width; ``model`` must be the blend's.

    Raises:
        ConfigError: if a setting cannot be honoured, another model or normalisation than the blend's say.
        ArtifactError: if an artefact is missing, the model was trained with other prompts than these, RL began from
            an older model than the run's, or the calibration was fitted with another model or catalog.
        CatalogError: if the model was trained on another catalog and that is not allowed, or cannot write its SIDs.
        DataError: if ``items`` cannot be read, has no ``item_id`` or one twice, or none that is an item's.
    """
    check_search_settings(num_beams, batch_size, normalize)
    tune_allocator()
    run = Run(Path(folder))
    dataset, catalog = _load_items(run)
    chosen = find_model(run, model)
    sid_model = _load_model(chosen, device)
    num_parameters, precision = sid_model.num_parameters, sid_model.prepare_for_inference(dtype)
    recommender = LanguageModelRecommender(
        sid_model,
        catalog,
        lambda history: renderer.next_item_prompt(_last(history, chosen.max_history)),
        num_beams=num_beams,
        normalize=normalize,
        batch_size=batch_size,
        name=name,
        allow_catalog_change=allow_catalog_change,
        items=dataset.items,
        quota=quota,
        mmr=mmr,
        trie_path=run.path("trie.safetensors"),
    )
    renderer = Renderer(sid_model.tokenizer, sid_model.spelling, catalog.codes, sid_model.prompt_mode)
    settings = {"num_beams": num_beams, "normalize": normalize, "dtype": dtype}
    trained = TrainedRun(
        dataset,
        catalog,
        renderer,
        recommender,
        settings | _identity(run, catalog, chosen, quota, mmr),
        max_history=chosen.max_history,
        precision=precision,
        stage=chosen.stage,
        num_parameters=num_parameters,
    )
    trained = trained if items is None else trained.with_items(items)
    if blend:
        return _with_blend(trained, run, device, dtype, allow_catalog_change)
    return _with_calibration(trained, run) if calibrated else trained


def model_loader(**options: Any) -> LoadModel:
    """Returns what loads the language models of a blend.

    Args:
        options: Of ``load_trained``, but for ``model`` and ``normalize``, which the blend knows.
    """

    def load(folder: Path, model: ModelChoice, normalize: Normalization) -> LoadedModel:
        return _as_member(load_trained(folder, model=model, normalize=normalize, calibrated=False, **options))

    return load


def _as_member(trained: TrainedRun) -> LoadedModel:
    assert trained.num_parameters is not None, "load_trained counts them"
    return LoadedModel(recommender=trained.recommender, num_parameters=trained.num_parameters)


def _with_blend(trained: TrainedRun, run: Run, device: str, dtype: Precision, allow_catalog_change: bool) -> TrainedRun:
    """Returns the same run ranked by its blend; the run's own model is not loaded twice.

    Raises:
        ConfigError: if the weights were fitted to another of its models, or to scores normalised in another way.
    """
    if trained.identity["quota"] is not None or trained.identity["mmr"] is not None:
        raise ConfigError("a blend ranks without quotas and MMR; leave them out, or load the run without the blend")
    batch_size = trained.recommender.batch_size
    others = model_loader(batch_size=batch_size, device=device, dtype=dtype, allow_catalog_change=allow_catalog_change)

    def load_model(folder: Path, model: ModelChoice, normalize: Normalization) -> LoadedModel:
        if folder != run.folder:
            return others(folder, model, normalize)
        fitted, path = find_model(run, model), run.path("blend.json")
        if fitted.content != trained.identity["model"]:
            raise ConfigError(
                f"{path}: its weights were fitted to the model of {fitted.stage}, found that of {trained.stage}; load "
                f"the run with model {fitted.stage} (--model {fitted.stage}), or without the blend"
            )
        if normalize != trained.identity["normalize"]:
            raise ConfigError(
                f"{path}: its weights were fitted to scores with normalize {normalize}, found "
                f"{trained.identity['normalize']}"
            )
        return _as_member(trained)

    blended = load_blend(run, load_model, device=device)
    identity = {**trained.identity, "blend": file_hash(run.path("blend.json"))}
    return replace(trained, blend=blended, identity=identity)


def save_calibration(folder: Path | str, trained: TrainedRun, calibration: Calibration) -> Path:
    """Writes the calibration of a trained run into its folder and returns the path; each of its models has its own.

    The file says with what it was fitted: the model and the catalog, which it is refused for any others of, and the
    number format, among the figures, since another one changes probabilities little.
    """
    path = Run(Path(folder)).path(_CALIBRATIONS[trained.stage])
    figures = {"dtype": trained.precision, **calibration.figures}
    replace(calibration, made_for=_calibrated_for(trained), figures=figures).save(path)
    return path


def _last(history: Sequence[int], num_items: int | None) -> Sequence[int]:
    """Returns the last items of a history, all of them where None."""
    return history if num_items is None else history[-num_items:]


def _load_items(run: Run) -> tuple[Dataset, Catalog]:
    check_has_model(run)
    dataset = Dataset.load(run.require("dataset", "prepare"))
    catalog = Catalog.load(run.require("catalog", "tokenize"))
    catalog.check_fits(dataset.items["item_id"].to_list())
    return dataset, catalog


def _load_model(chosen: TrainedModel, device: str) -> SidModel:
    model = SidModel.load(chosen.path, pick_device(device))
    if not is_current_version(model.prompt_version):
        raise ArtifactError(
            f"{chosen.path}: trained with prompts of version {model.prompt_version}, this itemic has {PROMPT_VERSION}; "
            "train it again"
        )
    return model


def _identity(
    run: Run, catalog: Catalog, chosen: TrainedModel, quota: PrefixQuota | None, mmr: MarginalRelevance | None
) -> dict[str, Any]:
    return {
        "catalog": catalog.version,
        # By the card, which has a hash of each of the dataset's files.
        "dataset": file_hash(run.path("dataset") / "dataset.json"),
        "model": chosen.content,
        "quota": None if quota is None else asdict(quota),
        "mmr": None if mmr is None else mmr.identity,
    }


def _with_calibration(trained: TrainedRun, run: Run) -> TrainedRun:
    path = run.path(_CALIBRATIONS[trained.stage])
    if not path.exists():
        _warn_of_other_calibration(trained, run)
        return trained
    if trained.identity["normalize"] != "legal":
        log.warning("%s is for legal normalisation: probabilities are shown as the model states them", path)
        return trained
    calibration = Calibration.load(path, _calibrated_for(trained))
    identity = {**trained.identity, "calibration": file_hash(path)}
    return replace(trained, calibration=calibration, identity=identity)


def _calibrated_for(trained: TrainedRun) -> dict[str, str]:
    return {name: trained.identity[name] for name in ("model", "catalog")}


def _warn_of_other_calibration(trained: TrainedRun, run: Run) -> None:
    others = [run.path(file) for stage, file in _CALIBRATIONS.items() if stage != trained.stage]
    for path in others:
        if path.exists():
            log.warning(
                "%s is for another model than that of %s: probabilities are shown as the model states them, until you "
                "run itemic calibrate --model %s",
                path,
                trained.stage,
                trained.stage,
            )
