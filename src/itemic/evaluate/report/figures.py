"""Charts as plain plotly figures (dictionaries) whose colours are names of the page's palette; knows no artefact.

The page's script replaces ``var(--name)`` by the colour of the reader's theme, so one figure serves light and dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Cell",
    "Figure",
    "Spec",
    "Table",
    "View",
    "bar_chart",
    "bucket_chart",
    "heat_strip",
    "interval_bars",
    "line_chart",
    "palette",
    "tree_map",
]

Spec = dict[str, Any]
"""A plotly figure: ``{"data": [traces], "layout": {...}}``."""

Cell = str | int | float | None

_NUM_SERIES_COLOURS = 8
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "pentagon", "star")
_DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")
_FOCUS_COLOUR = "var(--focus)"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The figures behind a chart, for readers who cannot see it or want to copy them."""

    columns: tuple[str, ...]
    """Column heads."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells, row by row."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One of a figure's charts."""

    label: str
    """Text of the button that shows it."""
    spec: Spec
    """The plotly figure."""
    table: Table | None = None
    """The same figures as a table, where it is short enough to be read."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, or several that a reader switches between, with its words."""

    key: str
    """Anchor in the page, unique there."""
    title: str
    """What is shown."""
    caption: str
    """How to read it, in a sentence or two."""
    views: tuple[View, ...]
    """The charts; the first is shown first."""
    height_px: int = 320
    """Height of the chart."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one series looks in every chart of the page."""

    colour: str
    symbol: str
    dash: str
    width: int | float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a line chart."""

    name: str
    x: Sequence[int | float]
    y: Sequence[int | float | None]
    style: Style
    markers: bool = False
    visible: bool = True
    hover: str = "%{y:.4f}"


@dataclass(frozen=True, kw_only=True)
class BucketSeries:
    """One series over named buckets, with an interval where there is one."""

    name: str
    values: Sequence[int | float | None]
    lows: Sequence[int | float | None]
    highs: Sequence[int | float | None]
    style: Style
    visible: bool = True


def palette(names: Sequence[str], focus: str | None) -> dict[str, Style]:
    """Returns a style for each series: the focus in the page's own colour, the others in turn.

    Colour is never the only mark: symbols and dashes differ too.

    Args:
        names: Series, in the order in which colours are given out.
        focus: The series the page is about, if it is one of them.
    """
    others = [name for name in names if name != focus]
    styles = {
        name: Style(
            colour=f"var(--series-{index % _NUM_SERIES_COLOURS + 1})",
            symbol=_SYMBOLS[(index + 1) % len(_SYMBOLS)],
            dash=_DASHES[index % len(_DASHES)],
            width=1.75,
        )
        for index, name in enumerate(others)
    }
    if focus in names:
        styles[str(focus)] = Style(colour=_FOCUS_COLOUR, symbol=_SYMBOLS[0], dash="solid", width=3)
    return {name: styles[name] for name in names}


def bar_chart(
    labels: Sequence[str], values: Sequence[int | float], *, x_title: str, y_title: str, hover: str, colour: str = ""
) -> Spec:
    """Returns one series of vertical bars over named classes.

    Args:
        labels: Class names, in order.
        values: Bar heights.
        x_title: Name of the classes' axis.
        y_title: Name of the values' axis.
        hover: Text of a bar's tooltip with plotly's place-holders ``%{x}`` and ``%{y}``.
        colour: Palette colour; empty takes the focus colour.
    """
    trace = {
        "type": "bar",
        "x": list(labels),
        "y": list(values),
        "marker": {"color": colour or _FOCUS_COLOUR},
        "hovertemplate": f"{hover}<extra></extra>",
    }
    layout = {**_axes(x_title, y_title), "bargap": 0.18, "showlegend": False}
    layout["xaxis"]["type"] = "category"
    return {"data": [trace], "layout": layout}


def line_chart(lines: Sequence[Line], *, x_title: str, y_title: str, log_x: bool = False, log_y: bool = False) -> Spec:
    """Returns lines over a common numeric axis, all read at once where the pointer is."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if line.markers else "lines",
            "name": line.name,
            "x": list(line.x),
            "y": list(line.y),
            "line": {"color": line.style.colour, "width": line.style.width, "dash": line.style.dash},
            "marker": {"color": line.style.colour, "symbol": line.style.symbol, "size": 7},
            "hovertemplate": line.hover,
            "visible": True if line.visible else "legendonly",
        }
        for line in lines
    ]
    layout = {**_axes(x_title, y_title), "hovermode": "x unified", "showlegend": len(lines) > 1}
    layout["xaxis"]["type"] = "log" if log_x else "linear"
    layout["yaxis"]["type"] = "log" if log_y else "linear"
    return {"data": traces, "layout": layout}


