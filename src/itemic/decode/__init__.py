"""Decoding: from prompts to real, allowed items, by beam search over the trie of the catalog's semantic IDs.

``trie`` holds the tree, ``filters`` what each request may get, ``policy`` what is asked of a model, ``scoring`` the
normalisers, ``beam`` the search, ``naive`` its slow twin, ``recommender`` the door that the rest of itemic uses.
"""

from itemic.decode.beam import BeamResult, Normalization, constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import CatalogPolicy, Policy
from itemic.decode.recommender import LanguageModelRecommender, top_probabilities
from itemic.decode.trie import Trie

__all__ = [
    "BeamResult",
    "CatalogPolicy",
    "ItemFilter",
    "LanguageModelRecommender",
    "Normalization",
    "Policy",
    "Trie",
    "constrained_beam_search",
    "top_probabilities",
]
