"""Whether items under one prefix carry one label: categories, brands, genres; knows no vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from itemic.sid.quality.use import entropy

__all__ = ["Labels", "prefix_purity"]

Labels = Sequence[str | Sequence[str] | None]
"""For each item its label, its labels where it has several, or None."""


def prefix_purity(
    ids: Int[np.ndarray, "N L"], labels: Labels, num_shuffles: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Returns how far the prefixes of 1, 2 ... L codes agree with a label of the items.

    ``purity`` = Σ_prefix max_label (items under the prefix that carry the label) / items. It rises with the number
    of prefixes whatever the codes mean (1 for unique SIDs), so beside it stand ``chance``, its mean over random
    codes that make prefixes of the same sizes, and ``adjusted`` = (purity − chance) / (1 − chance): 0 for random
    codes, 1 for pure prefixes. ``adjusted_mutual_information`` = (I − E I) / ((H(prefix) + H(label)) / 2 − E I)
    (Vinh, Epps and Bailey 2010), with E I over the same random codes. Both are null where chance leaves no room.

    Items without a label are left out. An item with several counts for a prefix if it carries the prefix's label;
    in the mutual information its set of labels is one label.

    Args:
        ids: ``prefix_ids`` of the codes.
        labels: Of every item.
        num_shuffles: Random codes to take the mean over.
        rng: Of the shuffles.
    """
    sets = [(value,) if isinstance(value, str) else tuple(dict.fromkeys(value or ())) for value in labels]
    labelled = np.array([row for row, names in enumerate(sets) if any(names)], dtype=np.int64)
    names = [[name for name in sets[row] if name] for row in labelled]
    figures: dict[str, Any] = {"num_items": len(labelled), "num_labels": len({name for one in names for name in one})}
    if not len(labelled):
        return {**figures, "levels": []}
    carrier, label = _pairs(names)
    combination = _numbered(["\0".join(sorted(one)) for one in names])
    shuffles = [rng.permutation(len(labelled)) for _ in range(num_shuffles)]
    figures["levels"] = [_level(column[labelled], carrier, label, combination, shuffles) for column in ids.T]
    return figures


def _level(
    group: Int[np.ndarray, "n"],
    carrier: Int[np.ndarray, "P"],
    label: Int[np.ndarray, "P"],
    combination: Int[np.ndarray, "n"],
    shuffles: Sequence[Int[np.ndarray, "n"]],
) -> dict[str, float | None]:
    _, group = np.unique(group, return_inverse=True)
    purity, information = _purity(group, carrier, label), _mutual_information(group, combination)
    chance = float(np.mean([_purity(group[order], carrier, label) for order in shuffles]))
    expected = float(np.mean([_mutual_information(group[order], combination) for order in shuffles]))
    largest = (entropy(np.bincount(group)) + entropy(np.bincount(combination))) / 2
    return {
        "purity": purity,
        "chance": chance,
        "adjusted": _share_of_room(purity, chance, 1.0),
        "adjusted_mutual_information": _share_of_room(information, expected, largest),
    }


def _share_of_room(value: float, chance: float, best: float) -> float | None:
    return (value - chance) / (best - chance) if best - chance > 1e-9 else None


def _purity(group: Int[np.ndarray, "n"], carrier: Int[np.ndarray, "P"], label: Int[np.ndarray, "P"]) -> float:
    cells, counts = np.unique(group[carrier] * (label.max() + 1) + label, return_counts=True)
    starts = np.flatnonzero(np.diff(cells // (label.max() + 1), prepend=-1))
    return float(np.maximum.reduceat(counts, starts).sum() / len(group))


def _mutual_information(group: Int[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> float:
    """Returns I = H(group) + H(label) − H(group, label) in nats."""
    _, joint = np.unique(group * (label.max() + 1) + label, return_counts=True)
    return entropy(np.bincount(group)) + entropy(np.bincount(label)) - entropy(joint)


def _pairs(names: Sequence[Sequence[str]]) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Returns item and label of every label that an item carries."""
    carrier = np.repeat(np.arange(len(names)), [len(one) for one in names])
    return carrier, _numbered([name for one in names for name in one])


def _numbered(names: Sequence[str]) -> Int[np.ndarray, "P"]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
