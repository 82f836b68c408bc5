"""What a row of a table was made with, and what its training took, as the run folder tells.

What it was made with is one hash in which the seed has no part: rows that share it are seeds of one. Knows the manifest
and the cards of fitted rows; neither loads nor computes anything else.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from itemic.baselines.registry import BASELINES
from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.files import read_json, text_hash
from itemic.core.run import Run
from itemic.core.trained_model import find_model
from itemic.hybrid.config import DENSE_HEAD, BlendConfig
from itemic.recipe import ComparisonConfig

__all__ = ["blend_lineage", "model_lineage", "row_lineage", "training_times"]

_MAKERS = {
    "dataset": "prepare",
    "items": "prepare",
    "given_sids": "prepare",
    "embeddings": "embed",
    "vectors": "embed",
    "collaborative": "collaborative",
    "catalog": "tokenize",
}
"""The stage behind each input of another stage."""
_ROUNDED_S = 0.1
"""By which the time of a training may exceed that of its stage for having been rounded."""
_NAMES = ("name", "published")
"""Settings that change what something is called, not what it is."""


def row_lineage(run: Run, card: Mapping[str, Any]) -> str:
    """Returns what a row of the baselines was made with.

    Args:
        run: The run.
        card: The row's, ``baselines/<row>.json``.
    """
    return _hash(_row(run, card))


def model_lineage(run: Run, stage: Literal["sft", "rl"], config: ComparisonConfig, dtype: str) -> str:
    """Returns what the language model and its answers were made with.

    Args:
        run: The run.
        stage: The training that wrote the model.
        config: How it is decoded.
        dtype: Number format that it computes in.
    """
    decoding: dict[str, Any] = {"num_beams": config.num_beams, "normalize": config.normalize, "dtype": dtype}
    if config.answer != "sid":
        decoding |= {"answer": config.answer, "titles": config_to_mapping(config.titles)}
    if config.titles.assistant:
        decoding["assistant"] = _row(run, _card(run, config.titles.assistant))
    return _hash({"model": _stage(run, stage), "decoding": decoding})


def blend_lineage(run: Run) -> str:
    """Returns what the run's blend and all its members were made with."""
    path = run.require("blend.json", "blend")
    config = config_from_mapping(BlendConfig, read_json(path)["config"], source=str(path))
    settings = dict(run.manifest()["stages"]["blend"]["config"])
    for name in (*_NAMES, "runs"):
        settings.pop(name, None)
    members: dict[str, Any] = {row: _row(run, _card(run, row)) for row in config.rows}
    if config.needs_model:
        runs = [run, *map(Run, config.runs)]
        members["models"] = [_stage(one, find_model(one, config.model).stage) for one in runs]
    if DENSE_HEAD in config.members:
        members[DENSE_HEAD] = _stage(run, "embed")
    return _hash({"blend": settings, "members": members, "dataset": _stage(run, "prepare")})


def training_times(run: Run, stage: Literal["sft", "rl"]) -> tuple[float, float | None]:
    """Returns wall and processor seconds of all trainings behind a model, validation included.

    Wall time covers all parts of a training that was killed and went on. Processor time is measured in the last part
    alone: it is None where there were earlier ones, and for runs of earlier versions, which say nothing of it.

    Args:
        run: The run.
        stage: The training that wrote the model.
    """
    stages = run.manifest()["stages"]
    names: list[str] = [stage]
    # What a training began with, not what the manifest has: it keeps the stages that a recipe has since left out.
    while "start" in stages[names[-1]]["inputs"]:
        maker = _maker_of_start(stages, names[-1])
        if maker is None:
            break
        names.append(maker)
    times = [_own_times(stages[name]) for name in names]
    cpu_times = [cpu_s for _, cpu_s in times if cpu_s is not None]
    wall_s = round(sum(wall_s for wall_s, _ in times), 3)
    return wall_s, round(sum(cpu_times), 3) if len(cpu_times) == len(times) else None


def _maker_of_start(stages: Mapping[str, Any], name: str) -> str | None:
    """Returns the stage that wrote the model with which a training began; None if it came from outside the run."""
    start = stages[name]["inputs"]["start"]
    return next(
        (other for other, entry in stages.items() if other != name and start in entry["outputs"].values()), None
    )


def _own_times(entry: Mapping[str, Any]) -> tuple[float, float | None]:
    """Returns wall and processor seconds of one training."""
    train_s, last_part_s = entry["metrics"].get("train_s", 0.0), entry["wall_time_s"]
    if train_s > last_part_s + _ROUNDED_S:
        return train_s, None
    return last_part_s, entry.get("cpu_time_s")


def _row(run: Run, card: Mapping[str, Any]) -> dict[str, Any]:
    inputs = ("dataset", *BASELINES[card["kind"]].needs)
    return {"settings": card["settings"], **{name: _stage(run, _MAKERS[name]) for name in inputs}}


def _card(run: Run, row: str) -> Mapping[str, Any]:
    card: Mapping[str, Any] = read_json(run.require(f"baselines/{row}.json", "baselines"))
    return card


def _stage(run: Run, name: str) -> dict[str, Any]:
    """Returns a stage's settings and what made its inputs; a file from outside the run counts by its content."""
    entry = run.manifest()["stages"].get(name)
    if entry is None:
        return {}
    makers = dict(_MAKERS)
    if "start" in entry["inputs"] and (maker := _maker_of_start(run.manifest()["stages"], name)) is not None:
        makers["start"] = maker
    inputs = {
        key: _stage(run, makers[key]) if name != "prepare" and makers.get(key, name) != name else content
        for key, content in entry["inputs"].items()
    }
    return {"config": _without_paths(entry["config"], inputs) if name == "prepare" else entry["config"], **inputs}


def _without_paths(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of ``prepare`` without the paths of the files, wherever these lie."""
    source = {key: value for key, value in config["source"].items() if key not in ("path", *inputs)}
    return {**config, "source": source}


def _hash(made_with: Any) -> str:
    return text_hash(json.dumps(_without_idle(made_with), sort_keys=True, ensure_ascii=False))


def _without_idle(value: Any) -> Any:
    """Returns the values without what is off: an earlier version may not have had the setting at all."""
    if isinstance(value, Mapping):
        return {key: _without_idle(one) for key, one in value.items() if one is not None and one is not False}
    return [_without_idle(one) for one in value] if isinstance(value, (list, tuple)) else value
