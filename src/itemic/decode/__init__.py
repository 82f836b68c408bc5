"""Decoding: from prompts to real, allowed items, by beam search over the trie of the catalog's semantic IDs.

``trie`` holds the tree, ``filters`` what each request may get, ``policy`` what is asked of a model. ``prefill`` reads
prompts, ``scoring`` has the normalisers, ``walk`` goes down the tree level by level, ``beam`` is the search and
``naive`` its slow twin. ``recommender`` is the door that the rest of itemic uses.
"""

from itemic.decode.beam import BeamResult, constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import CatalogPolicy, Policy
from itemic.decode.recommender import LanguageModelRecommender, top_probabilities
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker

__all__ = [
    "BeamResult",
    "CatalogPolicy",
    "ItemFilter",
    "LanguageModelRecommender",
    "Normalization",
    "Policy",
    "TreeWalker",
    "Trie",
    "constrained_beam_search",
    "top_probabilities",
]
