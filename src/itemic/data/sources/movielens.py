"""MovieLens as GroupLens publishes it (100k, 1M, latest and latest-small) or as the ``recbole`` wheel carries it."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from itemic.core.errors import DataError
from itemic.core.packages import MOVIELENS_100K, packaged_asset
from itemic.data.columns import InteractionColumns, ItemColumns, make_interactions, make_items
from itemic.data.raw import RawLog
from itemic.data.reading import parse_delimited
from itemic.data.rejects import SourceRows
from itemic.data.sources.recbole import read_atomic

__all__ = ["MovielensConfig", "read"]

_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_RATINGS = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True, kw_only=True)
class MovielensConfig:
    """MovieLens ratings and movies."""

    format: Literal["movielens"] = "movielens"
    """Names this source in a recipe."""
    path: str = "packaged"
    """The zip file or unpacked folder of ml-100k, ml-1m, ml-latest or ml-latest-small; ``packaged`` takes ml-100k out
    of the ``recbole`` wheel, fetched once into the cache."""

    def files(self) -> dict[str, Path]:
        """Returns the zip file or folder to be read, by a short name."""
        return {"movielens": _packaged_folder() if self.path == "packaged" else Path(self.path)}


def read(config: MovielensConfig) -> RawLog:
    """Returns the ratings, and the movies with title (year included), year and genres.

    The genres are the description too, so that an item's text has them.

    Raises:
        DataError: if there is no MovieLens release at the path.
    """
    if config.path == "packaged":
        ratings, movies = _read_wheel(_packaged_folder())
    else:
        ratings, movies = _read_release(Path(config.path))
    return RawLog(
        interactions=make_interactions(ratings, InteractionColumns(rating="rating")),
        items=make_items(movies, ItemColumns()),
    )


def _packaged_folder() -> Path:
    folder = packaged_asset(MOVIELENS_100K)
    assert folder is not None
    return folder


def _read_wheel(folder: Path) -> tuple[SourceRows, SourceRows]:
    ratings, movies = read_atomic(folder / "ml-100k.inter"), read_atomic(folder / "ml-100k.item")
    title = pl.concat_str("movie_title", pl.lit(" ("), "release_year", pl.lit(")"))
    movie = movies.rows.select(
        "item_id",
        pl.coalesce(title, "movie_title").alias("title"),
        pl.col("release_year").alias("year"),
        pl.col("class").str.replace_all(" ", ", ").alias("genres"),
        "source_row",
    )
    return ratings, _with_description(replace(movies, rows=movie))


def _read_release(path: Path) -> tuple[SourceRows, SourceRows]:
    release = _Release(path)
    if "u.data" in release:
        ratings = release.parse("u.data", separator="\t", header=_RATINGS, quoted=False)
        return ratings, _movies_100k(release)
    if "ratings.dat" in release:
        ratings = release.parse("ratings.dat", separator="::", header=_RATINGS, encoding="latin-1")
        header = ("item_id", "title", "genres")
        movies = release.parse("movies.dat", separator="::", header=header, encoding="latin-1")
        return ratings, _movies_with_genres(movies)
    if "ratings.csv" in release:
        ratings, movies = (
            replace(source, rows=source.rows.rename({"movieId": "item_id", "userId": "user_id"}, strict=False))
            for source in (release.parse("ratings.csv"), release.parse("movies.csv"))
        )
        return ratings, _movies_with_genres(movies)
    raise DataError(f"{path}: expected u.data (ml-100k), ratings.dat (ml-1m) or ratings.csv (ml-latest) in it")


class _Release:
    """The files of a folder, or of a zip with or without a folder in it, by their bare names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, str] = {}
        if path.is_dir():
            self.members = {file.name: file.name for file in path.iterdir() if file.is_file()}
        elif not path.is_file():
            raise DataError(f"{path}: no such file or folder")
        elif not zipfile.is_zipfile(path):
            raise DataError(f"{path}: expected a folder or a zip file")
        else:
            with zipfile.ZipFile(path) as archive:
                self.members = {Path(name).name: name for name in archive.namelist() if not name.endswith("/")}

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def parse(
        self,
        name: str,
        *,
        separator: str = ",",
        header: tuple[str, ...] | None = None,
        quoted: bool = True,
        encoding: str = "utf-8",
    ) -> SourceRows:
        if name not in self:
            raise DataError(f"{self.path}: no file {name} in it")
        file = f"{self.path.as_posix()}/{self.members[name]}"
        data = self._load(self.members[name])
        return parse_delimited(data, file, separator=separator, header=header, quoted=quoted, encoding=encoding)

    def _load(self, member: str) -> bytes:
        if self.path.is_dir():
            return (self.path / member).read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(member)


def _movies_100k(release: _Release) -> SourceRows:
    header = ("item_id", "title", "release_date", "video_release_date", "url", *_GENRES_100K)
    source = release.parse("u.item", separator="|", header=header, quoted=False, encoding="latin-1")
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES_100K]
    movie = source.rows.select(
        "item_id",
        "title",
        pl.col("title").str.extract(r"\((\d{4})\)").alias("year"),
        pl.concat_list(flags).list.drop_nulls().list.join(", ").alias("genres"),
        "source_row",
    )
    return _with_description(replace(source, rows=movie))


def _movies_with_genres(source: SourceRows) -> SourceRows:
    genres = pl.col("genres").str.replace_all("|", ", ", literal=True).replace("(no genres listed)", "")
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$")
    return _with_description(
        replace(source, rows=source.rows.select("item_id", "title", year.alias("year"), genres, "source_row"))
    )


def _with_description(movies: SourceRows) -> SourceRows:
    return replace(movies, rows=movies.rows.with_columns(pl.col("genres").alias("description")))
