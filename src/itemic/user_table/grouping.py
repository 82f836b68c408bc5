"""An interaction log of any size and order to users with their histories, by two rounds of files on disk.

The first round puts each user's rows into one of P buckets by the hash of the user, so that a bucket fits in memory
and can be grouped; the second puts the users into ranges by the row that first names them, so that they come out in
the log's order. Knows item rows and no file format but its own.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.files import atomic_folder

__all__ = ["group_log", "grouped_users", "in_chunks"]

_ROWS_PER_BUCKET = 1 << 21


def group_log(
    interactions: Iterable[pl.DataFrame], num_rows: int, folder: Path, rows_per_bucket: int = _ROWS_PER_BUCKET
) -> None:
    """Writes the users of a log into a folder; does nothing where that is done already.

    Args:
        interactions: Pieces of the log: ``row``, ``user_id``, ``item_index`` (null for an item that is left out, whose
            user still counts) and ``time``.
        num_rows: Rows of the log, roughly.
        folder: Where to write; it is there only when all users are in it.
        rows_per_bucket: Rows in memory at a time, roughly.
    """
    if folder.is_dir():
        return
    num_buckets = 1 + num_rows // rows_per_bucket
    with atomic_folder(folder) as temporary:
        _split_by_user(interactions, num_buckets, temporary / "by_user")
        bounds = None
        for bucket in range(num_buckets):
            users = _group(temporary / "by_user" / str(bucket))
            if bounds is None:
                bounds = _even_bounds(users, num_buckets)
            _split_by_first_row(users, bounds, temporary, bucket)
        shutil.rmtree(temporary / "by_user")


def grouped_users(folder: Path, chunk_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the users in the order in which the log first names them, in chunks.

    Args:
        folder: What ``group_log`` wrote.
        chunk_rows: Users in a chunk.

    Returns:
        ``user_id``, ``history`` (item rows by time, then by row) and ``num_unknown`` (items left out).
    """
    ranges = sorted((each for each in folder.iterdir()), key=lambda each: int(each.name))
    ordered = (pl.read_parquet(sorted(each.iterdir())).sort("first_row") for each in ranges)
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


def _split_by_user(interactions: Iterable[pl.DataFrame], num_buckets: int, folder: Path) -> None:
    """Writes each piece's rows into the folders of their users' buckets."""
    for bucket in range(num_buckets):
        (folder / str(bucket)).mkdir(parents=True)
    for number, piece in enumerate(interactions):
        bucket_of_row = piece["user_id"].hash(0) % num_buckets
        for (bucket,), rows in (
            piece.with_columns(bucket_of_row.alias("bucket"))
            .partition_by("bucket", as_dict=True, include_key=False)
            .items()
        ):
            rows.write_parquet(folder / str(bucket) / f"{number:06d}.parquet")


def _group(bucket: Path) -> pl.DataFrame | None:
    """Returns the users of a bucket by the row that first names them; None where it has none."""
    files = sorted(bucket.iterdir())
    if not files:
        return None
    item = pl.col("item_index")
    return (
        pl.read_parquet(files)
        .sort("time", "row")
        .group_by("user_id")
        .agg(
            pl.col("row").min().alias("first_row"),
            item.drop_nulls().alias("history"),
            item.null_count().alias("num_unknown"),
        )
        .sort("first_row")
    )


def _even_bounds(users: pl.DataFrame | None, num_ranges: int) -> Int[np.ndarray, "_"]:
    """Returns the first rows at which ranges of about equal numbers of interactions end.

    The users of one bucket tell: a hash draws them at random. Ranges of equal numbers of *rows* would not do, since
    most users of a log may be named in its first tenth.
    """
    if users is None:
        return np.empty(0, dtype=np.int64)
    done = users["history"].list.len().to_numpy().cumsum() + np.arange(users.height)
    place = np.searchsorted(done, done[-1] * np.arange(1, num_ranges) / num_ranges)
    bounds: np.ndarray = users["first_row"].to_numpy()[place].astype(np.int64)
    return bounds


def _split_by_first_row(users: pl.DataFrame | None, bounds: Int[np.ndarray, "_"], folder: Path, bucket: int) -> None:
    """Writes a bucket's users into the folders of their ranges."""
    if users is None:
        return
    range_of_user = np.searchsorted(bounds, users["first_row"].to_numpy(), side="left")
    for (number,), rows in (
        users.with_columns(pl.Series("range", range_of_user))
        .partition_by("range", as_dict=True, include_key=False)
        .items()
    ):
        (folder / str(number)).mkdir(exist_ok=True)
        rows.write_parquet(folder / str(number) / f"{bucket:06d}.parquet")
