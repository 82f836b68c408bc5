"""itemic.sid.quality: how good a set of semantic IDs is, in numbers, one file a figure.

A collision rate alone is no figure of merit (random codes hardly collide), so it always stands beside the others.
"""

from itemic.sid.quality.correlation import distance_correlation
from itemic.sid.quality.error import prefix_reconstruction, reconstruction
from itemic.sid.quality.figures import measure_quality
from itemic.sid.quality.neighbours import nearest_items, neighbourhood_recall
from itemic.sid.quality.purity import prefix_purity
from itemic.sid.quality.repeats import collisions
from itemic.sid.quality.similarity import prefix_similarity
from itemic.sid.quality.use import gini, level_use, prefix_use

__all__ = [
    "collisions",
    "distance_correlation",
    "gini",
    "level_use",
    "measure_quality",
    "nearest_items",
    "neighbourhood_recall",
    "prefix_purity",
    "prefix_reconstruction",
    "prefix_similarity",
    "prefix_use",
    "reconstruction",
]
