"""Every quantizer by its kind: the one place to add another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from itemic.core.errors import ArtifactError
from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.fsq import RQKMeansFSQ, RQKMeansFSQConfig
from itemic.sid.quantizers.hierarchical import HierarchicalKMeans, HierarchicalKMeansConfig
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqkmeans_plus import RQKMeansPlus, RQKMeansPlusConfig
from itemic.sid.quantizers.rqopq import RQOPQ, RQOPQConfig
from itemic.sid.quantizers.rqvae import RQVAE, RQVAEConfig
from itemic.sid.quantizers.stored import read_kind

__all__ = ["QUANTIZERS", "QuantizerConfig", "load_quantizer", "make_quantizer"]

QuantizerConfig = Annotated[
    RQKMeansConfig
    | BalancedRQKMeansConfig
    | HierarchicalKMeansConfig
    | RQOPQConfig
    | RQKMeansFSQConfig
    | RQVAEConfig
    | RQKMeansPlusConfig,
    pydantic.Field(discriminator="kind"),
]
"""Settings of any quantizer; the key ``kind`` says which."""

QUANTIZERS: dict[str, type[Any]] = {
    kind.kind: kind
    for kind in (RQKMeans, BalancedRQKMeans, HierarchicalKMeans, RQOPQ, RQKMeansFSQ, RQVAE, RQKMeansPlus)
}
"""Quantizer classes by the name that a config and a saved file give them; each takes codebook sizes and its config."""


def make_quantizer(config: QuantizerConfig, codebook_sizes: Sequence[int]) -> Quantizer:
    """Returns the quantizer that a config describes, not fitted yet.

    Raises:
        ConfigError: if the sizes do not fit the kind.
    """
    quantizer: Quantizer = QUANTIZERS[config.kind](codebook_sizes, config)
    return quantizer


def load_quantizer(path: Path) -> Quantizer:
    """Returns the quantizer in a safetensors file, of whichever kind it is.

    Raises:
        ArtifactError: if the file is missing, damaged or of an unknown kind.
    """
    kind = read_kind(path)
    if kind not in QUANTIZERS:
        raise ArtifactError(f"{path}: holds kind {kind!r}; known kinds are {', '.join(sorted(QUANTIZERS))}")
    quantizer: Quantizer = QUANTIZERS[kind].load(path)
    return quantizer
