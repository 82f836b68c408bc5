"""Hybrid recommenders: language models, neighbours, text and popularity weighed into one probability.

``members`` score the catalogue, ``features`` says what is made of their scores, ``choices`` lays held-out examples out
as a table, ``logit`` and ``fit`` find the weights, ``blend`` ranks by them, ``dense_head`` is a member of its own and
``stage`` does all of it in a run (``docs/hybrid.md``).
"""

from itemic.hybrid.blend import Blend, SearchedBlend
from itemic.hybrid.config import BlendConfig
from itemic.hybrid.dense_head import DenseHead
from itemic.hybrid.features import FeatureSet, Member
from itemic.hybrid.logit import ChoiceTable, fit_logit
from itemic.hybrid.members import LanguageMember, RowMember
from itemic.hybrid.stage import blend, load_blend

__all__ = [
    "Blend",
    "BlendConfig",
    "ChoiceTable",
    "DenseHead",
    "FeatureSet",
    "LanguageMember",
    "Member",
    "RowMember",
    "SearchedBlend",
    "blend",
    "fit_logit",
    "load_blend",
]
