import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import ConfigError
from itemic.sid.quality import reconstruction
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


def test_restarts_and_iterations_lower_the_error_of_a_level():
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)

    def error(**settings):
        quantizer = RQKMeans((20,), RQKMeansConfig(**settings)).fit(x, np.random.default_rng(1))
        return reconstruction(quantizer.encode(x), x, quantizer)["mse"]

    assert error(num_restarts=10) < error(num_restarts=1) < error(num_restarts=1, num_iterations=1)


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
    with pytest.raises(ConfigError, match="num_iterations 0, num_restarts 5: expected at least 1 of each"):
        RQKMeans((4,), RQKMeansConfig(num_iterations=0))
    with pytest.raises(ConfigError, match="num_iterations 25, num_restarts 0"):
        RQKMeans((4,), RQKMeansConfig(num_restarts=0))
