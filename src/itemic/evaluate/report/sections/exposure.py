"""Which items the lists are made of: by popularity, beside what users really took, and the ones shown most often."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from itemic.core.page.formats import shorten, write_count, write_percent
from itemic.evaluate.breakdown import TARGET_POPULARITY_EDGES, bucket_names
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.figures import BucketSeries, Figure, Style, Table, View, bucket_chart
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.hits import listed_items

__all__ = ["describe_most_listed", "shares_by_popularity", "slot_figures"]

_NUM_MOST_LISTED = 10
_TITLE_CHARACTERS = 80
_TAKEN = Style(colour="var(--muted)", symbol="circle-open", dash="solid", width=2)


def slot_figures(
    artifacts: RunArtifacts, place: Standing, styles: Mapping[str, Style], shown: frozenset[str], cutoff: int
) -> Iterator[Figure]:
    """Yields the figure of list slots by popularity; none without a dataset or lists.

    Args:
        artifacts: The run.
        place: Order of the recommenders.
        styles: Style of each recommender.
        shown: Recommenders that are drawn at first.
        cutoff: How many items of each list count.
    """
    if artifacts.dataset is None or not artifacts.rankings:
        return
    popularity = artifacts.dataset.train_counts()
    names = [name for name in place.order if name in artifacts.rankings]
    taken = artifacts.rankings[names[0]]["target"].to_numpy()
    shares = {"what users took": shares_by_popularity(taken, popularity)}
    shares |= {name: shares_by_popularity(listed_items(artifacts.rankings[name], cutoff), popularity) for name in names}
    buckets = bucket_names(TARGET_POPULARITY_EDGES)
    nothing = [None] * len(buckets)
    series = [
        BucketSeries(
            name=name,
            values=values.round(5).tolist(),
            lows=nothing,
            highs=nothing,
            style=styles.get(name, _TAKEN),
            visible=name in shown or name not in styles,
        )
        for name, values in shares.items()
    ]
    spec = bucket_chart(buckets, series, x_title="training interactions of the item", y_title="share")
    spec["layout"]["yaxis"]["tickformat"] = ".0%"
    rows = tuple((name, *(write_percent(share) for share in values.tolist())) for name, values in shares.items())
    yield Figure(
        key="figure-slots",
        title="What gets recommended",
        caption=f"Share of the first {cutoff} slots that go to items of each popularity, beside what users took next. "
        "Above that line on the right: the lists lean to what is popular anyway.",
        views=(View(label="Popularity", spec=spec, table=Table(columns=("Source", *buckets), rows=rows)),),
        height_px=360,
    )


def describe_most_listed(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> Table | None:
    """Returns the items that the focus shows most often beside how often they were taken; None without its lists."""
    if place is None or artifacts.dataset is None or place.focus not in artifacts.rankings:
        return None
    table, dataset = artifacts.rankings[place.focus], artifacts.dataset
    items = listed_items(table, cutoff)
    num_lists = np.bincount(items[items >= 0], minlength=dataset.num_items)
    num_taken = np.bincount(table["target"].to_numpy(), minlength=dataset.num_items)
    popularity = dataset.train_counts()
    rows = []
    for item in np.argsort(-num_lists, kind="stable")[:_NUM_MOST_LISTED].tolist():
        title, item_id = dataset.items["title"][item], dataset.items["item_id"][item]
        rows.append(
            (
                shorten(title or item_id, _TITLE_CHARACTERS),
                write_percent(num_lists[item] / len(items)),
                write_percent(num_taken[item] / len(items)),
                write_count(int(popularity[item])),
            )
        )
    columns = ("Item", f"In the first {cutoff} of lists", "Taken next", "Training interactions")
    return Table(columns=columns, rows=tuple(rows))


def shares_by_popularity(items: Int[np.ndarray, "..."], popularity: Int[np.ndarray, "N"]) -> Float[np.ndarray, "G"]:
    """Returns the share of the items in each popularity group of the evaluation's breakdown; -1 is no item."""
    edges = np.array(TARGET_POPULARITY_EDGES)
    group = np.searchsorted(edges, popularity[items[items >= 0]], side="right") - 1
    counts = np.bincount(group, minlength=len(edges))
    shares: np.ndarray = counts / max(1, counts.sum())
    return shares
