import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError
from itemic.sid.quality import reconstruction
from itemic.sid.quantizers.kmeans import kmeans, lloyd
from itemic.sid.quantizers.protocol import complete_codes
from itemic.sid.quantizers.residual import squared_distances
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig


def test_every_centroid_is_the_mean_of_what_the_levels_before_left_of_its_items():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    quantizer = RQKMeans((4, 4), RQKMeansConfig(num_iterations=50)).fit(x, np.random.default_rng(0))
    codes = quantizer.encode(x)
    for level in range(2):
        residual = x - quantizer.decode(codes[:, :level])
        for code in range(4):
            mean = residual[codes[:, level] == code].mean(axis=0)
            np.testing.assert_allclose(quantizer.codebooks[level][code], mean, atol=1e-6)


def test_decoding_sums_the_centroids_and_a_prefix_gives_the_coarser_vector():
    x = np.array([[-10, -1], [-10, 1], [10, -1], [10, 1]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    quantizer = RQKMeans.from_codes(x, codes, (2, 2))
    np.testing.assert_array_equal(quantizer.decode(codes), x)
    np.testing.assert_array_equal(quantizer.decode(codes[:, :1]), x * [1, 0])
    np.testing.assert_array_equal(quantizer.encode(x), codes)


@given(st.integers(0, 2**32))
def test_distances_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(9, 3)).astype(np.float32)
    quantizer = RQKMeans((3, 4), RQKMeansConfig(num_iterations=2)).fit(x, rng)
    codes = quantizer.encode(x)
    residual = x - quantizer.codebooks[0][codes[:, 0]]
    expected = np.square(residual[:, None] - quantizer.codebooks[1][None]).sum(axis=2)
    np.testing.assert_allclose(quantizer.distances(x, codes[:, :1]), expected, atol=1e-5)


def test_every_further_level_lowers_the_error():
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    quantizer = RQKMeans((16, 16, 16), RQKMeansConfig(num_iterations=10)).fit(x, np.random.default_rng(1))
    codes = quantizer.encode(x)
    errors = [reconstruction(codes[:, :level], x, quantizer)["mse"] for level in range(1, 4)]
    assert errors[0] > errors[1] > errors[2]


def relative_error(x, sizes=(20, 20), seed=1, **settings):
    quantizer = RQKMeans(sizes, RQKMeansConfig(**settings)).fit(x, np.random.default_rng(seed))
    return reconstruction(quantizer.encode(x), x, quantizer)["relative"]


def test_iterations_and_refinements_lower_the_error():
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    assert relative_error(x, num_iterations=10) < relative_error(x, num_iterations=1)
    assert relative_error(x, num_iterations=10, num_refinements=3) < relative_error(x, num_iterations=10)


def test_growing_dimensions_find_a_better_optimum_than_all_at_once_and_leave_no_level_unused():
    # Few items in many dimensions: what level 0 leaves is nearly orthogonal.
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(600, 64)) * 0.9 ** np.arange(64)).astype(np.float32)
    random_start = x[rng.choice(600, 64, replace=False)]
    grown = kmeans(x, 64, 5, rng)
    at_once = lloyd(x, random_start, 25)
    assert squared_distances(x, grown).min(axis=1).mean() < squared_distances(x, at_once).min(axis=1).mean()
    codes = RQKMeans((64, 64), RQKMeansConfig()).fit(x, rng).encode(x)
    assert len(np.unique(codes[:, 1])) == 64


def test_empty_clusters_are_refilled_by_splitting_large_ones():
    x = np.repeat(np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 2.0]], dtype=np.float32), [6, 6, 4], axis=0)
    start = np.array([[0.0, 0.1], [4.0, 2.0], [90.0, 90.0]], dtype=np.float32)
    centroids = lloyd(x, start, 5)
    np.testing.assert_array_equal(centroids[np.lexsort(centroids.T)], [[0, -1], [0, 1], [4, 2]])