def bucket_chart(buckets: Sequence[str], series: Sequence[BucketSeries], *, x_title: str, y_title: str) -> Spec:
    """Returns points with intervals over ordered buckets, the series side by side and joined by thin lines."""
    step = min(0.09, 0.7 / max(len(series), 1))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": one.name,
            "x": [bucket + step * (index - (len(series) - 1) / 2) for bucket in range(len(buckets))],
            "y": list(one.values),
            "customdata": list(zip(buckets, one.lows, one.highs, strict=True)),
            "error_y": interval_bars(one.values, one.lows, one.highs, one.style.colour),
            "line": {"color": one.style.colour, "width": one.style.width, "dash": one.style.dash},
            "marker": {"color": one.style.colour, "symbol": one.style.symbol, "size": 8},
            "hovertemplate": "<b>%{fullData.name}</b> · %{customdata[0]}<br>%{y:.4f}"
            " (%{customdata[1]:.4f} to %{customdata[2]:.4f})<extra></extra>",
            "visible": True if one.visible else "legendonly",
        }
        for index, one in enumerate(series)
    ]
    layout = {**_axes(x_title, y_title), "hovermode": "closest", "showlegend": len(series) > 1}
    layout["xaxis"] |= {"tickvals": list(range(len(buckets))), "ticktext": list(buckets), "zeroline": False}
    layout["xaxis"]["range"] = [-0.5, len(buckets) - 0.5]
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}


def heat_strip(
    rows: Sequence[str], values: Sequence[Sequence[int | float | None]], *, hover: str, bar_title: str
) -> Spec:
    """Returns a strip of coloured cells for each row: how often each code of each level is used.

    Args:
        rows: Row names, the first on top.
        values: For each row one value a cell; shorter rows are filled up with None.
        hover: Text of a cell's tooltip with ``%{y}`` (row), ``%{x}`` (cell) and ``%{z}`` (value).
        bar_title: What the colours mean.
    """
    trace = {
        "type": "heatmap",
        "y": list(rows),
        "z": [list(row) for row in values],
        "colorscale": [[0, "var(--heat-0)"], [0.35, "var(--heat-1)"], [0.7, "var(--heat-2)"], [1, "var(--heat-3)"]],
        "zmin": 0,
        "ygap": 6,
        "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": {
            "title": {"text": bar_title, "side": "top"},
            "orientation": "h",
            "thickness": 10,
            "y": -0.2,
            "yanchor": "top",
            "len": 0.6,
            "outlinewidth": 0,
        },
    }
    layout = _axes("", "")
    layout["xaxis"] |= {"showgrid": False, "zeroline": False}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "type": "category"}
    return {"data": [trace], "layout": layout}


def tree_map(
    ids: Sequence[str],
    labels: Sequence[str],
    parents: Sequence[str],
    sizes: Sequence[int],
    heats: Sequence[float | None],
    heat_range: tuple[float, float],
    texts: Sequence[str],
    hovers: Sequence[str],
    *,
    bar_title: str,
) -> Spec:
    """Returns nested rectangles, one a node: area by ``sizes`` (a parent's is the sum), colour by ``heats``.

    Args:
        ids: Unique name of each node.
        labels: What is written in it.
        parents: Name of the node it lies in; empty at the top.
        sizes: Its area.
        heats: Its colour's value; None leaves it without one.
        heat_range: Values of the palest and the darkest colour.
        texts: What is written below the label, where there is room.
        hovers: Its tooltip.
        bar_title: What the colours mean.
    """
    trace = {
        "type": "treemap",
        "ids": list(ids),
        "labels": list(labels),
        "parents": list(parents),
        "values": list(sizes),
        "branchvalues": "total",
        "maxdepth": 2,
        "text": list(texts),
        "texttemplate": "<b>%{label}</b><br>%{text}",
        "customdata": list(hovers),
        "hovertemplate": "%{customdata}<extra></extra>",
        "pathbar": {"thickness": 22},
        "marker": {
            "colors": list(heats),
            "colorscale": [[0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1, "var(--heat-2)"]],
            "cmin": heat_range[0],
            "cmax": heat_range[1],
            "showscale": True,
            "colorbar": {
                "title": {"text": bar_title, "side": "top"},
                "orientation": "h",
                "thickness": 10,
                "y": -0.02,
                "yanchor": "top",
                "len": 0.6,
                "outlinewidth": 0,
            },
            "line": {"width": 1, "color": "var(--surface)"},
        },
        "tiling": {"pad": 1},
    }
    layout = {"margin": {"l": 0, "r": 0, "t": 0, "b": 56}, "uniformtext": {"minsize": 9, "mode": "hide"}}
    return {"data": [trace], "layout": layout}


def interval_bars(
    values: Sequence[int | float | None],
    lows: Sequence[int | float | None],
    highs: Sequence[int | float | None],
    colour: str,
) -> Spec:
    """Returns a trace's vertical error bars from the ends of its intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_gap(value, high) for value, high in zip(values, highs, strict=True)],
        "arrayminus": [_gap(low, value) for value, low in zip(values, lows, strict=True)],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }


def _axes(x_title: str, y_title: str) -> Spec:
    return {
        "xaxis": {"title": {"text": x_title}, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "automargin": True},
    }


def _gap(low: int | float | None, high: int | float | None) -> int | float | None:
    return None if low is None or high is None else high - low
