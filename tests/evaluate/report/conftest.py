"""A whole run folder in miniature: every artefact a report reads, made by the code that makes the real ones.

Only the model is missing: recommenders are fixed mixtures of taste and popularity, the training log is a formula.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.files import write_arrays, write_json, write_parquet
from itemic.core.ranking import Histories, Recommendations, top_k
from itemic.core.run import Run
from itemic.evaluate.evaluate import RowFacts, evaluate_all
from itemic.evaluate.protocol import EvaluateConfig
from itemic.sid.catalog import Catalog
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.quality import measure_quality
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

NASTY_TITLE = '</script><img src=x onerror=alert(1)> & "quotes" {{ 7 * 7 }} <b>é漢字</b>'

_GENRES = ("Western", "Noir", "Comedy", "Space", "Horror", "Romance", "War", "Heist", "Musical", "Documentary")
_FIRST = ("Silent", "Crimson", "Last", "Broken", "Golden", "Hidden", "Endless", "Paper", "Midnight", "Distant")
_SECOND = ("River", "Garden", "Engine", "Letters", "Horizon", "Promise", "Orchard", "Signal", "Harbour", "Winter")
_START_S = 880_000_000


@dataclass(frozen=True)
class World:
    """A made-up catalogue and log with genres that users prefer."""

    genre: np.ndarray
    popularity: np.ndarray
    dataset: Dataset
    vectors: np.ndarray


@dataclass
class Mixture:
    """Scores items by the user's genres, by popularity and by noise that is fixed for each user and item."""

    name: str
    world: World
    taste: float
    fame: float
    noise: float
    log_probabilities: bool = False

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        scores = np.stack([self._scores(history) for history in histories])
        if self.log_probabilities:
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return top_k(scores, k, exclude, allow)

    def _scores(self, history: list[int]) -> np.ndarray:
        recency = 0.85 ** np.arange(len(history))[::-1]
        liked = np.bincount(self.world.genre[history], weights=recency, minlength=len(_GENRES)) + 0.05
        rng = np.random.default_rng([sum(history), len(history), len(self.name)])
        noise = rng.normal(size=len(self.world.genre)) * self.noise
        taste = self.taste * np.log(liked / liked.sum())[self.world.genre]
        return taste + self.fame * np.log(self.world.popularity) + noise


