"""How a fitted quantizer lies on disk: one safetensors file with its arrays, its kind, its sizes and its settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from itemic.core.config import config_to_mapping
from itemic.core.errors import ArtifactError
from itemic.core.files import write_arrays

__all__ = ["StoredQuantizer", "read_kind", "read_quantizer", "write_quantizer"]


@dataclass(frozen=True, kw_only=True)
class StoredQuantizer:
    """What a quantizer's file holds."""

    codebook_sizes: tuple[int, ...]
    """Number of codes of each level."""
    config: dict[str, Any]
    """Its settings as plain values, ``kind`` among them."""
    arrays: dict[str, np.ndarray]
    """What it learned."""


def write_quantizer(path: Path, config: Any, codebook_sizes: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a fitted quantizer, atomically.

    Args:
        path: The file.
        config: Its settings: a dataclass with a field ``kind``.
        codebook_sizes: Number of codes of each level.
        arrays: What it learned, by name.
    """
    settings = {"codebook_sizes": codebook_sizes, "config": config_to_mapping(config)}
    write_arrays(path, arrays, {"kind": config.kind, "settings": json.dumps(settings)})


def read_quantizer(path: Path, kind: str) -> StoredQuantizer:
    """Returns what ``write_quantizer`` wrote.

    Raises:
        ArtifactError: if the file is missing, damaged or of another kind.
    """
    found = read_kind(path)
    if found != kind:
        raise ArtifactError(f"{path}: holds kind {found!r}, expected {kind!r}")
    try:
        with safe_open(path, framework="np") as stored:
            settings = json.loads(stored.metadata()["settings"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        return StoredQuantizer(
            codebook_sizes=tuple(settings["codebook_sizes"]), config=settings["config"], arrays=arrays
        )
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: damaged quantizer: {error}") from None


def read_kind(path: Path) -> str | None:
    """Returns the kind of quantizer that a file holds, None where it does not say.

    Raises:
        ArtifactError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="np") as stored:
            return (stored.metadata() or {}).get("kind")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run itemic tokenize") from None
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged quantizer: {error}") from None
