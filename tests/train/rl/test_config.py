"""The settings of RL: defaults that a recipe keeps, what is refused, what nothing reads; each one changes something."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from itemic.core.config import config_from_mapping
from itemic.core.errors import ConfigError
from itemic.core.run import Run
from itemic.train.loop import TrainConfig
from itemic.train.rl.config import GrpoConfig, PreferenceConfig, RlConfig, RlTrainConfig
from itemic.train.rl.stage import rl


def test_a_recipe_that_sets_one_field_keeps_the_other_defaults() -> None:
    config = config_from_mapping(RlConfig, {"training": {"max_steps": 3}})
    assert asdict(config.training) == asdict(RlTrainConfig()) | {"max_steps": 3}
    assert config.training.validate_at_start
    assert asdict(RlTrainConfig()).keys() == asdict(TrainConfig()).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_history": -1}, "max_history: expected at least 0"),
        ({"newest_share": 0.0}, "newest_share: expected above 0"),
        ({"questions_per_batch": 0}, "questions_per_batch: expected at least 1"),
        ({"steps_per_rollout": 0}, "steps_per_rollout: expected at least 1"),
        ({"inner_epochs": 0}, "inner_epochs: expected at least 1"),
        ({"max_valid_examples": -1}, "max_valid_examples: expected at least 0"),
        ({"valid_beams": 20}, "valid_beams: expected at least 50, found 20"),
        ({"rollout": {"group_size": 1}}, "rollout.group_size: expected at least 2"),
        ({"objective": "dpo", "rollout": {"add_ground_truth": True}}, "rollout.add_ground_truth: dpo always has"),
        ({"rollout": {"temperature": 2.0}}, "temperature 2.0: the sampler 'beam' has no such setting"),
        ({"rewards": {"rul": 1.0}}, "no reward 'rul'; did you mean rule"),
        ({"rewards": {"rule": 0.0}}, "at least one weight other than 0"),
        ({"lora": {"dropout": 0.3}}, "lora.dropout 0.3: RL drops nothing"),
        ({"training": {"warmup": 1.0}}, "warmup: expected a share"),
        ({"reference": {"mixup": 0.0}}, "mixup: expected above 0"),
        ({"guards": {"window": 0}}, "guards.window: expected at least 1"),
        ({"objective": "ppo"}, "objective"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(RlConfig, changes)


@pytest.mark.parametrize("field", ["clip_low", "clip_high", "beta"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_bounds_below_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        GrpoConfig(**{field: value})  # type: ignore[arg-type]


def test_preferences_need_a_weight_and_something_to_reject() -> None:
    with pytest.raises(ConfigError, match="clip_low: expected 0 to 1"):
        GrpoConfig(clip_low=1.5)
    with pytest.raises(ConfigError, match="beta: expected above 0"):
        PreferenceConfig(beta=0.0)
    with pytest.raises(ConfigError, match="num_negatives: expected at least 1"):
        PreferenceConfig(num_negatives=0)


@pytest.mark.parametrize(
    ("changes", "reference", "old"),
    [
        ({}, True, False),
        ({"grpo": {"beta": 0.0}}, False, False),
        ({"inner_epochs": 2}, True, True),
        ({"steps_per_rollout": 2}, True, True),
        ({"objective": "dpo", "grpo": {"beta": 0.0}, "inner_epochs": 2}, True, False),
    ],
)
def test_what_is_computed_is_what_the_loss_needs(changes: dict[str, Any], reference: bool, old: bool) -> None:
    config = config_from_mapping(RlConfig, changes)
    assert (config.needs_reference, config.needs_old_logprobs) == (reference, old)


RATIOS = {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.3}


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({"inner_epochs": 2}, []),
        ({"preference": {"beta": 0.1}}, ["preference"]),
        ({"objective": "dpo", "rewards": {"rule": 1.0}, "grpo": {"beta": 0.1}}, ["grpo", "rewards"]),
        ({"objective": "s-dpo", "rollout": {"group_size": 4}, "exclude_history": True}, ["rollout.group_size"]),
        ({"objective": "dpo", "rollout": {"sampler": "top-k", "top_k": 4}}, ["rollout.sampler", "rollout.top_k"]),
        ({"objective": "dpo", "rollout": {"sampler": "top-k", "temperature": 2.0}}, []),
        ({"objective": "dpo", "preference": {"negatives": "policy"}, "rollout": {"group_size": 4}}, []),
        (
            {"objective": "dpo", "preference": {"negatives": "policy", "num_negatives": 3}},
            ["preference.num_negatives"],
        ),
        ({"grpo": RATIOS}, ["grpo.ratio", "grpo.clip_low", "grpo.clip_high"]),
        ({"grpo": RATIOS, "inner_epochs": 2}, []),
        ({"grpo": RATIOS, "steps_per_rollout": 2}, []),
        ({"grpo": {"beta": 0.0}, "reference": {"kind": "synced"}}, ["reference"]),
        ({"grpo": {"beta": 0.0}, "guards": {"max_kl": 2.0}}, ["guards.max_kl"]),
        ({"objective": "dpo", "guards": {"min_distinct": 0.5, "min_entropy": 0.5}}, ["guards.min_distinct"]),
        ({"lora": {"rank": 4}}, ["lora"]),
        ({"lora": {"rank": 4}, "parameters": "lora"}, []),
    ],
)
def test_settings_that_nothing_reads_are_named(changes: dict[str, Any], unread: list[str]) -> None:
    assert config_from_mapping(RlConfig, changes).unread == unread


DPO = {"objective": "dpo"}
SYNCED = {"reference": {"kind": "synced", "sync_every_steps": 2}}
LATER = {"steps_per_rollout": 2}
"""Only in a roll-out's second step is a ratio other than 1."""
COMMON = {"rollout": {"sampler": "top-k"}}
LORA = {"parameters": "lora"}
EFFECTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"tasks": {"next_item": 0.5}}),
    ({}, {"grpo": {"advantages": "none"}}),
    ({}, {"grpo": {"advantages": "batch"}}),
    (LATER, {"grpo": {"ratio": "sequence"}}),
    (LATER, {"grpo": {"clip_low": 0.0}}),
    (LATER, {"grpo": {"clip_high": 0.0}}),
    ({}, {"grpo": {"beta": 0.0}}),
    ({}, {"rollout": {"sampler": "gumbel"}}),
    ({}, {"rollout": {"group_size": 5}}),
    ({"rollout": {"group_size": 2}}, {"rollout": {"add_ground_truth": True}}),
    ({}, {"rewards": {"rule": 1.0}}),
    ({}, SYNCED),
    (SYNCED, {"reference": {"sync_every_steps": 3}}),
    (SYNCED, {"reference": {"mixup": 1.0}}),
    ({}, {"max_history": 2}),
    ({}, {"newest_share": 0.5}),
    ({}, {"exclude_history": True}),
    ({}, {"questions_per_batch": 6}),
    ({}, LATER),
    ({}, {"inner_epochs": 2}),
    ({}, {"max_valid_examples": 5}),
    (COMMON, {"rollout": {"temperature": 2.0}}),
    (COMMON, {"rollout": {"top_k": 2}}),
    ({"rollout": {"sampler": "dynamic"}}, {"rollout": {"oversampling": 3.0}}),
    (DPO, {"objective": "s-dpo"}),
    (DPO, {"preference": {"beta": 0.1}}),
    (DPO, {"preference": {"negatives": "policy"}}),
    (DPO, {"preference": {"num_negatives": 3}}),
    ({}, {"parameters": "sid-rows"}),
    (LORA, {"lora": {"rank": 4}}),
    (LORA, {"lora": {"alpha": 4.0}}),
    (LORA, {"lora": {"target_modules": ["q_proj"]}}),
]


