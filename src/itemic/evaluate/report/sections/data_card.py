"""The data card: how much there is, how it is split, how it is distributed, what was turned away and what was checked.

Every count is taken from the tables themselves, so the card cannot disagree with the data it describes.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.dataset import Dataset
from itemic.core.page.formats import write_count, write_date, write_number, write_percent
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.figures import Figure, Line, Spec, Style, Table, View, bar_chart, line_chart
from itemic.evaluate.report.sections.parts import Fact, Missing, flatten, log2_histogram, write_plain

__all__ = ["DataSection", "describe_data"]

_SPLITS = ("train", "valid", "test")
_SHOWN_ELSEWHERE = ("checks", "config", "counts", "rejects", "steps")
_MAX_TIME_BINS = 48
_LINE = Style(colour="var(--focus)", symbol="circle", dash="solid", width=2.5)
_EVEN = Style(colour="var(--faint)", symbol="circle", dash="dot", width=1.5)


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """The data card."""

    facts: tuple[Fact, ...]
    splits: Table
    """One row a split: examples, users, mean history, first and last day."""
    details: tuple[tuple[str, str], ...]
    """What ``dataset.json`` says of source, filters and protocol, as key and value."""
    checks: tuple[tuple[str, str], ...]
    """What the leak checks counted, as name and figure; empty where the dataset was never checked."""
    steps: Table | None
    """Interactions left after each filter; None where nothing was filtered."""
    rejects: Table | None
    """One row a reason; None where nothing was turned away."""
    figures: tuple[Figure, ...]


def describe_data(artifacts: RunArtifacts) -> DataSection | Missing:
    """Returns the section, or what is missing for it."""
    dataset = artifacts.dataset
    if dataset is None:
        return Missing.of("dataset/", "prepare")
    popularity = dataset.train_counts()
    info = dataset.info
    return DataSection(
        facts=tuple(_facts(dataset, popularity)),
        splits=_split_table(dataset),
        details=tuple(flatten(_details(info))),
        checks=tuple(_checks(info["checks"])) if "checks" in info else (),
        steps=_step_table(info.get("steps", {})),
        rejects=_reject_table(artifacts.rejects),
        figures=tuple(_figures(dataset, popularity)),
    )


def _facts(dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> Iterator[Fact]:
    num_users = dataset.interactions["user_id"].n_unique()
    num_interactions = dataset.interactions.height
    yield Fact(label="Items", value=write_count(dataset.num_items))
    yield Fact(label="Users", value=write_count(num_users))
    yield Fact(label="Interactions", value=write_count(num_interactions), note=_density(dataset, num_users))
    if num_users:
        per_user = dataset.interactions.group_by("user_id").len()["len"]
        note = f"median {write_count(float(np.median(per_user.to_numpy())))}"
        yield Fact(label="Interactions a user", value=write_number(num_interactions / num_users), note=note)
    cold_items = float((popularity == 0).mean()) if len(popularity) else 0.0
    yield Fact(
        label="Items unseen in training", value=write_percent(cold_items), note=_cold_targets(dataset, popularity)
    )
    yield Fact(
        label="Share of the top tenth", value=write_percent(_top_share(popularity)), note="of training interactions"
    )
    yield Fact(label="Items without description", value=write_percent(_share_empty(dataset.items, "description")))
    yield Fact(label="Repeated titles", value=write_percent(_share_repeated(dataset.items["title"])), note="of items")


def _density(dataset: Dataset, num_users: int) -> str:
    cells = num_users * dataset.num_items
    return f"density {write_percent(dataset.interactions.height / cells, 2)}" if cells else ""


def _cold_targets(dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> str:
    targets = dataset.test["target"].to_numpy()
    return f"{write_percent(float((popularity[targets] == 0).mean()))} of test targets" if len(targets) else ""


def _top_share(popularity: Int[np.ndarray, "N"]) -> float | None:
    total = int(popularity.sum())
    if total == 0:
        return None
    top = max(1, round(len(popularity) / 10))
    return float(np.sort(popularity)[::-1][:top].sum() / total)


def _share_empty(items: pl.DataFrame, column: str) -> float:
    blank = items[column].fill_null("").str.strip_chars() == ""
    return float(blank.mean() or 0.0)  # type: ignore[arg-type]


def _share_repeated(titles: pl.Series) -> float:
    return float(titles.is_duplicated().mean() or 0.0)  # type: ignore[arg-type]


def _split_table(dataset: Dataset) -> Table:
    rows = []
    for name in _SPLITS:
        examples = dataset.split(name)
        lengths = examples["history"].list.len()
        rows.append(
            (
                name,
                write_count(examples.height),
                write_count(examples["user_id"].n_unique()),
                write_number(_mean(lengths)),
                write_date(examples["timestamp"].min()),  # type: ignore[arg-type]
                write_date(examples["timestamp"].max()),  # type: ignore[arg-type]
            )
        )
    return Table(
        columns=("Split", "Examples", "Users", "Mean history", "First target", "Last target"), rows=tuple(rows)
    )


def _mean(values: pl.Series) -> float | None:
    mean = values.mean()
    return None if mean is None else float(mean)  # type: ignore[arg-type]


def _details(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the protocol and where the data came from; every other setting stands in the recipe."""
    details = {key: value for key, value in info.items() if key not in _SHOWN_ELSEWHERE}
    return {**details, "source": info.get("config", {}).get("source", {})}


