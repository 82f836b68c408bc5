"""Source files to tables of strings with row numbers; knows no column's meaning.

Nothing is guessed and nothing is lost: every cell stays text until a reader says what it is, and a row that is
malformed or in the wrong encoding is set aside, not repaired.
"""

import ast
import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from itemic.core.errors import DataError
from itemic.data.rejects import REJECT_SCHEMA, SourceRows, no_rejects

__all__ = [
    "joined_text",
    "numbered",
    "parse_delimited",
    "read_bytes",
    "read_json_lines",
    "read_parquet",
    "read_table",
]

_UNDECODABLE = "\U0010ffff"
"""Stands for a byte that the encoding does not allow: a code point that no text may use."""

_PIECE_BYTES = 32 << 20
_NUM_LINES_FOR_KEYS = 1000

codecs.register_error("itemic-mark", lambda error: (_UNDECODABLE, error.end))  # type: ignore[attr-defined]


def read_table(path: Path, *, mapped: Sequence[str] = (), quoted: bool = True, encoding: str = "utf-8") -> SourceRows:
    """Returns the rows of a CSV, TSV, JSON-lines or Parquet file, told apart by the name's ending.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` (one object a line) or ``.parquet``; all but the last may be
            followed by ``.gz``.
        mapped: Columns that the caller looks for; in JSON lines they are found however late they first appear.
        quoted: Whether a cell of delimited text may be quoted with ``"``.
        encoding: Of text files.

    Raises:
        DataError: if the file is missing or empty, or has an ending that is not one of these.
    """
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        return read_parquet(path)
    if ending in ("jsonl", "json", "ndjson"):
        return read_json_lines(path, mapped=mapped, encoding=encoding)
    if ending in ("csv", "tsv"):
        separator = "\t" if ending == "tsv" else ","
        data = read_bytes(path)
        return parse_delimited(data, path.as_posix(), separator=separator, quoted=quoted, encoding=encoding)
    raise DataError(f"{path}: expected a file ending in .csv, .tsv, .jsonl (each also .gz) or .parquet")


def read_bytes(path: Path) -> bytes:
    """Returns a file's bytes, unpacked where the name ends in ``.gz``.

    Raises:
        DataError: if the file is missing or is not gzip in spite of its name.
    """
    return b"".join(_pieces(path))


