"""Rows that cannot be used: set aside with file, row and reason, counted, and a stop when there are too many.

Knows neither source formats nor what makes a row bad: readers say so, rule by rule. The source is never changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from itemic.core.errors import DataError

__all__ = ["REJECT_SCHEMA", "SourceRows", "check_reject_share", "no_rejects"]

REJECT_SCHEMA = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "content": pl.String}
"""Columns of ``rejects.parquet``. The row is 1-based and counts a header as row 1: the number of the line, where no
quoted field goes over several lines."""

_NUM_SHOWN = 3
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The usable rows of one source file beside those that were set aside."""

    file: str
    """What the file is called in messages and in ``rejects.parquet``."""
    rows: pl.DataFrame
    """Any columns, and ``source_row`` with the row's number in the file."""
    rejects: pl.DataFrame
    """REJECT_SCHEMA."""
    ids_set_aside: frozenset[str] = frozenset()
    """In a catalogue, the ids of items of which no row is usable."""

    @property
    def num_read(self) -> int:
        """Number of rows that the file has, usable or not."""
        return self.rows.height + self.rejects.height

    def set_aside(self, rules: Sequence[tuple[pl.Expr, str]]) -> "SourceRows":
        """Returns the same file without the rows that a rule marks; a row's reason is the first rule it meets.

        Args:
            rules: A boolean expression over the columns (null counts as false) and the reason.
        """
        reason = pl.coalesce([pl.when(condition).then(pl.lit(text)) for condition, text in rules])
        marked = self.rows.with_columns(reason.alias("_reason"))
        bad = marked.filter(pl.col("_reason").is_not_null())
        if bad.is_empty():
            return self
        kept = marked.filter(pl.col("_reason").is_null()).drop("_reason")
        rejects = pl.concat([self.rejects, _as_rejects(bad, self.file)])
        return replace(self, rows=kept, rejects=rejects)


def no_rejects() -> pl.DataFrame:
    """Returns an empty table of REJECT_SCHEMA."""
    return pl.DataFrame(schema=REJECT_SCHEMA)


def check_reject_share(rejects: pl.DataFrame, num_read: Mapping[str, int], max_share: float) -> None:
    """Checks that no file lost more than ``max_share`` of its rows.

    Args:
        rejects: REJECT_SCHEMA.
        num_read: Rows of each file, usable or not.
        max_share: Between 0 and 1.

    Raises:
        DataError: with the counts for each reason and the first rows of the worst file.
    """
    counts = dict(rejects.group_by("file").len().iter_rows())
    shares = {file: count / num_read[file] for file, count in counts.items() if count > max_share * num_read[file]}
    if not shares:
        return
    file = max(sorted(shares), key=lambda name: shares[name])
    bad = rejects.filter(pl.col("file") == file)
    reasons = bad.group_by("reason", maintain_order=True).len().sort("len", descending=True)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.iter_rows())
    first = "; ".join(
        f"row {row}: {reason}: {_shorten(content)}"
        for row, reason, content in bad.sort("row").head(_NUM_SHOWN).select("row", "reason", "content").iter_rows()
    )
    raise DataError(
        f"{file}: {counts[file]} of {num_read[file]} rows cannot be used ({shares[file]:.1%}, allowed are "
        f"{max_share:.1%}): {listed}. First: {first}. Repair the file, or raise max_reject_share"
    )


def _as_rejects(bad: pl.DataFrame, file: str) -> pl.DataFrame:
    content = pl.struct(pl.exclude("source_row", "_reason")).struct.json_encode()
    return bad.select(
        pl.lit(file).alias("file"),
        pl.col("source_row").cast(pl.Int64).alias("row"),
        pl.col("_reason").alias("reason"),
        content.alias("content"),
    )


def _shorten(content: str) -> str:
    return content if len(content) <= _SHOWN_CHARACTERS else content[: _SHOWN_CHARACTERS - 3] + "..."
