"""Every quantizer by its kind: the one place to add another."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from itemic.core.errors import ArtifactError
from itemic.sid.quantizer import Quantizer
from itemic.sid.rqkmeans import RQKMeans

__all__ = ["QUANTIZERS", "load_quantizer"]

QUANTIZERS: dict[str, type[Quantizer]] = {RQKMeans.kind: RQKMeans}
"""Classes by the name that a config and a saved file give them."""


def load_quantizer(path: Path) -> Quantizer:
    """Returns the quantizer in a safetensors file, of whichever kind it is.

    Raises:
        ArtifactError: if the file is missing, damaged or of an unknown kind.
    """
    try:
        with safe_open(path, framework="np") as stored:
            kind = (stored.metadata() or {}).get("kind")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run itemic tokenize") from None
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged quantizer: {error}") from None
    if kind not in QUANTIZERS:
        raise ArtifactError(f"{path}: holds kind {kind!r}; known kinds are {', '.join(sorted(QUANTIZERS))}")
    return QUANTIZERS[kind].load(path)