def read_parquet(path: Path) -> SourceRows:
    """Returns the rows of a Parquet file with their own types.

    Raises:
        DataError: if the file is missing or not Parquet.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    return SourceRows(file=path.as_posix(), rows=numbered(table, first=1), rejects=no_rejects())


def parse_delimited(
    data: bytes,
    file: str,
    *,
    separator: str,
    header: Sequence[str] | None = None,
    quoted: bool = True,
    encoding: str = "utf-8",
) -> SourceRows:
    """Returns the rows of delimited text as strings; an empty cell is null.

    Args:
        data: The file's bytes.
        file: What to call the file.
        separator: Between cells; may be several characters where nothing is quoted.
        header: Column names of a file without a header row.
        quoted: Whether a cell may be quoted with ``"``.
        encoding: Of the text; undecodable rows are set aside.

    Raises:
        DataError: if the file is empty, names a column twice, ends its lines with carriage returns alone, or has a
            quoted cell that goes over what looks like rows: an opening quote without an end.
    """
    data, is_clean = _as_utf8(data, encoding)
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\n" not in data and b"\r" in data:
        raise DataError(f"{file}: line 1: the lines end with a carriage return alone; write them with line feeds")
    first = 1 if header else 2
    if len(separator) > 1:
        table = _split_lines(data, separator, list(header or ()))
        rejects = no_rejects()
    else:
        try:
            table, rejects = _read_csv(data, separator, header, quoted), no_rejects()
        except pl.exceptions.NoDataError:
            raise DataError(f"{file}: is empty") from None
        except pl.exceptions.ComputeError:
            table, rejects = _read_ragged(data, file, separator, header, quoted)
    if header is None:
        _check_header(data, file, separator, quoted)
    if "source_row" not in table.columns:
        table = numbered(table, first=first)
    if quoted and b'"' in data:
        _check_open_quotes(table, rejects, file, separator)
    rows = SourceRows(file=file, rows=_without_blank_rows(table), rejects=rejects)
    return rows if is_clean else _without_undecodable(rows, encoding)


def read_json_lines(
    path: Path, *, columns: Sequence[str] | None = None, mapped: Sequence[str] = (), encoding: str = "utf-8"
) -> SourceRows:
    """Returns the objects of a JSON-lines file as columns of strings; a list or object stays JSON text.

    The file is parsed in pieces of some tens of megabytes, so memory follows the columns asked for. A line that is
    no JSON object but a Python dictionary (as the 2014 Amazon metadata are) is read as a literal, never evaluated.

    Args:
        path: The file, unpacked or ending in ``.gz``.
        columns: Keys to keep; without it every key of the first thousand lines and those of ``mapped``.
        mapped: Keys to keep wherever they first appear; one that no line has is no column.
        encoding: Of the text, in which a line feed is one byte; undecodable rows are set aside.

    Raises:
        DataError: if the file is missing or empty, or the encoding is UTF-16 or UTF-32.
    """
    file, parts, row, late = path.as_posix(), list[SourceRows](), 1, list[str]()
    _check_line_encoding(encoding, file)
    for chunk in _line_chunks(path):
        data, is_clean = _as_utf8(chunk, encoding)
        data = data if parts else data.removeprefix(codecs.BOM_UTF8)
        if columns is None:
            keys = _keys(data, file)
            late = [name for name in dict.fromkeys(mapped) if name and name not in keys]
            columns = [*keys, *late]
        part = _parse_json_chunk(data, file, columns, row)
        parts.append(part if is_clean else _without_undecodable(part, encoding))
        row += chunk.count(b"\n")
    if not parts:
        raise DataError(f"{file}: is empty")
    rows, rejects = pl.concat(part.rows for part in parts), pl.concat(part.rejects for part in parts)
    nowhere = [name for name in late if rows[name].null_count() == rows.height]
    return SourceRows(file=file, rows=rows.drop(nowhere), rejects=rejects)


def joined_text(values: pl.Series, separator: str) -> pl.Series:
    """Returns texts in which a written list (JSON or Python, nested or not) is replaced by its joined elements.

    A text that only looks like a list stays as it is; null stays null.
    """
    lists = values.unique().drop_nulls()
    lists = lists.filter(lists.str.starts_with("[") & lists.str.strip_chars_end().str.ends_with("]"))
    if lists.is_empty():
        return values
    plain = [_join(text, separator) for text in lists]
    return values.replace(lists, pl.Series(plain, dtype=pl.String))


def _pieces(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from None


def _as_utf8(data: bytes, encoding: str) -> tuple[bytes, bool]:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode(encoding, errors="itemic-mark").encode(), False
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}") from None
    return (data if codecs.lookup(encoding).name == "utf-8" else text.encode()), True


def _check_line_encoding(encoding: str, file: str) -> None:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}") from None
    if name.startswith(("utf-16", "utf-32")):
        raise DataError(f"{file}: JSON lines are not read in {encoding}; write the file in UTF-8")


def _without_undecodable(rows: SourceRows, encoding: str) -> SourceRows:
    is_bad = pl.any_horizontal(pl.col(pl.String).str.contains(_UNDECODABLE, literal=True))
    checked = rows.set_aside([(is_bad, f"not valid {encoding.upper()}")])
    content = pl.col("content").str.replace_all(_UNDECODABLE, "\ufffd", literal=True)
    return SourceRows(file=rows.file, rows=checked.rows, rejects=checked.rejects.with_columns(content))


def numbered(table: pl.DataFrame, *, first: int) -> pl.DataFrame:
    """Returns the table with ``source_row`` counting its rows from ``first``."""
    return table.with_columns(pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("source_row"))


def _without_blank_rows(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(~pl.all_horizontal(pl.exclude("source_row").is_null()))


def _read_csv(data: bytes, separator: str, header: Sequence[str] | None, quoted: bool) -> pl.DataFrame:
    return pl.read_csv(
        data,
        separator=separator,
        has_header=header is None,
        schema=None if header is None else dict.fromkeys(header, pl.String),
        infer_schema=False,
        quote_char='"' if quoted else None,
    )


def _read_ragged(
    data: bytes, file: str, separator: str, header: Sequence[str] | None, quoted: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Reads text that polars refuses, row by row: rows with too many cells are set aside. Slow, for damaged files."""
    rows = _csv_rows(io.StringIO(data.decode(), newline=""), file, separator, quoted)
    names = list(header) if header else next(rows)
    good, bad = [], []
    for number, cells in enumerate(rows, start=1 if header else 2):
        if len(cells) > len(names):
            reason = f"{len(cells)} cells for {len(names)} columns"
            bad.append((file, number, reason, separator.join(cells)))
        else:
            padded: list[Any] = [cell or None for cell in cells] + [None] * (len(names) - len(cells))
            good.append((*padded, number))
    schema = {**dict.fromkeys(names, pl.String), "source_row": pl.Int64}
    return pl.DataFrame(good, schema=schema, orient="row"), pl.DataFrame(bad, schema=REJECT_SCHEMA, orient="row")


def _csv_rows(lines: Iterable[str], file: str, separator: str, quoted: bool) -> Iterator[list[str]]:
    rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    try:
        yield from rows
    except csv.Error as error:
        hint = "; an opening quote without an end?" if quoted else ""
        raise DataError(f"{file}: line {rows.line_num}: {error}{hint}") from None


