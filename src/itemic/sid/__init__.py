"""itemic.sid: from item vectors to semantic IDs: quantizers, unique codes, the Catalog and its quality figures."""

from itemic.sid.build import make_catalog
from itemic.sid.catalog import Catalog
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.growth import append_items
from itemic.sid.quality import measure_quality
from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.fsq import RQKMeansFSQ, RQKMeansFSQConfig
from itemic.sid.quantizers.hierarchical import HierarchicalKMeans, HierarchicalKMeansConfig
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import QUANTIZERS, QuantizerConfig, load_quantizer, make_quantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqkmeans_plus import RQKMeansPlus, RQKMeansPlusConfig
from itemic.sid.quantizers.rqopq import RQOPQ, RQOPQConfig
from itemic.sid.quantizers.rqvae import RQVAE, RQVAEConfig
from itemic.sid.refit import Refitted, refit_catalog
from itemic.sid.tokenize import TokenizeConfig, tokenize

__all__ = [
    "QUANTIZERS",
    "RQOPQ",
    "RQVAE",
    "BalancedRQKMeans",
    "BalancedRQKMeansConfig",
    "Catalog",
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
    "Refitted",
    "TokenizeConfig",
    "append_items",
    "load_quantizer",
    "make_catalog",
    "make_quantizer",
    "measure_quality",
    "refit_catalog",
    "resolve_unique",
    "tokenize",
]
