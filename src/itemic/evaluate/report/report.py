"""The report stage: a run folder becomes ``report.html``, one page that opens offline.

Reads top to bottom: read what is there, describe each section, fill the template, write. The page is a function of
the folder, the config and the seed alone, so the same run gives the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itemic.core.config import config_to_mapping
from itemic.core.errors import ConfigError
from itemic.core.files import atomic_path, text_hash
from itemic.core.page.page import write_json_script
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.evaluate.report.artifacts import LOG_NAMES, STAGE_NAME, RunArtifacts, read_artifacts
from itemic.evaluate.report.figures import palette
from itemic.evaluate.report.focus import OWN_NAME, Standing, pick_cutoff, standing
from itemic.evaluate.report.page import fill_template
from itemic.evaluate.report.sections.behaviour import describe_behaviour
from itemic.evaluate.report.sections.codebooks import describe_codebooks
from itemic.evaluate.report.sections.data_card import describe_data
from itemic.evaluate.report.sections.examples import describe_examples
from itemic.evaluate.report.sections.exposure import describe_most_listed
from itemic.evaluate.report.sections.headline import describe_headline
from itemic.evaluate.report.sections.parts import Missing
from itemic.evaluate.report.sections.provenance import describe_provenance
from itemic.evaluate.report.sections.reinforcement import describe_reinforcement
from itemic.evaluate.report.sections.results import MEANINGS, describe_results
from itemic.evaluate.report.sections.training import describe_training

__all__ = ["ReportConfig", "render_report", "report"]

_PAGE_NAME = "report.html"
_INPUTS = (
    "dataset",
    "rejects.parquet",
    "embeddings.safetensors",
    "catalog",
    "sids.html",
    *LOG_NAMES,
    "model/config.json",
    "metrics.json",
    "rankings",
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the page shows."""

    title: str = ""
    """Title of the page; empty takes the name of the run folder."""
    focus: str | None = None
    """Recommender that the page puts in front; None takes "itemic" and, where there is none, the best."""
    cutoff: int | None = None
    """List length K of the headline, tables and examples; None takes 10 or, where that was not evaluated, the
    largest."""
    num_examples: int = 8
    """Example users, half of them hits where there are enough: as many as one reads."""
    num_history: int = 8
    """Most history items shown for an example user, the last ones: what fits beside the recommendations."""

    def __post_init__(self) -> None:
        for name, least in (("cutoff", 1), ("num_examples", 0), ("num_history", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, found {value}")


def report(config: ReportConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Returns the stage's result after writing ``report.html`` from what the run folder has so far.

    A section whose artefact is missing says which stage makes it; the page is written again when more is there.

    Raises:
        ArtifactError: if an artefact is there but damaged.
        ConfigError: if the config names a recommender or a cut-off that was not evaluated.
    """

    def work() -> Mapping[str, Any]:
        page = render_report(config, run, seed=seed)
        with atomic_path(run.path(_PAGE_NAME)) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return {"page_bytes": len(page.encode("utf-8"))}

    stages = {name: entry for name, entry in run.manifest()["stages"].items() if name != STAGE_NAME}
    return run.stage(
        STAGE_NAME,
        work,
        config={**config_to_mapping(config), "stages": text_hash(json.dumps(stages, sort_keys=True))},
        inputs=_existing(run),
        outputs=[_PAGE_NAME],
        seed=seed,
        force=force,
    )


def render_report(config: ReportConfig, run: Run, *, seed: int) -> str:
    """Returns the page's HTML.

    Raises:
        ArtifactError: if an artefact is there but damaged.
        ConfigError: if the config names a recommender or a cut-off that was not evaluated.
    """
    artifacts = read_artifacts(run)
    cutoff, place = _standing(artifacts, config)
    styles = palette(sorted(place.order), place.focus) if place else {}
    training, codebooks = describe_training(artifacts), describe_codebooks(artifacts, place, cutoff)
    without_model = place is not None and OWN_NAME not in place.order
    return fill_template(
        headline=describe_headline(artifacts, place, cutoff=cutoff, title=config.title),
        meanings=MEANINGS,
        metrics=write_json_script(artifacts.metrics),
        results=describe_results(artifacts, place, cutoff),
        behaviour=describe_behaviour(artifacts, place, styles, cutoff),
        most_listed=describe_most_listed(artifacts, place, cutoff),
        examples=describe_examples(
            artifacts,
            place,
            cutoff=cutoff,
            num_examples=config.num_examples,
            num_history=config.num_history,
            rng=derive_rng(seed, "report", "examples"),
        ),
        # What a run of baselines alone will never have is left out; in others its place says which stage makes it.
        training=None if without_model and isinstance(training, Missing) else training,
        reinforcement=describe_reinforcement(artifacts),
        codebooks=None if without_model and isinstance(codebooks, Missing) else codebooks,
        data=describe_data(artifacts),
        provenance=describe_provenance(artifacts),
    )


def _standing(artifacts: RunArtifacts, config: ReportConfig) -> tuple[int, Standing | None]:
    if artifacts.metrics is None:
        return config.cutoff or 0, None
    cutoff = pick_cutoff(artifacts.metrics, config.cutoff)
    return cutoff, standing(artifacts.metrics, cutoff, config.focus)


def _existing(run: Run) -> dict[str, Path]:
    return {name: run.path(name) for name in _INPUTS if run.path(name).exists()}
