"""The stage rl as a whole: it learns, goes on after a kill, stops what collapses, refuses what it cannot do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.core.run import Run
from itemic.inference import load_trained
from itemic.language.prompts import Renderer
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.train.rl.config import RlConfig
from itemic.train.rl.learner import RlLearner
from itemic.train.rl.stage import rl
from itemic.train.validation import make_ranking

Settings = Callable[..., RlConfig]
Curve = Callable[[Run], list[dict[str, Any]]]

HARD: dict[str, Any] = {
    "tasks": {"next_item": 0.7},
    "questions_per_batch": 4,
    "steps_per_rollout": 2,
    "inner_epochs": 2,
    "rollout": {"sampler": "top-k", "group_size": 6, "top_k": 3, "temperature": 1.5},
    "reference": {"kind": "synced", "sync_every_steps": 3, "mixup": 0.5},
    "grpo": {"beta": 0.1},
    "guards": {"window": 4},
    "training": {"accumulation_steps": 2, "max_steps": 19, "log_every_steps": 3, "validate_every_steps": 5}
    | {"learning_rate": 1e-3},
}
"""Whatever must survive a kill: a roll-out that is learned from four times, a reference that moves, draws, guards."""


class Killed(BaseException):
    """Nothing that runs in between catches it, as nothing catches a signal."""


def kill_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    true, seen = RlLearner.collate, []

    def collate(self: RlLearner, *arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == batch:
            raise Killed
        return true(self, *arguments)

    monkeypatch.setattr(RlLearner, "collate", collate)


def weights(run: Run, name: str = "rl/model") -> bytes:
    return run.path(f"{name}/model.safetensors").read_bytes()


def quality(run: Run, name: str) -> dict[str, float]:
    """How the validation users are served by one of the run's models."""
    dataset, catalog = Dataset.load(run.path("dataset")), Catalog.load(run.path("catalog"))
    model = SidModel.load(run.path(name))
    renderer = Renderer(model.tokenizer, model.spelling, catalog.codes, model.prompt_mode)
    rank = make_ranking(
        *(dataset, catalog, model, renderer),
        **{"max_history": 4, "max_examples": 0, "num_beams": 12, "cutoffs": (1, 10), "labels": ("HR@1", "NDCG@10")},
        seed=0,
    )
    return rank()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The curve and the weights of a run that nobody killed, once there is one."""
    return {}


@pytest.mark.parametrize(("batch", "every"), [(1, 0.0), (9, 0.0), (19, 0.0), (36, 0.0), (31, 1e6)])
def test_a_run_killed_at_any_moment_resumes_to_the_same_curve(
    run: Run,
    settings: Settings,
    curve: Curve,
    unbroken: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    every: float,
) -> None:
    config = settings(**HARD | {"training": {**HARD["training"], "checkpoint_every_s": every}})
    if not unbroken:
        whole = Run(Path(shutil.copytree(run.folder, run.folder.with_name("whole"))))
        assert rl(config, whole, seed=0).metrics["num_steps"] == 19
        unbroken |= {"curve": curve(whole), "weights": weights(whole)}
    with monkeypatch.context() as patch:
        kill_at(patch, batch)
        with pytest.raises(Killed):
            rl(config, run, seed=0)
    assert not run.path("rl/model").exists()
    rl(config, run, seed=0)
    assert curve(run) == unbroken["curve"]
    assert weights(run) == unbroken["weights"]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from itemic.core.config import config_from_mapping
from itemic.core.run import Run
from itemic.train.rl.config import RlConfig
from itemic.train.rl.learner import RlLearner
from itemic.train.rl.stage import rl
import json
true, seen = RlLearner.collate, []
def collate(self, *arguments):
    seen.append(1)
    if len(seen) == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(self, *arguments)
RlLearner.collate = collate
rl(config_from_mapping(RlConfig, json.loads(sys.argv[2])), Run(Path(sys.argv[1])), seed=0)
"""


