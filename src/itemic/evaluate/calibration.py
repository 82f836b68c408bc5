"""How often a list's probabilities are right, and the curve that makes them so, fitted on the validation split.

An item that is listed with probability p should be the user's next one in a share p of such cases. The curve is an
isotonic regression of that share on the stated probability, which leaves every ranking as it is. Knows no model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.calibration import Calibration
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommender
from itemic.core.seeds import derive_rng
from itemic.evaluate.protocol import EvaluateConfig, evaluation_set, rank_examples

__all__ = [
    "CalibrateConfig",
    "ListedProbabilities",
    "calibrate",
    "calibration_error",
    "collect_probabilities",
    "fit_curve",
    "hold_out_probabilities",
    "reliability_table",
]

_POINTS_PER_KNOT = 50


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What a calibration is fitted on and judged by."""

    max_examples: int = 2000
    """Validation examples, a random subset drawn by the seed; 0 takes all."""
    list_length: int = 50
    """Items of each list that are looked at; the usual beam width."""
    num_folds: int = 5
    """Parts of the users for the held-out check: each is judged by a curve fitted on the others."""
    num_bins: int = 15
    """Bins of the calibration error and of the table; 15 as in Guo et al. 2017."""
    batch_size: int = 256
    """Examples ranked in one call."""

    def __post_init__(self) -> None:
        least = {"max_examples": 0, "list_length": 1, "num_folds": 2, "num_bins": 1, "batch_size": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} must be at least {value}, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedProbabilities:
    """Every item listed for some held-out examples: n of them, list after list."""

    probability: Float[np.ndarray, "n"]
    """What the model states, above 0."""
    is_hit: Bool[np.ndarray, "n"]
    """Whether the item is the example's held-out one."""
    rank: Int[np.ndarray, "n"]
    """Place in its list, from 1."""
    owner: Int[np.ndarray, "n"]
    """Number of the example's user."""


def collect_probabilities(
    recommender: Recommender, dataset: Dataset, config: CalibrateConfig, *, split: str = "valid", seed: int
) -> ListedProbabilities:
    """Returns what a recommender lists for a split's examples, under the protocol of evaluation.

    Args:
        recommender: Its scores are log-probabilities.
        dataset: The examples; items a user has seen are left out where there are no repeats.
        config: How many examples and how long lists.
        split: ``valid`` to fit on; ``test`` to check.
        seed: Of the draw of examples.
    """
    protocol = EvaluateConfig(split=split, max_examples=config.max_examples, batch_size=config.batch_size)  # type: ignore[arg-type]
    cases = evaluation_set(dataset, protocol, seed=seed)
    lists = rank_examples(recommender, cases, config.list_length, config.batch_size)
    row, place = np.nonzero(lists.valid & np.isfinite(lists.score))
    return ListedProbabilities(
        probability=np.exp(lists.score[row, place]),
        is_hit=lists.item_index[row, place] == cases.target[row],
        rank=place + 1,
        owner=cases.owner[row],
    )


def calibrate(listed: ListedProbabilities, config: CalibrateConfig, *, seed: int) -> Calibration:
    """Returns the curve fitted on all that was listed; its figures tell how good such a curve is on unseen users.

    Args:
        listed: What was listed for validation examples.
        config: How it is judged.
        seed: Of the division of users into folds.

    Raises:
        DataError: if no held-out item was listed at all, or there are fewer users than folds.
    """
    num_hits = int(listed.is_hit.sum())
    if not num_hits:
        raise DataError(
            f"none of {len(listed.is_hit)} listed items was the held-out one: nothing to calibrate on. Take more "
            "examples or longer lists"
        )
    held_out = hold_out_probabilities(listed, config.num_folds, seed=seed)
    stated, actual = fit_curve(listed.probability, listed.is_hit)
    figures = {
        "num_listed": len(listed.is_hit),
        "num_hits": num_hits,
        "before": _figures(listed.probability, listed, config.num_bins),
        "after (held out)": _figures(held_out, listed, config.num_bins),
    }
    return Calibration(stated=stated, actual=actual, figures=figures)


