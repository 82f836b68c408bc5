"""Supervised fine-tuning: a backbone, or a decoder from scratch, learns to speak the catalog's semantic IDs.

The stage reads top to bottom: load data and catalog, make the model, choose what trains, run the loop, save a plain
Hugging Face folder.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from itemic.core.allocator import tune_allocator
from itemic.core.dataset import Dataset, cold_mask
from itemic.core.device import pick_device
from itemic.core.errors import ConfigError
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.language.augment import AugmentConfig
from itemic.language.corpus import Corpus
from itemic.language.prompts import PROMPTS, PromptMode, Renderer, prompt_version
from itemic.language.recency import RecencyConfig
from itemic.language.spelling import SidTokens, Spelling
from itemic.language.tasks import TASKS, ItemTexts, check_tasks
from itemic.model.adapters import LoraConfig, merge_adapters
from itemic.model.backbone import (
    DecoderConfig,
    checkpoint_activations,
    load_backbone,
    make_decoder,
    make_sid_tokenizer,
    make_word_tokenizer,
)
from itemic.model.new_rows import RowInit, codebook_rows, mean_rows, text_rows
from itemic.model.parts import embedding_of
from itemic.model.sid_model import SidModel
from itemic.model.vocabulary import expand_vocabulary
from itemic.sid.catalog import Catalog
from itemic.sid.quantizers.registry import load_quantizer
from itemic.train.learner import SftLearner
from itemic.train.loop import TrainConfig, TrainResult, train
from itemic.train.parameters import TrainedPart, choose_parameters
from itemic.train.stage import TrainingPlace, run_training_stage
from itemic.train.start import load_start
from itemic.train.validation import make_ranking

__all__ = ["SftConfig", "align", "make_learner", "sft"]

log = logging.getLogger("itemic")

_SELECTION_BEAMS = 20


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """What is trained, on which tasks, and how."""

    backbone: str = ""
    """Pretrained causal language model: a folder, a hub name, or ``smollm2-135m``; empty trains ``decoder`` from
    scratch."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Shape of the decoder from scratch."""
    words: int = 0
    """Decoder from scratch: most tokens beside the SIDs' that it reads, words learned from the catalogue's texts and
    the prompts; 4,000 suit a few thousand items. 0 reads SID tokens alone."""
    new_rows: Literal["mean", "text", "codebook"] = "text"
    """First values of the backbone's SID rows: mean of the old rows, mean of the titles' tokens under the code, or
    the codebook vectors projected."""
    decoder_rows: Literal["random", "codebook"] = "random"
    """First values of the SID rows of the decoder from scratch: random ones, or the codebook vectors projected, with
    the spread of the random ones."""
    parameters: TrainedPart = "all"
    """What trains: everything, the rows of the SID tokens alone (the backbone frozen), or those and LoRA adapters."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Shape of the adapters for ``parameters: lora``."""
    tasks: Mapping[str, float] = field(default_factory=lambda: {"next_item": 1.0})
    """For each task how many times an epoch shows each of its examples, on average."""
    max_history: int = 50
    """Most items before a target."""
    stride: int = 25
    """From-scratch decoder: items learned in a full window of a long history. Half of max_history, so that but for
    the beginning of a sequence every target sees at least half a window."""
    row_tokens: int = 512
    """Most tokens of a packed row: longer rows share more prefixes, but attention grows with their square."""
    rows_per_batch: int = 8
    """Packed rows of a micro-batch."""
    select_by: Literal["loss", "ndcg"] = "loss"
    """Validation figure that decides which parameters are kept: loss, or NDCG@10 of constrained beam search, in which
    seen items are no candidates where the dataset has no repeats."""
    max_valid_examples: int = 1000
    """Validation examples whose loss is taken and that are ranked; 0 takes all."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training sequences are perturbed (sid-only prompts)."""
    recency: RecencyConfig = field(default_factory=RecencyConfig)
    """How newer targets are favoured (sid-only prompts)."""
    label_smoothing: float = 0.0
    """Share of each code's target that all codes of its level get; 0.1 in the first Transformer."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """How to optimise."""

    @property
    def prompt_mode(self) -> PromptMode:
        """Whether prompts have words."""
        return "chat" if self.backbone or self.words else "sid-only"

    def __post_init__(self) -> None:
        if self.words < 0 or (self.words and self.backbone):
            raise ConfigError(f"words {self.words}: expected 0 or more, and 0 with a backbone, which has its own")
        check_tasks(dict(self.tasks), self.prompt_mode)
        if self.select_by == "ndcg" and not any(TASKS[name].answer == "sid" for name in self.tasks):
            raise ConfigError("select_by: ndcg ranks by semantic IDs, which none of the tasks teaches; take loss")
        if not 1 <= self.stride <= self.max_history:
            raise ConfigError(f"stride must lie in 1..max_history ({self.max_history}), found {self.stride}")
        for name in ("row_tokens", "rows_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.prompt_mode != "sid-only" and not (self.augment.is_idle and self.recency.is_idle):
            raise ConfigError(
                "augment and recency need sid-only prompts, those of a decoder from scratch without words"
            )
        if self.recency.newest_epochs >= self.training.epochs:
            raise ConfigError(
                f"recency.newest_epochs {self.recency.newest_epochs}: expected fewer than training.epochs "
                f"({self.training.epochs})"
            )
        if self.backbone and self.decoder_rows != "random":
            raise ConfigError(
                f"decoder_rows: {self.decoder_rows} is for a decoder from scratch; a backbone takes new_rows"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing: expected at least 0 and below 1, found {self.label_smoothing}")
        if self.parameters != "all" and not self.backbone:
            raise ConfigError(f"parameters: {self.parameters} needs a backbone; a decoder from scratch trains whole")


def align(config: SftConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Runs supervised fine-tuning as a stage before ``sft``: usually of the SID rows alone; writes ``align/model``.

    Raises:
        ArtifactError: if the dataset or the catalog is missing.
        ConfigError: if there is no backbone to align.
    """
    if not config.backbone:
        raise ConfigError("align: needs a backbone; a decoder from scratch knows nothing that could be kept")
    return _run_stage("align", config, run, None, seed=seed, force=force)


