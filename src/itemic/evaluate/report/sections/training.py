"""What the report says of training: loss curves in total, a task and on valid, and the speed and steps behind them.

The curves that every training has are drawn here for the other sections too.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itemic.core.page.formats import write_count, write_duration, write_number, write_quantity
from itemic.evaluate.report.artifacts import RunArtifacts, TrainingLog
from itemic.evaluate.report.figures import Figure, Line, Spec, Style, View, line_chart, palette
from itemic.evaluate.report.sections.parts import Fact, Missing

__all__ = [
    "Choice",
    "TrainingSection",
    "best_valid",
    "control_views",
    "describe_training",
    "loss_views",
    "mark_step",
    "thin",
    "with_speed",
    "write_valid_key",
]

Record = Mapping[str, Any]

_MAX_POINTS = 500
_TOTAL = Style(colour="var(--focus)", symbol="circle", dash="solid", width=2.5)
_VALID = Style(colour="var(--series-1)", symbol="diamond", dash="solid", width=2)
_CONTROLS = (
    ("learning_rate", "Learning rate", "%{y:.2e}"),
    ("grad_norm", "Gradient norm", "%{y:.3f}"),
    ("tokens_per_s", "Tokens a second", "%{y:,.0f}"),
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The validation by which the model that was kept is the best."""

    key: str
    """Figure it was chosen by, ``valid_loss`` or ``valid_ndcg@10`` say."""
    lower_is_better: bool
    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """Loss curves and the facts around them."""

    facts: tuple[Fact, ...]
    figures: tuple[Figure, ...]


def describe_training(artifacts: RunArtifacts) -> TrainingSection | Missing:
    """Returns the section, or what is missing for it."""
    log = artifacts.training
    if log is None or not (log.train or log.valid):
        return Missing.of("sft.jsonl", "sft")
    figures = list(_figures(log))
    if artifacts.alignment is not None and artifacts.alignment.train:
        caption = "The training before, on its own data and parameters: cross-entropy a predicted token in nats."
        view = View(label="Alignment", spec=_loss_spec(artifacts.alignment))
        figures.append(Figure(key="figure-align", title="Alignment", caption=caption, views=(view,), height_px=300))
    return TrainingSection(facts=tuple(_facts(log)), figures=tuple(figures))


def best_valid(log: TrainingLog) -> Choice | None:
    """Returns the best validation, the first of several; None without any."""
    if not log.valid:
        return None
    key = next(key for key in log.valid[0] if key.startswith("valid_"))
    lower_is_better = key.startswith("valid_loss")
    sign = 1 if lower_is_better else -1
    best = min((record for record in log.valid if key in record), key=lambda record: sign * float(record[key]))
    return Choice(key=key, lower_is_better=lower_is_better, step=best["step"], value=float(best[key]))


