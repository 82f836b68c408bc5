"""itemic.sid.quantizers: from vectors to codes, one quantizer a file behind the one protocol."""

from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import QUANTIZERS, QuantizerConfig, load_quantizer, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

__all__ = [
    "QUANTIZERS",
    "Quantizer",
    "QuantizerConfig",
    "RQKMeans",
    "RQKMeansConfig",
    "load_quantizer",
    "make_quantizer",
]