def fit_curve(
    probability: Float[np.ndarray, "n"], is_hit: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """Returns the knots of the isotonic regression of hits on probabilities: stated and actual.

    Neighbours are first put together by 50, so that no end of the curve rests on a handful of lucky hits. A knot
    stands at its neighbours' geometric mean, since the curve is straight over the logarithm.

    Args:
        probability: What was stated, above 0.
        is_hit: What happened.
    """
    from scipy.optimize import isotonic_regression  # half a second, which serving need not wait for

    order = np.argsort(probability, kind="stable")
    groups = np.array_split(order, max(1, len(order) // _POINTS_PER_KNOT))
    centre = np.array([np.exp(np.log(probability[group]).mean()) for group in groups]).clip(max=1.0)
    stated, knot = np.unique(centre, return_inverse=True)
    num_items = np.bincount(knot, [len(group) for group in groups])
    num_hits = np.bincount(knot, [is_hit[group].sum() for group in groups])
    actual = isotonic_regression(num_hits / num_items, weights=num_items).x
    is_end = np.ones(len(stated), dtype=bool)
    is_end[1:-1] = (actual[1:-1] != actual[:-2]) | (actual[1:-1] != actual[2:])
    return stated[is_end], actual[is_end]


def hold_out_probabilities(listed: ListedProbabilities, num_folds: int, *, seed: int) -> Float[np.ndarray, "n"]:
    """Returns each item's probability by a curve that was fitted without its user.

    Raises:
        DataError: if there are fewer users than folds.
    """
    users, user = np.unique(listed.owner, return_inverse=True)
    if len(users) < num_folds:
        raise DataError(f"{len(users)} users for {num_folds} folds; take more examples or fewer folds")
    fold = derive_rng(seed, "calibrate", "folds").permutation(len(users))[user] % num_folds
    calibrated = np.empty_like(listed.probability)
    for number in range(num_folds):
        is_out = fold == number
        stated, actual = fit_curve(listed.probability[~is_out], listed.is_hit[~is_out])
        calibrated[is_out] = Calibration(stated=stated, actual=actual).apply(listed.probability[is_out])
    return calibrated


def calibration_error(probability: Float[np.ndarray, "n"], is_hit: Bool[np.ndarray, "n"], num_bins: int = 15) -> float:
    """Returns the expected calibration error: Σ_bins share of items * |mean probability - share of hits|.

    Bins hold equally many items (Nixon et al. 2019), since bins of equal width would put nearly all items of a long
    list into the first.
    """
    bins = _bins(probability, num_bins)
    gaps = [len(some) * abs(probability[some].mean() - is_hit[some].mean()) for some in bins]
    return float(sum(gaps) / len(probability))


def reliability_table(
    probability: Float[np.ndarray, "n"], is_hit: Bool[np.ndarray, "n"], num_bins: int = 15
) -> list[dict[str, Any]]:
    """Returns for each bin of equally many items how many there are, what was stated and what happened."""
    return [
        {
            "num_items": len(some),
            "mean_probability": float(probability[some].mean()),
            "hit_frequency": float(is_hit[some].mean()),
        }
        for some in _bins(probability, num_bins)
    ]


def _figures(probability: Float[np.ndarray, "n"], listed: ListedProbabilities, num_bins: int) -> dict[str, Any]:
    """Returns errors of all listed items and of the first ones alone, and how many hits a hit was stated to be."""
    is_first = listed.rank == 1
    return {
        "ECE": calibration_error(probability, listed.is_hit, num_bins),
        "ECE of the first": calibration_error(probability[is_first], listed.is_hit[is_first], num_bins),
        "expected hits / hits": float(probability.sum() / listed.is_hit.sum()),
        "reliability": reliability_table(probability, listed.is_hit, num_bins),
    }


def _bins(probability: Float[np.ndarray, "n"], num_bins: int) -> list[Int[np.ndarray, "_"]]:
    order = np.argsort(probability, kind="stable")
    return [some for some in np.array_split(order, num_bins) if len(some)]
