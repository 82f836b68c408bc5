"""Fitted baselines as safetensors: named arrays, a few plain values and what they were made from. Never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from safetensors import SafetensorError, safe_open

from itemic.core.errors import ArtifactError
from itemic.core.files import write_arrays

__all__ = ["join_sparse", "read_fitted", "split_sparse", "write_fitted"]


def write_fitted(path: Path, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], made_from: str) -> None:
    """Writes a fitted baseline atomically.

    Args:
        path: The file.
        arrays: Everything large.
        values: Everything small, as JSON takes it: the shape of a network, a decay.
        made_from: What it was fitted to and how, a hash say.
    """
    write_arrays(path, arrays, {"made_from": made_from, "values": json.dumps(dict(values), sort_keys=True)})


def read_fitted(path: Path, made_from: str | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns arrays and values of a file that ``write_fitted`` wrote.

    Args:
        path: The file.
        made_from: What it must be fitted to; None takes any.

    Raises:
        ArtifactError: if the file is missing, damaged or made from something else.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error}); remove the file") from None
    if made_from not in (None, metadata.get("made_from")):
        raise ArtifactError(f"{path}: fitted to other data or with other settings")
    return arrays, json.loads(metadata.get("values", "{}"))


def split_sparse(name: str, matrix: scipy.sparse.csr_array) -> dict[str, np.ndarray]:
    """Returns a sparse matrix as the arrays ``<name>.data``, ``.indices``, ``.indptr`` and ``.shape``."""
    return {
        f"{name}.data": matrix.data,
        f"{name}.indices": matrix.indices,
        f"{name}.indptr": matrix.indptr,
        f"{name}.shape": np.array(matrix.shape),
    }


def join_sparse(name: str, arrays: Mapping[str, np.ndarray]) -> scipy.sparse.csr_array:
    """Returns the matrix that ``split_sparse`` took apart."""
    parts = (arrays[f"{name}.data"], arrays[f"{name}.indices"], arrays[f"{name}.indptr"])
    return scipy.sparse.csr_array(parts, shape=tuple(arrays[f"{name}.shape"].tolist()))
