"""Training examples: every one once an epoch, cut to their ends, padded to the right."""

import numpy as np
import polars as pl
import pytest
import torch

from itemic.baselines.sequential.examples import Examples
from itemic.core.dataset import EXAMPLE_SCHEMA
from itemic.core.errors import DataError


@pytest.fixture
def examples(make_dataset):
    """Train examples [5] -> 6, [5, 6] -> 7, [5, 6, 7] -> 8, and [1] -> 2."""
    return Examples.from_dataset(make_dataset([[5, 6, 7, 8, 0, 0], [1, 2, 0, 0]], 9), max_length=2, batch_size=3)


def test_a_batch_is_padded_to_the_right_and_scored_at_the_last_item(examples):
    batch = examples.load(np.array([3, 2, 1]))
    assert batch.scored.tolist() == [[True, False], [False, True], [False, True]]
    assert (batch.items[0, 0], batch.items[1:].tolist()) == (1, [[6, 7], [5, 6]])
    assert batch.targets.tolist() == [2, 8, 7]
    assert batch.items.dtype == batch.targets.dtype == torch.int64


def test_an_epoch_holds_every_example_once_in_another_order_each_time(examples):
    rng = np.random.default_rng(0)
    orders = []
    for _ in range(8):
        num_batches, batches = examples.epoch(rng)
        targets = [batch.targets.tolist() for batch in batches]
        assert [len(part) for part in targets] == [3, 1]
        assert num_batches == 2
        orders.append(tuple(targets[0] + targets[1]))
    assert {tuple(sorted(order)) for order in orders} == {(2, 6, 7, 8)}
    assert len(set(orders)) > 1


def test_examples_without_a_history_are_left_out(make_dataset):
    dataset = make_dataset([[1, 2, 0, 0]], 9)
    rows = [(90, "u9", [], 4, 0), (91, "u9", [4], 5, 1)]
    train = pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row")
    with_empty = type(dataset)(**{**vars(dataset), "train": train})
    assert Examples.from_dataset(with_empty, 5, 3).target.tolist() == [5]
    with pytest.raises(DataError, match="no training example has a history"):
        Examples.from_dataset(type(dataset)(**{**vars(dataset), "train": train[:1]}), 5, 3)
