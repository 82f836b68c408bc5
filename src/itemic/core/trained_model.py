"""Which trained model of a run is meant: the one that ``sft`` wrote, or what ``rl`` made of it.

The one home of that choice: whoever recommends, calibrates or evaluates asks here. Knows no network, only what the
manifest says of the two stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from itemic.core.config import read_yaml
from itemic.core.errors import ArtifactError
from itemic.core.run import Run

__all__ = ["ModelChoice", "TrainedModel", "check_has_model", "find_model", "has_rl", "rl_is_outdated"]

ModelChoice = Literal["last", "sft", "rl"]
"""``last`` is the model after RL where the run has one, else that of ``sft``; the others name the stage."""

_SFT_MODEL = "model"
_RL_MODEL = "rl/model"
_START = "start"
_RECIPE = "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One of a run's models."""

    stage: Literal["sft", "rl"]
    """The stage that wrote it."""
    path: Path
    """Its folder."""
    content: str
    """Hash of the folder, as the manifest has it."""
    max_history: int
    """Items of a history that it was trained to read, the last ones: the fewest that a training of it read."""


def check_has_model(run: Run) -> None:
    """Refuses a run that is not meant to have a language model, whose missing artefacts no stage would write.

    Raises:
        ArtifactError: if there is no model and the run's recipe says ``sft: null``.
    """
    path = run.path(_RECIPE)
    if run.path(_SFT_MODEL).exists() or not path.is_file():
        return
    if read_yaml(path).get("sft", "") is None:
        raise ArtifactError(
            f"{run.folder}: the run has no language model (its recipe says sft: null), so recommend cannot serve it "
            "yet; itemic evaluate measures its baselines and its blend"
        )


def find_model(run: Run, choice: ModelChoice = "last", *, before_rl: str = "--model sft") -> TrainedModel:
    """Returns the model that is meant.

    Args:
        run: The run.
        choice: Which one.
        before_rl: How whoever asks is told to take the model before RL, for the message.

    Raises:
        ArtifactError: if the model is missing, the manifest does not know it, or RL began from another model than the
            one that ``sft`` has written since.
    """
    after_rl = choice == "rl" or (choice == "last" and has_rl(run))
    check_has_model(run)
    # First, so that a run in which nothing is trained names the stage to begin with.
    path = run.require(_SFT_MODEL, "sft")
    sft = _entry(run, "sft")
    content, max_history = sft["outputs"][_SFT_MODEL], int(sft["config"]["max_history"])
    if not after_rl:
        return TrainedModel(stage="sft", path=path, content=content, max_history=max_history)
    path = run.require(_RL_MODEL, "rl")
    rl = _entry(run, "rl")
    if rl_is_outdated(run.manifest()["stages"]):
        raise ArtifactError(
            f"{path}: was trained from an older model than {run.path(_SFT_MODEL)}; run itemic rl again, or ask for the "
            f"model before RL: {before_rl}"
        )
    max_history = min(max_history, int(rl["config"]["max_history"]) or max_history)
    return TrainedModel(stage="rl", path=path, content=rl["outputs"][_RL_MODEL], max_history=max_history)


def rl_is_outdated(stages: Mapping[str, Any]) -> bool:
    """Returns whether RL began from another model than the one that ``sft`` has written since.

    Args:
        stages: The manifest's entries by stage.
    """
    if "rl" not in stages or "sft" not in stages:
        return False
    began_from = stages["rl"]["inputs"].get(_START)
    return began_from is not None and began_from != stages["sft"]["outputs"].get(_SFT_MODEL)


def has_rl(run: Run) -> bool:
    """Returns whether stage ``rl`` ever left a model, be it out of date."""
    return run.path(_RL_MODEL).exists() or "rl" in run.manifest()["stages"]


def _entry(run: Run, stage: str) -> Mapping[str, Any]:
    """Returns what the manifest says of a training."""
    entry: Mapping[str, Any] | None = run.manifest()["stages"].get(stage)
    if entry is None:
        raise ArtifactError(f"{run.manifest_path}: no entry for {stage}; run itemic {stage} again")
    return entry