def deep(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with changes, those of the objective's sections field by field."""
    nested = {
        key: values[key] | change for key, change in changes.items() if key in values and isinstance(change, dict)
    }
    return values | changes | nested


@pytest.fixture(scope="module")
def curves() -> dict[str, Any]:
    """The curves of what the changes are compared with."""
    return {}


IDLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"grpo": {"ratio": "sequence"}}),
    ({}, {"grpo": {"clip_low": 0.0}}),
    ({}, {"grpo": {"clip_high": 0.0}}),
    (DPO, {"rollout": {"group_size": 5}}),
    (DPO | {"preference": {"negatives": "policy"}}, {"preference": {"num_negatives": 3}}),
]
"""What changes nothing must be named."""


@pytest.mark.parametrize(("base", "change"), EFFECTS + IDLE, ids=str)
def test_a_setting_changes_something_or_is_named(
    run: Run,
    settings: Callable[..., RlConfig],
    curve: Callable[[Run], Any],
    curves: dict[str, Any],
    base: dict[str, Any],
    change: dict[str, Any],
) -> None:
    start: dict[str, Any] = {
        "training": {"max_steps": 3, "validate_every_steps": 3, "validate_at_start": False},
        "grpo": {"beta": 0.05},
        "guards": {"min_valid_score": 0.0, "max_kl": 0.0},
    }
    start = deep(start, base)
    key = json.dumps(start)
    if key not in curves:
        other = Run(Path(shutil.copytree(run.folder, run.folder.with_name("base"))))
        rl(settings(**start), other, seed=0)
        curves[key] = curve(other)
    changed = settings(**deep(start, change))
    rl(changed, run, seed=0)
    ((section, value),) = change.items()
    names = {section, *(f"{section}.{name}" for name in (value if isinstance(value, dict) else ()))}
    is_idle = (base, change) in IDLE
    assert (curve(run) == curves[key]) == is_idle
    assert bool(names & set(changed.unread)) == is_idle
