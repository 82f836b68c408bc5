"""One candidate of a screening, trained a little further and judged on each task; knows no other candidate.

Also what turns the figures of several candidates into scores.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itemic.core.dataset import Dataset
from itemic.core.device import pick_device
from itemic.core.errors import ConfigError, DataError
from itemic.core.files import path_hash, text_hash
from itemic.core.seeds import derive_rng
from itemic.language.augment import AugmentConfig
from itemic.language.corpus import Corpus
from itemic.language.packing import Group, pack_rows
from itemic.language.prompts import Renderer
from itemic.language.recency import RecencyConfig
from itemic.language.tasks import TASKS
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.studies.scaling import decoder_of_size
from itemic.train.learner import NextTokenLoss, batch_tensors
from itemic.train.loop import train
from itemic.train.sft import SftConfig, make_learner
from itemic.train.validation import make_ranking

__all__ = ["NDCG", "Candidate", "find_candidate", "rank_scores", "screen"]

NDCG = "NDCG@10"
_ROW_TOKENS = 1024
_ENDLESS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backbone to choose from, and the training that it gets."""

    name: str
    """As it was given: ``decoder:64x2``, ``words:64x2``, a folder or the name of a pretrained model."""
    screening: SftConfig
    """Tasks of the study as far as it can write them, at a constant learning rate."""
    full: SftConfig
    """The recipe's training with this backbone."""


def find_candidate(
    name: str, recipe: SftConfig, tasks: Sequence[str], *, words: int, scratch_rate: float, backbone_rate: float
) -> Candidate:
    """Returns what a candidate's name means.

    Args:
        name: ``decoder:WIDTHxLAYERS`` (SID tokens alone), ``words:WIDTHxLAYERS`` (words too), or a backbone.
        recipe: Training to take everything else from; the sizes' heads and feed-forward are as wide as its decoder's.
        tasks: Of the study.
        words: Most words that a ``words:`` candidate reads.
        scratch_rate: Learning rate of decoders from scratch, where the recipe's is a backbone's.
        backbone_rate: Learning rate of backbones, where the recipe's is a decoder's.

    Raises:
        ConfigError: if the name cannot be understood.
    """
    kind, colon, size = name.partition(":")
    if not name or (colon and kind not in ("decoder", "words")):
        raise ConfigError(
            f"candidate {name!r}: there are decoder:WIDTHxLAYERS, words:WIDTHxLAYERS, and the name or folder of a "
            "pretrained model, smollm2-135m say"
        )
    is_pretrained = not colon
    has_words = kind != "decoder" or is_pretrained
    rate = recipe.training.learning_rate
    if is_pretrained != bool(recipe.backbone):
        rate = backbone_rate if is_pretrained else scratch_rate
    common: dict[str, Any] = {
        "backbone": name if is_pretrained else "",
        "words": words if kind == "words" and not is_pretrained else 0,
        "decoder": recipe.decoder if is_pretrained else decoder_of_size(size, recipe.decoder),
        "parameters": recipe.parameters if is_pretrained else "all",
        "decoder_rows": "random" if is_pretrained else recipe.decoder_rows,
        "augment": AugmentConfig() if has_words else recipe.augment,
        "recency": RecencyConfig() if has_words else recipe.recency,
        "row_tokens": max(recipe.row_tokens, _ROW_TOKENS) if has_words else recipe.row_tokens,
    }
    own = {"next_item": recipe.tasks.get("next_item", 1.0)}
    full_tasks = dict(recipe.tasks) if has_words else own
    full = replace(recipe, **common, tasks=full_tasks, training=replace(recipe.training, learning_rate=rate))
    training = replace(
        full.training, schedule="constant", warmup=0.0, patience=0, epochs=_ENDLESS, validate_at_start=False
    )
    chosen = {task: 1.0 for task in tasks if has_words or task == "next_item"}
    screening = replace(
        full, tasks=chosen, training=training, select_by="loss", augment=AugmentConfig(), recency=RecencyConfig()
    )
    return Candidate(name=name, screening=screening, full=full)


