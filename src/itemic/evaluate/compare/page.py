"""A comparison as one page that opens offline, in the look of the report, with its differences drawn."""

from itemic.core.page.page import Fact, fill_page, read_asset
from itemic.evaluate.compare.published import find_benchmark
from itemic.evaluate.compare.records import ComparisonTable, Difference
from itemic.evaluate.compare.sheets import describe, describe_protocol, verdicts
from itemic.evaluate.report.figures import Figure, Spec, View
from itemic.evaluate.report.page import figure_views, packed_plotly

__all__ = ["forest_chart", "render_html"]

_REPORT = "itemic.evaluate.report"
_STYLES = {
    "above": ("significantly above", "var(--good)", "circle"),
    "below": ("significantly below", "var(--bad)", "square"),
    "unclear": ("not significant", "var(--muted)", "diamond-open"),
}


def render_html(table: ComparisonTable, *, beyond: bool = True) -> str:
    """Returns the page; ``beyond`` says whether speed and cost are shown."""
    figure = _forest(table) if len(table.rows) > 1 else None
    return fill_page(
        __package__,
        {
            "title": find_benchmark(table.benchmark).title if table.benchmark else "Comparison",
            "protocol": describe_protocol(table),
            "facts": _facts(table),
            "verdicts": verdicts(table),
            "sheets": describe(table, beyond=beyond),
            "figure": figure,
            "script": read_asset(_REPORT, "page.js"),
            "plotly": packed_plotly(),
        },
        filters={"views": figure_views},
    )


def forest_chart(rows: list[tuple[str, Difference]], label: str) -> Spec:
    """Returns differences with their intervals, a row each, the first on top, around a line at no difference.

    Args:
        rows: Name and difference.
        label: Metric.
    """
    traces = []
    for verdict, (words, colour, symbol) in _STYLES.items():
        members = [(name, one) for name, one in rows if one.verdict == verdict]
        if not members:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words,
                "x": [one.value for _, one in members],
                "y": [name for name, _ in members],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [one.high - one.value for _, one in members],
                    "arrayminus": [one.value - one.low for _, one in members],
                    "color": colour,
                    "thickness": 2,
                    "width": 0,
                },
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "hovertemplate": "%{y}: %{x:+.4f}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {
            "title": {"text": f"difference in {label}"},
            "automargin": True,
            "zeroline": True,
            "zerolinewidth": 2,
            "zerolinecolor": "var(--ink)",
            "rangemode": "tozero",
            "tickformat": "+.3f",
        },
        "yaxis": {
            "type": "category",
            "automargin": True,
            "categoryorder": "array",
            "categoryarray": [name for name, _ in reversed(rows)],
            "range": [-0.6, len(rows) - 0.4],
        },
        "showlegend": True,
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout}


def _forest(table: ComparisonTable) -> Figure:
    return Figure(
        key="forest",
        title=f"Differences from {table.reference}",
        caption=f"Paired on the same examples, with {table.confidence:.0%} intervals over users; the line is no "
        "difference. Colours and signs say what the test finds after Holm's correction.",
        views=tuple(
            View(
                label=label,
                spec=forest_chart(
                    [
                        (row.name, row.estimates[label].to_reference)  # type: ignore[misc]
                        for row in table.rows
                        if row.estimates[label].to_reference is not None
                    ],
                    label,
                ),
            )
            for label in table.metrics
        ),
        height_px=130 + 34 * len(table.rows),
    )


def _facts(table: ComparisonTable) -> list[Fact]:
    best = next(row for row in table.rows if row.estimates[table.headline].is_best)
    estimate = best.estimates[table.headline]
    num_runs = len({run for row in table.rows for run in row.runs})
    return [
        Fact(
            label=f"Highest {table.headline}",
            value=f"{estimate.value:.4f}",
            note=f"{best.name}, {estimate.low:.4f} to {estimate.high:.4f}",
        ),
        Fact(label="Rows", value=str(len(table.rows)), note=f"of {num_runs} {'runs' if num_runs > 1 else 'run'}"),
        Fact(label="Reference", value=table.reference, note="the others are compared with it"),
        Fact(label="Test examples", value=f"{table.protocol['num_examples']:,}", note=str(table.protocol["split"])),
    ]
