"""Vectors made elsewhere (of images or sound, by another encoder, by another system): read and put in items' order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file

from itemic.core.errors import ConfigError, DataError

__all__ = ["find_rows", "read_vectors"]

_NUM_NAMED = 3


def read_vectors(path: Path, ids_path: Path | None = None) -> tuple[list[str], Float[np.ndarray, "n D"]]:
    """Returns item ids and one vector each, in the file's order.

    Args:
        path: Parquet with a column ``item_id`` and one column of lists of numbers, which needs no further file; or
            ``.npy``, or safetensors with a single array, of shape (n, D). Arrays in ``.npy`` are mapped, not read.
        ids_path: For the latter two: a text file with one item id a line, in the rows' order.

    Raises:
        ConfigError: if a file is missing, of another format, or an ids file is missing or too many.
        DataError: if the ids are not one a vector, or one is empty or occurs twice.
    """
    for each in (path, ids_path):
        if each is not None and not each.is_file():
            raise ConfigError(f"{each}: no such file")
    if path.suffix == ".parquet":
        if ids_path is not None:
            raise ConfigError(f"{ids_path}: not needed, {path} has its own column item_id")
        ids, x = _read_parquet(path)
    elif path.suffix in (".npy", ".safetensors"):
        if ids_path is None:
            raise ConfigError(
                f"{path}: holds no item ids; name a text file with one id a line (vector_ids; on the command line "
                "--embedding-ids)"
            )
        ids = ids_path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
        x = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    else:
        raise ConfigError(f"{path}: expected vectors as .parquet, .npy or .safetensors")
    _check_ids(ids, len(x), ids_path or path)
    return ids, x


def find_rows(item_ids: Sequence[str], ids: Sequence[str], path: Path | str) -> Int[np.ndarray, "N"]:
    """Returns the place of each item in ``ids``.

    Args:
        item_ids: The items.
        ids: Where they are looked for; all different.
        path: The file of ``ids``, for the error.

    Raises:
        DataError: if an item is not there.
    """
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    missing = [item_id for item_id in item_ids if item_id not in row_of]
    if missing:
        named = ", ".join(map(repr, missing[:_NUM_NAMED])) + (", ..." if len(missing) > _NUM_NAMED else "")
        raise DataError(f"{path}: {len(missing)} of {len(item_ids)} items have no vector: {named}")
    return np.array([row_of[item_id] for item_id in item_ids], dtype=np.int64)


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{path}: not a Parquet file: {error}") from None
    columns = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    if "item_id" not in table.columns or len(columns) != 1:
        raise ConfigError(
            f"{path}: expected a column item_id and one column of lists of numbers, found {', '.join(table.columns)}"
        )
    lists = table[columns[0]].cast(pl.List(pl.Float32))
    lengths = lists.list.len().fill_null(0).to_numpy()
    width = int(lengths.max(initial=0))
    if (lengths != width).any() or width == 0:
        row = int(lengths.argmin()) if len(lengths) else 0
        raise DataError(f"{path}: row {row}: expected {width or 'some'} numbers in {columns[0]}")
    return table["item_id"].cast(pl.String).fill_null("").to_list(), lists.explode().to_numpy().reshape(len(table), -1)


def _read_npy(path: Path) -> np.ndarray:
    try:
        x: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"{path}: not a .npy file of numbers: {error}") from None
    return _checked(x, path)


def _read_safetensors(path: Path) -> np.ndarray:
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from None
    if len(arrays) != 1:
        raise ConfigError(f"{path}: expected one array, found {', '.join(sorted(arrays)) or 'none'}")
    return _checked(next(iter(arrays.values())), path)


def _checked(x: np.ndarray, path: Path) -> np.ndarray:
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating):
        raise ConfigError(f"{path}: expected floating-point numbers of shape (n, D), found {x.dtype} {x.shape}")
    return x


def _check_ids(ids: Sequence[str], num_vectors: int, path: Path) -> None:
    if len(ids) != num_vectors:
        raise DataError(
            f"{path}: {len(ids)} item ids for {num_vectors} vectors; expected one id a line, without a header"
        )
    column = pl.Series(ids, dtype=pl.String)
    for wrong, what in ((column == "", "empty item id"), (~column.is_first_distinct(), "item id occurs again")):
        if wrong.any():
            row = int(wrong.arg_true()[0])
            raise DataError(f"{path}: row {row}: {what}: {ids[row]!r}")