def screen(
    candidate: Candidate, dataset_path: Path, catalog_path: Path, folder: Path, num_steps: int, *, seed: int
) -> Any:
    """Trains a candidate up to a number of steps, going on from its last checkpoint, and returns its figures.

    The learning rate is constant, so the steps are those of one training that was never interrupted. Losses are in
    nats a code: of validation examples, or of catalogue items for tasks that ask for an item by its text.

    Args:
        candidate: What is trained.
        dataset_path: ``dataset/`` of a run.
        catalog_path: ``catalog/`` of a run.
        folder: For its checkpoints.
        num_steps: Steps in all, those of earlier calls included.
        seed: Of everything random.

    Raises:
        ConfigError: if it cannot be loaded, or a loss is not finite.
    """
    started = time.process_time()
    config = candidate.screening
    # The number of steps is no part of it, so that the next budget goes on from here.
    hashes = [path_hash(path) for path in (dataset_path, catalog_path)]
    fingerprint = text_hash(repr(config), str(seed), *hashes)
    model, learner = make_learner(config, dataset_path, catalog_path, seed=seed)
    training = replace(config.training, max_steps=num_steps, validate_every_steps=num_steps)
    result = train(learner, training, folder=folder, log_path=folder / "log.jsonl", fingerprint=fingerprint, seed=seed)
    if result.stop_reason:
        raise ConfigError(result.stop_reason)
    model.network.eval()
    figures = _judge(model, config, Dataset.load(dataset_path), Catalog.load(catalog_path), seed)
    broken = [name for name, value in figures.items() if not math.isfinite(value)]
    if broken:
        raise ConfigError(f"{broken[0]} is not finite after {num_steps} steps")
    return {
        "figures": figures,
        "num_steps": result.num_steps,
        "num_parameters": model.num_parameters,
        "cpu_s": round(time.process_time() - started, 2),
    }


def rank_scores(figures: Sequence[Mapping[str, float]]) -> list[float]:
    """Returns a score of each candidate between 0 and 1, the higher the better.

        score = mean over figures f of (number of candidates worse in f + half the equal others) / (those with f - 1)

    Losses are better when lower, NDCG@10 when higher. A figure that only one candidate has says nothing; a candidate
    that lacks a figure is judged by those it has. One alone gets 1.

    Args:
        figures: Of each candidate, by name.
    """
    scores = []
    for own in figures:
        shares = []
        for name, value in own.items():
            sign = 1.0 if name == NDCG else -1.0
            others = [sign * each[name] for each in figures if each is not own and name in each]
            if others:
                worse = sum(float(other < sign * value) + 0.5 * (other == sign * value) for other in others)
                shares.append(worse / len(others))
        scores.append(sum(shares) / len(shares) if shares else 1.0)
    return scores


def _judge(model: SidModel, config: SftConfig, dataset: Dataset, catalog: Catalog, seed: int) -> dict[str, float]:
    renderer = Renderer(model.tokenizer, model.spelling, catalog.codes, model.prompt_mode)
    figures = {}
    for task in config.tasks:
        groups = _held_out(task, config, dataset, renderer, seed)
        if not groups:
            raise DataError(f"task {task}: the dataset has no example to judge by")
        figures[task] = _mean_loss(model, config, groups)
    ranking = make_ranking(
        dataset,
        catalog,
        model,
        renderer,
        max_history=config.max_history,
        max_examples=config.max_valid_examples,
        num_beams=10,
        cutoffs=(10,),
        labels=(NDCG,),
        seed=seed,
    )
    with torch.no_grad():
        return {**figures, NDCG: next(iter(ranking().values()))}


def _held_out(task: str, config: SftConfig, dataset: Dataset, renderer: Renderer, seed: int) -> list[Group]:
    """Returns a task's validation examples; some of the catalogue's items where it has none of its own."""
    corpus = Corpus(dataset, renderer, {task: 1.0}, max_history=config.max_history, stride=config.stride)
    if TASKS[task].unit == "history":
        return corpus.validation(config.max_valid_examples)
    groups = corpus.epoch(derive_rng(seed, "screening", task))
    return groups[: config.max_valid_examples or len(groups)]


def _mean_loss(model: SidModel, config: SftConfig, groups: Sequence[Group]) -> float:
    loss = NextTokenLoss(model, max(group.task for group in groups) + 1).eval()
    device = pick_device(config.training.device)
    pad_token = int(model.tokenizer.pad_token_id or 0)
    rows = pack_rows(groups, config.row_tokens)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), config.rows_per_batch):
            batch = rows[start : start + config.rows_per_batch]
            total += float(loss(batch_tensors(batch, pad_token, device)).sum())
            count += sum(len(tokens) for row in batch for _, tokens, _ in row.labels)
    return total / count if count else float(np.nan)
