"""A tiny leave-one-out dataset."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    def make(sequences: Sequence[Sequence[int]], num_items: int) -> Dataset:
        """The last item of each sequence is test, the one before valid, the others are train."""
        log, examples = [], {"train": [], "valid": [], "test": []}
        for user, items in enumerate(sequences):
            for position, item in enumerate(items):
                split = {1: "test", 2: "valid"}.get(len(items) - position, "train")
                log.append((f"u{user}", item, position, "view", split))
                if position:
                    examples[split].append((len(log), f"u{user}", list(items[:position]), item, position))
        tables = {name: pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row") for name, rows in examples.items()}
        catalogue = [(index, f"i{index}", f"title {index}", "") for index in range(num_items)]
        return Dataset(
            items=pl.DataFrame(catalogue, ITEM_SCHEMA, orient="row"),
            interactions=pl.DataFrame(log, INTERACTION_SCHEMA, orient="row"),
            info={"keeps_repeats": True},
            **tables,
        )

    return make
