"""The top of the page: what came out in one sentence, the key figures, and what somebody should look at.

The findings are rules with fixed thresholds, so that two reports say the same of the same figures.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from itemic.core.page.formats import (
    write_count,
    write_duration,
    write_interval,
    write_metric,
    write_percent,
    write_quantity,
)
from itemic.core.trained_model import rl_is_outdated
from itemic.evaluate.report.artifacts import RunArtifacts, TrainingLog
from itemic.evaluate.report.focus import Standing, score
from itemic.evaluate.report.gain import ALPHA, RlGain, rl_gain, write_sureness
from itemic.evaluate.report.hits import are_log_probabilities, reliability
from itemic.evaluate.report.sections.parts import Fact
from itemic.evaluate.report.sections.provenance import total_time_s
from itemic.evaluate.report.sections.reinforcement import RlOutcome, rl_outcome
from itemic.evaluate.report.sections.training import best_valid

__all__ = ["Finding", "Headline", "describe_headline"]

_MANY_COLLISIONS = 0.3
_LOW_USE = 0.5
_MANY_COLD_TARGETS = 0.1
_WIDE_INTERVAL = 0.2
_LOSS_AFTER_BEST = 0.02
_STILL_GAINING = 0.01
_DISHONEST = 1.5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something a reader should know before trusting the figures."""

    level: str
    """``good``, ``note`` or ``warning``."""
    text: str
    section: str
    """Anchor of the section that shows it."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The top of the page."""

    title: str
    subtitle: str
    verdict: str
    """What came out; empty before evaluation."""
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...]


def describe_headline(artifacts: RunArtifacts, place: Standing | None, *, cutoff: int, title: str) -> Headline:
    """Returns the top of the page; it says less the less there is."""
    return Headline(
        title=title or artifacts.name,
        subtitle=_subtitle(artifacts),
        verdict=_verdict(artifacts.metrics, place, cutoff) if artifacts.metrics and place else "",
        facts=tuple(_facts(artifacts, place, cutoff)),
        findings=tuple(_findings(artifacts, place, cutoff)),
    )


def _subtitle(artifacts: RunArtifacts) -> str:
    words = []
    if artifacts.dataset is not None:
        dataset = artifacts.dataset
        num_users = dataset.interactions["user_id"].n_unique()
        words.append(f"{dataset.num_items:,} items, {num_users:,} users, {dataset.interactions.height:,} interactions")
    if artifacts.model is not None:
        kind = (artifacts.model.config.get("architectures") or ["a model"])[0].removesuffix("ForCausalLM")
        words.append(f"{kind}, {write_quantity(artifacts.model.num_parameters)} parameters")
    finished = [entry["finished_at"][:10] for entry in artifacts.stages.values()]
    if finished:
        words.append(max(finished))
    return " · ".join(words)


def _verdict(metrics: Mapping[str, Any], place: Standing, cutoff: int) -> str:
    mine = score(metrics, place.focus, place.label)["value"]
    hits = score(metrics, place.focus, f"HR@{cutoff}")["value"]
    text = f"{place.focus} has the next item among its first {cutoff} in {write_percent(hits)} of cases"
    if place.rival is None:
        return f"{text} ({place.label} {write_metric(mine)})."
    best = score(metrics, place.rival, place.label)["value"]
    text += f". By {place.label} it reaches {write_metric(mine)}, {_relation(mine, best)} {place.rival}, "
    return f"{text}the best of the others ({write_metric(best)}){_sureness(place)}."


def _relation(mine: float, other: float) -> str:
    if other == 0 or mine == other:
        return "the same as" if mine == other else "against"
    change = mine / other - 1
    return f"{write_percent(abs(change))} {'above' if change > 0 else 'below'}"


def _sureness(place: Standing) -> str:
    return "" if place.comparison is None else f"; {write_sureness(place.comparison)}"


