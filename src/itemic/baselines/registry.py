"""The baselines by the names that recipes use, and how to fit one of them."""

from collections.abc import Mapping
from types import MappingProxyType

from itemic.baselines.covisit_knn import CovisitKNN
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.ease import EASE
from itemic.baselines.item_knn import ItemKNN
from itemic.baselines.popularity import Popularity
from itemic.baselines.repeat_last import RepeatLast
from itemic.baselines.sasrec import SASRec
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError

__all__ = ["BASELINES", "fit_baseline"]

BASELINES: Mapping[str, type[DenseRecommender]] = MappingProxyType(
    {
        "popularity": Popularity,
        "repeat-last": RepeatLast,
        "item-knn": ItemKNN,
        "covisit-knn": CovisitKNN,
        "ease": EASE,
        "sasrec": SASRec,
    }
)
"""Every baseline by its name in recipes, plainest first."""


def fit_baseline(name: str, dataset: Dataset, *, seed: int) -> DenseRecommender:
    """Returns the baseline called ``name``, fitted with its default settings.

    Raises:
        ConfigError: if there is none of that name.
        DataError: if there are no training interactions.
    """
    if name not in BASELINES:
        raise ConfigError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    return BASELINES[name].fit(dataset, seed=seed)
