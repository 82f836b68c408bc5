"""A tiny leave-one-out dataset and a recommender whose scores are given."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pytest

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.ranking import Histories, Recommendations, top_k

MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_dataset() -> MakeDataset:
    def make(sequences: Sequence[Sequence[int]], num_items: int, *, repeats: bool = False, max_history: int = 50):
        log, examples = [], {"train": [], "valid": [], "test": []}
        for user, items in enumerate(sequences):
            for position, item in enumerate(items):
                split = {1: "test", 2: "valid"}.get(len(items) - position, "train")
                log.append((f"u{user}", item, 100 * user + position, "view", split))
                history = list(items[max(0, position - max_history) : position])
                if position:
                    examples[split].append((len(log), f"u{user}", history, item, 100 * user + position))
        tables = {name: pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row") for name, rows in examples.items()}
        catalogue = [(index, f"i{index}", f"title {index}", "") for index in range(num_items)]
        return Dataset(
            items=pl.DataFrame(catalogue, ITEM_SCHEMA, orient="row"),
            interactions=pl.DataFrame(log, INTERACTION_SCHEMA, orient="row"),
            info={"keeps_repeats": repeats},
            **tables,
        )

    return make


class FixedScores:
    """Scores every user's items alike, and remembers what it was asked."""

    def __init__(self, scores: Sequence[float], name: str = "Fixed scores") -> None:
        self.name = name
        self.scores = np.array(scores, dtype=np.float64)
        self.lengths: list[int] = []

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        self.lengths.append(k)
        return top_k(np.tile(self.scores, (len(histories), 1)), k, exclude, allow)


@pytest.fixture
def fixed_scores() -> type[FixedScores]:
    return FixedScores
