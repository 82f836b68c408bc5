"""From members and held-out examples to a table of choices; where the catalogue is large, to a share of its items."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import DataError
from itemic.core.ranking import Histories
from itemic.core.seeds import derive_rng
from itemic.hybrid.features import FeatureSet, Member
from itemic.hybrid.logit import ChoiceTable

__all__ = ["make_choices"]

_ROWS_AT_ONCE = 256


def make_choices(
    members: Sequence[Member],
    features: FeatureSet,
    histories: Histories,
    target: Int[np.ndarray, "B"],
    is_candidate: Bool[np.ndarray, "N"],
    excluded: Histories | None = None,
    *,
    max_candidates: int,
    seed: int,
) -> ChoiceTable:
    """Returns a table of what each user chose among the items that might have been shown.

    In a catalogue of at most ``max_candidates`` all items are columns. In a larger one they are the target, what the
    members put highest, and a random draw from all others, each of which stands for as many as were not drawn: the
    likelihood's denominator then is right on average.

    Args:
        members: Who scores.
        features: What is made of the scores.
        histories: B histories.
        target: The items that were chosen.
        is_candidate: Items that may be recommended at all.
        excluded: For each history what was no candidate.
        max_candidates: Most columns.
        seed: Of the draws.

    Raises:
        DataError: if a target is no candidate.
    """
    num_items, num_examples = len(is_candidate), len(target)
    num_columns = min(num_items, max_candidates)
    table = np.empty((num_examples, num_columns, len(features.names)), dtype=np.float32)
    offset = np.empty((num_examples, num_columns), dtype=np.float32)
    chosen = np.empty(num_examples, dtype=np.int64)
    for start in range(0, num_examples, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, num_examples))
        some = histories[rows]
        open_items = np.tile(is_candidate, (len(some), 1))
        for row, items in enumerate(() if excluded is None else excluded[rows]):
            open_items[row, np.asarray(items, dtype=np.int64)] = False
        if not open_items[np.arange(len(some)), target[rows]].all():
            raise DataError("a target of valid is no candidate: it is excluded or retired")
        scores = {member.name: member.score(some) for member in members}
        if num_columns == num_items:
            place, chosen[rows] = None, target[rows]
            offset[rows] = np.where(open_items, 0, -np.inf)
        else:
            rng = derive_rng(seed, "blend", "candidates", start)
            best = [scores[name] for name in sorted(scores)]
            place, offset[rows] = _draw_candidates(best, target[rows], open_items, num_columns, rng)
            chosen[rows] = 0
        for column, values in enumerate(features.columns(scores, some)):
            table[rows, :, column] = values if place is None else np.take_along_axis(values, place, axis=1)
    return ChoiceTable(features=table, offset=offset, chosen=chosen)


def _draw_candidates(
    scores: Sequence[Float[np.ndarray, "b N"]],
    target: Int[np.ndarray, "b"],
    open_items: Bool[np.ndarray, "b N"],
    num_columns: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "b C"], Float[np.ndarray, "b C"]]:
    """Returns columns, the target first, and the log of how many items each stands for."""
    num_best = (num_columns - 1) // (2 * len(scores))
    place = np.empty((len(target), num_columns), dtype=np.int64)
    offset = np.full((len(target), num_columns), -np.inf, dtype=np.float32)
    for row, item in enumerate(target):
        best = [np.argpartition(-score[row], num_best)[:num_best] for score in scores]
        kept = np.unique(np.concatenate([*best, np.array([item])]))
        kept = np.concatenate([[item], kept[(kept != item) & open_items[row, kept]]])
        is_other = open_items[row].copy()
        is_other[kept] = False
        others = np.flatnonzero(is_other)
        drawn = rng.choice(others, min(num_columns - len(kept), len(others)), replace=False)
        size = len(kept) + len(drawn)
        place[row, :size], place[row, size:] = np.concatenate([kept, drawn]), item
        offset[row, : len(kept)] = 0
        if len(drawn):
            offset[row, len(kept) : size] = np.log(len(others) / len(drawn))
    return place, offset