def _facts(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> Iterator[Fact]:
    metrics = artifacts.metrics
    if metrics is not None and place is not None:
        for label in (place.label, f"HR@{cutoff}"):
            own = score(metrics, place.focus, label)
            yield Fact(
                label=label, value=write_metric(own["value"]), note=write_interval(own.get("low"), own.get("high"))
            )
        if place.rival is not None:
            yield _lift(metrics, place)
        yield Fact(
            label="Rank among recommenders",
            value=f"{place.ranked.index(place.focus) + 1} of {len(place.ranked)}",
            note=f"by {place.label}",
        )
    if artifacts.quality is not None:
        moved, before = artifacts.quality["share_moved"], artifacts.quality["collisions"]["before"]["rate"]
        yield Fact(
            label="IDs in collision as coded",
            value=write_percent(before),
            note=f"{write_percent(moved)} of items moved",
        )
    if artifacts.stages:
        slowest = max(artifacts.stages, key=lambda name: artifacts.stages[name]["wall_time_s"])
        yield Fact(
            label="Time of all stages", value=write_duration(total_time_s(artifacts.stages)), note=f"longest: {slowest}"
        )


def _lift(metrics: Mapping[str, Any], place: Standing) -> Fact:
    mine, best = (score(metrics, name, place.label)["value"] for name in (place.focus, place.rival or ""))
    change = f"{100 * (mine / best - 1):+.1f}%".replace("-", "−") if best else "–"
    return Fact(label="Against the best other", value=change, note=f"{place.rival}, {write_metric(best)}")


def _findings(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> Iterator[Finding]:
    """Yields findings, warnings first."""
    found = [*_result_findings(artifacts, place, cutoff), *_training_findings(artifacts.training)]
    found += _reinforcement_findings(rl_outcome(artifacts))
    if rl_is_outdated(artifacts.stages):
        text = "Reinforcement learning began from an older model than the one of itemic sft: run itemic rl."
        found.append(Finding(level="warning", text=text, section="reinforcement"))
    found += [*_catalog_findings(artifacts), *_data_findings(artifacts), *_stale_findings(artifacts.stages)]
    for level in ("warning", "note", "good"):
        yield from (finding for finding in found if finding.level == level)


def _result_findings(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> Iterator[Finding]:
    metrics = artifacts.metrics
    if metrics is None or place is None:
        return
    if place.rival is not None:
        yield _rank_finding(place, place.rival)
    gain = rl_gain(metrics, cutoff)
    if gain is not None:
        yield Finding(level=_level_of(gain), text=gain.text, section="results")
    invalid = metrics["recommenders"][place.focus]["metrics"].get(f"Invalid@{cutoff}", {}).get("value")
    if invalid:
        text = f"{write_percent(invalid)} of the slots of {place.focus} hold no real, allowed item."
        yield Finding(level="warning", text=text, section="results")
    elif invalid == 0:
        text = f"Every slot of {place.focus} holds a real, allowed item."
        yield Finding(level="good", text=text, section="results")
    yield from _sample_findings(artifacts, metrics, place)
    yield from _honesty_findings(artifacts, place, cutoff)


def _rank_finding(place: Standing, rival: str) -> Finding:
    """Returns how the focus stands to its rivals; good or bad only where the best of them is clearly apart."""
    above = place.ranked[: place.ranked.index(place.focus)]
    clear = place.comparison is not None and place.comparison["p_value"] < ALPHA
    if above:
        others = f"{len(above)} of {len(place.ranked) - 1} other recommenders"
        text = f"{others} rank above {place.focus}: {', '.join(above)}."
        return Finding(level="warning" if clear else "note", text=text, section="results")
    if clear:
        return Finding(level="good", text=f"{place.focus} ranks above every other recommender.", section="results")
    if place.comparison is None:
        text = f"{place.focus} ranks first, but no paired test against {rival} was made: the difference may be chance."
    else:
        text = f"{place.focus} is level with {rival}, the best of the others: {write_sureness(place.comparison)}."
    return Finding(level="note", text=text, section="results")


def _level_of(gain: RlGain) -> str:
    if not gain.is_clear:
        return "note"
    return "good" if gain.difference > 0 else "warning"


def _sample_findings(artifacts: RunArtifacts, metrics: Mapping[str, Any], place: Standing) -> Iterator[Finding]:
    own = score(metrics, place.focus, place.label)
    half = (own["high"] - own["low"]) / 2 if own.get("low") is not None else 0.0
    if own["value"] > 0 and half > _WIDE_INTERVAL * own["value"]:
        text = (
            f"The interval of {place.label} is wide ({write_interval(own['low'], own['high'])}): at this size other "
            f"users would give up to {write_percent(half / own['value'], 0)} more or less."
        )
        yield Finding(level="note", text=text, section="results")
    protocol = metrics["protocol"]
    if artifacts.dataset is not None:
        available = artifacts.dataset.split(protocol["split"]).height
        if protocol["num_examples"] < available:
            text = f"Evaluated on {protocol['num_examples']:,} of {available:,} {protocol['split']} examples."
            yield Finding(level="note", text=text, section="results")
    if protocol["split"] != "test":
        text = f"The figures are of the {protocol['split']} split, on which choices were made."
        yield Finding(level="warning", text=text, section="results")


def _honesty_findings(artifacts: RunArtifacts, place: Standing, cutoff: int) -> Iterator[Finding]:
    table = artifacts.rankings.get(place.focus)
    if table is None or not are_log_probabilities(table):
        return
    found = reliability(table, cutoff)
    if found.promise_is_off and found.expected_hit_rate > _DISHONEST * found.observed_hit_rate:
        text = (
            f"{place.focus} is too sure of itself: its probabilities promise {write_percent(found.expected_hit_rate)} "
            f"hits in {cutoff}, {write_percent(found.observed_hit_rate)} came true."
        )
        yield Finding(level="note", text=text, section="behaviour")


def _training_findings(log: TrainingLog | None) -> Iterator[Finding]:
    if log is None or not log.train:
        return
    broken = sum(not math.isfinite(record.get("loss", 0.0)) for record in log.train)
    if broken:
        yield Finding(level="warning", text=f"The loss was not finite at {broken} logged steps.", section="training")
    best = best_valid(log)
    if best is None or len(log.valid) < 2:
        return
    last, before = float(log.valid[-1][best.key]), float(log.valid[-2][best.key])
    sign = 1 if best.lower_is_better else -1
    if sign * (last - best.value) > _LOSS_AFTER_BEST * abs(best.value):
        text = (
            f"{_capital(best.key)} was best at step {write_count(best.step)} and worse by "
            f"{write_percent(abs(last / best.value - 1))} at the end: the model kept is the best one."
        )
        yield Finding(level="note", text=text, section="training")
    elif sign * (before - last) > _STILL_GAINING * abs(before):
        text = f"{_capital(best.key)} was still getting better at the last step: longer training may pay."
        yield Finding(level="note", text=text, section="training")


def _reinforcement_findings(outcome: RlOutcome | None) -> Iterator[Finding]:
    if outcome is None:
        return
    if outcome.stop_reason:
        text = f"Reinforcement learning stopped at step {write_count(outcome.num_steps)}: {outcome.stop_reason}."
        yield Finding(level="warning", text=text, section="reinforcement")
    if outcome.num_validations and outcome.best is not None and outcome.best["step"] == 0:
        text = "Reinforcement learning gained nothing on valid: the model kept is the one it began with."
        yield Finding(level="note", text=text, section="reinforcement")


def _capital(key: str) -> str:
    return f"Valid {key.removeprefix('valid_').replace('ndcg', 'NDCG').replace('hr@', 'HR@')}"


def _catalog_findings(artifacts: RunArtifacts) -> Iterator[Finding]:
    catalog, model, quality = artifacts.catalog, artifacts.model, artifacts.quality
    trained_on = model.itemic.get("catalog_version") if model is not None else None
    if catalog is not None and trained_on not in (None, catalog.version):
        versions = f"({str(trained_on)[:12]}) than the one here ({catalog.version[:12]})"
        text = f"The model was trained on another catalog {versions}: evaluate it only with its own."
        yield Finding(level="warning", text=text, section="sids")
    if quality is None:
        return
    rate = quality["collisions"]["before"]["rate"]
    if rate > _MANY_COLLISIONS:
        text = f"Collision rate {write_percent(rate)} as coded: larger codebooks or another level would help."
        yield Finding(level="note", text=text, section="sids")
    for level, use in enumerate(quality["levels"], start=1):
        if use["share_used"] < _LOW_USE:
            text = (
                f"Level {level} uses {write_percent(use['share_used'], 0)} of its codes; the others are never learned."
            )
            yield Finding(level="note", text=text, section="sids")


def _stale_findings(stages: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields the stages that read another version of an artefact than the one that is there now.

    A run may hold several artefacts of one name, ``model`` and ``rl/model`` say; having read either is well.
    """
    made: dict[str, set[str]] = {}
    for entry in stages.values():
        for name, digest in entry["outputs"].items():
            made.setdefault(_stem(name), set()).add(digest)
    for stage, entry in stages.items():
        stale = [name for name, digest in entry["inputs"].items() if digest not in made.get(_stem(name), {digest})]
        if stale:
            text = f"Stage {stage} read another {' and '.join(stale)} than the one here: run it again."
            yield Finding(level="warning", text=text, section="run")


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _data_findings(artifacts: RunArtifacts) -> Iterator[Finding]:
    if artifacts.rejects is not None and not artifacts.rejects.is_empty():
        text = f"{artifacts.rejects.height:,} source rows could not be used; they are listed by reason."
        yield Finding(level="note", text=text, section="data")
    dataset = artifacts.dataset
    if dataset is None or dataset.test.is_empty():
        return
    cold = float((dataset.train_counts()[dataset.test["target"].to_numpy()] == 0).mean())
    if cold > _MANY_COLD_TARGETS:
        text = f"{write_percent(cold)} of test targets never occur in training: only text can reach them."
        yield Finding(level="note", text=text, section="data")
