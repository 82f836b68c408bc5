from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from itemic.baselines.item_vectors import (
    EaseVectorsConfig,
    SasrecVectorsConfig,
    SvdVectorsConfig,
    collaborative,
    item_vectors,
)
from itemic.baselines.sequential import SASRecConfig
from itemic.core.config import config_from_mapping
from itemic.core.errors import ConfigError, DataError
from itemic.core.run import Run
from itemic.recipe import Recipe
from itemic.sid.vectors import read_collaborative

TINY = SASRecConfig(hidden_size=8, num_layers=1, max_length=5, batch_tokens=32, max_epochs=2, device="cpu")
CONFIGS = {
    "svd": SvdVectorsConfig(num_dimensions=4),
    "ease": EaseVectorsConfig(num_dimensions=4, l2=2.0),
    "sasrec": SasrecVectorsConfig(network=TINY),
}


@pytest.fixture
def dataset(make_dataset):
    """Walks over 10 of 12 items; 10 is nobody's, 11 is only ever a valid or test target."""
    rng = np.random.default_rng(0)
    walks = [rng.permutation(10)[: rng.integers(4, 8)].tolist() for _ in range(30)]
    return make_dataset([[*walk, 11, 11] for walk in walks], num_items=12)


def test_svd_of_two_pairs_by_hand(make_dataset):
    """0-1 and 2-3 always go together: m_i = 1 for all, M = 4, so ppmi = log(1 * 4 / (1 * 1)) between partners."""
    dataset = make_dataset([[0, 1, 4, 4], [2, 3, 4, 4]], num_items=5)
    config = SvdVectorsConfig(num_dimensions=4, smoothing=1.0, singular_power=1.0, normalize=False)
    items = item_vectors(config, dataset, seed=0)
    assert items.seen.tolist() == [True, True, True, True, False]
    expected = np.diag([1, 1, 1, 1, 0]) * np.log(4) ** 2
    np.testing.assert_allclose(items.vectors @ items.vectors.T, expected, atol=1e-5)


def test_svd_smooths_the_context_and_leaves_repeats_out(make_dataset):
    """Training 0 0 1 and 1 2: co-visits 0-1 of 1 + 1/2 = 3/2, 1-2 of 1; totals 3/2, 5/2, 1. Item 0 beside itself: 0."""
    dataset = make_dataset([[0, 0, 1, 3, 3], [1, 2, 3, 3]], num_items=4)
    config = SvdVectorsConfig(num_dimensions=3, smoothing=0.5, singular_power=1.0, normalize=False)
    weights = np.sqrt([3 / 2, 5 / 2, 1])
    q = weights / weights.sum()
    counts = np.array([[0, 3 / 2, 0], [3 / 2, 0, 1], [0, 1, 0]])
    with np.errstate(divide="ignore"):
        ppmi = np.maximum(np.log(counts / counts.sum(axis=1, keepdims=True) / q), 0)
    vectors = item_vectors(config, dataset, seed=0).vectors
    np.testing.assert_allclose(vectors[:3] @ vectors[:3].T, ppmi @ ppmi.T, atol=1e-5)


def test_ease_of_one_pair_by_hand(make_dataset):
    """Both of n = 3 users have items 0 and 1, so B_01 = B_10 = n / (n + l2) and every other weight is 0."""
    dataset = make_dataset([[0, 1, 3, 3]] * 3, num_items=4)
    config = EaseVectorsConfig(num_dimensions=2, l2=1.0, singular_power=1.0, normalize=False)
    items = item_vectors(config, dataset, seed=0)
    np.testing.assert_allclose(items.vectors @ items.vectors.T, np.diag([9 / 16, 9 / 16, 0, 0]), atol=1e-6)
    assert items.seen.tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_training_interactions_are_read(kind, dataset):
    items = item_vectors(CONFIGS[kind], dataset, seed=0)
    assert not items.seen[10]
    assert not items.seen[11]
    assert np.abs(items.vectors[~items.seen]).max() == 0
    np.testing.assert_allclose(np.linalg.norm(items.vectors[items.seen], axis=1), 1, atol=1e-5)
    held_out = pl.col("split") != "train"
    changed = replace(
        dataset,
        interactions=dataset.interactions.with_columns(
            pl.when(held_out).then(pl.lit(5)).otherwise("item_index").alias("item_index")
        ),
        valid=dataset.valid.with_columns(pl.lit(7, dtype=pl.Int64).alias("target")),
        test=dataset.test.clear(),
    )
    again = item_vectors(CONFIGS[kind], changed, seed=0)
    np.testing.assert_array_equal(again.vectors, items.vectors)
    np.testing.assert_array_equal(again.seen, items.seen)


def test_svd_brings_together_what_is_bought_together(make_dataset):
    """Two shelves of five items each that no user mixes."""
    rng = np.random.default_rng(0)
    walks = [(5 * (user % 2) + rng.permutation(5)).tolist() for user in range(40)]
    vectors = item_vectors(SvdVectorsConfig(num_dimensions=2), make_dataset(walks, 10), seed=0).vectors
    same = vectors @ vectors.T
    assert same[:5, :5].min() > 0.9
    assert np.abs(same[:5, 5:]).max() < 0.1


def test_the_stage_writes_the_file_skips_and_follows_its_config(dataset, tmp_path):
    run = Run(tmp_path)
    dataset.save(run.path("dataset"))
    result = collaborative(CONFIGS["svd"], run, seed=3)
    assert result.metrics == {"num_items": 12, "num_seen": 10, "width": 4}
    path = run.path("collaborative.safetensors")
    found = read_collaborative(path, dataset.items["item_id"].to_list())
    np.testing.assert_array_equal(found.vectors, item_vectors(CONFIGS["svd"], dataset, seed=3).vectors)
    with safe_open(path, framework="np") as stored:
        assert stored.metadata()["kind"] == "svd"
    assert collaborative(CONFIGS["svd"], run, seed=3).skipped
    assert not collaborative(CONFIGS["ease"], run, seed=3).skipped


def test_what_cannot_be_done_is_refused(dataset, make_dataset):
    with pytest.raises(ConfigError, match="num_dimensions 12: 12 items give at most 11"):
        item_vectors(SvdVectorsConfig(num_dimensions=12), dataset, seed=0)
    with pytest.raises(ConfigError, match="num_dimensions of at least 1"):
        EaseVectorsConfig(num_dimensions=0)
    with pytest.raises(ConfigError, match="l2 above 0"):
        EaseVectorsConfig(l2=0.0)
    with pytest.raises(ConfigError, match="max_distance of at least 1"):
        SvdVectorsConfig(max_distance=0)
    with pytest.raises(DataError, match="no co-visits"):
        item_vectors(SvdVectorsConfig(num_dimensions=1), make_dataset([[0, 0, 1, 1]], 3), seed=0)


def test_a_recipe_with_joint_vectors_needs_the_section():
    values = {"prepare": {"source": {"format": "movielens"}}, "tokenize": {"vectors": {"kind": "joint"}}}
    with pytest.raises(ConfigError, match="add the section collaborative"):
        config_from_mapping(Recipe, values)
    recipe = config_from_mapping(Recipe, {**values, "collaborative": {"kind": "ease", "l2": 9.0}})
    assert recipe.collaborative == EaseVectorsConfig(l2=9.0)
    with pytest.raises(ConfigError, match=r"unknown key collaborative\.dims"):
        config_from_mapping(Recipe, {**values, "collaborative": {"kind": "svd", "dims": 9}})
