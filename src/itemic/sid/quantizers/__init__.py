"""itemic.sid.quantizers: from vectors to codes, one quantizer a file behind the one protocol."""

from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.fsq import RQKMeansFSQ, RQKMeansFSQConfig
from itemic.sid.quantizers.hierarchical import HierarchicalKMeans, HierarchicalKMeansConfig
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import QUANTIZERS, QuantizerConfig, load_quantizer, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqkmeans_plus import RQKMeansPlus, RQKMeansPlusConfig
from itemic.sid.quantizers.rqopq import RQOPQ, RQOPQConfig
from itemic.sid.quantizers.rqvae import RQVAE, RQVAEConfig

__all__ = [
    "QUANTIZERS",
    "RQOPQ",
    "RQVAE",
    "BalancedRQKMeans",
    "BalancedRQKMeansConfig",
    "HierarchicalKMeans",
    "HierarchicalKMeansConfig",
    "Quantizer",
    "QuantizerConfig",
    "RQKMeans",
    "RQKMeansConfig",
    "RQKMeansFSQ",
    "RQKMeansFSQConfig",
    "RQKMeansPlus",
    "RQKMeansPlusConfig",
    "RQOPQConfig",
    "RQVAEConfig",
    "load_quantizer",
    "make_quantizer",
]