def _checks(checks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the figures of the leak checks; the times are in the table of splits already."""
    for key, value in checks.items():
        if not key.endswith("_s"):
            yield key.replace("_", " "), write_percent(value) if isinstance(value, float) else write_plain(value)


def _step_table(steps: Mapping[str, int]) -> Table | None:
    counts = list(steps.values())
    if not counts:
        return None
    lost = [0, *(before - after for before, after in itertools.pairwise(counts))]
    rows = tuple(
        (name.replace("_", " "), write_count(count), f"−{count_lost:,}" if count_lost else "")
        for name, count, count_lost in zip(steps, counts, lost, strict=True)
    )
    return Table(columns=("Step", "Interactions left", "Lost"), rows=rows)


def _reject_table(rejects: pl.DataFrame | None) -> Table | None:
    if rejects is None or rejects.is_empty():
        return None
    reasons = (
        rejects.group_by("reason")
        .agg(pl.len().alias("rows"), pl.col("file").first(), pl.col("row").first(), pl.col("content").first())
        .sort("rows", "reason", descending=[True, False])
    )
    rows = tuple(
        (reason, write_count(count), f"{file}, row {row}", content[:120] if content else "")
        for reason, count, file, row, content in reasons.iter_rows()
    )
    return Table(columns=("Reason", "Rows", "First one", "Its content"), rows=rows)


def _figures(dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> Iterator[Figure]:
    yield _length_figure(dataset)
    yield _popularity_figure(popularity)
    timeline = _timeline(dataset.interactions)
    if timeline is not None:
        caption = "Interactions over time by the split they are a target in; a user's first one goes with the second."
        yield Figure(key="figure-time", title="When", caption=caption, views=(View(label="Time", spec=timeline),))


def _length_figure(dataset: Dataset) -> Figure:
    per_user = dataset.interactions.group_by("user_id").len()["len"].to_numpy().astype(np.int64)
    histories = {name: dataset.split(name)["history"].list.len().to_numpy().astype(np.int64) for name in _SPLITS}
    views = [_histogram("Interactions a user", per_user, "interactions", "users")]
    views += [
        _histogram(f"History, {name}", lengths, "items in the history", "examples")
        for name, lengths in histories.items()
    ]
    caption = "How much the model gets to see: classes double in width."
    return Figure(key="figure-lengths", title="Lengths of histories", caption=caption, views=tuple(views))


def _histogram(label: str, values: Int[np.ndarray, "n"], x_title: str, y_title: str) -> View:
    names, counts = log2_histogram(values)
    hover = f"%{{x}} {x_title}: %{{y:,}} {y_title}"
    table = Table(columns=(x_title, y_title), rows=tuple(zip(names, counts, strict=True)))
    return View(label=label, spec=bar_chart(names, counts, x_title=x_title, y_title=y_title, hover=hover), table=table)


def _popularity_figure(popularity: Int[np.ndarray, "N"]) -> Figure:
    views = [_histogram("Items by popularity", popularity, "training interactions", "items")]
    if popularity.sum() > 0:
        views.append(View(label="Concentration", spec=_lorenz(popularity)))
    caption = "How unevenly the items are used. A few items carry most logs; a model that only knows those is no use."
    return Figure(key="figure-popularity", title="Popularity of items", caption=caption, views=tuple(views))


def _lorenz(popularity: Int[np.ndarray, "N"]) -> Spec:
    """Returns the share of interactions that the most popular share of items carries, at 101 points."""
    shares = np.concatenate([[0.0], np.cumsum(np.sort(popularity)[::-1]) / popularity.sum()])
    at = np.linspace(0, len(popularity), 101)
    carried = np.interp(at, np.arange(len(popularity) + 1), shares)
    items = (at / len(popularity)).round(4).tolist()
    lines = [
        Line(name="this catalogue", x=items, y=carried.round(4).tolist(), style=_LINE, hover="%{y:.1%}"),
        Line(name="all items equal", x=[0.0, 1.0], y=[0.0, 1.0], style=_EVEN, hover="%{y:.1%}"),
    ]
    spec = line_chart(lines, x_title="share of items, most popular first", y_title="share of interactions")
    spec["layout"]["xaxis"]["tickformat"] = spec["layout"]["yaxis"]["tickformat"] = ".0%"
    return spec


def _timeline(interactions: pl.DataFrame) -> Spec | None:
    """Returns stacked bars of interactions over equal spans of time; None without two different times."""
    timed = interactions.filter(pl.col("timestamp").is_not_null())
    if timed.is_empty() or timed["timestamp"].n_unique() < 2:
        return None
    times = timed["timestamp"].to_numpy().astype(np.float64)
    edges = np.linspace(times.min(), times.max(), _MAX_TIME_BINS + 1)
    middles = [str(np.datetime64(int(middle), "s")) for middle in (edges[1:] + edges[:-1]) / 2]
    traces = []
    for name, colour in zip(_SPLITS, ("var(--focus)", "var(--series-1)", "var(--series-2)"), strict=True):
        counts, _ = np.histogram(times[(timed["split"] == name).to_numpy()], bins=edges)
        traces.append(
            {
                "type": "bar",
                "name": name,
                "x": middles,
                "y": counts.tolist(),
                "marker": {"color": colour},
                "hovertemplate": "%{y:,}",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.08,
        "hovermode": "x unified",
        "showlegend": True,
        "legend": {"traceorder": "normal"},
        "xaxis": {"type": "date", "automargin": True, "title": {"text": ""}},
        "yaxis": {"title": {"text": "interactions"}, "automargin": True},
    }
    return {"data": traces, "layout": layout}
