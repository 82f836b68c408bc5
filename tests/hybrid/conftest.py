"""A run of twelve items with two models, both fakes whose lists differ, a baseline and text vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from itemic.baselines.registry import BASELINES, BaselineRow
from itemic.baselines.stage import baselines
from itemic.core.dataset import Dataset
from itemic.core.files import text_hash, write_arrays, write_json
from itemic.core.run import Run
from itemic.decode import LanguageModelRecommender
from itemic.hybrid.stage import LoadedModel, LoadModel
from itemic.sid import Catalog

NUM_ITEMS = 12
SIZES = (3, 4, 3)


def make_codes() -> np.ndarray:
    every = np.array([[a, b, c] for a in range(3) for b in range(4) for c in range(3)])
    return every[np.random.default_rng(0).choice(len(every), NUM_ITEMS, replace=False)]


@pytest.fixture
def language_model(fake_policy) -> Callable[..., LanguageModelRecommender]:
    """An untrained language model over the twelve items, another one by each seed."""

    def make(seed: int, num_beams: int = NUM_ITEMS, normalize: str = "legal") -> LanguageModelRecommender:
        catalog = Catalog(make_codes(), [f"i{row}" for row in range(NUM_ITEMS)], SIZES)
        policy = fake_policy(SIZES, seed, catalog_version=catalog.version)
        return LanguageModelRecommender(
            policy, catalog, lambda history: [1, *history], num_beams=num_beams, normalize=normalize
        )

    return make


@pytest.fixture
def run(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> Run:
    run = Run(tmp_path / "run")
    walks = [[(user + step * (1 + user % 2)) % NUM_ITEMS for step in range(5)] for user in range(24)]
    dataset = make_dataset(walks, NUM_ITEMS)
    dataset.save(run.path("dataset"))
    item_ids = dataset.items["item_id"].to_list()
    Catalog(make_codes(), item_ids, SIZES).save(run.path("catalog"))
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    write_arrays(run.path("embeddings.safetensors"), {"embeddings": vectors}, {"item_hash": text_hash(*item_ids)})
    baselines({"covisit-knn": BaselineRow(settings=BASELINES["covisit-knn"].settings())}, run, seed=0)
    manifest = run.manifest()
    for stage, model in (("sft", "model"), ("rl", "rl/model")):
        run.path(model).mkdir(parents=True)
        run.path(f"{model}/weights").write_text(stage)
        entry = {"outputs": {model: f"content of {stage}"}, "config": {"max_history": 5}, "inputs": {}}
        manifest["stages"][stage] = entry
    write_json(run.manifest_path, manifest)
    return run


class Loader:
    """Loads fakes and keeps what it was asked for."""

    def __init__(self, make: Callable[..., LanguageModelRecommender]) -> None:
        self._make = make
        self.asked: list[tuple] = []

    def __call__(self, folder: Path, model: str, normalize: str) -> LoadedModel:
        self.asked.append((folder, model, normalize))
        seed = {"sft": 0, "rl": 1, "last": 1}[model]
        return LoadedModel(recommender=self._make(seed, num_beams=1, normalize=normalize), num_parameters=1000)


@pytest.fixture
def loader(language_model: Callable[..., LanguageModelRecommender]) -> LoadModel:
    return Loader(language_model)