def _check_open_quotes(table: pl.DataFrame, rejects: pl.DataFrame, file: str, separator: str) -> None:
    """Checks that no quoted cell has swallowed rows.

    It has where at least half of its lines after the first look like rows, that is have the separators of a full row.
    A separator before a blank is none: it is the comma of a sentence, as texts of several lines have them.
    """
    names = [name for name in table.columns if name != "source_row"]
    if len(names) == 1:
        return
    cells = [table.select(pl.col("source_row").alias("row"), pl.col(name).alias("cell")) for name in names]
    cells.append(rejects.select("row", pl.col("content").alias("cell")))
    long = pl.concat(part.filter(pl.col("cell").str.contains("\n", literal=True)) for part in cells)
    line = pl.col("cell").str.split("\n").list.slice(1).list.eval(_num_separators(separator) == len(names) - 1)
    counted = long.select("row", line.list.sum().alias("num_rows"), line.list.len().alias("num_lines"))
    swallowed = counted.filter((pl.col("num_rows") > 0) & (2 * pl.col("num_rows") >= pl.col("num_lines"))).sort("row")
    if not swallowed.is_empty():
        row, num_rows, _ = swallowed.row(0)
        raise DataError(
            f"{file}: row {row}: a quoted cell goes over {num_rows} lines that look like rows; an opening quote "
            "without an end? Close it, or set quoted: false (format: table) if the file has no quoting"
        )


def _num_separators(separator: str) -> pl.Expr:
    line = pl.element().str
    in_prose = line.count_matches(separator + " ", literal=True)
    return line.count_matches(separator, literal=True).cast(pl.Int64) - in_prose.cast(pl.Int64)


def _split_lines(data: bytes, separator: str, header: list[str]) -> pl.DataFrame:
    # Not splitlines: it also splits at characters that may stand inside a title.
    texts = data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    lines = pl.DataFrame({"line": texts}, schema={"line": pl.String})
    cells = pl.col("line").str.split(separator)
    columns = [cells.list.get(index, null_on_oob=True).replace("", None) for index in range(len(header) - 1)]
    rest = cells.list.slice(len(header) - 1).list.join(separator).replace("", None)
    return lines.select(**dict(zip(header, [*columns, rest], strict=True)))


def _check_header(data: bytes, file: str, separator: str, quoted: bool) -> None:
    line = data.split(b"\n", 1)[0].decode().rstrip("\r")
    names = next(_csv_rows([line], file, separator, quoted))
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise DataError(f"{file}: the header names column {twice[0]!r} twice")


def _line_chunks(path: Path) -> Iterator[bytes]:
    """Yields the file in pieces of whole lines."""
    rest = b""
    for piece in _pieces(path):
        head, newline, tail = piece.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = tail
        else:
            rest += piece
    if rest:
        yield rest


def _keys(data: bytes, file: str) -> list[str]:
    keys: dict[str, None] = {}
    for line in itertools.islice(io.BytesIO(data), _NUM_LINES_FOR_KEYS):
        value = _parse_object(line.decode())
        keys.update(dict.fromkeys(value or ()))
    if not keys:
        raise DataError(f"{file}: no JSON object in its first {_NUM_LINES_FOR_KEYS} lines")
    return list(keys)


def _parse_json_chunk(data: bytes, file: str, columns: Sequence[str], first: int) -> SourceRows:
    schema = dict.fromkeys(columns, pl.String)
    data = data.replace(b"\r\n", b"\n")
    has_blank_lines = data.startswith(b"\n") or b"\n\n" in data
    if not has_blank_lines:
        try:
            table = pl.read_ndjson(data, schema=schema)
            return SourceRows(file=file, rows=numbered(table, first=first), rejects=no_rejects())
        except pl.exceptions.PolarsError:
            pass
    return _parse_json_line_by_line(data, file, schema, first)


def _parse_json_line_by_line(data: bytes, file: str, schema: Mapping[str, Any], first: int) -> SourceRows:
    """Parses what polars refuses: blank lines are skipped, broken ones set aside. Slow, for damaged files."""
    good: list[tuple[Any, ...]] = []
    bad = []
    for number, line in enumerate(data.decode().split("\n"), start=first):
        if not line.strip():
            continue
        value = _parse_object(line)
        if value is None:
            bad.append((file, number, "not a JSON object", line))
        else:
            good.append((*(_as_text(value.get(key)) for key in schema), number))
    rows = pl.DataFrame(good, schema={**schema, "source_row": pl.Int64}, orient="row")
    return SourceRows(file=file, rows=rows, rejects=pl.DataFrame(bad, schema=REJECT_SCHEMA, orient="row"))


def _parse_object(line: str) -> dict[str, Any] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(line.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, dict) else None
    return None


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str:
    """Returns JSON as polars writes it: numbers have no exponent, and whole ones no fraction."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_as_json(str(key))}: {_as_json(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_as_json, value)) + "]"
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    return json.dumps(value, ensure_ascii=False)


def _join(text: str, separator: str) -> str:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return separator.join(part for part in _leaves(value) if part) if isinstance(value, list) else text
    return text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for element in value:
            yield from _leaves(element)
    elif value is not None:
        yield str(value).strip()
