"""Whether the probabilities of the lists come true: stated against observed, for whoever states any."""

from collections.abc import Iterator

from itemic.core.page.formats import write_percent
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.figures import Figure, Line, Style, Table, View, interval_bars, line_chart
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.hits import Reliability, are_log_probabilities, reliability, wilson_interval

__all__ = ["honesty_figure", "judge"]

_LEAST_BINS = 3
"""Fewer points draw no curve: hits are too rare to say how honest the probabilities are."""

_STATED = Style(colour="var(--focus)", symbol="circle", dash="solid", width=2)
_HONEST = Style(colour="var(--faint)", symbol="circle", dash="dot", width=1.5)


def honesty_figure(artifacts: RunArtifacts, place: Standing, cutoff: int) -> Iterator[Figure]:
    """Yields the reliability diagram of the focus; none where its scores are no probabilities or hits are few."""
    table = artifacts.rankings.get(place.focus)
    if table is None or not are_log_probabilities(table):
        return
    found = reliability(table, cutoff)
    if len(found.counts) < _LEAST_BINS:
        return
    ends = [0.0, max(found.stated)]
    lines = [
        Line(
            name=place.focus,
            x=found.stated,
            y=found.observed,
            style=_STATED,
            markers=True,
            hover="stated %{x:.2%}, came true %{y:.2%}",
        ),
        Line(name="as promised", x=ends, y=ends, style=_HONEST, hover="%{y:.2%}"),
    ]
    spec = line_chart(lines, x_title="stated probability", y_title="share that came true")
    pairs = zip(found.observed, found.counts, strict=True)
    intervals = [wilson_interval(observed * count, count) for observed, count in pairs]
    lows, highs = zip(*intervals, strict=True)
    spec["data"][0]["error_y"] = interval_bars(found.observed, lows, highs, _STATED.colour)
    spec["layout"]["hovermode"] = "closest"
    for axis in ("xaxis", "yaxis"):
        spec["layout"][axis] |= {"tickformat": ".2~%", "rangemode": "tozero"}
    columns = ("Stated", "Came true", "95% interval", "Items")
    rows = tuple(
        (write_percent(stated, 2), write_percent(observed, 2), _write_span(low, high), count)
        for stated, observed, low, high, count in zip(
            found.stated, found.observed, lows, highs, found.counts, strict=True
        )
    )
    promised, had = write_percent(found.expected_hit_rate), write_percent(found.observed_hit_rate)
    yield Figure(
        key="figure-honesty",
        title="Can its probabilities be trusted?",
        caption=f"Items in the first {cutoff} of {place.focus}, in bins of equal size. It promises {promised} hits and "
        f"has {had}: {judge(found)}.",
        views=(View(label="Reliability", spec=spec, table=Table(columns=columns, rows=rows)),),
        height_px=340,
    )


def _write_span(low: float, high: float) -> str:
    return f"{write_percent(low, 2)} to {write_percent(high, 2)}"


def judge(found: Reliability) -> str:
    """Returns what the difference of promise and truth means, in a few words."""
    if not found.promise_is_off:
        return "as sure as it should be, as far as this many examples tell"
    return "too sure of itself" if found.expected_hit_rate > found.observed_hit_rate else "less sure than it could be"
