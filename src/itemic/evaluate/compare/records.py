"""What a comparison is made of, as plain frozen records; knows neither files nor formats."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from itemic.evaluate.significance import PairedDifference

__all__ = ["ComparisonTable", "Difference", "Estimate", "PublishedCheck", "TableRow"]

Verdict = Literal["above", "below", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference):
    """What a row has over another one, on the same examples."""

    to: str
    """Name of the other row."""
    adjusted_p_value: float
    """The same after Holm's correction for all rows compared with the other one by this metric."""
    verdict: Verdict
    """Which it is, as far as the corrected p-value can tell."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric of a row."""

    value: float
    """Mean over the examples and, where there are several, the seeds."""
    low: float
    """Lower end of the bootstrap interval over users; what another seed might give is not in it."""
    high: float
    by_seed: tuple[float, ...]
    """Mean over the examples under each seed."""
    spread: float | None
    """Standard deviation of ``by_seed`` (divisor: seeds less one); None for one seed."""
    is_best: bool
    """Whether no row has more."""
    to_best: Difference | None
    """To the best row by this metric; None for that row itself."""
    to_reference: Difference | None
    """To the reference; None for the reference itself."""


@dataclass(frozen=True, kw_only=True)
class PublishedCheck:
    """A published figure of the method that a row is, and whether the row agrees with it."""

    metric: str
    value: float
    kind: str
    """``paper`` or ``re-run``."""
    source: str
    note: str
    place: Literal["within", "above", "below"]
    """Where the row lies: ``within`` if its interval contains the figure, above it or below it otherwise."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One recommender, of one run or of several that differ in their seed."""

    name: str
    """Unique in the table."""
    runs: tuple[str, ...]
    """Folders, one a seed."""
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    """By metric."""
    published_as: str
    """Method whose published figures stand beside it; empty for none."""
    published: tuple[PublishedCheck, ...]
    """All that is published of the table's metrics, in the order of the list."""
    beyond: Mapping[str, float | None]
    """What else was measured, mean over the seeds; None where it was not."""
    dtype: str | None
    """Number format that it computed in, where that is known."""


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """Recommenders of any runs under one protocol."""

    rows: tuple[TableRow, ...]
    """Best first, by the headline metric."""
    metrics: tuple[str, ...]
    headline: str
    """Metric by which rows are sorted and the reference is chosen."""
    reference: str
    """Name of the row the others are compared with."""
    beyond: tuple[str, ...]
    """Names of what else was measured, of at least one row."""
    protocol: Mapping[str, Any]
    """As in ``metrics.json``."""
    benchmark: str
    """Name in the list of published figures; empty for none."""
    confidence: float
    num_resamples: int
    notes: tuple[str, ...]
    """What a reader should know."""

    @property
    def alpha(self) -> float:
        """Chance of error that intervals and verdicts allow."""
        return round(1 - self.confidence, 6)
