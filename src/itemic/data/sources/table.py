"""Any log and catalogue in CSV, TSV, JSON lines or Parquet, by a mapping of columns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from itemic.data.columns import InteractionColumns, ItemColumns, check_time_format, make_interactions, make_items
from itemic.data.raw import RawLog
from itemic.data.reading import read_table

__all__ = ["TableConfig", "read"]


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """A file with interactions and a file with items."""

    format: Literal["table"] = "table"
    """Names this source in a recipe."""
    interactions: str
    """The log: ``.csv``, ``.tsv``, ``.jsonl`` (each also ``.gz``) or ``.parquet``."""
    items: str
    """The catalogue, in one of the same formats."""
    interaction_columns: InteractionColumns = field(default_factory=InteractionColumns)
    """Columns of the log."""
    item_columns: ItemColumns = field(default_factory=ItemColumns)
    """Columns of the catalogue."""
    time_format: str = "s"
    """How times are written: s, ms, us, ns or d (since 1970), iso, or a strptime pattern."""
    encoding: str = "utf-8"
    """Of text files."""
    quoted: bool = True
    """Whether a cell of a CSV or TSV file may be quoted with ``"``, as is usual; false takes each ``"`` as it is."""

    def __post_init__(self) -> None:
        check_time_format(self.time_format)

    def files(self) -> dict[str, Path]:
        """Returns the files to be read, by a short name."""
        return {"interactions": Path(self.interactions), "items": Path(self.items)}


def read(config: TableConfig) -> RawLog:
    """Returns the log and the catalogue.

    Raises:
        DataError: if a file or column is missing.
    """
    files = config.files()
    log, items = (
        read_table(files[name], mapped=columns.names, quoted=config.quoted, encoding=config.encoding)
        for name, columns in (("interactions", config.interaction_columns), ("items", config.item_columns))
    )
    return RawLog(
        interactions=make_interactions(log, config.interaction_columns, config.time_format),
        items=make_items(items, config.item_columns),
    )
