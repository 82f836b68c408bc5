"""How sure a mean and a difference of means are: bootstrap intervals and a paired permutation test.

Users are resampled, not examples: where one user has many examples these are not independent, and intervals that
pretend so are too narrow. With one example a user both are the same. Knows nothing of recommenders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.seeds import derive_rng
from itemic.evaluate.metrics.labels import parse_label, rank_metric

__all__ = [
    "Comparison",
    "PairedDifference",
    "bootstrap_intervals",
    "compare_runs",
    "holm",
    "paired_comparison",
    "paired_difference",
    "paired_p_values",
]

_CHUNK_CELLS = 1 << 22
"""Resampling works on matrices of at most this many cells: 32 MiB each."""

_COLUMNS = ("example_id", "user_id", "target", "num_better", "num_tied", "items")


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """What one has over another, on the same examples."""

    value: float
    """Mean of the one minus mean of the other."""
    low: float
    """Lower end of the paired bootstrap interval over users."""
    high: float
    p_value: float
    """Two-sided, of the paired permutation test over users; not corrected for the number of comparisons."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether two recommenders differ on the same examples."""

    a: str
    """Name of the first."""
    b: str
    """Name of the second."""
    metric: str
    """Label, ``NDCG@10`` say."""
    difference: float
    """Mean of the first minus mean of the second."""
    low: float
    """Lower end of the bootstrap interval of the difference."""
    high: float
    """Upper end of the bootstrap interval of the difference."""
    p_value: float
    """Two-sided, of the paired permutation test; not corrected for the number of comparisons."""
    num_examples: int
    """Examples compared."""


