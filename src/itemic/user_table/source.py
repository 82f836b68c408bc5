"""Where the users come from: a table with a row a user, an interaction log, or the run's own dataset.

Reads in pieces, so that memory follows the chunk and not the table. Knows what the columns are called and may hold,
nothing of models.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.data.lookup import ItemRows
from itemic.user_table.grouping import group_log, grouped_users
from itemic.user_table.requests import (
    NOT_THERE,
    ItemLists,
    Requests,
    UnknownItems,
    make_requests,
    requests_of_rows,
    require_no_null,
    unusable_item,
)

__all__ = ["ALL_USERS", "Catalogue", "UserSource", "open_users"]

ALL_USERS = "all"
"""Stands for every user of the run's own dataset where a table is expected."""

_ROWS_AT_ONCE = 1 << 17
_BUFFER_BYTES = 1 << 20
_BYTES_PER_CSV_ROW = 20
_SHAPES = "a row a user has the columns user_id and history, an interaction log user_id, item_id and timestamp"


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """What ids are held against."""

    items: ItemRows
    """The ids."""
    active: Bool[np.ndarray, "N"]
    """Whether an item can be recommended."""
    unknown_items: UnknownItems
    """Whether ids that are not there are an error or are left out."""


@runtime_checkable
class UserSource(Protocol):
    """Users with their requests, in one fixed order, as often as they are asked for."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def user_type(self) -> pa.DataType:
        """Type of the users' ids."""
        ...

    def identity(self) -> dict[str, Any]:
        """Returns what changes when the users do."""
        ...

    def get_ready(self, folder: Path) -> None:
        """Does what must be done once before the first request, and keeps it in a folder."""
        ...

    def requests(self, chunk_rows: int, folder: Path) -> Iterator[Requests]:
        """Yields the users in chunks of ``chunk_rows``, the last one shorter."""
        ...


def open_users(source: Path | str, dataset: Dataset, catalogue: Catalogue) -> UserSource:
    """Returns the users of a table, or of the dataset for ``ALL_USERS``.

    Raises:
        DataError: if the file is missing, is of no known kind, or lacks a column.
    """
    if source == ALL_USERS:
        return RunUsers(dataset)
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a Parquet or CSV table, or {ALL_USERS!r} for the run's users")
    schema = _schema(path)
    if ("history" in schema.names) == ("item_id" in schema.names) or "user_id" not in schema.names:
        raise DataError(f"{path}: cannot tell what it is: {_SHAPES}; found {', '.join(schema.names)}")
    is_log = "item_id" in schema.names
    _check_types(path, schema, is_log)
    return InteractionTable(path, schema, catalogue) if is_log else RequestTable(path, schema, catalogue)


@dataclass(frozen=True, eq=False)
class RunUsers:
    """Every user of a dataset's log, in the log's order, with all of its interactions."""

    dataset: Dataset

    @property
    def name(self) -> str:
        """Who they are."""
        return "the run's dataset"

    @property
    def user_type(self) -> pa.DataType:
        """Texts."""
        return pa.string()

    def identity(self) -> dict[str, Any]:
        """Returns nothing but the name: the run's own identity has the dataset's hash."""
        return {"users": ALL_USERS}

    def get_ready(self, folder: Path) -> None:
        """Does nothing: the log is sorted by user."""

    def requests(self, chunk_rows: int, folder: Path) -> Iterator[Requests]:
        """Yields the users in chunks."""
        log = self.dataset.interactions
        user, item = log["user_id"], log["item_index"].to_numpy()
        is_first = (user != user.shift(1)).fill_null(True).to_numpy()
        start = np.append(np.flatnonzero(is_first), len(user))
        for first in range(0, len(start) - 1, chunk_rows):
            bounds = start[first : first + chunk_rows + 1]
            history = ItemLists(item[bounds[0] : bounds[-1]], bounds - bounds[0])
            yield requests_of_rows(user.gather(bounds[:-1]), history)


@dataclass(frozen=True, eq=False)
class _UserFile:
    """A file of users, whatever its rows are."""

    path: Path
    schema: pa.Schema
    catalogue: Catalogue

    @property
    def name(self) -> str:
        """The file's path."""
        return self.path.as_posix()

    @property
    def user_type(self) -> pa.DataType:
        """Whole numbers as in the file, otherwise texts."""
        found = self.schema.field("user_id").type
        return found if pa.types.is_integer(found) else pa.string()

    def identity(self) -> dict[str, Any]:
        """Returns the file's path, size and time of change."""
        status = self.path.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()
        return {"users": self.path.resolve().as_posix(), "users_file": f"{status.st_size:,} bytes, changed {changed}"}


@dataclass(frozen=True, eq=False)
class RequestTable(_UserFile):
    """A Parquet file with a row a user."""

    def get_ready(self, folder: Path) -> None:
        """Does nothing: the rows are the requests."""

    def requests(self, chunk_rows: int, folder: Path) -> Iterator[Requests]:
        """Yields the rows in chunks."""
        columns = [name for name in ("user_id", "history", "exclude", "allow") if name in self.schema.names]
        for block in _numbered(_parquet_blocks(self.path, columns, chunk_rows), first=1):
            yield make_requests(
                block, self.catalogue.items, self.catalogue.active, self.catalogue.unknown_items, self.name
            )


