"""How recommenders behave behind the averages: by cut-off, by kind of example, against each other, level by level."""

from collections.abc import Iterator, Mapping
from typing import Any

from itemic.core.errors import ArtifactError
from itemic.core.page.formats import write_percent
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.figures import (
    BucketSeries,
    Figure,
    Line,
    Spec,
    Style,
    Table,
    View,
    bucket_chart,
    line_chart,
)
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.hits import (
    metric_curve,
    overlap,
    prefix_hit_rates,
)
from itemic.evaluate.report.sections.exposure import slot_figures
from itemic.evaluate.report.sections.honesty import honesty_figure

__all__ = ["describe_behaviour"]

_NUM_SHOWN = 4
_BREAKDOWNS = {
    "history_length": ("How much is known of the user", "items in the history", "Cold users to the left."),
    "target_popularity": (
        "How popular the target is",
        "training interactions of the target",
        "The long tail to the left: what a popularity list never reaches.",
    ),
    "target_temperature": (
        "Items that nobody had yet",
        "whether the target was held out of training",
        "Of a cold target only the text was known; a warm one was there to learn from.",
    ),
}


def describe_behaviour(
    artifacts: RunArtifacts, place: Standing | None, styles: Mapping[str, Style], cutoff: int
) -> tuple[Figure, ...]:
    """Returns the figures that can be made from what is there; none without metrics."""
    if place is None or artifacts.metrics is None:
        return ()
    figures = [*_breakdown_figures(artifacts.metrics, place, styles)]
    if artifacts.rankings:
        figures.append(_curve_figure(artifacts, place, styles))
        figures += _depth_figure(artifacts, place, styles, cutoff)
        figures += _overlap_figure(artifacts, place, cutoff)
        shown = frozenset(name for name in place.order if _shown(place, name))
        figures += slot_figures(artifacts, place, styles, shown, cutoff)
        figures += honesty_figure(artifacts, place, cutoff)
    return tuple(figures)


def _shown(place: Standing, name: str) -> bool:
    """Returns whether a series is drawn at first: the focus and the best others; the rest wait in the legend."""
    others = [one for one in place.order if one != place.focus]
    return name == place.focus or name in others[: _NUM_SHOWN - 1]


def _breakdown_figures(metrics: Mapping[str, Any], place: Standing, styles: Mapping[str, Style]) -> Iterator[Figure]:
    for kind, (title, x_title, remark) in _BREAKDOWNS.items():
        groups = {name: entry.get("breakdown", {}).get(kind, []) for name, entry in metrics["recommenders"].items()}
        buckets = groups[place.focus]
        if not buckets:
            continue
        labels = list(buckets[0]["metrics"])
        yield Figure(
            key=f"figure-{kind.replace('_', '-')}",
            title=title,
            caption=f"{remark} Numbers of examples stand below; whiskers are the intervals.",
            views=tuple(_breakdown_view(groups, label, x_title, place, styles) for label in labels),
            height_px=360,
        )


def _breakdown_view(
    groups: Mapping[str, Any], label: str, x_title: str, place: Standing, styles: Mapping[str, Style]
) -> View:
    sizes = {bucket["bucket"]: bucket["num_examples"] for bucket in groups[place.focus]}
    series, rows = [], []
    for name in place.order:
        found = {bucket["bucket"]: bucket["metrics"][label] for bucket in groups[name]}
        if set(found) != set(sizes):
            raise ArtifactError(f"metrics.json: {name} has breakdown groups {sorted(found)}, expected {sorted(sizes)}")
        scores = [found[bucket] for bucket in sizes]
        series.append(
            BucketSeries(
                name=name,
                values=[one["value"] for one in scores],
                lows=[one.get("low") for one in scores],
                highs=[one.get("high") for one in scores],
                style=styles[name],
                visible=_shown(place, name),
            )
        )
        rows.append((name, *(round(one["value"], 4) for one in scores)))
    ticks = [f"{bucket}<br>n={size:,}" for bucket, size in sizes.items()]
    spec = bucket_chart(ticks, series, x_title=x_title, y_title=label)
    columns = ("Recommender", *(f"{bucket} (n={size:,})" for bucket, size in sizes.items()))
    return View(label=label, spec=spec, table=Table(columns=columns, rows=tuple(rows)))


