"""Where the figures come from: every stage with its time, settings, seed and machine, and what the model is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from itemic.core.page.formats import write_count, write_duration, write_quantity
from itemic.evaluate.report.artifacts import ModelFiles, RunArtifacts
from itemic.evaluate.report.sections.parts import Fact, Missing, flatten

__all__ = ["ProvenanceSection", "StageRow", "describe_provenance", "total_time_s"]

_MODEL_FIELDS = (
    ("hidden_size", "Width"),
    ("num_hidden_layers", "Layers"),
    ("num_attention_heads", "Attention heads"),
    ("vocab_size", "Vocabulary"),
)


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of the run."""

    name: str
    time: str
    share: float
    """Of the longest stage's time, for drawing."""
    finished: str
    """UTC, to the minute."""
    config: str
    """Settings as YAML; empty where the stage has none."""
    figures: tuple[tuple[str, str], ...]
    """What the stage reported when it ended, as name and figure."""
    inputs: tuple[tuple[str, str], ...]
    """Name and first characters of the hash of what it read."""


@dataclass(frozen=True, kw_only=True)
class ProvenanceSection:
    """How the run was made."""

    stages: tuple[StageRow, ...]
    total: str
    """Time of all stages."""
    config: str
    """All settings as one YAML text, in the form of a recipe."""
    machine: tuple[tuple[str, str], ...]
    """Device, seed and package versions, as name and value; several values where stages differ."""
    model: tuple[Fact, ...]
    """What the model folder says; empty without one."""


def describe_provenance(artifacts: RunArtifacts) -> ProvenanceSection | Missing:
    """Returns the section, or what is missing for it."""
    stages = artifacts.stages
    if not stages:
        return Missing.of("manifest.json", "run")
    longest = max(entry["wall_time_s"] for entry in stages.values()) or 1.0
    return ProvenanceSection(
        stages=tuple(_stage_row(name, entry, longest) for name, entry in stages.items()),
        total=write_duration(total_time_s(stages)),
        config=_write_yaml(_recipe(stages)),
        machine=tuple(_machine(stages)),
        model=tuple(_model_facts(artifacts.model)) if artifacts.model else (),
    )


def total_time_s(stages: Mapping[str, Any]) -> float:
    """Returns the seconds that all stages took together."""
    return sum(float(entry["wall_time_s"]) for entry in stages.values())


def _stage_row(name: str, entry: Mapping[str, Any], longest_s: float) -> StageRow:
    return StageRow(
        name=name,
        time=write_duration(entry["wall_time_s"]),
        share=entry["wall_time_s"] / longest_s,
        finished=entry["finished_at"].replace("T", " ")[:16],
        config=_write_yaml(entry["config"]) if entry["config"] else "",
        figures=tuple(flatten(entry["metrics"])),
        inputs=tuple((key, digest[:12]) for key, digest in entry["inputs"].items()),
    )


def _recipe(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the seed and the settings each stage really ran with, whatever the recipe file says by now."""
    return {"seed": next(iter(stages.values()))["seed"], **{name: entry["config"] for name, entry in stages.items()}}


def _write_yaml(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=88)
    return text


def _machine(stages: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    entries = list(stages.values())
    yield "seed", _all_of(str(entry["seed"]) for entry in entries)
    yield "device", _all_of(entry["device"] for entry in entries)
    packages = dict.fromkeys(package for entry in entries for package in entry["versions"])
    for package in packages:
        yield package, _all_of(entry["versions"].get(package, "?") for entry in entries)


def _all_of(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _model_facts(model: ModelFiles) -> Iterator[Fact]:
    kind = (model.config.get("architectures") or [model.config.get("model_type", "unknown")])[0]
    yield Fact(label="Architecture", value=str(kind).removesuffix("ForCausalLM"))
    megabytes = f"{model.num_bytes / 1e6:,.1f} MB of weights"
    yield Fact(label="Parameters", value=write_quantity(model.num_parameters), note=megabytes)
    for key, label in _MODEL_FIELDS:
        if isinstance(model.config.get(key), int):
            yield Fact(label=label, value=write_count(model.config[key]))
    for key in ("prompt_mode", "spelling"):
        if isinstance(model.itemic.get(key), str):
            yield Fact(label=key.replace("_", " ").capitalize(), value=model.itemic[key])