def sft(config: SftConfig, run: Run, *, seed: int, start: str = "", force: bool = False) -> StageResult:
    """Trains the model and writes ``model/`` and ``sft.jsonl``.

    Args:
        config: What and how.
        run: Holds dataset and catalog.
        seed: The run's seed.
        start: Artefact to start from instead of the backbone, ``align/model`` say.
        force: Trains even where nothing changed.

    Raises:
        ArtifactError: if the dataset or the catalog is missing.
        CatalogError: if the model to start from speaks another catalog.
    """
    return _run_stage("sft", config, run, run.require(start, "align") if start else None, seed=seed, force=force)


def _run_stage(name: str, config: SftConfig, run: Run, start: Path | None, *, seed: int, force: bool) -> StageResult:
    inputs = {"dataset": run.require("dataset", "prepare"), "catalog": run.require("catalog", "tokenize")}
    if start is not None:
        inputs["start"] = start
    if config.backbone and Path(config.backbone).is_dir():
        inputs["backbone"] = Path(config.backbone)
    folder = "" if name == "sft" else f"{name}/"

    def train_model(place: TrainingPlace) -> tuple[SidModel, TrainResult]:
        return _train(config, inputs, start, place)

    return run_training_stage(name, config, run, inputs, train_model, folder=folder, seed=seed, force=force)


def _train(
    config: SftConfig,
    inputs: Mapping[str, Path],
    start: Path | None,
    place: TrainingPlace,
) -> tuple[SidModel, TrainResult]:
    tune_allocator()
    model, learner = make_learner(config, inputs["dataset"], inputs["catalog"], start=start, seed=place.seed)
    result = train(learner, config.training, **place.settings())
    model.network = merge_adapters(model.network).eval()
    return model, result


def make_learner(
    config: SftConfig, dataset_path: Path, catalog_path: Path, *, start: Path | None = None, seed: int
) -> tuple[SidModel, SftLearner]:
    """Returns the model to be trained, and what the loop trains it by.

    Args:
        config: What and how.
        dataset_path: ``dataset/`` of a run.
        catalog_path: ``catalog/`` of a run.
        start: Model folder to start from instead of the backbone.
        seed: The run's seed.

    Raises:
        ArtifactError: if dataset or catalog are missing or damaged.
        ConfigError: if the backbone cannot be loaded.
    """
    dataset, catalog = Dataset.load(dataset_path), Catalog.load(catalog_path)
    catalog.check_fits(dataset.items["item_id"].to_list())
    model = _make_model(config, dataset, catalog, catalog_path, start, seed)
    choose_parameters(model, config.parameters, config.lora, seed)
    if config.training.gradient_checkpointing:
        checkpoint_activations(model.network)
    renderer = Renderer(model.tokenizer, model.spelling, catalog.codes, model.prompt_mode)
    corpus = Corpus(
        dataset,
        renderer,
        config.tasks,
        max_history=config.max_history,
        stride=config.stride,
        augment=config.augment,
        recency=config.recency,
    )
    learner = SftLearner(
        model,
        corpus,
        row_tokens=config.row_tokens,
        rows_per_batch=config.rows_per_batch,
        seed=seed,
        max_valid_examples=config.max_valid_examples,
        ranking=_ranking(config, dataset, catalog, model, renderer, seed) if config.select_by == "ndcg" else None,
        label_smoothing=config.label_smoothing,
        newest_from=config.training.epochs - config.recency.newest_epochs if config.recency.newest_epochs else None,
    )
    return model, learner


