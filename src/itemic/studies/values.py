"""Figures of each example, averaged over seeds and compared with the base's; knows no recipe and no page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.core.errors import ArtifactError
from itemic.core.seeds import derive_rng
from itemic.evaluate.metrics.labels import rank_metric
from itemic.evaluate.significance import PairedDifference, bootstrap_intervals, paired_difference

__all__ = ["ExampleValues", "Mean", "compare_values", "mean_values", "read_values"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleValues:
    """A metric of every example, in the order of their ids, under each seed."""

    example_id: Int[np.ndarray, "B"]
    owner: Int[np.ndarray, "B"]
    """Number of each example's user."""
    target: Int[np.ndarray, "B"]
    values: Float[np.ndarray, "S B"]
    """A row a seed."""

    @property
    def by_example(self) -> Float[np.ndarray, "B"]:
        """Mean over the seeds."""
        mean: np.ndarray = self.values.mean(axis=0)
        return mean


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over examples and seeds, and how sure it is."""

    value: float
    low: float
    """Lower end of the bootstrap interval over users; what another seed might have given is not in it."""
    high: float
    spread: float | None
    """Standard deviation of the seeds' means; None for one seed."""
    by_seed: tuple[float, ...]
    """Mean over examples under each seed."""


def read_values(paths: Sequence[Path], metric: str) -> ExampleValues:
    """Returns a metric's values in ranking files of one protocol, one file a seed.

    Raises:
        ArtifactError: if a file is missing, or holds other examples than the first.
    """
    tables = []
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; the run has no such recommender")
        tables.append(pl.read_parquet(path).sort("example_id"))
        if not tables[0].select(_KEYS).equals(tables[-1].select(_KEYS)):
            raise ArtifactError(f"{path}: ranks other examples or targets than {paths[0]}")
    first = tables[0]
    values = [rank_metric(metric, table["num_better"].to_numpy(), table["num_tied"].to_numpy()) for table in tables]
    return ExampleValues(
        example_id=first["example_id"].to_numpy(),
        owner=first["user_id"].rank("dense").cast(pl.Int64).to_numpy(),
        target=first["target"].to_numpy(),
        values=np.stack(values),
    )


_KEYS = ("example_id", "user_id", "target")


def mean_values(found: ExampleValues, *, num_resamples: int, confidence: float, seed: int) -> Mean:
    """Returns the mean over examples and seeds, with its interval over users."""
    low, high = bootstrap_intervals(
        found.by_example[:, None],
        found.owner,
        num_bootstrap=num_resamples,
        confidence=confidence,
        rng=derive_rng(seed, "study", "mean"),
    )
    by_seed = found.values.mean(axis=1)
    return Mean(
        value=float(by_seed.mean()),
        low=float(low[0]),
        high=float(high[0]),
        spread=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        by_seed=tuple(by_seed.tolist()),
    )


def compare_values(
    base: ExampleValues, other: ExampleValues, *, num_resamples: int, confidence: float, seed: int
) -> PairedDifference | None:
    """Returns the paired difference of the seeds' means; None where the two rank other examples.

    A variant that prepares its data otherwise has other examples, with which nothing can be paired.
    """
    is_paired = np.array_equal(base.example_id, other.example_id) and np.array_equal(base.target, other.target)
    if not is_paired or not np.array_equal(base.owner, other.owner):
        return None
    return paired_difference(
        other.by_example - base.by_example,
        base.owner,
        num_resamples=num_resamples,
        confidence=confidence,
        rng=derive_rng(seed, "study", "difference"),
    )
