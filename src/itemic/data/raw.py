"""What every source gives: a log, a catalogue, and where the source fixes them the examples and codes.

Knows no file format; ids are still the source's strings and nothing has been filtered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from itemic.data.filters import clean_titles
from itemic.data.rejects import SourceRows

__all__ = ["RAW_EXAMPLE_SCHEMA", "RAW_INTERACTION_SCHEMA", "RawLog"]

RAW_INTERACTION_SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "time_us": pl.Int64,
    "behaviour": pl.String,
    "rating": pl.Float64,
    "source_row": pl.Int64,
}
"""Columns of a log: the time is microseconds since 1970 (null where the source has none), behaviour and rating are
null where the source has none."""

RAW_EXAMPLE_SCHEMA = {
    "user_id": pl.String,
    "history": pl.List(pl.String),
    "target": pl.String,
    "time_us": pl.Int64,
    "source_row": pl.Int64,
}
"""Columns of given examples: item ids oldest first, then the held-out one."""


@dataclass(frozen=True, kw_only=True)
class RawLog:
    """A source as it was read."""

    items: SourceRows
    """item_id, title, description, any further text columns, source_row: in catalogue order, ids unique."""
    interactions: SourceRows | None = None
    """RAW_INTERACTION_SCHEMA in file order; None where the source has examples only."""
    examples: Mapping[str, SourceRows] = field(default_factory=dict)
    """RAW_EXAMPLE_SCHEMA for train, valid and test, in the source's order; empty where the source fixes no split."""
    given_codes: pl.DataFrame | None = None
    """item_id and codes (list of int): semantic IDs that the source publishes."""

    @property
    def parts(self) -> list[SourceRows]:
        """Every table of the source."""
        log = [] if self.interactions is None else [self.interactions]
        return [self.items, *log, *self.examples.values()]

    def with_known_items(self) -> "RawLog":
        """Returns the same source with rows that name an item outside the catalogue set aside.

        An item that the catalogue has, but in no usable row, is told from one that it does not have.
        """
        known = self.items.rows["item_id"].implode()
        gone = pl.Series(sorted(self.items.ids_set_aside), dtype=pl.String).implode()
        log = self.interactions and self.interactions.set_aside(
            [
                (pl.col("item_id").is_in(gone), "item was set aside"),
                (~pl.col("item_id").is_in(known), "unknown item"),
            ]
        )
        is_gone, is_unknown = pl.element().is_in(gone), ~pl.element().is_in(known)
        rules = [
            (pl.col("target").is_in(gone), "target item was set aside"),
            (~pl.col("target").is_in(known), "unknown target item"),
            (pl.col("history").list.eval(is_gone).list.any(), "item in the history was set aside"),
            (pl.col("history").list.eval(is_unknown).list.any(), "unknown item in the history"),
        ]
        examples = {split: part.set_aside(rules) for split, part in self.examples.items()}
        return replace(self, interactions=log, examples=examples)

    def with_clean_titles(self) -> "RawLog":
        """Returns the same source with titles cleaned of HTML entities and line breaks."""
        rows = self.items.rows.with_columns(clean_titles(self.items.rows["title"]))
        return replace(self, items=replace(self.items, rows=rows))
