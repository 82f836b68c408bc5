"""Every quantizer by its kind: the one place to add another."""

from collections.abc import Sequence
from pathlib import Path

from itemic.core.errors import ArtifactError
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.stored import read_kind

__all__ = ["QUANTIZERS", "QuantizerConfig", "load_quantizer", "make_quantizer"]

QuantizerConfig = RQKMeansConfig
"""Settings of any quantizer; the key ``kind`` says which."""

QUANTIZERS: dict[str, type[Quantizer]] = {RQKMeans.kind: RQKMeans}
"""Classes by the name that a config and a saved file give them."""


def make_quantizer(config: QuantizerConfig, codebook_sizes: Sequence[int]) -> Quantizer:
    """Returns the quantizer that a config describes, not fitted yet.

    Raises:
        ConfigError: if the sizes do not fit the kind.
    """
    match config:
        case RQKMeansConfig():
            return RQKMeans(codebook_sizes, config)


def load_quantizer(path: Path) -> Quantizer:
    """Returns the quantizer in a safetensors file, of whichever kind it is.

    Raises:
        ArtifactError: if the file is missing, damaged or of an unknown kind.
    """
    kind = read_kind(path)
    if kind not in QUANTIZERS:
        raise ArtifactError(f"{path}: holds kind {kind!r}; known kinds are {', '.join(sorted(QUANTIZERS))}")
    return QUANTIZERS[kind].load(path)
