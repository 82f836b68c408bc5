import plotly.graph_objects as go
import pytest

from itemic.evaluate.report.figures import (
    BucketSeries,
    Line,
    Spec,
    bar_chart,
    bucket_chart,
    heat_strip,
    line_chart,
    palette,
    tree_map,
)

STYLES = palette(["a", "b", "itemic"], "itemic")


@pytest.mark.parametrize(
    "spec",
    [
        bar_chart(["1", "2"], [3, 4], x_title="x", y_title="y", hover="%{x}"),
        line_chart([Line(name="a", x=[1, 2], y=[3.0, None], style=STYLES["a"])], x_title="x", y_title="y"),
        bucket_chart(
            ["0", "1+"],
            [BucketSeries(name="a", values=[0.1, 0.2], lows=[0.0, None], highs=[0.2, None], style=STYLES["a"])],
            x_title="x",
            y_title="y",
        ),
        heat_strip(["level 1", "level 2"], [[1, 2, 3], [4, 5, None]], hover="%{z}", bar_title="items"),
        tree_map(
            ["r", "c"], ["R", "C"], ["", "r"], [2, 2], [1.0, None], (0.0, 1.0), ["t", ""], ["h", ""], bar_title="items"
        ),
    ],
    ids=["bars", "lines", "buckets", "strip", "tree"],
)
def test_plotly_accepts_the_figure(spec: Spec) -> None:
    assert len(go.Figure(spec).data) == len(spec["data"])


def test_series_differ_by_more_than_colour() -> None:
    names = [f"recommender {index}" for index in range(5)]
    styles = palette([*names, "itemic"], "itemic")
    assert list(styles) == [*names, "itemic"]
    assert len({style.symbol for style in styles.values()}) == 6
    assert len({style.dash for style in styles.values()}) == 6
    assert len({style.colour for style in styles.values()}) == 6
    assert styles["itemic"].colour == "var(--focus)"


def test_more_series_than_colours_begin_again() -> None:
    styles = palette([str(index) for index in range(20)], None)
    assert len(styles) == 20
    assert styles["0"].colour == styles["8"].colour


def test_intervals_are_distances_from_the_value() -> None:
    one = BucketSeries(name="a", values=[0.5, 0.5], lows=[0.25, None], highs=[1.0, None], style=STYLES["a"])
    bars = bucket_chart(["0", "1"], [one], x_title="", y_title="")["data"][0]["error_y"]
    assert bars["array"] == [0.5, None]
    assert bars["arrayminus"] == [0.25, None]
