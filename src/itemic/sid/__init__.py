"""itemic.sid: from item vectors to semantic IDs: quantizers, unique codes, the Catalog and its quality figures."""

from itemic.sid.catalog import Catalog
from itemic.sid.collisions import resolve_unique
from itemic.sid.quality import quality
from itemic.sid.quantizer import Quantizer
from itemic.sid.registry import QUANTIZERS, load_quantizer
from itemic.sid.rqkmeans import RQKMeans
from itemic.sid.tokenize import TokenizeConfig, tokenize

__all__ = [
    "QUANTIZERS",
    "Catalog",
    "Quantizer",
    "RQKMeans",
    "TokenizeConfig",
    "load_quantizer",
    "quality",
    "resolve_unique",
    "tokenize",
]