def thin(records: Sequence[Record], key: str, max_points: int = _MAX_POINTS) -> tuple[list[int], list[float]]:
    """Returns steps and values of ``key``, at most ``max_points`` of them, each the mean over as many records.

    Records without the key are left out; a mean stands at the last step it covers.
    """
    points = [(int(record["step"]), float(record[key])) for record in records if record.get(key) is not None]
    size = -(-len(points) // max_points) if points else 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [group[-1][0] for group in groups], [sum(value for _, value in group) / len(group) for group in groups]


def with_speed(records: Sequence[Record]) -> list[Record]:
    """Returns the records with ``tokens_per_s``, made from the tokens and time since the record before where it lacks.

    The first record has none: its time holds the start-up too.
    """
    timed: list[Record] = [dict(record) for record in records[:1]]
    for before, record in itertools.pairwise(records):
        spent_s = record.get("wall_time_s", 0.0) - before.get("wall_time_s", 0.0)
        speed = {"tokens_per_s": record["tokens"] / spent_s} if "tokens" in record and spent_s > 0 else {}
        timed.append({**speed, **record})
    return timed


def loss_views(log: TrainingLog) -> tuple[View, ...]:
    """Returns the loss over the steps, in total and, where there are several tasks, a task."""
    views = [View(label="All tasks", spec=_loss_spec(log))]
    tasks = _tasks(log)
    if len(tasks) > 1:
        views.append(View(label="By task", spec=_task_spec(log, tasks)))
    return tuple(views)


def control_views(records: Sequence[Record]) -> Iterator[tuple[str, View]]:
    """Yields learning rate, gradient norm and speed over the steps with their names in the records that have them."""
    for key, label, hover in _CONTROLS:
        x, y = thin(records, key)
        if x:
            line = Line(name=label, x=x, y=y, style=_TOTAL, hover=hover)
            yield key, View(label=label, spec=line_chart([line], x_title="step", y_title=label.lower()))


def mark_step(step: int, last_step: int) -> Spec:
    """Returns additions to a layout: a thin line at the step whose model was kept, its word inside the axis."""
    line = {"type": "line", "x0": step, "x1": step, "yref": "paper", "y0": 0, "y1": 1}
    side = {"xanchor": "right", "xshift": -4} if 2 * step > last_step else {"xanchor": "left", "xshift": 4}
    label = {"x": step, "yref": "paper", "y": 1, "text": "kept", "showarrow": False, **side}
    return {
        "shapes": [{**line, "line": {"color": "var(--faint)", "width": 1, "dash": "dot"}}],
        "annotations": [{**label, "yanchor": "top", "font": {"color": "var(--muted)", "size": 11}}],
    }


def write_valid_key(key: str) -> str:
    """Returns a validation figure's name for a reader: ``valid NDCG@10`` for ``valid_ndcg@10``."""
    name = key.removeprefix("valid_")
    return f"valid {name.upper() if '@' in name else name.replace('_', ' ')}"


def _facts(log: TrainingLog) -> Iterator[Fact]:
    last = (log.train or log.valid)[-1]
    losses = [record["loss"] for record in log.train if "loss" in record]
    epochs = f"{write_number(last['epoch'])} epochs" if "epoch" in last else ""
    yield Fact(label="Steps", value=write_count(last["step"]), note=epochs)
    if losses:
        yield Fact(label="Training loss", value=f"{losses[-1]:.3f}", note=f"from {losses[0]:.3f}")
    best = best_valid(log)
    if best is not None:
        note = f"at step {write_count(best.step)}; last {log.valid[-1][best.key]:.4g}"
        yield Fact(label=f"Best {write_valid_key(best.key)}", value=f"{best.value:.4g}", note=note)
    if "wall_time_s" in last:
        yield Fact(label="Time in training", value=write_duration(last["wall_time_s"]))
    num_tokens = sum(record.get("tokens", 0) for record in log.train)
    if num_tokens:
        yield Fact(label="Tokens read", value=write_quantity(num_tokens), note="with repeats, an epoch after another")
    speeds = sorted(float(record["tokens_per_s"]) for record in with_speed(log.train) if record.get("tokens_per_s"))
    if speeds:
        yield Fact(label="Tokens a second", value=write_count(speeds[len(speeds) // 2]), note="median")


def _figures(log: TrainingLog) -> Iterator[Figure]:
    caption = f"Cross-entropy a predicted token in nats. Logs beyond {_MAX_POINTS} points are averaged."
    yield Figure(key="figure-loss", title="Loss", caption=caption, views=loss_views(log), height_px=340)
    controls = [*_ranking_views(log), *(view for _, view in control_views(with_speed(log.train)))]
    if controls:
        caption = "Ranking quality on valid where it was measured, step size, gradients before clipping, and speed."
        title = "Behind the curve"
        yield Figure(key="figure-steps", title=title, caption=caption, views=tuple(controls), height_px=340)


def _ranking_views(log: TrainingLog) -> Iterator[View]:
    keys = dict.fromkeys(key for key in itertools.chain.from_iterable(log.valid) if key.startswith("valid_"))
    for key in keys:
        if not key.startswith("valid_loss"):
            x, y = thin(log.valid, key)
            line = Line(name=write_valid_key(key), x=x, y=y, style=_VALID, markers=True)
            yield View(
                label=write_valid_key(key), spec=line_chart([line], x_title="step", y_title=write_valid_key(key))
            )


def _tasks(log: TrainingLog) -> list[str]:
    keys = itertools.chain.from_iterable(log.train)
    return sorted({key.removeprefix("loss/") for key in keys if key.startswith("loss/")})


def _loss_spec(log: TrainingLog) -> Spec:
    x, y = thin(log.train, "loss")
    lines = [Line(name="training", x=x, y=y, style=_TOTAL)] if x else []
    x, y = thin(log.valid, "valid_loss")
    if x:
        lines.append(Line(name="valid", x=x, y=y, style=_VALID, markers=True))
    spec = line_chart(lines, x_title="step", y_title="loss")
    best = best_valid(log)
    if best is not None:
        spec["layout"] |= mark_step(best.step, (log.train or log.valid)[-1]["step"])
    return spec


def _task_spec(log: TrainingLog, tasks: list[str]) -> Spec:
    styles = palette(tasks, None)
    lines = []
    for task in tasks:
        name, colour, symbol = task.replace("_", " "), styles[task].colour, styles[task].symbol
        x, y = thin(log.train, f"loss/{task}")
        lines.append(Line(name=name, x=x, y=y, style=Style(colour=colour, symbol=symbol, dash="solid", width=2)))
        x, y = thin(log.valid, f"valid_loss/{task}")
        if x:
            dotted = Style(colour=colour, symbol=symbol, dash="dot", width=1.5)
            lines.append(Line(name=f"{name}, valid", x=x, y=y, style=dotted, markers=True))
    return line_chart(lines, x_title="step", y_title="loss")
