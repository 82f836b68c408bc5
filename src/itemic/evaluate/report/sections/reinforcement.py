"""What the report says of reinforcement learning: what it gained on valid, and the signals by which it is watched.

Small charts over the same steps, one a signal. Knows the log's figures by name, not how they are made, and draws those
that are there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from itemic.core.page.formats import write_count, write_duration, write_metric, write_number, write_percent
from itemic.core.trained_model import rl_is_outdated
from itemic.evaluate.report.artifacts import RunArtifacts, TrainingLog
from itemic.evaluate.report.figures import Figure, Line, Spec, Style, Table, View, line_chart, palette
from itemic.evaluate.report.sections.parts import Fact
from itemic.evaluate.report.sections.training import (
    best_valid,
    control_views,
    loss_views,
    mark_step,
    thin,
    with_speed,
    write_valid_key,
)

__all__ = ["ReinforcementSection", "RlOutcome", "describe_reinforcement", "rl_outcome"]

Record = Mapping[str, Any]

_STAGE = "rl"
_TARGETS = ("valid_ndcg@10", "valid_hr@50")
_SCORE = "valid_score"
_HEIGHT_PX = 240
_MARGIN = 0.02
_MAX_ROWS = 20
_MAIN = Style(colour="var(--focus)", symbol="circle", dash="solid", width=2.5)
_VALID = Style(colour="var(--series-1)", symbol="diamond", dash="solid", width=2)
_START = Style(colour="var(--muted)", symbol="circle", dash="dash", width=1.25)
_SHARES = (-0.03, 1.03)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small chart of training signals."""

    key: str
    title: str
    caption: str
    figures: tuple[tuple[str, str], ...]
    """Names in the log, and what a reader calls them."""
    y_range: tuple[float, float] | None = None
    """Ends of the axis; None takes the data's."""
    from_zero: bool = True
    """Whether the axis begins at 0 where nothing lies below."""


_PANELS = (
    Panel(
        key="groups",
        title="Groups of candidates",
        caption="Shares: groups with the target in them, groups whose rewards are all equal (they teach nothing), and "
        "distinct candidates.",
        figures=(("hit_share", "with target"), ("zero_variance", "no signal"), ("distinct", "distinct")),
        y_range=_SHARES,
    ),
    Panel(
        key="entropy",
        title="Entropy",
        caption="Of the policy over what it may write, mean a token of the answer in nats. At 0 it has collapsed.",
        figures=(("entropy", "entropy"),),
    ),
    Panel(
        key="kl",
        title="Distance from the reference",
        caption="KL divergence, k3 estimate, mean a token in nats.",
        figures=(("kl", "KL"),),
    ),
    Panel(
        key="clip",
        title="Clipped tokens",
        caption="Share of tokens whose probability has moved so far since the roll-out that they teach no more.",
        figures=(("clip_fraction", "clipped"),),
    ),
    Panel(
        key="margin",
        title="Margin of the preferred",
        caption="How much more the chosen answer has gained on the reference than the rejected ones, times beta.",
        figures=(("margin", "margin"),),
        from_zero=False,
    ),
    Panel(
        key="accuracy",
        title="Pairs in the right order",
        caption="Share of pairs whose chosen answer has gained more than the rejected one.",
        figures=(("accuracy", "accuracy"),),
        y_range=_SHARES,
    ),
)


@dataclass(frozen=True, kw_only=True)
class RlOutcome:
    """What reinforcement learning came to, as far as the log and the manifest tell."""

    before: Record | None
    """The validation before the first step; None where there was none."""
    best: Record | None
    """The validation of the step whose model was kept; None without any."""
    num_validations: int
    """Validations after the first step."""
    num_steps: int
    """Steps taken; while it runs, the last step logged."""
    has_ended: bool
    """Whether the stage has finished."""
    is_outdated: bool
    """Whether ``sft`` has written another model since than the one it began with."""
    stopped_early: bool
    stop_reason: str
    """Why it stopped before its end, in its own words; empty where it did not say."""


