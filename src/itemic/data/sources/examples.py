"""A published split: files of ready (history, target) examples beside a catalogue and, where there is one, a log."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from itemic.core.errors import ConfigError
from itemic.data.columns import (
    InteractionColumns,
    ItemColumns,
    check_time_format,
    identifier,
    make_interactions,
    make_items,
    parse_time,
    require_columns,
)
from itemic.data.raw import RAW_EXAMPLE_SCHEMA, RawLog
from itemic.data.reading import read_table
from itemic.data.rejects import SourceRows
from itemic.data.sources.minionerec import read_index

__all__ = ["ExampleColumns", "ExamplesConfig", "make_examples", "read"]


@dataclass(frozen=True, kw_only=True)
class ExampleColumns:
    """Which column of the example files means what."""

    user_id: str = "user_id"
    """Who."""
    history: str = "history"
    """Item ids, oldest first: a list column (Parquet), or text joined by ``history_separator``."""
    target: str = "target"
    """Id of the held-out item."""
    timestamp: str = ""
    """When the target happened; "" where it is not known."""


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Files of a split that is already made, kept row for row and in order."""

    format: Literal["examples"] = "examples"
    """Names this source in a recipe."""
    items: str
    """Catalogue: CSV, TSV, JSON lines or Parquet."""
    train: str
    """Examples to learn from: CSV, TSV or Parquet."""
    valid: str
    """Examples for choices."""
    test: str
    """Examples for the final figures."""
    interactions: str = ""
    """The whole log, each user's interactions in order of time; "" rebuilds it from the examples."""
    index: str = ""
    """JSON of published semantic IDs, ``{item id: ["<a_1>", "<b_2>", ...]}``; "" for none."""
    example_columns: ExampleColumns = field(default_factory=ExampleColumns)
    """Columns of the example files."""
    item_columns: ItemColumns = field(default_factory=ItemColumns)
    """Columns of the catalogue."""
    interaction_columns: InteractionColumns = field(default_factory=lambda: InteractionColumns(timestamp=""))
    """Columns of the log."""
    history_separator: str = " "
    """Between the ids of a history."""
    time_format: str = "s"
    """How times are written: s, ms, us, ns or d (since 1970), iso, or a strptime pattern."""

    def __post_init__(self) -> None:
        check_time_format(self.time_format)
        if not self.history_separator:
            raise ConfigError("history_separator is empty; expected what stands between two ids")

    def files(self) -> dict[str, Path]:
        """Returns the files to be read, by a short name."""
        names = ("items", "train", "valid", "test", "interactions", "index")
        return {name: Path(getattr(self, name)) for name in names if getattr(self, name)}


def read(config: ExamplesConfig) -> RawLog:
    """Returns the examples of the three files, the catalogue, and the log and codes where there are any.

    Raises:
        DataError: if a file or column is missing.
    """
    files = config.files()
    log = (
        read_table(files["interactions"], mapped=config.interaction_columns.names) if "interactions" in files else None
    )
    return RawLog(
        interactions=log and make_interactions(log, config.interaction_columns, config.time_format),
        items=make_items(read_table(files["items"], mapped=config.item_columns.names), config.item_columns),
        examples={
            split: make_examples(
                read_table(files[split]), config.example_columns, config.history_separator, config.time_format
            )
            for split in ("train", "valid", "test")
        },
        given_codes=read_index(files["index"]) if "index" in files else None,
    )


def make_examples(source: SourceRows, columns: ExampleColumns, separator: str, time_format: str) -> SourceRows:
    """Returns example rows as RAW_EXAMPLE_SCHEMA; rows without user or target are set aside.

    Raises:
        DataError: if a column is missing.
    """
    require_columns(source, (columns.user_id, columns.history, columns.target, columns.timestamp))
    parsed = {
        "user_id": identifier(columns.user_id),
        "history": _ids(source.rows, columns.history, separator),
        "target": identifier(columns.target),
        "time_us": parse_time(source.rows, columns.timestamp, time_format)
        if columns.timestamp
        else pl.lit(None, pl.Int64),
    }
    rules = [(parsed[key].is_null(), f"missing {key}") for key in ("user_id", "target")]
    if columns.timestamp:
        rules.append((parsed["time_us"].is_null(), "missing or unparsable timestamp"))
    kept = source.set_aside(rules)
    rows = kept.rows.select(**parsed, source_row="source_row").select(*RAW_EXAMPLE_SCHEMA)
    return SourceRows(file=source.file, rows=rows, rejects=kept.rejects)


def _ids(table: pl.DataFrame, column: str, separator: str) -> pl.Expr:
    if isinstance(table.schema[column], pl.List):
        return pl.col(column).cast(pl.List(pl.String)).fill_null([])
    ids = pl.col(column).cast(pl.String).fill_null("").str.split(separator)
    return ids.list.eval(pl.element().filter(pl.element() != ""))
