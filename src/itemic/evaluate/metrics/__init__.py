"""Metrics, one a file with its equation: pure functions of ranks or lists that know no recommender and no file.

Ranking metrics (HR, Recall, NDCG, MRR) take the two counts of ``evaluate.ranks`` and give one value an example, the
expectation over the order of equal scores. List metrics (coverage, Gini, novelty, diversity, invalid rate) give one
value for all lists together.
"""

from itemic.evaluate.metrics.coverage import coverage
from itemic.evaluate.metrics.diversity import diversity
from itemic.evaluate.metrics.expectation import expected_gain, ranks_to
from itemic.evaluate.metrics.gini import gini
from itemic.evaluate.metrics.hit_rate import hit_rate
from itemic.evaluate.metrics.invalid import invalid_rate, valid_slots
from itemic.evaluate.metrics.labels import RANK_METRICS, parse_label, rank_metric
from itemic.evaluate.metrics.mrr import mrr
from itemic.evaluate.metrics.ndcg import ndcg
from itemic.evaluate.metrics.novelty import novelty
from itemic.evaluate.metrics.recall import recall

__all__ = [
    "RANK_METRICS",
    "coverage",
    "diversity",
    "expected_gain",
    "gini",
    "hit_rate",
    "invalid_rate",
    "mrr",
    "ndcg",
    "novelty",
    "parse_label",
    "rank_metric",
    "ranks_to",
    "recall",
    "valid_slots",
]
