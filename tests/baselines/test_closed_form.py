"""Popularity, repeat-last, ItemKNN, co-visit KNN and EASE: hand-worked scores and slow references."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import itemic.baselines.ease
import itemic.baselines.item_knn
from itemic.baselines import (
    EASE,
    CovisitKNN,
    CovisitKNNConfig,
    EASEConfig,
    ItemKNN,
    ItemKNNConfig,
    Popularity,
    RepeatLast,
)
from itemic.core.errors import ConfigError, DataError

TRAIN = [[0, 1, 2], [0, 1], [1, 3, 1], [0, 2, 3, 4]]
SEQUENCES = [[*items, 5, 5] for items in TRAIN]  # two more items a user: valid and test
NUM_ITEMS = 6

random_logs = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=5)
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(SEQUENCES, NUM_ITEMS)


def test_popularity_counts_training_interactions_only(dataset):
    scores = Popularity.fit(dataset, seed=0).score([[4], []])
    assert scores.tolist() == [[3, 4, 2, 2, 1, 0]] * 2


def test_repeat_last_lists_the_history_backwards_then_what_is_popular(dataset):
    lists = RepeatLast.fit(dataset, seed=0).recommend([[4, 5, 4, 2], []], NUM_ITEMS)
    assert lists.item_index.tolist() == [[2, 4, 5, 1, 0, 3], [1, 0, 2, 3, 4, 5]]
    assert lists.score[0, :3].tolist() == [2, 1 + 1 / 2, 1 + 1 / 3]


def test_item_knn_by_hand(dataset):
    model = ItemKNN.fit(dataset, seed=0, config=ItemKNNConfig(num_neighbours=5, shrinkage=0.0))
    # users: 0 {a b d}, 1 {a b c}, 2 {a d}, 3 {c d}, 4 {d}; 0 and 1 share 2 of 3 and 3, 0 and 2 share 2 of 3 and 2
    similarity = model.similarity.toarray()
    assert similarity[0, 1] == pytest.approx(2 / 3)
    assert similarity[0, 2] == pytest.approx(2 / np.sqrt(6))
    assert similarity[1, 3] == pytest.approx(1 / np.sqrt(6))
    assert similarity.diagonal().tolist() == [0] * NUM_ITEMS
    assert model.score([[0, 3]])[0, 2] == pytest.approx(2 / np.sqrt(6) + 1 / 2)


def test_shrinkage_is_added_to_the_product_of_norms(dataset):
    model = ItemKNN.fit(dataset, seed=0, config=ItemKNNConfig(num_neighbours=5, shrinkage=2.0))
    assert model.similarity[0, 1] == pytest.approx(float(Fraction(2, 3 + 2)))


def test_only_the_nearest_neighbours_are_kept(dataset):
    model = ItemKNN.fit(dataset, seed=0, config=ItemKNNConfig(num_neighbours=1, shrinkage=0.0))
    assert np.count_nonzero(model.similarity.toarray(), axis=1).tolist() == [1, 1, 1, 1, 1, 0]
    assert model.similarity[0].toarray().argmax() == 2


@with_fixture
@given(train=random_logs, block=st.integers(1, 7))
def test_item_knn_equals_cosine_of_columns_in_any_blocks(make_dataset, train, block):
    dataset = make_dataset([[*items, 0, 0] for items in train], NUM_ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itemic.baselines.item_knn, "_BLOCK_ITEMS", block)
        found = ItemKNN.fit(dataset, seed=0, config=ItemKNNConfig(num_neighbours=6, shrinkage=0.0)).similarity.toarray()
    users = np.array([[item in items for item in range(NUM_ITEMS)] for items in train], dtype=np.float64)
    norm = np.linalg.norm(users, axis=0)
    expected = users.T @ users / np.maximum(np.outer(norm, norm), 1e-9)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_covisits_by_hand(make_dataset):
    dataset = make_dataset([[0, 1, 2, 5, 5]], NUM_ITEMS)
    config = CovisitKNNConfig(max_distance=2, backward_weight=0.5, source_damping=0.0, target_damping=0.0, decay=0.5)
    model = CovisitKNN.fit(dataset, seed=0, config=config)
    expected = np.zeros((NUM_ITEMS, NUM_ITEMS))
    expected[0, 1], expected[0, 2], expected[1, 2] = 1, 1 / 2, 1
    expected[1, 0], expected[2, 0], expected[2, 1] = 1 / 2, 1 / 4, 1 / 2
    np.testing.assert_allclose(model.covisits.toarray(), expected)
    assert model.score([[0, 1]])[0, 2] == pytest.approx(1 + 1 / 2 * 1 / 2)


@with_fixture
@given(train=random_logs, max_distance=st.integers(1, 6), damping=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_covisits_equal_a_loop_over_pairs(make_dataset, train, max_distance, damping):
    config = CovisitKNNConfig(max_distance=max_distance, source_damping=damping[0], target_damping=damping[1])
    found = CovisitKNN.fit(make_dataset([[*items, 0, 0] for items in train], NUM_ITEMS), seed=0, config=config)
    counts = np.bincount([item for items in train for item in items], minlength=NUM_ITEMS)
    expected = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for items in train:
        for p, q in itertools.combinations(range(len(items)), 2):
            if q - p <= max_distance:
                expected[items[p], items[q]] += 1 / (q - p)
                expected[items[q], items[p]] += config.backward_weight / (q - p)
    damped = np.outer(np.maximum(counts, 1) ** damping[0], np.maximum(counts, 1) ** damping[1])
    np.testing.assert_allclose(found.covisits.toarray(), expected / damped, atol=1e-12)


@with_fixture
@given(train=random_logs, l2=st.floats(0.5, 50))
def test_ease_is_where_its_loss_is_flat(make_dataset, train, l2):
    dataset = make_dataset([[*items, 0, 0] for items in train], NUM_ITEMS)
    weights = EASE.fit(dataset, seed=0, config=EASEConfig(l2=l2)).weights
    users = np.array([[item in items for item in range(NUM_ITEMS)] for items in train], dtype=np.float64)
    gradient = users.T @ (users @ weights - users) + l2 * weights
    np.fill_diagonal(gradient, 0)  # the diagonal of the weights is held at zero
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    assert weights.diagonal().tolist() == [0] * NUM_ITEMS


def test_ease_weighs_the_history_by_age(dataset):
    model = EASE.fit(dataset, seed=0, config=EASEConfig(l2=1.0, decay=0.5))
    expected = model.weights[2] + model.weights[0] / 2
    np.testing.assert_allclose(model.score([[0, 2]])[0], expected, atol=2e-9)


def test_ease_refuses_a_catalogue_that_it_cannot_invert(dataset, monkeypatch):
    monkeypatch.setattr(itemic.baselines.ease, "_MAX_ITEMS", 5)
    with pytest.raises(DataError, match="6 items are more than its 5"):
        EASE.fit(dataset, seed=0)


def test_the_inverse_takes_the_place_of_the_matrix():
    root = np.random.default_rng(0).normal(size=(7, 5))
    matrix = root.T @ root + np.eye(5)
    expected = np.linalg.inv(matrix)
    itemic.baselines.ease._invert_positive(matrix)
    np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_a_matrix_without_an_inverse_is_told():
    with pytest.raises(DataError, match="of 3 items cannot be inverted; make l2 larger"):
        itemic.baselines.ease._invert_positive(np.ones((3, 3)))


@pytest.mark.parametrize("name", ["ItemKNN", "CovisitKNN", "EASE"])
def test_items_without_evidence_follow_by_popularity(dataset, name):
    model = {"ItemKNN": ItemKNN, "CovisitKNN": CovisitKNN, "EASE": EASE}[name].fit(dataset, seed=0)
    assert model.recommend([[], [5]], NUM_ITEMS).item_index.tolist() == [[1, 0, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: ItemKNNConfig(num_neighbours=0),
        lambda: ItemKNNConfig(shrinkage=-1.0),
        lambda: CovisitKNNConfig(max_distance=0),
        lambda: CovisitKNNConfig(decay=0.0),
        lambda: CovisitKNNConfig(target_damping=-0.1),
        lambda: EASEConfig(l2=0.0),
        lambda: EASEConfig(decay=1.5),
    ],
)
def test_settings_without_meaning_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