def bootstrap_intervals(
    values: Float[np.ndarray, "B M"],
    owner: Int[np.ndarray, "B"],
    *,
    num_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Returns the lower and upper ends of the percentile bootstrap intervals of M means.

    Args:
        values: M metrics of every example.
        owner: User of every example, any integers; users are drawn with replacement, all their examples with them.
        num_bootstrap: Number of resamples.
        confidence: Probability mass inside the interval.
        rng: Draws the resamples; the same for all M metrics.
    """
    sums, sizes = _sum_by_owner(values, owner)
    means = np.concatenate(
        [weights @ sums / (weights @ sizes)[:, None] for weights in _resamples(len(sizes), num_bootstrap, rng)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def paired_comparison(
    rankings: tuple[pl.DataFrame, pl.DataFrame],
    names: tuple[str, str],
    metric: str,
    *,
    num_resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> Comparison:
    """Returns the comparison of two recommenders that ranked the same examples in the same order.

    Under the hypothesis that the two are alike, swapping them for any user changes nothing; the p-value is the
    share of random swaps with a difference at least as large, the observed one counted:

        p = (1 + #{|d*| >= |d|}) / (1 + num_resamples)

    Args:
        rankings: Tables as in ``rankings/<name>.parquet``.
        names: What the result calls the two.
        metric: Ranking metric with its cut-off.
        num_resamples: Number of bootstrap resamples and of random swaps.
        confidence: Probability mass inside the interval.
        rng: Draws resamples and swaps.

    Raises:
        ConfigError: if the metric is unknown.
    """
    first, second = (
        rank_metric(metric, table["num_better"].to_numpy(), table["num_tied"].to_numpy()) for table in rankings
    )
    differences = first - second
    owner = rankings[0]["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    found = paired_difference(differences, owner, num_resamples=num_resamples, confidence=confidence, rng=rng)
    return Comparison(
        a=names[0],
        b=names[1],
        metric=metric,
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        num_examples=len(differences),
    )


def paired_difference(
    differences: Float[np.ndarray, "B"],
    owner: Int[np.ndarray, "B"],
    *,
    num_resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> PairedDifference:
    """Returns a mean difference with its bootstrap interval, and its p-value as in ``paired_comparison``.

    Args:
        differences: Of every example.
        owner: User of every example, any integers.
        num_resamples: Number of bootstrap resamples and of random swaps.
        confidence: Probability mass inside the interval.
        rng: Draws resamples and swaps.
    """
    low, high = bootstrap_intervals(
        differences[:, None], owner, num_bootstrap=num_resamples, confidence=confidence, rng=rng
    )
    p_values = paired_p_values(differences[:, None], owner, num_resamples=num_resamples, rng=rng)
    value = float(differences.mean())
    return PairedDifference(value=value, low=float(low[0]), high=float(high[0]), p_value=float(p_values[0]))


def paired_p_values(
    differences: Float[np.ndarray, "B M"], owner: Int[np.ndarray, "B"], *, num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "M"]:
    """Returns the two-sided p-values of M mean differences, as in ``paired_comparison``, under the same random swaps.

    Args:
        differences: M differences of every example.
        owner: User of every example, any integers.
        num_resamples: Number of random swaps.
        rng: Draws the swaps.
    """
    sums = _sum_by_owner(differences, owner)[0]
    changed = sums[(sums != 0).any(axis=1)]  # users whom no swap changes need no sign
    # A swap that only re-orders the sum must not fall short by rounding.
    reached = abs(changed.sum(axis=0)) * (1 - 1e-9)
    signs = _random_signs(len(changed), num_resamples, rng)
    as_large = sum(((abs(some @ changed) >= reached).sum(axis=0) for some in signs), np.zeros(sums.shape[1]))
    return np.asarray((1 + as_large) / (1 + num_resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values after Holm's step-down correction for making all these comparisons at once.

        p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Args:
        p_values: One a comparison, in any order.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def compare_runs(
    a: Path, b: Path, metric: str = "NDCG@10", *, num_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Returns the paired comparison of two ranking files, of one run or of two.

    Args:
        a: ``rankings/<name>.parquet`` of the first.
        b: The same of the second; its examples are matched by ``example_id``.
        metric: Ranking metric with its cut-off.
        num_resamples: Number of bootstrap resamples and of permutations.
        confidence: Probability mass inside the interval.
        seed: Of the resamples.

    Raises:
        ArtifactError: if a file is missing, is no ranking file, or holds other examples or targets than the other.
        ConfigError: if the metric is unknown or its cut-off is longer than the lists.
    """
    first, second = (_read_rankings(path, metric) for path in (a, b))
    if not first.select("example_id", "user_id", "target").equals(second.select("example_id", "user_id", "target")):
        raise ArtifactError(f"{a} and {b} rank other examples or targets: compare runs of one split")
    rng = derive_rng(seed, "compare_runs", metric)
    names = (str(a), str(b))
    return paired_comparison(
        (first, second), names, metric, num_resamples=num_resamples, confidence=confidence, rng=rng
    )


def _sum_by_owner(
    values: Float[np.ndarray, "B M"], owner: Int[np.ndarray, "B"]
) -> tuple[Float[np.ndarray, "U M"], Float[np.ndarray, "U"]]:
    """Returns each user's sum of the values and number of examples."""
    code = np.unique(owner, return_inverse=True)[1]
    sums = np.stack([np.bincount(code, weights=column) for column in values.T], axis=1)
    return sums, np.bincount(code).astype(np.float64)


def _chunks(num_columns: int, num_rows: int) -> Iterator[int]:
    """Yields row counts that add up to ``num_rows``, each of a matrix that is small enough."""
    step = max(1, _CHUNK_CELLS // max(1, num_columns))
    for start in range(0, num_rows, step):
        yield min(step, num_rows - start)


def _resamples(num_users: int, num_bootstrap: int, rng: np.random.Generator) -> Iterator[Float[np.ndarray, "r U"]]:
    """Yields how often each user is drawn in each resample, a few resamples at a time."""
    for rows in _chunks(num_users, num_bootstrap):
        drawn = rng.integers(0, num_users, size=(rows, num_users))
        drawn += np.arange(rows)[:, None] * num_users
        yield np.bincount(drawn.ravel(), minlength=rows * num_users).reshape(rows, num_users).astype(np.float64)


def _random_signs(num_users: int, num_rows: int, rng: np.random.Generator) -> Iterator[Float[np.ndarray, "r U"]]:
    """Yields random +1 and -1, a few rows at a time."""
    for rows in _chunks(num_users, num_rows):
        yield rng.integers(0, 2, size=(rows, num_users)).astype(np.float64) * 2 - 1


def _read_rankings(path: Path, metric: str) -> pl.DataFrame:
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.parquet"))
        remedy = f"there are {', '.join(others)}" if others else "run itemic evaluate first"
        raise ArtifactError(f"{path}: missing; {remedy}")
    table = pl.read_parquet(path)
    lacking = [column for column in _COLUMNS if column not in table.columns]
    if lacking:
        raise ArtifactError(f"{path}: no ranking file, it lacks the columns {', '.join(lacking)}")
    longest = max(table["items"].list.len().to_list(), default=0)
    if parse_label(metric)[1] > longest:
        raise ConfigError(f"{path}: the lists have at most {longest} items, too few for {metric}")
    return table.sort("example_id")