@given(st.integers(0, 2**32))
def test_encoding_in_one_sweep_equals_asking_for_the_distances_level_by_level(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    quantizer = RQKMeans((5, 7, 3), RQKMeansConfig(num_iterations=2)).fit(x, rng)
    slow = complete_codes(quantizer, x, np.empty((50, 0), dtype=np.int64))
    np.testing.assert_array_equal(quantizer.encode(x), slow)


def test_pieces_and_mapped_or_half_precision_vectors_make_no_difference(tmp_path):
    half = np.random.default_rng(0).normal(size=(200, 9)).astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for points in (0, 256):
        config = RQKMeansConfig(max_points_per_code=points, num_refinements=1)
        whole = RQKMeans((8, 6), config).fit(half.astype(np.float32), np.random.default_rng(0))
        for x in (half, mapped, half.astype(np.float64)):
            other = RQKMeans((8, 6), config).fit(x, np.random.default_rng(0))
            for codebook, expected in zip(other.codebooks, whole.codebooks, strict=True):
                np.testing.assert_array_equal(codebook, expected)
            np.testing.assert_array_equal(other.encode(x), whole.encode(half.astype(np.float32)))


def test_learning_from_all_vectors_in_pieces_equals_learning_from_them_in_memory():
    x = np.random.default_rng(0).normal(size=(40_000, 8)).astype(np.float32)
    streamed = RQKMeans((8, 4), RQKMeansConfig(max_points_per_code=0)).fit(x, np.random.default_rng(0))
    in_memory = RQKMeans((8, 4), RQKMeansConfig(max_points_per_code=5000)).fit(x, np.random.default_rng(0))
    for codebook, expected in zip(streamed.codebooks, in_memory.codebooks, strict=True):
        np.testing.assert_allclose(codebook, expected, atol=1e-4)


def test_it_learns_from_a_sample_where_there_are_many_vectors():
    x = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    sample = np.sort(np.random.default_rng(1).choice(500, size=80, replace=False))
    rng = np.random.default_rng(1)
    learned = RQKMeans((8,), RQKMeansConfig(max_points_per_code=10)).fit(x, rng)
    rng_after_sample = np.random.default_rng(1)
    rng_after_sample.choice(500, size=80, replace=False)
    np.testing.assert_array_equal(learned.codebooks[0], kmeans(x[sample], 8, 5, rng_after_sample))


def test_from_a_fitted_start_codes_keep_their_meaning():
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    start = RQKMeans((8, 8)).fit(x, np.random.default_rng(0))
    changed = np.concatenate([x[20:], np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)])
    kept = RQKMeans((8, 8)).fit(changed, np.random.default_rng(2), start=start).encode(x) == start.encode(x)
    anew = RQKMeans((8, 8)).fit(changed, np.random.default_rng(2)).encode(x) == start.encode(x)
    assert kept[:, 0].mean() > 0.8
    assert anew[:, 0].mean() < 0.5


def test_a_start_that_does_not_fit_is_refused():
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    fitted = RQKMeans((4, 4)).fit(x, np.random.default_rng(0))
    for quantizer, start, message in (
        (RQKMeans((4, 3)), fitted, r"codebook sizes \(4, 4\): expected 'rqkmeans' with \(4, 3\)"),
        (RQKMeans((4, 4)), RQKMeans((4, 4)), "no codebooks yet"),
        (RQKMeans((4, 4)), RQKMeans((4, 4)).fit(x[:, :2], np.random.default_rng(0)), "width 2: .* 3 dimensions"),
    ):
        with pytest.raises(CatalogError, match=message):
            quantizer.fit(x, np.random.default_rng(0), start=start)


def test_given_codes_are_explained_by_the_means_of_their_items():
    x = np.array([[1.0], [3.0], [10.0]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [2, 1]])
    quantizer = RQKMeans.from_codes(x, codes, (3, 3))
    # Level 0: code 0 has mean 2, code 2 has 10. What is left: -1 for code 0 of level 1; 1 and 0 for code 1.
    assert quantizer.codebooks[0].ravel().tolist() == [2, 0, 10]
    assert quantizer.codebooks[1].ravel().tolist() == [-1, 1 / 2, 0]
    assert quantizer.decode(codes).ravel().tolist() == [1, 5 / 2, 21 / 2]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="at least one level"):
        RQKMeans(())
    with pytest.raises(ConfigError, match="at least one level of one code"):
        RQKMeans((4, 0))
    with pytest.raises(ConfigError, match="num_iterations 0: expected at least 1"):
        RQKMeansConfig(num_iterations=0)
    with pytest.raises(ConfigError, match="num_refinements -1, max_points_per_code 256: expected 0 or more"):
        RQKMeansConfig(num_refinements=-1)
