"""Runs with a model that was trained a little: enough to answer, far from right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itemic.core.config import config_from_mapping
from itemic.core.dataset import Dataset
from itemic.core.run import Run
from itemic.sid.catalog import Catalog
from itemic.train.rl.config import RlConfig
from itemic.train.sft import SftConfig, sft

SETTINGS: dict[str, Any] = {
    "max_history": 4,
    "questions_per_batch": 8,
    "rollout": {"group_size": 8},
    "max_valid_examples": 0,
    "training": {
        "device": "cpu",
        "epochs": 10,
        "max_steps": 20,
        "accumulation_steps": 1,
        "learning_rate": 5e-3,
        "max_grad_norm": 1.0,
        "validate_every_steps": 10,
        "log_every_steps": 1,
    },
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {key: merged(values[key], value) for key, value in changes.items() if key in ("training", "rollout")}
    return values | changes | nested


@pytest.fixture(scope="session")
def settings() -> Callable[..., RlConfig]:
    """RL of twenty small steps; ``training`` and ``rollout`` are changed field by field."""

    def make(**changes: Any) -> RlConfig:
        return config_from_mapping(RlConfig, merged(SETTINGS, changes))

    return make


@pytest.fixture(scope="session")
def curve() -> Callable[[Run], list[dict[str, Any]]]:
    """The lines of a run's log of RL, without what depends on the clock."""

    def read(run: Run) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in run.path("rl/rl.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "wall_time_s"} for line in lines]

    return read


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were trained already, by name."""
    return {"folder": tmp_path_factory.mktemp("trained")}


@pytest.fixture
def copy_of(trained_runs: dict[str, Path], tmp_path: Path, dataset: Dataset) -> Callable[..., Run]:
    """Returns a copy of a run of that name, which is trained where it is the first one."""

    def get(name: str, catalog: Catalog, sft_settings: dict[str, Any]) -> Run:
        if name not in trained_runs:
            run = Run(trained_runs["folder"] / name)
            dataset.save(run.path("dataset"))
            catalog.save(run.path("catalog"))
            sft(config_from_mapping(SftConfig, sft_settings), run, seed=0)
            trained_runs[name] = run.folder
        return Run(Path(shutil.copytree(trained_runs[name], tmp_path / name)))

    return get


@pytest.fixture
def run(copy_of: Callable[..., Run], catalog: Catalog) -> Run:
    """The ring after a little training: the right item is among the first few, and seldom the first."""
    return copy_of("ring", catalog, decoder_settings())


@pytest.fixture
def wrapped_run(copy_of: Callable[..., Run], catalog: Catalog) -> Run:
    """The ring in a spelling that opens and closes every semantic ID."""
    wrapped = Catalog(codes=catalog.codes, item_ids=catalog.item_ids, codebook_sizes=(4, 4, 4), spelling="wrapped")
    return copy_of("wrapped", wrapped, decoder_settings())


@pytest.fixture
def chat_run(copy_of: Callable[..., Run], catalog: Catalog, backbone: Path) -> Run:
    """The ring with a backbone that reads bytes."""
    training = {"max_steps": 3, "learning_rate": 1e-2, "device": "cpu"}
    tasks = {"next_item": 0.2, "sid_to_title": 0.5}
    return copy_of(
        "chat",
        catalog,
        {"backbone": str(backbone), "new_rows": "mean", "tasks": tasks, "max_history": 4, "stride": 4}
        | {"training": training, "row_tokens": 800, "rows_per_batch": 1},
    )


def decoder_settings() -> dict[str, Any]:
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 48}
    training = {"max_steps": 25, "epochs": 50, "learning_rate": 5e-3, "device": "cpu", "validate_every_steps": 25}
    return {"decoder": shape, "max_history": 4, "stride": 4, "row_tokens": 64, "rows_per_batch": 1} | {
        "training": training
    }
