"""Atomic writes, hashes and JSON; knows nothing of what the files mean."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from itemic.core.errors import ArtifactError

__all__ = [
    "atomic_folder",
    "atomic_path",
    "file_hash",
    "map_array",
    "path_hash",
    "read_json",
    "recover_folder",
    "text_hash",
    "write_arrays",
    "write_json",
    "write_parquet",
    "write_rows",
]

_CHUNK_BYTES = 1 << 20
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``target`` and renames it there when the block ends without an error.

    A reader sees the old file or the whole new one, never a part; on an error the temporary file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``target`` that takes its place when the block ends without an error.

    A folder cannot be replaced in one system call: the old one is moved aside, the new one moved in, the old one
    removed. A kill between the two moves leaves the old folder beside it; ``recover_folder`` brings it back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        aside = _aside(target)
        shutil.rmtree(aside, ignore_errors=True)
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Moves the old folder back where a kill in ``atomic_folder`` left it beside its place."""
    if not target.exists() and _aside(target).is_dir():
        _aside(target).rename(target)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented UTF-8 JSON, atomically; NaN and infinity are refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the JSON value in ``path``.

    Raises:
        ArtifactError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}") from None


def write_parquet(path: Path, table: pl.DataFrame) -> None:
    """Writes ``table`` as parquet, atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, compression="zstd")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named arrays and text metadata as safetensors, atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata=dict(metadata or {}))


def write_rows(
    path: Path,
    name: str,
    shape: tuple[int, int],
    blocks: Iterable[np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one float32 array as safetensors, block of rows by block of rows, atomically: it never is in memory whole.

    Args:
        path: The file.
        name: Of the array.
        shape: Of the whole array.
        blocks: Its rows in order, of any floating type.
        metadata: Texts to keep beside it.
    """
    num_bytes = 4 * math.prod(shape)
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, num_bytes]}
    header = json.dumps({"__metadata__": dict(metadata or {}), name: entry}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype="<f4").data)
        assert stream.tell() == 8 + len(header) + num_bytes, f"blocks do not make up shape {shape}"


def map_array(path: Path, name: str) -> np.ndarray:
    """Returns one array of a safetensors file mapped into memory, read-only: its rows are read when they are used.

    Raises:
        ArtifactError: if the file is missing, damaged or has no such array.
    """
    try:
        with safe_open(path, framework="np"):  # checks sizes and offsets against the file
            pass
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            entry = json.loads(stream.read(header_bytes))[name]
        dtype = _DTYPES[entry["dtype"]]
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error})") from None
    except KeyError as error:
        raise ArtifactError(f"{path}: has no {error}") from None
    first_byte = 8 + header_bytes + entry["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=first_byte, shape=tuple(entry["shape"]))


def text_hash(*parts: str) -> str:
    """Returns the SHA-256 of the parts, each preceded by its length so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def path_hash(path: Path) -> str:
    """Returns the hash of a file, or of a folder's relative names and contents (hidden names left out).

    Raises:
        ArtifactError: if there is nothing at ``path``.
    """
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such file or folder")
    parts: list[str] = []
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            parts += [relative.as_posix(), file_hash(file)]
    return text_hash(*parts)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
