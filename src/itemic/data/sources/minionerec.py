"""MiniOneRec's published files: train, valid and test CSV, index, items and info; no text is ever evaluated."""

import ast
import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from itemic.core.errors import DataError
from itemic.data.columns import ItemColumns, make_items, require_columns
from itemic.data.raw import RAW_EXAMPLE_SCHEMA, RawLog
from itemic.data.reading import numbered, parse_delimited, read_bytes, read_table
from itemic.data.rejects import SourceRows, no_rejects

__all__ = ["MinionerecConfig", "read", "read_index"]

log = logging.getLogger("itemic")

_TOKEN = re.compile(r"<[a-z]_(\d+)>")


@dataclass(frozen=True, kw_only=True)
class MinionerecConfig:
    """A folder laid out as MiniOneRec's ``data/Amazon``."""

    format: Literal["minionerec"] = "minionerec"
    """Names this source in a recipe."""
    path: str
    """The folder with ``train/``, ``valid/``, ``test/``, ``index/`` and ``info/``."""
    category: str
    """How the files' names begin, ``Industrial_and_Scientific`` say."""

    def files(self) -> dict[str, Path]:
        """Returns the files to be read, by a short name.

        Raises:
            DataError: if a file is missing, or several could be meant.
        """
        folder = Path(self.path)
        files = {name: self._only_file(folder / name, ".csv") for name in ("train", "valid", "test")}
        items = folder / "index" / f"{self.category}.item.json"
        return {
            **files,
            "index": self._only_file(folder / "index", ".index.json"),
            "items": items if items.is_file() else self._only_file(folder / "info", ".txt"),
        }

    def _only_file(self, folder: Path, ending: str) -> Path:
        exact = folder / f"{self.category}{ending}"
        found = [exact] if exact.is_file() else sorted(folder.glob(f"{self.category}_[0-9]*{ending}"))
        if len(found) != 1:
            raise DataError(f"{folder}: expected one file {self.category}{ending}, found {len(found)}")
        return found[0]


def read(config: MinionerecConfig) -> RawLog:
    """Returns the published examples, the catalogue (of ``item.json``, else of the info file) and its semantic IDs.

    Raises:
        DataError: if a file or column is missing or not what MiniOneRec writes.
    """
    files = config.files()
    is_info = files["items"].suffix == ".txt"
    return RawLog(
        items=_read_info(files["items"]) if is_info else _read_items(files["items"]),
        examples={split: _read_examples(files[split]) for split in ("train", "valid", "test")},
        given_codes=read_index(files["index"]),
    )


def read_index(path: Path) -> pl.DataFrame:
    """Returns item_id and codes (list of int) of an index file ``{item id: ["<a_1>", "<b_2>", ...]}``.

    Where some items carry a token more than others (MiniOneRec's ``<d_1>`` for colliding ones), it is cut off: codes
    have one length, and what they share is resolved when the catalog is made.

    Raises:
        DataError: if the file is no such JSON, naming the first item at fault.
    """
    codes = {item: _codes(tokens, item, path) for item, tokens in _read_object(path).items()}
    num_levels = min(map(len, codes.values()))
    num_cut = sum(len(sid) > num_levels for sid in codes.values())
    if num_cut:
        log.warning("%s: %d items have more than %d tokens; the further ones are cut off", path, num_cut, num_levels)
    return pl.DataFrame(
        {"item_id": list(codes), "codes": [sid[:num_levels] for sid in codes.values()]},
        schema={"item_id": pl.String, "codes": pl.List(pl.Int64)},
    )


def _codes(tokens: Any, item: str, path: Path) -> list[int]:
    matches = [_TOKEN.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else []
    if not matches or not all(matches):
        raise DataError(f'{path}: item {item!r}: expected a list of tokens such as "<a_12>", found {tokens!r}')
    return [int(match[1]) for match in matches if match]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path}: expected an object with an entry for every item")
    return value


def _read_items(path: Path) -> SourceRows:
    """Reads ``{item id: {"title": ..., "description": ..., ...}}``; a row is an entry's place in the file."""
    items = _read_object(path)
    if not all(isinstance(item, dict) for item in items.values()):
        raise DataError(f"{path}: expected an object for every item")
    lines = (json.dumps({**item, "item_id": item_id}) for item_id, item in items.items())
    keys = dict.fromkeys(key for item in items.values() for key in item)
    schema = {"item_id": pl.String, **dict.fromkeys(keys, pl.String)}
    table = pl.read_ndjson("\n".join(lines).encode(), schema=schema)
    source = SourceRows(file=path.as_posix(), rows=numbered(table, first=1), rejects=no_rejects())
    return make_items(source, ItemColumns())


def _read_info(path: Path) -> SourceRows:
    header = ("sid", "title", "item_id")
    source = parse_delimited(read_bytes(path), path.as_posix(), separator="\t", header=header, quoted=False)
    return make_items(replace(source, rows=source.rows.drop("sid")), ItemColumns(description=""))


def _read_examples(path: Path) -> SourceRows:
    source = read_table(path)
    require_columns(source, ("user_id", "history_item_id", "item_id"))
    table = source.rows.with_columns(_read_lists(source.rows["history_item_id"]).alias("history"))
    rules = [
        (pl.col("user_id").is_null(), "missing user_id"),
        (pl.col("item_id").is_null(), "missing target"),
        (pl.col("history").is_null(), "history_item_id is not a list"),
    ]
    kept = replace(source, rows=table).set_aside(rules)
    time = pl.lit(None, pl.Int64).alias("time_us")
    rows = kept.rows.with_columns(pl.col("item_id").alias("target"), time).select(*RAW_EXAMPLE_SCHEMA)
    return replace(kept, rows=rows)


def _read_lists(texts: pl.Series) -> pl.Series:
    """Returns the lists in texts such as ``[12, 7]``; null where a text is no list."""
    try:
        return texts.str.json_decode(pl.List(pl.String))
    except pl.exceptions.ComputeError:
        # Ids in single quotes: Python's notation, not JSON's.
        return pl.Series([_read_list(text) for text in texts], dtype=pl.List(pl.String))


def _read_list(text: str | None) -> list[str] | None:
    try:
        value = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return [str(element) for element in value] if isinstance(value, list) else None