@dataclass(frozen=True, eq=False)
class InteractionTable(_UserFile):
    """A Parquet or CSV file with a row an interaction; a user's rows may be anywhere in it."""

    def get_ready(self, folder: Path) -> None:
        """Groups the log by user on disk."""
        group_log(self._interactions(), self._num_rows(), folder)

    def requests(self, chunk_rows: int, folder: Path) -> Iterator[Requests]:
        """Yields the users in chunks, in the order in which the log first names them."""
        for block in grouped_users(folder, chunk_rows):
            lengths = block["history"].list.len().to_numpy().astype(np.int64)
            item = block["history"].filter(pl.Series(lengths > 0)).explode().to_numpy()
            history = ItemLists(item, np.concatenate([[0], np.cumsum(lengths)]))
            yield requests_of_rows(block["user_id"], history, num_dropped=int(block["num_unknown"].sum()))

    def _num_rows(self) -> int:
        if self.path.suffix == ".csv":
            return self.path.stat().st_size // _BYTES_PER_CSV_ROW
        return int(pq.read_metadata(self.path).num_rows)

    def _interactions(self) -> Iterator[pl.DataFrame]:
        """Yields row, user_id, item_index (null for an item that is left out) and time, checked."""
        columns = [name for name in ("user_id", "item_id", "timestamp") if name in self.schema.names]
        is_csv = self.path.suffix == ".csv"
        blocks = _csv_blocks(self.path, columns) if is_csv else _parquet_blocks(self.path, columns, _ROWS_AT_ONCE)
        for block in _numbered(blocks, first=2 if is_csv else 1):
            for column in columns:
                if column != "item_id":
                    require_no_null(block, column, self.name)
            time = block["timestamp"].to_physical() if "timestamp" in columns else block["row"]
            yield block.select("row", "user_id", self._item_index(block), time.alias("time"))

    def _item_index(self, block: pl.DataFrame) -> pl.Series:
        index = self.catalogue.items.find(block["item_id"])
        is_unknown = index < 0
        if is_unknown.any() and self.catalogue.unknown_items == "error":
            row = block.row(int(np.flatnonzero(is_unknown)[0]), named=True)
            raise unusable_item(self.name, row["row"], row["user_id"], "item_id", row["item_id"], NOT_THERE)
        return pl.Series("item_index", index).set(pl.Series(is_unknown), None)


def _schema(path: Path) -> pa.Schema:
    """Returns the columns of a Parquet or CSV file."""
    try:
        if path.suffix == ".csv":
            with _open_csv(path) as reader:
                return reader.schema
        return pq.read_schema(path)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path}: expected a Parquet file, or a CSV file named .csv: {error}") from None


def _check_types(path: Path, schema: pa.Schema, is_log: bool) -> None:
    """Raises DataError unless every column that is read has a type it can have."""
    lists = [] if is_log else [name for name in ("history", "exclude", "allow") if name in schema.names]
    wanted = [("user_id", _is_id, "texts or whole numbers")]
    wanted += [(name, _is_list_of_ids, "lists of item ids") for name in lists]
    if is_log:
        wanted.append(("item_id", _is_id, "texts or whole numbers"))
    if is_log and "timestamp" in schema.names:
        wanted.append(("timestamp", _is_time, "numbers, dates or times"))
    for name, is_right, expected in wanted:
        found = schema.field(name).type
        if not is_right(found):
            raise DataError(f"{path}: column {name}: expected {expected}, found {found}")


def _is_id(kind: pa.DataType) -> bool:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_integer(values) or any(is_kind(values) for is_kind in texts)


def _is_list_of_ids(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    # A table without a single item has lists of nothing.
    return is_list and bool(_is_id(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_time(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_date, pa.types.is_timestamp)
    return any(is_kind(kind) for is_kind in kinds)


def _parquet_blocks(path: Path, columns: list[str], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yields a Parquet file in blocks of ``num_rows``; no row group is in memory whole."""
    categories = cs.categorical().cast(pl.String)
    # Without pre_buffer and with a buffer size pages are read one by one, not column chunks.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
        for batch in file.iter_batches(batch_size=num_rows, columns=columns):
            yield pl.DataFrame(pa.Table.from_batches([batch])).select(columns).with_columns(categories)


def _csv_blocks(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    try:
        with _open_csv(path) as reader:
            for batch in reader:
                yield pl.DataFrame(pa.Table.from_batches([batch])).select(columns)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {error}") from None


def _open_csv(path: Path) -> pa.csv.CSVStreamingReader:
    convert = pa.csv.ConvertOptions(
        column_types={"user_id": pa.string(), "item_id": pa.string()}, strings_can_be_null=True, null_values=[""]
    )
    return pa.csv.open_csv(path, convert_options=convert)


def _numbered(blocks: Iterable[pl.DataFrame], first: int) -> Iterator[pl.DataFrame]:
    """Yields the blocks with the number of each row; the first line of data in a CSV file is line 2."""
    for block in blocks:
        yield block.with_row_index("row", offset=first)
        first += block.height