@dataclass(frozen=True, kw_only=True)
class ReinforcementSection:
    """What reinforcement learning gained, in words, and its curves."""

    summary: str
    facts: tuple[Fact, ...]
    figures: tuple[Figure, ...]


def describe_reinforcement(artifacts: RunArtifacts) -> ReinforcementSection | None:
    """Returns the section; None where the run has no reinforcement learning, which is no lack."""
    log = artifacts.reinforcement
    outcome = rl_outcome(artifacts)
    if log is None or outcome is None:
        return None
    return ReinforcementSection(
        summary=" ".join(_summary(outcome)),
        facts=tuple(_facts(log, outcome)),
        figures=tuple(_figures(log, outcome)),
    )


def rl_outcome(artifacts: RunArtifacts) -> RlOutcome | None:
    """Returns what the run's reinforcement learning came to; None without a line of its log.

    The step that was kept is the manifest's and, where that says none, the best one of the log.
    """
    log = artifacts.reinforcement
    if log is None or not (log.train or log.valid):
        return None
    entry = artifacts.stages.get(_STAGE, {})
    metrics: Record = entry.get("metrics") or {}
    choice = best_valid(log)
    best_step = metrics.get("best_step", choice.step if choice else None)
    by_step = {record["step"]: record for record in log.valid}
    kept = by_step.get(best_step) or (by_step[choice.step] if choice else None)
    return RlOutcome(
        before=by_step.get(0),
        best=kept,
        num_validations=sum(step > 0 for step in by_step),
        num_steps=max(metrics.get("num_steps", 0), *(record["step"] for record in (*log.train[-1:], *log.valid[-1:]))),
        has_ended=bool(entry),
        is_outdated=rl_is_outdated(artifacts.stages),
        stopped_early=bool(metrics.get("stopped_early")),
        stop_reason=str(metrics.get("stop_reason") or "").strip().rstrip("."),
    )


def _summary(outcome: RlOutcome) -> Iterator[str]:
    """Yields sentences: what was gained, and how it ended."""
    if outcome.is_outdated:
        yield "This began from an older model than the one of itemic sft: run itemic rl."
    if outcome.best is not None:
        yield _write_gain(outcome, outcome.best)
    at = f"at step {write_count(outcome.num_steps)}"
    if outcome.stop_reason:
        yield f"It stopped {at}: {outcome.stop_reason}."
    elif outcome.stopped_early:
        yield f"It stopped early {at}, after too many validations without a better one."
    elif outcome.has_ended:
        yield f"It ran its {write_count(outcome.num_steps)} steps to the end."


def _write_gain(outcome: RlOutcome, best: Record) -> str:
    before, step, count = outcome.before, write_count(best["step"]), outcome.num_validations
    of_all = f"the best of {count} validations" if count > 1 else "the only validation since"
    if before is None:
        of_all = of_all.removesuffix(" since")
        return f"At step {step}, {of_all}, {_write_values(best)} on valid."
    if best["step"] > 0:
        changes = [_write_change(before, best, key) for key in _shared_targets(before, best)]
        told = " and ".join(changes).replace(" from ", " went from ", 1)
        return f"On valid, {told} at step {step}, {of_all}."
    if count == 0:
        return f"Before the first step {_write_values(before)} on valid; there is no validation since."
    none = f"none of {count} validations was" if count > 1 else "the only validation since was not"
    return f"Before the first step {_write_values(before)} on valid; {none} better, so the model kept is that one."


def _write_values(record: Record) -> str:
    return " and ".join(f"{_short(key)} was {write_metric(record[key])}" for key in _shared_targets(record, record))


def _write_change(before: Record, best: Record, key: str) -> str:
    ends = f"from {write_metric(before[key])} to {write_metric(best[key])}"
    return f"{_short(key)} {ends}{_relative(before[key], best[key])}"


def _relative(before: float, after: float) -> str:
    change = (100 * (after / before - 1)) if before else math.nan
    return f" ({change:+.1f}%)".replace("-", "−") if math.isfinite(change) else ""


