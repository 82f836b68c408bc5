"""itemic.sid: from item vectors to semantic IDs: quantizers, unique codes, the Catalog and its quality figures."""

from itemic.sid.catalog import Catalog
from itemic.sid.quantizer import Quantizer

__all__ = ["Catalog", "Quantizer"]
