"""Baselines that a generative model has to beat, each a ``core.ranking.Recommender`` under the same evaluation.

All learn from the training sequences alone; valid chooses settings and epochs, test nothing. ``registry`` has every
kind, ``stage`` fits the rows of a recipe (``docs/baselines.md``).
"""

from itemic.baselines.covisit_knn import CovisitKNN, CovisitKNNConfig
from itemic.baselines.covisit_text import CovisitText, CovisitTextConfig
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.ease import EASE, EASEConfig
from itemic.baselines.item_knn import ItemKNN, ItemKNNConfig
from itemic.baselines.materials import Materials
from itemic.baselines.popularity import Popularity, PopularityConfig
from itemic.baselines.registry import BASELINES, Baseline, BaselineRow, fit_baseline, load_baseline
from itemic.baselines.repeat_last import RepeatLast, RepeatLastConfig
from itemic.baselines.sequential import (
    HSTU,
    Caser,
    CaserConfig,
    GRU4Rec,
    GRU4RecConfig,
    HSTUConfig,
    SASRec,
    SASRecBCE,
    SASRecBCEConfig,
    SASRecConfig,
)
from itemic.baselines.text_knn import TextKNN, TextKNNConfig
from itemic.baselines.tiger import TIGER, TIGERConfig

__all__ = [
    "BASELINES",
    "EASE",
    "HSTU",
    "TIGER",
    "Baseline",
    "BaselineRow",
    "Caser",
    "CaserConfig",
    "CovisitKNN",
    "CovisitKNNConfig",
    "CovisitText",
    "CovisitTextConfig",
    "DenseRecommender",
    "EASEConfig",
    "GRU4Rec",
    "GRU4RecConfig",
    "HSTUConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Materials",
    "Popularity",
    "PopularityConfig",
    "RepeatLast",
    "RepeatLastConfig",
    "SASRec",
    "SASRecBCE",
    "SASRecBCEConfig",
    "SASRecConfig",
    "TIGERConfig",
    "TextKNN",
    "TextKNNConfig",
    "fit_baseline",
    "load_baseline",
]
