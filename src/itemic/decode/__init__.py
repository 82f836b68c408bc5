"""Decoding: from prompts to real, allowed items, by beam search over the trie of the catalog's semantic IDs.

``trie`` holds the tree, ``filters`` what each request may get, ``item_sets`` and ``conditions`` what catalogue
columns say of it, ``policy`` what is asked of a model. ``prefill`` reads prompts, ``scoring`` has the normalisers,
``walk`` goes down the tree level by level (``candidates`` is one step), ``beam`` is the search and ``naive`` its slow
twin. ``stochastic`` draws samples by the ``noise`` of a seed, ``diversity`` makes lists of unlike items, ``think`` lets
a model write a thought first, ``domains`` puts several catalogues behind one model. ``prior`` adds
what is known of items from elsewhere to the search. ``recommender`` is the door that the rest of itemic uses;
``adapters`` are those for transformers' ``generate`` and for vLLM.
"""

from itemic.decode.beam import BeamResult, constrained_beam_search
from itemic.decode.debiased import TitleTreeRecommender
from itemic.decode.diversity import MarginalRelevance, PrefixQuota, rerank_by_mmr
from itemic.decode.domains import Domain, DomainForest, DomainRecommendations, recommend_from_domains
from itemic.decode.filters import ItemFilter
from itemic.decode.grounding import GroundedTitleRecommender
from itemic.decode.policy import CatalogPolicy, Policy
from itemic.decode.prior import PriorResult, search_with_prior
from itemic.decode.recommender import LanguageModelRecommender, top_probabilities
from itemic.decode.stochastic import (
    DistinctSamples,
    Samples,
    sample_with_replacement,
    sample_without_replacement,
)
from itemic.decode.think import ThinkConfig, Thoughts, think_then_recommend
from itemic.decode.title_tree import TitleTree, make_title_tree
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker

__all__ = [
    "BeamResult",
    "CatalogPolicy",
    "DistinctSamples",
    "Domain",
    "DomainForest",
    "DomainRecommendations",
    "GroundedTitleRecommender",
    "ItemFilter",
    "LanguageModelRecommender",
    "MarginalRelevance",
    "Normalization",
    "Policy",
    "PrefixQuota",
    "PriorResult",
    "Samples",
    "ThinkConfig",
    "Thoughts",
    "TitleTree",
    "TitleTreeRecommender",
    "TreeWalker",
    "Trie",
    "constrained_beam_search",
    "make_title_tree",
    "recommend_from_domains",
    "rerank_by_mmr",
    "sample_with_replacement",
    "sample_without_replacement",
    "search_with_prior",
    "think_then_recommend",
    "top_probabilities",
]
