"""A thinned dataset teaches fewer users and changes nothing else."""

import polars as pl
import pytest

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.errors import ConfigError
from itemic.studies.thin import thin_dataset


@pytest.fixture
def dataset() -> Dataset:
    """Ten users with two lessons and a test target each."""
    users = [f"u{user}" for user in range(10)]
    rows = [(user, item, 0, None, split) for user in users for item, split in enumerate(("train", "train", "test"))]
    interactions = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    train = [(place, user, [0], 1, 0) for place, user in enumerate(users)]
    test = [(10 + place, user, [0, 1], 2, 0) for place, user in enumerate(users)]
    items = [(index, f"i{index}", "", "") for index in range(3)]
    return Dataset(
        items=pl.DataFrame(items, schema=ITEM_SCHEMA, orient="row"),
        interactions=interactions,
        train=pl.DataFrame(train, schema=EXAMPLE_SCHEMA, orient="row"),
        valid=pl.DataFrame(schema=EXAMPLE_SCHEMA),
        test=pl.DataFrame(test, schema=EXAMPLE_SCHEMA, orient="row"),
    )


def test_smaller_shares_lie_in_larger_ones(dataset: Dataset) -> None:
    kept = [set(thin_dataset(dataset, share, seed=1).train_sequences()) for share in (0.05, 0.3, 0.31, 1.0)]
    assert [len(users) for users in kept] == [1, 3, 4, 10]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    other = set(thin_dataset(dataset, 0.3, seed=2).train_sequences())
    assert other != kept[1]


def test_only_lessons_go(dataset: Dataset) -> None:
    thinned = thin_dataset(dataset, 0.5, seed=0)
    assert thinned.interactions.drop("split").equals(dataset.interactions.drop("split"))
    assert thinned.test.equals(dataset.test)
    assert thinned.interactions["split"].null_count() == 10
    assert set(thinned.train["user_id"]) == set(thinned.train_sequences())
    whole = thin_dataset(dataset, 1.0, seed=0)
    assert whole.interactions.equals(dataset.interactions)
    assert whole.train.equals(dataset.train)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_outside_is_refused(dataset: Dataset, share: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        thin_dataset(dataset, share, seed=0)
