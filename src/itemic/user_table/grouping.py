"""An interaction log of any size and order to users with their histories, by two rounds of files on disk.

The first round puts each user's rows into one of P buckets by the hash of the user, so that a bucket fits in memory
and can be grouped; the second puts the users into ranges by the row that first names them, so that they come out in
the log's order. There is one file a bucket and one a range, and never more of them than a process may have open.
Knows item rows and no file format but its own.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from jaxtyping import Int

from itemic.core.files import atomic_folder

__all__ = ["group_log", "grouped_users", "in_chunks"]

_ROWS_PER_BUCKET = 1 << 21
_MOST_BUCKETS = 192
"""Files open at a time; macOS lets a process have 256. Beyond 400 million rows buckets grow instead."""


def group_log(
    interactions: Iterable[pl.DataFrame], num_rows: int, folder: Path, rows_per_bucket: int = _ROWS_PER_BUCKET
) -> None:
    """Writes the users of a log into a folder; does nothing where that is done already.

    Args:
        interactions: Pieces of the log: ``row``, ``user_id``, ``item_index`` (null for an item that is left out, whose
            user still counts) and ``time``.
        num_rows: Rows of the log, roughly.
        folder: Where to write; it is there only when all users are in it.
        rows_per_bucket: Rows in memory at a time, roughly, while there are fewer than 192 buckets.
    """
    if folder.is_dir():
        return
    num_buckets = min(1 + num_rows // rows_per_bucket, _MOST_BUCKETS)
    with atomic_folder(folder) as temporary:
        by_user = temporary / "by_user"
        by_user.mkdir()
        _split_by_user(in_chunks(interactions, rows_per_bucket), num_buckets, by_user)
        buckets = (_group(pl.read_parquet(file)) for file in sorted(by_user.iterdir()))
        _split_by_first_row(buckets, num_buckets, temporary)
        shutil.rmtree(by_user)


def grouped_users(folder: Path, chunk_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the users in the order in which the log first names them, in chunks.

    Args:
        folder: What ``group_log`` wrote.
        chunk_rows: Users in a chunk.

    Returns:
        ``user_id``, ``history`` (item rows by time, then by row) and ``num_unknown`` (items left out).
    """
    ordered = (pl.read_parquet(each).sort("first_row") for each in sorted(folder.iterdir()))
    return in_chunks((users.drop("first_row") for users in ordered), chunk_rows)


def in_chunks(frames: Iterable[pl.DataFrame], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the frames' rows in frames of ``num_rows``, the last one shorter."""
    rest: pl.DataFrame | None = None
    for frame in frames:
        rest = frame if rest is None else pl.concat([rest, frame])
        for _ in range(rest.height // num_rows):
            yield rest[:num_rows]
            rest = rest[num_rows:]
    if rest is not None and rest.height:
        yield rest


class _Files:
    """A Parquet file a number, each open from its first rows until all are closed."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._writers: dict[int, pq.ParquetWriter] = {}

    def write(self, rows: pl.DataFrame, number_of_row: pl.Series) -> None:
        """Adds each row to the file of its number."""
        numbered = rows.with_columns(number_of_row.alias("number"))
        for (number,), part in numbered.partition_by("number", as_dict=True, include_key=False).items():
            table = part.to_arrow()
            if number not in self._writers:
                path = self._folder / f"{number:06d}.parquet"
                self._writers[number] = self._stack.enter_context(pq.ParquetWriter(path, table.schema))
            self._writers[number].write_table(table)


def _split_by_user(interactions: Iterable[pl.DataFrame], num_buckets: int, folder: Path) -> None:
    """Writes the rows into the files of their users' buckets; a bucket without a user has none.

    Few large frames are better than many small ones: each adds a group of rows to every file.
    """
    with contextlib.ExitStack() as stack:
        files = _Files(folder, stack)
        for rows in interactions:
            files.write(rows, rows["user_id"].hash(0) % num_buckets)


def _group(bucket: pl.DataFrame) -> pl.DataFrame:
    """Returns the users of a bucket by the row that first names them."""
    item = pl.col("item_index")
    return (
        bucket.sort("time", "row")
        .group_by("user_id")
        .agg(
            pl.col("row").min().alias("first_row"),
            item.drop_nulls().alias("history"),
            item.null_count().alias("num_unknown"),
        )
        .sort("first_row")
    )


def _even_bounds(users: pl.DataFrame, num_ranges: int) -> Int[np.ndarray, "_"]:
    """Returns the first rows at which ranges of about equal numbers of interactions end.

    The users of one bucket tell: a hash draws them at random. Ranges of equal numbers of *rows* would not do, since
    most users of a log may be named in its first tenth.
    """
    done = users["history"].list.len().to_numpy().cumsum() + np.arange(users.height)
    place = np.searchsorted(done, done[-1] * np.arange(1, num_ranges) / num_ranges)
    bounds: np.ndarray = users["first_row"].to_numpy()[place].astype(np.int64)
    return bounds


def _split_by_first_row(buckets: Iterable[pl.DataFrame], num_ranges: int, folder: Path) -> None:
    """Writes the buckets' users into the files of their ranges."""
    bounds = None
    with contextlib.ExitStack() as stack:
        files = _Files(folder, stack)
        for users in buckets:
            if bounds is None:
                bounds = _even_bounds(users, num_ranges)
            files.write(users, pl.Series(np.searchsorted(bounds, users["first_row"].to_numpy(), side="left")))