def _shared_targets(one: Record, other: Record) -> list[str]:
    """Returns the figures to speak of that both records have: the usual ones or, without them, the first."""
    shared = [key for key in one if key.startswith("valid_") and key in other]
    return [key for key in _TARGETS if key in shared] or shared[:1]


def _short(key: str) -> str:
    return write_valid_key(key).removeprefix("valid ")


def _facts(log: TrainingLog, outcome: RlOutcome) -> Iterator[Fact]:
    before, best = outcome.before, outcome.best
    if best is not None:
        for key in _shared_targets(best, best):
            gain = f"from {write_metric(before[key])}{_relative(before[key], best[key])}" if before else ""
            yield Fact(label=f"{_short(key)} on valid", value=write_metric(best[key]), note=gain)
        yield Fact(label="Step kept", value=write_count(best["step"]), note=_write_length(log, outcome))
    for key, label in (("reward", "Mean reward"), ("hit_share", "Groups with the target"), ("entropy", "Entropy")):
        _, values = thin(log.train, key)
        if values:
            write = write_percent if key == "hit_share" else _write_signal
            yield Fact(label=label, value=write(values[-1]), note=f"from {write(values[0])}")


def _write_length(log: TrainingLog, outcome: RlOutcome) -> str:
    times = [record["wall_time_s"] for record in log.train if "wall_time_s" in record]
    return f"of {write_count(outcome.num_steps)}{f' in {write_duration(times[-1])}' if times else ''}"


def _write_signal(value: float) -> str:
    return write_number(value).replace("-", "−")


def _figures(log: TrainingLog, outcome: RlOutcome) -> Iterator[Figure]:
    for figure in (*_valid_figures(log), *_reward_figures(log), *_signal_figures(log), *_loss_figures(log)):
        views = tuple(replace(view, spec=_align(view.spec, outcome)) for view in figure.views)
        yield replace(figure, key=f"figure-rl-{figure.key}", views=views, height_px=_HEIGHT_PX)


def _align(spec: Spec, outcome: RlOutcome) -> Spec:
    """Returns the chart over the steps that all charts share, with the step that was kept marked."""
    span = max(outcome.num_steps, 1)
    layout = spec["layout"]
    x_axis = {**layout["xaxis"], "range": [-_MARGIN * span, (1 + _MARGIN) * span], "nticks": 6, "zeroline": False}
    y_axis = {**layout["yaxis"], "title": {"text": ""}, "nticks": 6}
    shapes = mark_step(outcome.best["step"], outcome.num_steps)["shapes"] if outcome.best else []
    return {**spec, "layout": {**layout, "xaxis": x_axis, "yaxis": y_axis, "shapes": shapes, "annotations": []}}


def _valid_figures(log: TrainingLog) -> Iterator[Figure]:
    """Yields NDCG and hit rates on valid; what else was measured there stands behind the first."""
    keys = [key for key in dict.fromkeys(key for record in log.valid for key in record) if key.startswith("valid_")]
    rates = sorted((key for key in keys if key.startswith("valid_hr@")), key=lambda key: key not in _TARGETS)
    others = [key for key in keys if key not in rates and "loss" not in key]
    others.sort(key=lambda key: key not in _TARGETS)
    dashed = "Dashed: before reinforcement learning. " if log.valid and log.valid[0]["step"] == 0 else ""
    plain = f"{dashed}Dotted: the step whose model was kept."
    by_score = f"{dashed}Dotted: the step kept, best by the score: NDCG@10, less where HR@50 is below its start."
    caption = by_score if _SCORE in keys else plain
    kinds = (("ranking", "Ranking on valid", others, caption), ("hits", "Hit rate on valid", rates, plain))
    for key, title, names, words in kinds:
        if names:
            table = Table(
                columns=("Step", *map(_short, names)),
                rows=tuple(
                    (write_count(record["step"]), *(write_metric(record.get(name)) for name in names))
                    for record in log.valid
                ),
            )
            views = tuple(View(label=_short(name), spec=_valid_spec(log, name), table=table) for name in names)
            shown = title if len(names) > 1 else f"{_short(names[0])} on valid"
            yield Figure(key=key, title=shown, caption=words, views=views)