def make_world(num_items: int, num_users: int, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    genre = rng.integers(0, len(_GENRES), num_items)
    popularity = 1.0 / (1 + rng.permutation(num_items)) ** 0.8
    popularity[:3] = popularity.max()
    centres = rng.normal(size=(len(_GENRES), 16))
    vectors = (centres[genre] + 0.5 * rng.normal(size=(num_items, 16))).astype(np.float32)
    log: list[tuple[object, ...]] = []
    examples: dict[str, list[tuple[object, ...]]] = {"train": [], "valid": [], "test": []}
    for user in range(num_users):
        sequence = _walk(genre, popularity, rng)
        times = np.sort(rng.integers(0, 15_000_000, len(sequence))) + _START_S
        for position, (item, time) in enumerate(zip(sequence, times.tolist(), strict=True)):
            split = {1: "test", 2: "valid"}.get(len(sequence) - position, "train")
            log.append((f"user-{user:04d}", item, time, None, split))
            if position:
                example = (len(log), f"user-{user:04d}", sequence[max(0, position - 20) : position], item, time)
                examples[split].append(example)
    tables = {name: pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row") for name, rows in examples.items()}
    interactions = pl.DataFrame(log, INTERACTION_SCHEMA, orient="row")
    dataset = Dataset(items=_items(genre, rng), interactions=interactions, info=_info(interactions), **tables)
    return World(genre, popularity, dataset, vectors)


def make_run(
    folder: Path, *, num_items: int = 120, num_users: int = 150, codebook_size: int = 8, num_bootstrap: int = 50
) -> Run:
    """Writes every artefact of a run through ``Run.stage``, as the pipeline would."""
    run, world = Run(folder), make_world(num_items, num_users)
    sizes = (codebook_size,) * 3
    metadata = {"encoder": "minilm", "pooling": "mean"}
    stages: dict[str, tuple[Callable[[], Mapping[str, object]], list[str], dict[str, object]]] = {
        "prepare": (lambda: _write_dataset(run, world), ["dataset", "rejects.parquet"], {"split": "leave_one_out"}),
        "embed": (
            lambda: write_arrays(run.path("embeddings.safetensors"), {"embeddings": world.vectors}, metadata) or {},
            ["embeddings.safetensors"],
            {"encoder": "minilm"},
        ),
        "tokenize": (lambda: _write_catalog(run, world, sizes), ["catalog"], {"codebook_sizes": list(sizes)}),
        "sft": (lambda: _write_training(run, sizes), ["sft.jsonl", "model"], {"train": {"epochs": 8}}),
        "evaluate": (
            lambda: _write_metrics(run, world, num_bootstrap),
            ["metrics.json", "rankings"],
            {"cutoffs": [1, 5, 10, 20, 50], "split": "test"},
        ),
    }
    for name, (work, outputs, config) in stages.items():
        run.stage(name, work, config=config, inputs={}, outputs=outputs, seed=3)
    return run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder with every artefact; tests copy it before they change it."""
    return make_run(tmp_path_factory.mktemp("runs") / "little-movies")


@pytest.fixture(scope="session")
def reinforced_run(whole_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with a stage rl after training, stopped at step 300 by a guard; its best validation is the sixth."""
    folder = tmp_path_factory.mktemp("runs") / "reinforced-movies"
    shutil.copytree(whole_run.folder, folder)
    run = Run(folder)
    reason = "the entropy fell to 0.03 nats, below 0.05: the policy collapsed."
    outcome = {"best_step": 240, "stopped_early": True, "stop_reason": reason, "num_steps": 300, "train_s": 450.0}
    run.stage(
        "rl", lambda: _write_rl(run) or outcome, config={}, inputs={}, outputs=["rl/model", "rl/rl.jsonl"], seed=3
    )
    return run


def _walk(genre: np.ndarray, popularity: np.ndarray, rng: np.random.Generator) -> list[int]:
    length = int(np.clip(rng.lognormal(2.4, 0.7), 3, 60))
    liked = rng.dirichlet(np.full(len(_GENRES), 0.15))
    weights = popularity * (liked[genre] + 0.02)
    return rng.choice(len(genre), size=length, replace=False, p=weights / weights.sum()).tolist()


def _items(genre: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for index, kind in enumerate(genre.tolist()):
        title = f"{_FIRST[rng.integers(10)]} {_SECOND[rng.integers(10)]} ({rng.integers(1950, 1999)})"
        rows.append((index, f"i{index}", title, f"{_GENRES[kind]}, {_GENRES[rng.integers(10)]}" if index % 7 else ""))
    rows[0] = (0, "i0", NASTY_TITLE, NASTY_TITLE)
    rows[1] = (1, "i1", "A very long title " * 12, "long")
    rows[2] = (2, "i2", "", "an item without a title")
    return pl.DataFrame(rows, ITEM_SCHEMA, orient="row")


def _info(interactions: pl.DataFrame) -> dict[str, object]:
    return {
        "split": "leave_one_out",
        "keeps_repeats": False,
        "max_history": 20,
        "counts": {"interactions": interactions.height},
        "checks": {"histories_not_in_log": 0, "train_first_s": _START_S, "test_targets_unseen_in_train": 0.125},
        "steps": {"read": interactions.height + 40, "k_core": interactions.height + 12, "repeats": interactions.height},
        "config": {"source": {"format": "movielens", "path": "packaged"}, "min_user_interactions": 5},
    }


def _write_dataset(run: Run, world: World) -> Mapping[str, object]:
    world.dataset.save(run.path("dataset"))
    rejects = [("u.data", 17, "unparsable timestamp", '{"time":"yesterday"}'), ("u.data", 90, "unknown item", None)]
    rejects.append(("u.data", 91, "unknown item", '{"item":"<b>"}'))
    schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "content": pl.String}
    write_parquet(run.path("rejects.parquet"), pl.DataFrame(rejects, schema, orient="row"))
    return {"items": world.dataset.num_items}


def _write_catalog(run: Run, world: World, sizes: tuple[int, ...]) -> Mapping[str, object]:
    quantizer = RQKMeans(sizes, RQKMeansConfig(num_iterations=5))
    codes = quantizer.fit(world.vectors, np.random.default_rng(0)).encode(world.vectors)
    catalog = Catalog(resolve_unique(codes, world.vectors, quantizer), world.dataset.items["item_id"].to_list(), sizes)
    catalog.save(run.path("catalog"))
    figures = measure_quality(codes, catalog.codes, sizes, world.vectors, quantizer)
    write_json(run.path("catalog") / "quality.json", figures)
    return {"collision_rate_before": figures["collisions"]["before"]["rate"]}


def _write_training(run: Run, sizes: tuple[int, ...]) -> Mapping[str, object]:
    rng = np.random.default_rng(1)
    with run.path("sft.jsonl").open("w", encoding="utf-8") as log:
        for step in range(10, 1610, 10):
            log.write(json.dumps(_train_record(step, rng)) + "\n")
            if step % 200 == 0:
                rising, falling = 0.06 * (1 - np.exp(-step / 500)), 3.1 + 2.4 * np.exp(-step / 400)
                log.write(json.dumps({"step": step, "valid_ndcg@10": rising, "valid_loss": falling}) + "\n")
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 128, "num_hidden_layers": 4, "vocab_size": 27}
    write_json(run.path("model") / "config.json", {**config, "num_attention_heads": 4})
    weights = {"model.embed_tokens.weight": np.zeros((27, 128), dtype=np.float32)}
    write_arrays(run.path("model") / "model.safetensors", weights)
    spelling = {"style": "plain", "codebook_sizes": list(sizes)}
    version = Catalog.load(run.path("catalog")).version
    write_json(
        run.path("model") / "itemic.json",
        {"catalog_version": version, "prompt_mode": "sid-only", "spelling": spelling},
    )
    return {"num_steps": 1600}


def _write_rl(run: Run) -> None:
    rng = np.random.default_rng(2)
    shutil.copytree(run.path("model"), run.path("rl/model"))
    write_arrays(run.path("rl/model") / "model.safetensors", {"model.embed_tokens.weight": np.ones((27, 128))})
    with run.path("rl/rl.jsonl").open("w", encoding="utf-8") as log:
        for step in range(301):
            if step % 40 == 0:
                gain = np.sin(step / 240 * np.pi / 2)
                figures = {
                    "ndcg@10": 0.1203 + 0.0048 * gain,
                    "hr@10": 0.15 + 0.005 * gain,
                    "hr@50": 0.23 + 0.006 * gain,
                }
                valid = {"score": 0.2 + 0.01 * gain, **figures}
                log.write(
                    json.dumps({"step": step, **{f"valid_{name}": value for name, value in valid.items()}}) + "\n"
                )
            if step % 2:
                log.write(json.dumps(_rl_record(step, rng.random())) + "\n")


def _rl_record(step: int, noise: float) -> dict[str, float]:
    rule, rank = 0.02 + 1e-4 * step + 0.004 * noise, -0.05 - 0.01 * noise
    return {
        **{"step": step, "epoch": step / 100, "loss": 0.02 * noise - 0.01, "loss/next_item": 0.02 * noise},
        **{"loss/title_to_sid": 0.01 * noise, "learning_rate": 1e-5 * (1 - step / 310), "grad_norm": 0.4 + 0.1 * noise},
        **{"reward": rule + rank, "reward/rule": rule, "reward/rank_aware": rank, "hit_share": 0.3 + 4e-4 * step},
        **{
            "zero_variance": 0.7 - 4e-4 * step,
            "distinct": 0.97,
            "entropy": 1.9 * np.exp(-step / 90),
            "kl": 4e-5 * step,
        },
        **{"clip_fraction": 0.01 * noise, "tokens": 9000, "wall_time_s": 1.5 * step},
    }


def _train_record(step: int, rng: np.random.Generator) -> dict[str, float]:
    loss = 2.9 + 2.6 * np.exp(-step / 350) + 0.04 * rng.normal()
    return {
        "step": step,
        "epoch": step / 200,
        "loss": loss,
        "loss/next_item": loss + 0.2,
        "loss/title_to_sid": loss - 0.5,
        "learning_rate": 1e-3 * min(step / 100, 1.0) * (1 - step / 1700),
        "grad_norm": 0.8 + 0.1 * rng.random(),
        "tokens": 81_920,
        "wall_time_s": step * 0.08,
    }


def _write_metrics(run: Run, world: World, num_bootstrap: int) -> Mapping[str, object]:
    recommenders = [
        Mixture("itemic", world, taste=1.0, fame=1.0, noise=0.05, log_probabilities=True),
        Mixture("SASRec", world, taste=0.9, fame=1.0, noise=0.5),
        Mixture("Co-visit KNN", world, taste=0.7, fame=1.0, noise=0.8),
        Mixture("EASE", world, taste=0.5, fame=0.7, noise=0.5),
        Mixture("Popularity", world, taste=0.0, fame=1.0, noise=0.0),
        Mixture("Repeat last", world, taste=0.1, fame=0.2, noise=1.5),
    ]
    config = EvaluateConfig(cutoffs=(1, 5, 10, 20, 50), num_bootstrap=num_bootstrap)
    facts = {recommender.name: RowFacts(fit_s=1.7 * index) for index, recommender in enumerate(recommenders) if index}
    metrics = evaluate_all(recommenders, world.dataset, config, run.folder, 3, facts=facts)
    return {"NDCG@10": metrics["recommenders"]["itemic"]["metrics"]["NDCG@10"]["value"]}
