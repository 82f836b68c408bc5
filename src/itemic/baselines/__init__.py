"""Baselines that a generative model has to beat, each a ``core.ranking.Recommender`` under the same evaluation.

Five have a closed form and fit in a second; SASRec is a trained transformer. All learn from the training sequences
alone; their default settings were chosen on the valid split of MovieLens-100k and Amazon Industrial
(``docs/evaluation.md``).
"""

from itemic.baselines.covisit_knn import CovisitKNN, CovisitKNNConfig
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.ease import EASE, EASEConfig
from itemic.baselines.item_knn import ItemKNN, ItemKNNConfig
from itemic.baselines.popularity import Popularity
from itemic.baselines.registry import BASELINES, fit_baseline
from itemic.baselines.repeat_last import RepeatLast
from itemic.baselines.sasrec import SASRec, SASRecConfig

__all__ = [
    "BASELINES",
    "EASE",
    "CovisitKNN",
    "CovisitKNNConfig",
    "DenseRecommender",
    "EASEConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Popularity",
    "RepeatLast",
    "SASRec",
    "SASRecConfig",
    "fit_baseline",
]