def _valid_spec(log: TrainingLog, key: str) -> Spec:
    x, y = thin(log.valid, key)
    lines = [Line(name=_short(key), x=x, y=y, style=_VALID, markers=True)]
    if x[0] == 0 and len(x) > 1:
        lines.append(Line(name="before", x=[x[0], x[-1]], y=[y[0], y[0]], style=_START))
    spec = line_chart(lines, x_title="step", y_title="")
    spec["layout"]["showlegend"] = False
    return spec


def _reward_figures(log: TrainingLog) -> Iterator[Figure]:
    names = sorted({key for record in log.train for key in record if key.startswith("reward/")})
    labels = {name: name.removeprefix("reward/").replace("_", " ") for name in names}
    styles = palette(["reward", *names], "reward")
    figures = [("reward", "total"), *labels.items()]
    lines = _lines(log.train, figures, [styles[name] for name, _ in figures])
    if lines:
        caption = "Mean over all candidates: the total, and each component before its weight."
        spec = line_chart(lines, x_title="step", y_title="")
        view = View(label="Rewards", spec=spec, table=_table(log.train, figures))
        yield Figure(key="rewards", title="Rewards", caption=caption, views=(view,))


def _signal_figures(log: TrainingLog) -> Iterator[Figure]:
    for panel in _PANELS:
        styles = [_MAIN, *palette([key for key, _ in panel.figures[1:]], None).values()]
        lines = _lines(log.train, panel.figures, styles)
        if not lines:
            continue
        spec = line_chart(lines, x_title="step", y_title="")
        if panel.y_range:
            spec["layout"]["yaxis"]["range"] = list(panel.y_range)
        elif panel.from_zero:
            spec["layout"]["yaxis"]["rangemode"] = "tozero"
        views = (View(label=panel.title, spec=spec, table=_table(log.train, panel.figures)),)
        yield Figure(key=panel.key, title=panel.title, caption=panel.caption, views=views)


def _lines(records: Sequence[Record], figures: Sequence[tuple[str, str]], styles: Sequence[Style]) -> list[Line]:
    """Returns a line for each figure that some record has; a single point is shown as a mark."""
    lines = []
    for (key, label), style in zip(figures, styles, strict=True):
        x, y = thin(records, key)
        if x:
            lines.append(Line(name=label, x=x, y=y, style=style, markers=len(x) == 1))
    return lines


def _table(records: Sequence[Record], figures: Sequence[tuple[str, str]]) -> Table:
    """Returns the same figures in few rows, each the mean over as many records up to its step."""
    shown = [(label, thin(records, key, _MAX_ROWS)) for key, label in figures]
    shown = [(label, points) for label, points in shown if points[0]]
    steps = sorted({step for _, (x, _) in shown for step in x})
    by_step = [dict(zip(x, y, strict=True)) for _, (x, y) in shown]
    rows = tuple((write_count(step), *(_write_cell(column.get(step)) for column in by_step)) for step in steps)
    return Table(columns=("Step", *(label for label, _ in shown)), rows=rows)


def _write_cell(value: float | None) -> str:
    return "" if value is None else _write_signal(value)


def _loss_figures(log: TrainingLog) -> Iterator[Figure]:
    records = with_speed(log.train)
    losses = [*(loss_views(log) if any("loss" in record for record in log.train) else ())]
    tasks = sorted({key for record in log.train for key in record if key.startswith("loss/")})
    columns = ([("loss", "all tasks")], [(key, key.removeprefix("loss/").replace("_", " ")) for key in tasks])
    views = [replace(view, table=_table(records, names)) for view, names in zip(losses, columns, strict=False)]
    views += [replace(view, table=_table(records, [(key, view.label)])) for key, view in control_views(records)]
    if views:
        caption = "What is minimised, step size, gradients before clipping, and speed."
        yield Figure(key="loss", title="Loss and steps", caption=caption, views=tuple(views))
