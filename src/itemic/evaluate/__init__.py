"""Evaluation: rank every candidate for held-out examples, and say how good and how sure the figures are.

One protocol serves every ``core.ranking.Recommender``: full catalogue, seen items excluded or not, equal scores by
their expectation, intervals over users, paired tests. ``docs/evaluation.md`` has the definitions.
"""

from itemic.evaluate.calibration import CalibrateConfig, ListedProbabilities, calibrate, collect_probabilities
from itemic.evaluate.evaluate import Evaluation, evaluate_all, evaluate_recommender, ranking_file_name
from itemic.evaluate.protocol import EvaluateConfig, EvaluationSet, RankedLists, evaluation_set, rank_examples
from itemic.evaluate.ranks import TargetRanks, check_recommendations, target_ranks
from itemic.evaluate.seen import SeenItems, seen_items
from itemic.evaluate.significance import Comparison, bootstrap_intervals, compare_runs, paired_comparison

__all__ = [
    "CalibrateConfig",
    "Comparison",
    "EvaluateConfig",
    "Evaluation",
    "EvaluationSet",
    "ListedProbabilities",
    "RankedLists",
    "SeenItems",
    "TargetRanks",
    "bootstrap_intervals",
    "calibrate",
    "check_recommendations",
    "collect_probabilities",
    "compare_runs",
    "evaluate_all",
    "evaluate_recommender",
    "evaluation_set",
    "paired_comparison",
    "rank_examples",
    "ranking_file_name",
    "seen_items",
    "target_ranks",
]