def test_a_process_killed_by_a_signal_resumes_too(run: Run, settings: Settings, curve: Curve) -> None:
    training = {**HARD["training"], "checkpoint_every_s": 0.0, "max_steps": 9}
    config = settings(**HARD | {"training": training, "reference": {"kind": "frozen"}})
    whole = Run(Path(shutil.copytree(run.folder, run.folder.with_name("whole"))))
    rl(config, whole, seed=0)
    command = [sys.executable, "-c", PROGRAM, str(run.folder), json.dumps(config_to_mapping(config))]
    assert subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == -9
    assert rl(config, run, seed=0).metrics["num_steps"] == 9
    assert curve(run) == curve(whole)
    assert weights(run) == weights(whole)


def test_a_second_training_that_fails_leaves_model_and_log_of_the_first(
    run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rl(settings(training={"max_steps": 2}), run, seed=0)
    assert "max_history=4, " in caplog.text
    assert "training.max_steps=2, " in caplog.text
    assert "seed=0; all else by default" in caplog.text
    log, before = run.path("rl/rl.jsonl").read_bytes(), weights(run)
    second = settings(training={"max_steps": 4, "checkpoint_every_s": 0.0})
    kill_at(monkeypatch, 3)
    with pytest.raises(Killed):
        rl(second, run, seed=0)
    assert (run.path("rl/rl.jsonl").read_bytes(), weights(run)) == (log, before)
    assert run.path("checkpoints/rl/rl.jsonl").read_bytes() != log
    monkeypatch.undo()
    caplog.clear()
    rl(second, run, seed=0)
    assert "resuming at step 2" in caplog.text
    steps = [json.loads(line)["step"] for line in run.path("rl/rl.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 4]
    assert not run.path("checkpoints/rl").exists()


LEARNING: dict[str, dict[str, Any]] = {
    "beam": {},
    "gumbel": {"rollout": {"sampler": "gumbel"}},
    "top-k": {"rollout": {"sampler": "top-k", "top_k": 4}},
    "dapo": {"grpo": {"normalize": "token", "clip_high": 0.28}, "inner_epochs": 2},
    "s-dpo": {"objective": "s-dpo"},
    "dpo": {"objective": "dpo"},
    "dpo-policy": {"objective": "dpo", "preference": {"negatives": "policy"}},
}
PATIENT: dict[str, Any] = {
    "questions_per_batch": 32,
    "guards": {"max_kl": 0},
    "training": {"max_steps": 45, "epochs": 30, "schedule": "linear", "validate_every_steps": 15},
}


@pytest.mark.parametrize("name", LEARNING)
def test_rl_finds_what_a_little_training_did_not(run: Run, settings: Settings, name: str) -> None:
    before = quality(run, "model")
    assert before["valid_hr@1"] < 0.5
    assert before["valid_ndcg@10"] < 0.7
    rl(settings(**PATIENT | LEARNING[name]), run, seed=0)
    after = quality(run, "rl/model")
    assert after["valid_hr@1"] > 0.8
    assert after["valid_ndcg@10"] > 0.9


def test_rl_learns_where_semantic_ids_are_opened_and_closed(wrapped_run: Run, settings: Settings) -> None:
    before = quality(wrapped_run, "model")["valid_hr@1"]
    rl(settings(**PATIENT), wrapped_run, seed=0)
    assert quality(wrapped_run, "rl/model")["valid_hr@1"] > before + 0.3


def test_a_reward_for_wrong_answers_is_stopped_and_leaves_the_model_as_it_was(
    run: Run, settings: Settings, curve: Curve, caplog: pytest.LogCaptureFixture
) -> None:
    training = {"max_steps": 60, "validate_every_steps": 5, "learning_rate": 1e-2, "patience": 0}
    result = rl(settings(rewards={"rule": -1.0}, training=training), run, seed=0)
    assert "the validation score fell from" in result.metrics["stop_reason"]
    assert "lower training.learning_rate or raise grpo.beta" in result.metrics["stop_reason"]
    assert result.metrics["num_steps"] < 60
    assert result.metrics["stopped_early"]
    assert result.metrics["best_step"] == 0
    assert weights(run) == weights(run, "model")
    assert "no validation was better than the one before the first step" in caplog.text
    assert curve(run)[0]["step"] == 0
    assert {"valid_score", "valid_ndcg@10", "valid_hr@50"} <= curve(run)[0].keys(), "though there are 12 items"
    manifest = json.loads(run.manifest_path.read_text())
    assert manifest["stages"]["rl"]["metrics"]["stop_reason"] == result.metrics["stop_reason"]


NO_BOUNDS = {"min_entropy": 0.0, "min_distinct": 0.0, "max_kl": 0.0, "min_valid_score": 0.0}


def test_a_collapse_that_numbers_show_first_leaves_the_best_model_and_a_reason(
    run: Run, settings: Settings, curve: Curve
) -> None:
    training = {"learning_rate": 3.0, "max_grad_norm": 0.0, "warmup": 0.0, "max_steps": 60, "patience": 0}
    result = rl(settings(guards=NO_BOUNDS, grpo={"beta": 1.0}, training=training), run, seed=0)
    assert "is not finite at step" in result.metrics["stop_reason"]
    assert result.metrics["num_steps"] < 60
    assert weights(run) == weights(run, "model")
    assert SidModel.load(run.path("rl/model")).network.get_input_embeddings().weight.isfinite().all()


def test_metrics_tell_what_was_gained(run: Run, settings: Settings, curve: Curve) -> None:
    metrics = rl(settings(), run, seed=0).metrics
    lines = {line["step"]: line for line in curve(run) if "valid_score" in line}
    for name in ("score", "ndcg@10", "hr@50"):
        assert metrics[f"valid_before_{name}"] == pytest.approx(lines[0][f"valid_{name}"], abs=1e-6)
        assert metrics[f"valid_after_{name}"] == pytest.approx(lines[metrics["best_step"]][f"valid_{name}"], abs=1e-6)
    assert metrics["valid_after_score"] == metrics["best_valid"]


def test_validation_has_the_candidates_that_rl_answers_with(run: Run, settings: Settings, curve: Curve) -> None:
    first = []
    for exclude in (None, False, True):
        rl(settings(exclude_history=exclude, training={"max_steps": 1}), run, seed=0)
        first.append(curve(run)[0]["valid_score"])
    keeps_repeats = Dataset.load(run.path("dataset")).keeps_repeats
    assert first[0] == first[1 if keeps_repeats else 2]
    assert first[1] != first[2]


def test_a_longer_history_than_the_model_was_fine_tuned_with_is_refused(run: Run, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="max_history: expected at most the 4 that the model was fine-tuned with"):
        rl(settings(max_history=5), run, seed=0)


def test_a_run_killed_after_it_was_stopped_does_not_train_on(
    run: Run, settings: Settings, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(guards={"min_entropy": 0.99, "window": 2}, training={"max_steps": 60, "patience": 0})
    with monkeypatch.context() as patch:
        patch.setattr(SidModel, "save", kill)
        with pytest.raises(Killed):
            rl(config, run, seed=0)
    before = curve(Run(run.path("checkpoints")))  # where the log lies until the model is there
    with monkeypatch.context() as patch:
        kill_at(patch, 1)
        result = rl(config, run, seed=0)
    assert "entropy fell" in result.metrics["stop_reason"]
    assert 0 < result.metrics["num_steps"] < 60
    assert curve(run) == before


def kill(*arguments: Any) -> None:
    raise Killed


CHAT: dict[str, Any] = {
    "tasks": {"next_item": 0.2, "title_to_sid": 1.0, "sids_to_title": 0.2},
    "questions_per_batch": 4,
    "rollout": {"group_size": 4},
    "max_valid_examples": 4,
    "training": {"max_steps": 3, "accumulation_steps": 2, "learning_rate": 1e-2},
}


def test_tasks_of_titles_and_semantic_ids_are_learned_together(chat_run: Run, settings: Settings, curve: Curve) -> None:
    rewards = {"rule": 1.0, "rank": 1.0, "prefix": 0.5, "format": 0.0}
    training = {**CHAT["training"], "max_steps": 6, "gradient_checkpointing": True}
    rl(settings(**CHAT | {"rewards": rewards, "training": training}), chat_run, seed=0)
    steps = [line for line in curve(chat_run) if "loss" in line]
    names = set().union(*steps)
    assert {"loss/next_item", "loss/title_to_sid", "loss/sids_to_title"} <= names
    assert {"reward", *(f"reward/{name}" for name in rewards)} <= names
    assert all(torch.tensor(list(line.values())).isfinite().all() for line in steps)
    assert all(line["grad_norm"] > 0 for line in steps)
    assert len(load_trained(chat_run.folder, device="cpu").recommend(["Title 3"], 3)) == 3


@pytest.mark.parametrize("parameters", ["sid-rows", "lora"])
def test_only_what_is_asked_for_trains(chat_run: Run, settings: Settings, parameters: str) -> None:
    config = settings(**CHAT | {"parameters": parameters, "lora": {"target_modules": ("q_proj",)}})
    result = rl(config, chat_run, seed=0)
    before, after = (load_file(chat_run.path(f"{name}/model.safetensors")) for name in ("model", "rl/model"))
    assert result.metrics["best_step"] in (0, 3)
    sids = torch.from_numpy(SidModel.load(chat_run.path("model")).sid_tokens.all_ids)
    moved = set()
    for name, weight in after.items():
        changed = (weight != before[name]).any(dim=-1)
        if changed.any():
            moved.add(name)
        if weight.dim() == 2 and len(weight) > int(sids.max()):
            assert set(changed.nonzero().flatten().tolist()) <= set(sids.tolist())
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    assert moved <= rows | ({"model.layers.0.self_attn.q_proj.weight"} if parameters == "lora" else set())
    assert AutoModelForCausalLM.from_pretrained(chat_run.path("rl/model")).num_parameters()
    assert len(AutoTokenizer.from_pretrained(chat_run.path("rl/model")))


def test_nothing_is_done_twice(run: Run, settings: Settings) -> None:
    config = settings(training={"max_steps": 2})
    assert not rl(config, run, seed=0).skipped
    assert rl(config, run, seed=0).skipped
    assert not rl(config, run, seed=1).skipped
    assert not rl(settings(training={"max_steps": 3}), run, seed=1).skipped
    assert not rl(settings(training={"max_steps": 3}), run, seed=1, force=True).skipped


@pytest.mark.parametrize(
    ("name", "command"), [("model", "sft"), ("catalog", "tokenize"), ("dataset", "prepare"), ("embeddings", "embed")]
)
def test_a_missing_input_names_the_command_that_makes_it(run: Run, settings: Settings, name: str, command: str) -> None:
    if run.path(name).exists():
        shutil.rmtree(run.path(name))
    with pytest.raises(ArtifactError, match=rf"{name}.*: missing; run itemic {command} first"):
        rl(settings(rewards={"rule": 1.0, "semantic": 1.0}), run, seed=0)


def test_preferences_need_no_rewards(run: Run, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(objective="dpo", rewards={"semantic": 1.0}, training={"max_steps": 1})
    assert rl(config, run, seed=0).metrics["num_steps"] == 1
    assert "nothing reads rewards, rollout" in caplog.text


def test_a_model_of_another_catalog_is_refused(run: Run, settings: Settings) -> None:
    Catalog.load(run.path("catalog")).remove([0]).save(run.path("catalog"))
    with pytest.raises(CatalogError, match="Run itemic sft again"):
        rl(settings(), run, seed=0)


def test_tasks_that_need_words_are_refused_without_them(run: Run, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"tasks.title_to_sid: needs words"):
        rl(settings(tasks={"title_to_sid": 1.0}), run, seed=0)


def test_without_a_validation_split_the_last_model_is_kept(
    run: Run, settings: Settings, curve: Curve, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.load(run.path("dataset"))
    log = dataset.interactions.filter(pl.col("split") != "valid")
    without = Dataset(
        items=dataset.items,
        interactions=log,
        train=dataset.train,
        valid=dataset.valid.clear(),
        test=dataset.test,
        info=dataset.info,
    )
    shutil.rmtree(run.path("dataset"))
    without.save(run.path("dataset"))
    result = rl(settings(training={"max_steps": 3}), run, seed=0)
    assert (result.metrics["best_step"], result.metrics["best_valid"]) == (3, None)
    assert "rl: no validation split" in caplog.text
    assert all("loss" in line for line in curve(run))
    assert weights(run) != weights(run, "model")


def test_in_bf16_the_first_update_still_has_ratio_one_and_no_divergence(
    run: Run, settings: Settings, curve: Curve
) -> None:
    training = {"max_steps": 2, "mixed_precision": "bf16", "accumulation_steps": 2}
    rl(settings(inner_epochs=2, training=training), run, seed=0)
    first = next(line for line in curve(run) if "loss" in line)
    assert first["clip_fraction"] == first["kl"] == 0.0
    assert abs(first["loss"]) < 1e-6
