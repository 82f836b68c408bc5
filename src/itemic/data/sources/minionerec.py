"""MiniOneRec's published files: train, valid and test CSV, index, items and info; no text is ever evaluated."""

import json
import re
from pathlib import Path

import polars as pl

from itemic.core.errors import DataError
from itemic.data.reading import read_bytes

__all__ = ["read_index"]

_TOKEN = re.compile(r"<[a-z]_(\d+)>")


def read_index(path: Path) -> pl.DataFrame:
    """Returns item_id and codes (list of int) of an index file ``{item id: ["<a_1>", "<b_2>", ...]}``.

    Where some items carry a token more than others (MiniOneRec's ``<d_1>`` for colliding ones), it is cut off: codes
    have one length, and what they share is resolved when the catalog is made.

    Raises:
        DataError: if the file is no such JSON, naming the first item at fault.
    """
    try:
        index = json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(index, dict) or not index:
        raise DataError(f"{path}: expected an object with the tokens of every item")
    codes = {str(item): _codes(tokens, item, path) for item, tokens in index.items()}
    num_levels = min(map(len, codes.values()))
    return pl.DataFrame(
        {"item_id": list(codes), "codes": [sid[:num_levels] for sid in codes.values()]},
        schema={"item_id": pl.String, "codes": pl.List(pl.Int64)},
    )


def _codes(tokens: object, item: str, path: Path) -> list[int]:
    matches = [_TOKEN.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else []
    if not matches or not all(matches):
        raise DataError(f'{path}: item {item!r}: expected a list of tokens such as "<a_12>", found {tokens!r}')
    return [int(match[1]) for match in matches if match]
