"""What a blend sees of an item and a history: members' scores through a few links, repeats, popularity.

One rule for every data set: all features are always offered, and the penalty of the fit says how much they may speak.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from itemic.baselines.interactions import history_ages
from itemic.core.dataset import Dataset
from itemic.core.ranking import Histories
from itemic.language.recency import are_newest

__all__ = ["FeatureSet", "Member", "popularity_counts"]

_QUANTILES = (0.1, 0.5, 0.9)
"""Of a member's positive scores: where its logarithms bend."""
_NEWEST_SHARES = (0.2, 0.05)
"""Of the training targets: of which the newest are counted by themselves. A fifth is what RL's default lessons are."""
_NEGLIGIBLE = 1e-6
"""Share of the largest score below which one is no evidence but breaks ties."""


@runtime_checkable
class Member(Protocol):
    """Something that scores the whole catalogue after a history."""

    name: str
    """Its name in the recipe and in the names of features."""
    is_logprob: bool
    """Whether scores are log-probabilities, which enter as they are, or evidence of any scale."""
    num_parameters: int
    """Numbers that were fitted for it alone; those of language models, which members may share, are not among them."""

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns a finite score for every item."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """The features of a blend, in a fixed order.

    For a member of log-probabilities the score; for any other the score s and log(max(s, 0) + e) for e at quantiles of
    its positive scores, so that evidence counts by its order of magnitude. Besides whether the item is in the history,
    0.5 ** age of it there, and the log of its training counts: all of them and the newest ones alone, whose difference
    says whether an item rises or falls.
    """

    epsilons: Mapping[str, tuple[float, ...]]
    """For each member where its logarithms bend; none for log-probabilities."""
    log_counts: Mapping[str, Float[np.ndarray, "N"]]
    """By the names of features log(1 + training targets) of each item."""

    @classmethod
    def measure(
        cls, members: Sequence[Member], histories: Histories, counts: Mapping[str, Int[np.ndarray, "N"]]
    ) -> "FeatureSet":
        """Returns the features for members, with quantiles taken over a few histories."""
        epsilons = {member.name: () if member.is_logprob else _bends(member.score(histories)) for member in members}
        return cls.from_plain(epsilons, counts)

    @classmethod
    def from_plain(
        cls, epsilons: Mapping[str, Sequence[float]], counts: Mapping[str, Int[np.ndarray, "N"]]
    ) -> "FeatureSet":
        """Returns the features as a blend's file has them."""
        bends = {name: tuple(float(value) for value in values) for name, values in sorted(epsilons.items())}
        return cls(
            epsilons=bends, log_counts={name: np.log1p(some).astype(np.float32) for name, some in counts.items()}
        )

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(next(iter(self.log_counts.values())))

    @property
    def names(self) -> list[str]:
        """Names of the features, in the order of ``columns``."""
        own = [name for member, bends in self.epsilons.items() for name in _names(member, len(bends))]
        return [*own, "in-history", "recency", *self.log_counts]

    def columns(
        self, scores: Mapping[str, Float[np.ndarray, "B N"]], histories: Histories
    ) -> Iterator[Float[np.ndarray, "B N"]]:
        """Yields each feature for every history and item, one at a time so that few are in memory at once."""
        num_items = self.num_items
        for member, bends in self.epsilons.items():
            score = scores[member].astype(np.float32)
            yield score
            for bend in bends:
                yield np.log(np.maximum(score, 0) + np.float32(bend))
        row, item, age = history_ages(histories, num_items)
        for value in (np.ones(len(age)), 0.5**age):
            column = np.zeros((len(histories), num_items), dtype=np.float32)
            column[row, item] = value
            yield column
        for values in self.log_counts.values():
            yield np.broadcast_to(values, (len(histories), num_items))

    def plain(self) -> dict[str, Any]:
        """Returns where the logarithms bend, as JSON takes it."""
        return {name: list(bends) for name, bends in self.epsilons.items()}


def popularity_counts(dataset: Dataset) -> dict[str, Int[np.ndarray, "N"]]:
    """Returns by the names of features how often each item is a training target: of all, and of the newest rows."""
    train = dataset.train
    shares = {
        "log-popularity": np.ones(train.height, dtype=bool),
        **{f"log-popularity, newest {share:.0%}": are_newest(train["timestamp"], share) for share in _NEWEST_SHARES},
    }
    target = train["target"].to_numpy()
    return {name: np.bincount(target[rows], minlength=dataset.num_items) for name, rows in shares.items()}


def _names(member: str, num_bends: int) -> list[str]:
    return [member, *(f"log {member} {place + 1}" for place in range(num_bends))]


def _bends(score: Float[np.ndarray, "B N"]) -> tuple[float, ...]:
    """Returns the distinct quantiles of the scores that are evidence; one bend of 1 where there is none."""
    positive = score[score > _NEGLIGIBLE * max(float(score.max(initial=0)), 0)]
    if not len(positive):
        return (1.0,)
    return tuple(np.unique(np.quantile(positive, _QUANTILES).astype(np.float64)).tolist())
