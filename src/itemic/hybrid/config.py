"""What a recipe says of a blend."""

from dataclasses import dataclass
from typing import Literal

from itemic.core.errors import ConfigError
from itemic.core.trained_model import ModelChoice

__all__ = ["DENSE_HEAD", "LANGUAGE_MODEL", "BlendConfig"]

LANGUAGE_MODEL = "model"
DENSE_HEAD = "dense-head"


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Who is blended and how the weights are found."""

    members: tuple[str, ...] = (LANGUAGE_MODEL, "covisit-knn", "text-knn")
    """``model`` (the run's language model), ``dense-head`` (a linear map from its states to the items' texts), and rows
    of the section ``baselines``."""
    runs: tuple[str, ...] = ()
    """Folders of further runs of the same dataset, with other seeds or semantic IDs, whose models join ``model``."""
    average: Literal["probability", "separate"] = "probability"
    """Whether the models of all runs are one member, their mean probability, or each has a weight of its own."""
    model: ModelChoice = "last"
    """Which of each run's models: ``last``, ``sft`` or ``rl``."""
    num_beams: int = 200
    """Beam width of the language models under either search, ``evaluate.num_beams`` notwithstanding; under ``rescore``
    also the items that each is asked for, and all others share what probability is left."""
    search: Literal["rescore", "prior"] = "rescore"
    """``rescore`` weighs complete lists; ``prior`` searches the one language model's tree with the others' scores as a
    prior, so that beams go where both agree: exact where they cover a level, else as good as the beams are many."""
    name: str = "itemic blend"
    """Name in tables."""
    published: str = ""
    """Method whose published figure stands beside this row, by its name in the list of published figures."""
    num_folds: int = 5
    """Folds of valid's users, by which the penalty is chosen and the blend is judged."""
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    """L2 to choose from, on features of spread 1 beside the mean log-likelihood of an example."""
    max_candidates: int = 1024
    """Items of each example in the fit; of a larger catalogue the members' best and a weighted draw of the rest. On
    Amazon Industrial 1,024 of 3,686 give the weights of all."""
    max_examples: int = 20_000
    """Examples of valid in the fit, drawn by the seed; 0 takes all. 10,000 take half a gigabyte."""

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) != len(self.members):
            raise ConfigError(f"blend.members: expected different names, found {list(self.members)}")
        if self.runs and LANGUAGE_MODEL not in self.members:
            raise ConfigError("blend.runs: their models join the member model, which blend.members does not name")
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError(f"blend.penalties: expected numbers above 0, found {list(self.penalties)}")
        for name, least in (("num_beams", 1), ("num_folds", 2), ("max_candidates", 100), ("max_examples", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"blend.{name} must be at least {least}, found {getattr(self, name)}")
        if self.search == "prior" and (LANGUAGE_MODEL not in self.members or self.runs):
            raise ConfigError("blend.search: prior needs exactly one language model among the members; use rescore")

    @property
    def rows(self) -> tuple[str, ...]:
        """Members that are rows of ``baselines``."""
        return tuple(name for name in self.members if name not in (LANGUAGE_MODEL, DENSE_HEAD))

    @property
    def needs_model(self) -> bool:
        """Whether the run's language model is needed."""
        return LANGUAGE_MODEL in self.members or DENSE_HEAD in self.members
