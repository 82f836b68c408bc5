"""The baselines by the kinds that recipes name: how each is fitted and read back, and how a table's row asks for one.

A further baseline joins by a line in ``BASELINES`` and a member of ``BaselineSettings``.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import pydantic

from itemic.baselines.covisit_knn import CovisitKNN, CovisitKNNConfig
from itemic.baselines.covisit_text import CovisitText, CovisitTextConfig
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.ease import EASE, EASEConfig
from itemic.baselines.item_knn import ItemKNN, ItemKNNConfig
from itemic.baselines.materials import Materials
from itemic.baselines.popularity import Popularity, PopularityConfig
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
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.ranking import Recommender

__all__ = [
    "BASELINES",
    "Baseline",
    "BaselineKind",
    "BaselineRow",
    "BaselineSettings",
    "check_kind",
    "fit_baseline",
    "load_baseline",
]


@runtime_checkable
class Baseline(Recommender, Protocol):
    """A fitted recommender that can be kept."""

    @property
    def num_parameters(self) -> int:
        """Numbers that were fitted."""
        ...

    def save(self, path: Path, made_from: str = "") -> None:
        """Writes one file, atomically.

        Args:
            path: The file.
            made_from: What it was fitted to and how, a hash say.
        """
        ...


@dataclass(frozen=True)
class BaselineKind:
    """How baselines of one kind are made."""

    recommender: Any
    """Its class, with ``name`` and, as ``DenseRecommender`` has it, ``load``."""
    settings: type
    """Dataclass of its settings; all have defaults."""
    fit: Callable[[Materials, Any, int], Baseline]
    """From materials, settings and seed."""
    needs: tuple[Literal["vectors", "catalog"], ...] = ()
    """What it reads beside the dataset."""

    @property
    def name(self) -> str:
        """Name in tables of rows that say none."""
        return str(self.recommender.name)

    @property
    def scores_every_item(self) -> bool:
        """Whether ``score`` gives the whole catalogue's, as members of a blend and assistants must."""
        return issubclass(self.recommender, DenseRecommender)


def _of_dataset(recommender: Any, settings: type) -> BaselineKind:
    """Returns the kind of a recommender that is fitted to the dataset alone."""
    return BaselineKind(
        recommender,
        settings,
        lambda given, config, seed: recommender.fit(given.dataset, seed=seed, config=config),
    )


def _fit_covisit_text(given: Materials, config: CovisitTextConfig, seed: int) -> CovisitText:
    return CovisitText.fit(given.dataset, given.require_vectors(config.kind), seed=seed, config=config)


def _fit_text_knn(given: Materials, config: TextKNNConfig, seed: int) -> TextKNN:
    return TextKNN.fit(given.dataset, given.require_vectors(config.kind), seed=seed, config=config)


def _fit_tiger(given: Materials, config: TIGERConfig, seed: int) -> TIGER:
    return TIGER.fit(given, seed=seed, config=config)


BaselineSettings = Annotated[
    PopularityConfig
    | RepeatLastConfig
    | ItemKNNConfig
    | CovisitKNNConfig
    | CovisitTextConfig
    | TextKNNConfig
    | EASEConfig
    | GRU4RecConfig
    | CaserConfig
    | SASRecBCEConfig
    | SASRecConfig
    | HSTUConfig
    | TIGERConfig,
    pydantic.Field(discriminator="kind"),
]
"""What fits a baseline; the key ``kind`` says which."""

BASELINES: Mapping[str, BaselineKind] = MappingProxyType(
    {
        "popularity": _of_dataset(Popularity, PopularityConfig),
        "repeat-last": _of_dataset(RepeatLast, RepeatLastConfig),
        "item-knn": _of_dataset(ItemKNN, ItemKNNConfig),
        "covisit-knn": _of_dataset(CovisitKNN, CovisitKNNConfig),
        "text-knn": BaselineKind(TextKNN, TextKNNConfig, _fit_text_knn, ("vectors",)),
        "covisit-text": BaselineKind(CovisitText, CovisitTextConfig, _fit_covisit_text, ("vectors",)),
        "ease": _of_dataset(EASE, EASEConfig),
        "gru4rec": _of_dataset(GRU4Rec, GRU4RecConfig),
        "caser": _of_dataset(Caser, CaserConfig),
        "sasrec-bce": _of_dataset(SASRecBCE, SASRecBCEConfig),
        "sasrec": _of_dataset(SASRec, SASRecConfig),
        "hstu": _of_dataset(HSTU, HSTUConfig),
        "tiger": BaselineKind(TIGER, TIGERConfig, _fit_tiger, ("catalog",)),
    }
)
"""Every kind of baseline by its name in recipes, plainest first."""


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """One row of a table: a baseline with its settings, chosen on valid where several are given."""

    settings: BaselineSettings
    """Kind and settings."""
    name: str = ""
    """Name in tables; empty takes the baseline's own, "SASRec" say."""
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """For some settings the values to try: every combination is fitted, the best NDCG@10 on valid is kept. Settings
    within settings are named with dots, ``covisits.decay`` say."""
    max_trials: int = 20
    """Most combinations fitted: a random draw by the seed where the grid is larger, ``settings`` always among them."""
    published: str = ""
    """Method whose published figure stands beside this row, by its name in the list of published figures."""

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise ConfigError(f"max_trials must be at least 1, found {self.max_trials}")
        for key, values in self.search.items():
            if not values:
                raise ConfigError(f"search.{key}: expected at least one value, found none")


def check_kind(kind: str) -> None:
    """Refuses a kind that there is not, and names the nearest.

    Raises:
        ConfigError: if there is no such kind.
    """
    if kind in BASELINES:
        return
    nearest = difflib.get_close_matches(kind.lower().replace("_", "-"), list(BASELINES), n=1)
    hint = f"did you mean {nearest[0]}? There" if nearest else "there"
    raise ConfigError(f"no baseline {kind!r}; {hint} are {', '.join(BASELINES)}")


def fit_baseline(kind: str, given: Dataset | Materials, *, seed: int, settings: Any = None) -> Baseline:
    """Returns a fitted baseline of a kind.

    Args:
        kind: One of ``BASELINES``.
        given: What it learns from: the dataset, with vectors or catalog for the kinds that need them.
        seed: Of whatever is random in it.
        settings: The kind's settings; None takes the defaults.

    Raises:
        ConfigError: if there is no such kind, or it needs what there is not.
        DataError: if there are no training interactions.
    """
    check_kind(kind)
    chosen, materials = BASELINES[kind], Materials(dataset=given) if isinstance(given, Dataset) else given
    return chosen.fit(materials, settings or chosen.settings(), seed)


def load_baseline(kind: str, path: Path, made_from: str | None = None, *, device: str = "auto") -> Baseline:
    """Returns the baseline in a file that its ``save`` wrote.

    Raises:
        ArtifactError: if the file is missing, damaged or made from something else.
        ConfigError: if there is no such kind.
    """
    check_kind(kind)
    baseline: Baseline = BASELINES[kind].recommender.load(path, made_from, device=device)
    return baseline
