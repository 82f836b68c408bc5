"""Vectors that were computed before, by the hash of their text; knows nothing of encoders.

A cache is a folder of safetensors files, each with the vectors of some texts and the texts' hashes. Files are only
ever added, atomically, so a killed run loses at most the file it was about to write and two runs can share a cache.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from itemic.core.errors import ArtifactError
from itemic.core.files import text_hash, write_arrays

__all__ = ["EmbeddingCache"]


@dataclass(frozen=True)
class EmbeddingCache:
    """The vectors that one encoder with one set of options gave."""

    folder: Path

    def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Returns the vectors of those keys (SHA-256, hexadecimal) that the cache has.

        Raises:
            ArtifactError: if a file of the cache is damaged.
        """
        wanted = {bytes.fromhex(key): key for key in keys}
        found: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.safetensors")) if wanted else []:
            try:
                with safe_open(path, framework="np") as stored:
                    hashes = [row.tobytes() for row in stored.get_tensor("hashes")]
                    rows = [row for row, key in enumerate(hashes) if key in wanted]
                    vectors = stored.get_tensor("embeddings") if rows else None
            except SafetensorError as error:
                raise ArtifactError(f"{path}: damaged ({error}); remove this file and run again") from None
            if vectors is not None:
                found |= {wanted[hashes[row]]: vectors[row] for row in rows}
        return found

    def write(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Adds vectors by key, as one file."""
        hashes = np.frombuffer(bytes.fromhex("".join(vectors)), dtype=np.uint8).reshape(len(vectors), -1)
        path = self.folder / f"{text_hash(*vectors)[:32]}.safetensors"
        write_arrays(path, {"hashes": hashes, "embeddings": np.stack(list(vectors.values()))})
