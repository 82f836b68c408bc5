"""itemic.sid.quantizers: from vectors to codes, one quantizer a file behind the one protocol."""

from itemic.sid.quantizers.fsq import RQKMeansFSQ, RQKMeansFSQConfig
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import QUANTIZERS, QuantizerConfig, load_quantizer, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqopq import RQOPQ, RQOPQConfig

__all__ = [
    "QUANTIZERS",
    "RQOPQ",
    "Quantizer",
    "QuantizerConfig",
    "RQKMeans",
    "RQKMeansConfig",
    "RQKMeansFSQ",
    "RQKMeansFSQConfig",
    "RQOPQConfig",
    "load_quantizer",
    "make_quantizer",
]