def _make_model(
    config: SftConfig, dataset: Dataset, catalog: Catalog, catalog_path: Path, start: Path | None, seed: int
) -> SidModel:
    """Returns the model to train, with a row for every SID token."""
    device = pick_device(config.training.device)
    if start is not None:
        return load_start(start, catalog, device, stage="align", tasks=config.tasks)
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    rng = derive_rng(seed, "model")
    if config.backbone:
        network, tokenizer = load_backbone(config.backbone, device=device)
        init = _row_init(config, dataset, catalog, catalog_path, tokenizer)
        expand_vocabulary(network, tokenizer, spelling, init, rng=rng)
    else:
        tokenizer = _make_tokenizer(config, dataset, spelling)
        network = make_decoder(config.decoder, len(tokenizer), rng)
        if config.decoder_rows == "codebook":
            _begin_with_codebooks(network, tokenizer, spelling, _codebooks(catalog_path), derive_rng(seed, "rows"))
        network = network.to(device)
    return SidModel(
        network,
        tokenizer,
        spelling,
        prompt_mode=config.prompt_mode,
        prompt_version=prompt_version(config.tasks),
        catalog_version=catalog.version,
    )


def _make_tokenizer(config: SftConfig, dataset: Dataset, spelling: Spelling) -> Any:
    if not config.words:
        return make_sid_tokenizer(spelling)
    texts = ItemTexts.from_items(dataset.items)
    return make_word_tokenizer([*PROMPTS.values(), *texts.titles, *texts.descriptions], spelling, config.words)


def _row_init(config: SftConfig, dataset: Dataset, catalog: Catalog, catalog_path: Path, tokenizer: Any) -> RowInit:
    if config.new_rows == "mean":
        return mean_rows
    if config.new_rows == "codebook":
        return functools.partial(codebook_rows, codebooks=_codebooks(catalog_path))
    titles = ItemTexts.from_items(dataset.items).titles
    is_cold = cold_mask(dataset.items)
    token_ids = [
        tokenizer.encode(title, add_special_tokens=False) if title and not cold else []
        for title, cold in zip(titles, is_cold, strict=True)
    ]
    return functools.partial(text_rows, codes=catalog.codes, token_ids=token_ids)


def _codebooks(catalog_path: Path) -> Sequence[Float[np.ndarray, "_ d"]]:
    path = catalog_path / "quantizer.safetensors"
    if not path.is_file():
        raise ConfigError("rows from a codebook need a catalog with a quantizer; its SIDs were given without vectors")
    return load_quantizer(path).codebooks


def _begin_with_codebooks(
    network: Any,
    tokenizer: Any,
    spelling: Spelling,
    codebooks: Sequence[Float[np.ndarray, "_ d"]],
    rng: np.random.Generator,
) -> None:
    """Puts the codebook vectors, projected, into the rows of the coded levels; the other rows stay random."""
    table = embedding_of(network).weight
    ids = np.concatenate(SidTokens.from_tokenizer(tokenizer, spelling).level_ids[: len(codebooks)])
    rows = codebook_rows(table.detach(), spelling, rng, codebooks=codebooks, spread=1.0)
    table.data[torch.from_numpy(ids)] = rows[: len(ids)].to(table)


def _ranking(
    config: SftConfig, dataset: Dataset, catalog: Catalog, model: SidModel, renderer: Renderer, seed: int
) -> Callable[[], dict[str, float]]:
    return make_ranking(
        dataset,
        catalog,
        model,
        renderer,
        max_history=config.max_history,
        max_examples=config.max_valid_examples,
        num_beams=_SELECTION_BEAMS,
        cutoffs=(10,),
        labels=("NDCG@10", "HR@10"),
        seed=seed,
    )
