import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.quantizers.hierarchical import HierarchicalKMeans, HierarchicalKMeansConfig
from itemic.sid.quantizers.protocol import complete_codes

# Two groups of two pairs, and one item alone.
LINE = np.array([[0.0], [1.0], [10.0], [11.0], [100.0], [101.0], [110.0], [111.0], [500.0]], dtype=np.float32)


def grown(x, sizes, seed=0, **settings):
    return HierarchicalKMeans(sizes, HierarchicalKMeansConfig(**settings)).fit(x, np.random.default_rng(seed))


def some_vectors(num_items=200, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(num_items, width)).astype(np.float32)


def test_a_prefix_decodes_to_the_centroid_of_its_node_and_none_to_that_of_all():
    quantizer = grown(LINE, (3, 2, 2), num_iterations=20)
    codes = quantizer.encode(LINE)
    assert quantizer.decode(codes[:, :0])[0, 0] == pytest.approx(944 / 9)
    for depth in (1, 2, 3):
        for path in np.unique(codes[:, :depth], axis=0):
            members = (codes[:, :depth] == path).all(axis=1)
            decoded = quantizer.decode(path[None])
            np.testing.assert_allclose(decoded[0], LINE[members].mean(axis=0), rtol=1e-6)


def test_a_node_of_few_items_gets_a_child_for_each_distinct_one():
    x = np.array([[0.0], [0.0], [1.0], [2.0]], dtype=np.float32)
    quantizer = grown(x, (4,))
    np.testing.assert_array_equal(quantizer.decode(quantizer.encode(x)), x)
    assert len(np.unique(quantizer.encode(x))) == 3
    # So the fourth code leads nowhere: it costs more than any child, and an item that must move takes it.
    distances = quantizer.distances(x, np.empty((4, 0), dtype=np.int64))
    assert distances[2].tolist() == [1, 0, 1, 2 * 1 + (1 - 3 / 4) ** 2]
    assert sorted(resolve_unique(quantizer.encode(x), x, quantizer)[:, 0].tolist()) == [0, 1, 2, 3]


def test_beyond_the_tree_all_codes_cost_the_distance_to_the_last_node_and_decode_to_it():
    x = np.array([[0.0], [4.0]], dtype=np.float32)
    quantizer = grown(x, (2, 2))
    assert quantizer.decode(np.array([[0, 1]])).tolist() == quantizer.decode(np.array([[0]])).tolist()
    assert quantizer.distances(x, np.array([[1], [1]])).tolist() == [[16, 32 + 16], [0, 0]]
    deeper = grown(x, (2, 2, 2))
    assert deeper.distances(x, np.array([[1, 1], [1, 1]])).tolist() == [[16, 16], [0, 0]]


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_encoding_in_one_walk_equals_asking_for_the_distances_level_by_level(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    quantizer = HierarchicalKMeans((4, 5, 3)).fit(x[:60], rng)
    slow = complete_codes(quantizer, x, np.empty((90, 0), dtype=np.int64))
    np.testing.assert_array_equal(quantizer.encode(x), slow)


def test_distances_are_those_to_the_children_of_the_node():
    x = some_vectors()
    quantizer = grown(x, (4, 3, 2))
    codes = quantizer.encode(x)
    for depth in range(3):
        distances = quantizer.distances(x, codes[:, :depth])
        for code in range((4, 3, 2)[depth]):
            path = np.column_stack([codes[:, :depth], np.full(len(x), code)])
            expected = np.square(x - quantizer.decode(path)).sum(axis=1)
            np.testing.assert_allclose(distances[:, code], expected, atol=1e-5)


def test_codebooks_hold_the_mean_step_from_parent_to_child():
    quantizer = grown(LINE, (3, 2), num_iterations=20)
    steps = {0: [], 1: []}
    for path in np.unique(quantizer.encode(LINE), axis=0):
        steps[path[1]].append(quantizer.decode(path[None])[0, 0] - quantizer.decode(path[None, :1])[0, 0])
    for code in (0, 1):
        assert quantizer.codebooks[1][code, 0] == pytest.approx(np.mean(steps[code]), rel=1e-5)
    np.testing.assert_array_equal(quantizer.codebooks[0], quantizer.decode(np.arange(3)[:, None]))


def test_clustering_every_node_anew_explains_more_than_residuals_of_as_many_codes():
    x = some_vectors(400)
    errors = []
    for depth in (1, 2, 3):
        quantizer = grown(x, (4, 4, 4)[:depth])
        errors.append(np.square(x - quantizer.decode(quantizer.encode(x))).mean())
    assert errors[0] > errors[1] > errors[2]


def test_from_a_fitted_start_the_tree_keeps_its_shape_and_paths_their_meaning():
    x = some_vectors()
    start = grown(x, (4, 3, 2))
    changed = np.concatenate([x[20:], some_vectors(20, seed=1)])
    quantizer = HierarchicalKMeans((4, 3, 2)).fit(changed, np.random.default_rng(5), start=start)
    assert (quantizer.encode(x)[:, 0] == start.encode(x)[:, 0]).mean() > 0.8
    assert [len(book) for book in quantizer.codebooks] == [4, 3, 2]
    one_node_only = HierarchicalKMeans((4, 3, 2)).fit(x[:4] * 0 + x[0], np.random.default_rng(0), start=start)
    np.testing.assert_allclose(one_node_only.decode(one_node_only.encode(x[:1])), x[:1], atol=1e-5)
    with pytest.raises(CatalogError, match=r"expected 'hierarchical-kmeans' with \(4, 3, 3\)"):
        HierarchicalKMeans((4, 3, 3)).fit(x, np.random.default_rng(0), start=start)


def test_half_precision_and_mapped_vectors_make_no_difference(tmp_path):
    half = some_vectors().astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    expected = grown(half.astype(np.float32), (6, 5))
    for x in (half, np.load(tmp_path / "x.npy", mmap_mode="r")):
        found = grown(x, (6, 5))
        np.testing.assert_array_equal(found.encode(x), expected.encode(half.astype(np.float32)))


def test_large_nodes_learn_from_a_sample():
    x = some_vectors(500)
    sampled = grown(x, (4, 4), max_points_per_code=5)
    assert not np.array_equal(sampled.codebooks[0], grown(x, (4, 4), max_points_per_code=0).codebooks[0])


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="num_iterations 0"):
        HierarchicalKMeansConfig(num_iterations=0)
    with pytest.raises(ConfigError, match="at least one level"):
        HierarchicalKMeans(())