def _curve_figure(artifacts: RunArtifacts, place: Standing, styles: Mapping[str, Style]) -> Figure:
    longest = max(int(table["items"].list.len().max() or 1) for table in artifacts.rankings.values())  # type: ignore[arg-type]
    cutoffs = sorted({*range(1, min(longest, 20) + 1), *range(20, longest + 1, 5), longest})
    return Figure(
        key="figure-curve",
        title="At every list length",
        caption="The metric for lists of 1 item and more. Curves that cross rank differently for long and short lists.",
        views=tuple(_curve_view(artifacts, place, styles, metric, cutoffs) for metric in ("HR", "NDCG")),
        height_px=360,
    )


def _curve_view(
    artifacts: RunArtifacts, place: Standing, styles: Mapping[str, Style], metric: str, cutoffs: list[int]
) -> View:
    names = [name for name in place.order if name in artifacts.rankings]
    curves = {name: [round(y, 5) for y in metric_curve(artifacts.rankings[name], metric, cutoffs)] for name in names}
    lines = [
        Line(name=name, x=cutoffs, y=curves[name], style=styles[name], visible=_shown(place, name)) for name in names
    ]
    spec = line_chart(lines, x_title="list length K", y_title=f"{metric}@K")
    spec["layout"]["yaxis"]["rangemode"] = "tozero"
    return View(label=metric, spec=spec)


def _depth_figure(
    artifacts: RunArtifacts, place: Standing, styles: Mapping[str, Style], cutoff: int
) -> Iterator[Figure]:
    catalog = artifacts.catalog
    if catalog is None:
        return
    depths = [_depth_name(depth, catalog.num_levels) for depth in range(1, catalog.num_levels + 1)]
    names = [name for name in place.order if name in artifacts.rankings]
    rates = {name: prefix_hit_rates(artifacts.rankings[name], catalog.codes, cutoff).tolist() for name in names}
    nothing = [None] * len(depths)
    series = [
        BucketSeries(
            name=name, values=rates[name], lows=nothing, highs=nothing, style=styles[name], visible=_shown(place, name)
        )
        for name in names
    ]
    spec = bucket_chart(depths, series, x_title="the target's semantic ID is right up to", y_title="share of examples")
    spec["layout"]["yaxis"]["tickformat"] = ".0%"
    rows = tuple((name, *(write_percent(rate) for rate in rates[name])) for name in names)
    yield Figure(
        key="figure-depth",
        title="How deep the lists are right",
        caption=f"Share of examples with an item in the first {cutoff} that begins as the target's semantic ID does. "
        "A steep first step: the region is not found; a steep last one: the region is, the item is not.",
        views=(View(label="Depth", spec=spec, table=Table(columns=("Recommender", *depths), rows=rows)),),
        height_px=340,
    )


def _depth_name(depth: int, num_levels: int) -> str:
    if depth == num_levels:
        return "the whole ID"
    return "the first code" if depth == 1 else f"{depth} codes"


def _overlap_figure(artifacts: RunArtifacts, place: Standing, cutoff: int) -> Iterator[Figure]:
    others = [name for name in place.order if name != place.focus and name in artifacts.rankings]
    if place.focus not in artifacts.rankings or not others:
        return
    mine = artifacts.rankings[place.focus]
    shares = {name: overlap(mine, artifacts.rankings[name], cutoff) for name in others}
    parts = (
        ("both", [shares[name].both for name in others], "var(--series-2)"),
        (f"only {place.focus}", [shares[name].only_first for name in others], "var(--focus)"),
        ("only the other", [shares[name].only_second for name in others], "var(--faint)"),
    )
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": others,
            "x": values,
            "marker": {"color": colour},
            "hovertemplate": "%{y}: %{x:.1%}",
        }
        for part, values, colour in parts
    ]
    columns = ("Other", "Both", f"Only {place.focus}", "Only the other", "Either")
    rows = tuple(
        (name, *map(write_percent, (one.both, one.only_first, one.only_second, one.either)))
        for name, one in shares.items()
    )
    yield Figure(
        key="figure-overlap",
        title="Who hits what",
        caption=f"Targets in the first {cutoff} of {place.focus} and of each other recommender, as shares of all "
        "examples. Long outer parts mean that the two know different things, so that a mixture would hit more.",
        views=(View(label="Overlap", spec=_stacked(traces), table=Table(columns=columns, rows=rows)),),
        height_px=110 + 36 * len(others),
    )


def _stacked(traces: list[Spec]) -> Spec:
    layout = {
        "barmode": "stack",
        "bargap": 0.3,
        "showlegend": True,
        "legend": {"traceorder": "normal"},
        "hovermode": "closest",
        "xaxis": {"tickformat": ".0%", "automargin": True, "title": {"text": "share of examples"}},
        "yaxis": {"automargin": True, "autorange": "reversed", "type": "category", "title": {"text": ""}},
    }
    return {"data": traces, "layout": layout}
