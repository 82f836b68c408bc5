"""What can be learned from ranked lists beside the metrics: curves, overlap, depth and honesty of the scores.

Pure functions of ranking tables (columns example_id, target, num_better, num_tied, items, scores); no page, no files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.evaluate.metrics.hit_rate import hit_rate
from itemic.evaluate.metrics.labels import rank_metric

__all__ = [
    "Overlap",
    "Reliability",
    "are_log_probabilities",
    "hit_probability",
    "listed_items",
    "listed_scores",
    "metric_curve",
    "overlap",
    "prefix_hit_rates",
    "reliability",
    "wilson_interval",
]


_HITS_A_BIN = 8


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Shares of examples by who has the target among the first items; with the examples neither hits they add to 1."""

    both: float
    only_first: float
    only_second: float

    @property
    def either(self) -> float:
        """What somebody would hit who always knew which of the two to ask."""
        return self.both + self.only_first + self.only_second


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Stated against observed probabilities of listed items."""

    stated: tuple[float, ...]
    """Mean stated probability of each bin, rising."""
    observed: tuple[float, ...]
    """Share of the bin's items that were the target."""
    counts: tuple[int, ...]
    """Listed items of each bin."""
    expected_hit_rate: float
    """What the stated probabilities of the first K items promise: their mean sum a list."""
    observed_hit_rate: float
    """What came true."""
    num_lists: int

    @property
    def promise_is_off(self) -> bool:
        """Whether promise and truth differ by more than two standard errors, so that it is worth a word."""
        spread = math.sqrt(self.expected_hit_rate * max(0.0, 1 - self.expected_hit_rate) / self.num_lists)
        return abs(self.expected_hit_rate - self.observed_hit_rate) > 2 * spread


def hit_probability(table: pl.DataFrame, cutoff: int) -> Float[np.ndarray, "B"]:
    """Returns for each example the probability, over the order of ties, that the target is in the first ``cutoff``."""
    return hit_rate(table["num_better"].to_numpy(), table["num_tied"].to_numpy(), cutoff)


def metric_curve(table: pl.DataFrame, metric: str, cutoffs: Sequence[int]) -> list[float]:
    """Returns the mean of ``metric`` (HR or NDCG say) at each cut-off."""
    num_better, num_tied = table["num_better"].to_numpy(), table["num_tied"].to_numpy()
    return [float(rank_metric(f"{metric}@{cutoff}", num_better, num_tied).mean()) for cutoff in cutoffs]


def overlap(first: pl.DataFrame, second: pl.DataFrame, cutoff: int) -> Overlap:
    """Returns how two recommenders' hits meet, over the examples that both ranked; ties fall independently."""
    columns = ["example_id", "num_better", "num_tied"]
    joined = first.select(columns).join(second.select(columns), on="example_id", suffix="_second")
    a = hit_probability(joined, cutoff)
    b = hit_rate(joined["num_better_second"].to_numpy(), joined["num_tied_second"].to_numpy(), cutoff)
    return Overlap(
        both=float((a * b).mean()), only_first=float((a * (1 - b)).mean()), only_second=float(((1 - a) * b).mean())
    )


def prefix_hit_rates(table: pl.DataFrame, codes: Int[np.ndarray, "N L"], cutoff: int) -> Float[np.ndarray, "L"]:
    """Returns for d = 1..L the share of examples with some item in the first ``cutoff`` that begins as the target does.

    The last is the share that lists the target's whole SID: the hit rate, where SIDs are unique.

    Args:
        table: Ranked lists.
        codes: SID of every item.
        cutoff: How many items of each list count.
    """
    items = listed_items(table, cutoff)
    same = (codes[items] == codes[table["target"].to_numpy()][:, None, :]) & (items >= 0)[:, :, None]
    rates: np.ndarray = np.logical_and.accumulate(same, axis=2).any(axis=1).mean(axis=0)
    return rates


def are_log_probabilities(table: pl.DataFrame) -> bool:
    """Returns whether every list's scores can be log-probabilities: none above 0, different ones adding to at most 1.

    Items that share a SID share its probability, which is why equal scores count once.
    """
    scores = listed_scores(table, _list_length(table))
    if not np.isfinite(scores).any():
        return False
    is_first = np.ones_like(scores, dtype=bool)
    is_first[:, 1:] = scores[:, 1:] != scores[:, :-1]
    total = np.where(is_first, np.exp(np.minimum(scores, 1.0)), 0.0).sum(axis=1)
    return bool((scores <= 0).all() and (total <= 1 + 1e-4).all())


def reliability(table: pl.DataFrame, cutoff: int, num_bins: int = 12) -> Reliability:
    """Returns stated against observed probabilities of the first ``cutoff`` items, in bins of equal size.

    Args:
        table: Ranked lists whose scores are log-probabilities.
        cutoff: How many items of each list count.
        num_bins: At most this many bins; fewer where there are few hits, so that a bin has some.
    """
    items, scores = listed_items(table, cutoff), listed_scores(table, cutoff)
    listed = items >= 0
    is_target = (items == table["target"].to_numpy()[:, None]) & listed
    stated = np.where(listed, np.exp(scores), 0.0)
    order = np.argsort(stated[listed], kind="stable")
    bins = np.array_split(order, min(num_bins, max(1, int(is_target.sum()) // _HITS_A_BIN)))
    return Reliability(
        stated=tuple(float(stated[listed][rows].mean()) for rows in bins),
        observed=tuple(float(is_target[listed][rows].mean()) for rows in bins),
        counts=tuple(len(rows) for rows in bins),
        expected_hit_rate=float(stated.sum(axis=1).mean()),
        observed_hit_rate=float(is_target.any(axis=1).mean()),
        num_lists=len(table),
    )


def wilson_interval(num_successes: int | float, count: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of a share, which stays inside [0, 1] and says something even at 0 successes.

    (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n),   z = 1.96
    """
    z, share = 1.96, num_successes / count
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def listed_items(table: pl.DataFrame, cutoff: int) -> Int[np.ndarray, "B K"]:
    """Returns the first ``cutoff`` items of each list; -1 where a list is shorter."""
    return _matrix(table["items"], cutoff, -1)


def listed_scores(table: pl.DataFrame, cutoff: int) -> Float[np.ndarray, "B K"]:
    """Returns the scores of the first ``cutoff`` items of each list; -inf where a list is shorter."""
    return _matrix(table["scores"], cutoff, -np.inf)


def _list_length(table: pl.DataFrame) -> int:
    return int(table["items"].list.len().max() or 0)  # type: ignore[arg-type]


def _matrix(lists: pl.Series, width: int, fill: int | float) -> np.ndarray:
    cut = lists.list.head(width)
    lengths = cut.list.len().to_numpy().astype(np.int64)
    matrix: np.ndarray = np.full((len(lists), width), fill)
    matrix[np.arange(width) < lengths[:, None]] = cut.explode().drop_nulls().to_numpy()
    return matrix
