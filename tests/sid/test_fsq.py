import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import write_arrays
from itemic.sid.quantizers.fsq import RQKMeansFSQ, RQKMeansFSQConfig, deal_levels, grid_values
from itemic.sid.quantizers.residual import squared_distances
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

KMEANS = RQKMeansConfig(num_iterations=10)


def some_vectors(num_items=300, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_items, width)) * 2.0 ** -np.arange(width)).astype(np.float32)


def fitted(sizes=(4, 12), x=None, **options):
    quantizer = RQKMeansFSQ(sizes, RQKMeansFSQConfig(kmeans=KMEANS, **options))
    return quantizer.fit(some_vectors() if x is None else x, np.random.default_rng(0))


def test_values_are_even_steps_of_the_tangent():
    # tanh((z - 5) / 2) = -1/2 and 1/2; artanh(1/2) = ln(3)/2.
    np.testing.assert_allclose(grid_values(2, 5.0, 2.0), [5 - math.log(3), 5 + math.log(3)], rtol=1e-6)
    # -2/3, 0, 2/3; artanh(2/3) = ln(5)/2.
    np.testing.assert_allclose(grid_values(3, 0.0, 1.0), [-math.log(5) / 2, 0, math.log(5) / 2], rtol=1e-6)
    assert grid_values(1, 7.0, 1.0).tolist() == [7.0]


def test_levels_go_to_the_axis_with_the_largest_error_left():
    # 2 -> 16/4 = 4; 2 -> 4/4 = 1 on the first again (a tie goes to the wider axis); then the second.
    assert deal_levels(4, np.array([16.0, 3.0])) == (4,)
    assert deal_levels(8, np.array([16.0, 3.0])) == (4, 2)
    # The largest factor comes first: 3 -> 16/9 < 3, so 2 goes to the second.
    assert deal_levels(6, np.array([16.0, 3.0])) == (3, 2)
    assert deal_levels(7, np.array([16.0, 3.0])) == (7,)
    assert deal_levels(1, np.array([16.0, 3.0])) == ()
    assert deal_levels(256, np.ones(20)) == (2,) * 8


@given(st.integers(1, 5000), st.integers(1, 8))
def test_dealt_levels_always_multiply_to_the_size(size, width):
    grid = deal_levels(size, 3.0 ** -np.arange(width))
    assert math.prod(grid) == size
    assert len(grid) <= width


def test_a_grid_worked_by_hand():
    # One residual code, zero. Four corners of a rectangle: axes along its sides, spread 4 and 1 on them.
    x = np.array([[-4, -1], [-4, 1], [4, -1], [4, 1]], dtype=np.float32)
    quantizer = fitted((1, 4), x, grid=(2, 2), scale=1.0)
    np.testing.assert_allclose(np.abs(quantizer.axes), np.eye(2), atol=1e-6)
    half = math.log(3) / 2  # artanh(1/2)
    np.testing.assert_allclose(quantizer.grid[0], [-4 * half, 4 * half], rtol=1e-5)
    np.testing.assert_allclose(quantizer.grid[1], [-half, half], rtol=1e-5)
    codes = quantizer.encode(x)
    assert sorted(codes[:, 1].tolist()) == [0, 1, 2, 3]
    np.testing.assert_allclose(quantizer.decode(codes), x * half, rtol=1e-5)
    own = quantizer.distances(x, codes[:, :1])[np.arange(4), codes[:, 1]]
    np.testing.assert_allclose(own, 17 * (1 - half) ** 2, rtol=1e-4)


@settings(max_examples=20)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(0, 2**32))
def test_every_grid_point_is_its_own_code(grid, seed):
    size = math.prod(grid)
    quantizer = fitted((1, size), some_vectors(60, seed=seed), grid=tuple(grid))
    codes = np.column_stack([np.zeros(size, dtype=np.int64), np.arange(size)])
    np.testing.assert_array_equal(quantizer.encode(quantizer.decode(codes)), codes)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_distances_and_codes_are_those_to_the_decoded_points(seed):
    x = some_vectors(40, 5, seed)
    quantizer = fitted((3, 24), x)
    codes = quantizer.encode(x)
    expected = squared_distances(x - quantizer.codebooks[0][codes[:, 0]], quantizer.codebooks[1])
    np.testing.assert_allclose(quantizer.distances(x, codes[:, :1]), expected, atol=1e-4)
    own = expected[np.arange(40), codes[:, 1]]
    np.testing.assert_allclose(own, expected.min(axis=1), atol=1e-5)


def test_the_last_level_may_have_more_codes_than_there_are_items():
    x = some_vectors(50)
    quantizer = fitted((4, 4096), x, grid=(8, 8, 8, 8))
    assert len(quantizer.codebooks[-1]) == 4096
    with pytest.raises(CatalogError, match="need at least 64 items"):
        fitted((64, 16), x)


def test_a_finer_grid_lowers_the_error():
    x = some_vectors()
    errors = [np.square(x - q.decode(q.encode(x))).sum() for q in (fitted((4, size)) for size in (1, 4, 16, 64))]
    assert errors == sorted(errors, reverse=True)


def test_the_default_scale_is_near_the_best_for_normal_coordinates():
    x = np.random.default_rng(0).normal(size=(4000, 1)).astype(np.float32)

    def error(size, scale):
        quantizer = fitted((1, size), x, scale=scale)
        return np.square(x - quantizer.decode(quantizer.encode(x))).mean()

    # Max (1960): distortion of the best scalar quantizers of a normal variable; the bounds are those of the docstring.
    for size, best, bound in ((2, 0.3634, 1.02), (4, 0.1175, 1.02), (8, 0.03454, 1.12), (16, 0.009497, 1.26)):
        assert error(size, 1.5) < (bound + 0.03) * best


def test_a_refit_keeps_the_grid():
    before = fitted()
    after = RQKMeansFSQ((4, 12), before.config).fit(some_vectors(seed=1), np.random.default_rng(1), start=before)
    np.testing.assert_array_equal(after.codebooks[1], before.codebooks[1])
    np.testing.assert_array_equal(after.axes, before.axes)


def test_a_start_that_does_not_fit_is_refused():
    target = RQKMeansFSQ((4, 12), RQKMeansFSQConfig(kmeans=KMEANS))
    with pytest.raises(CatalogError, match=r"kind 'rqkmeans' .* expected 'rqkmeans-fsq'"):
        target.fit(some_vectors(), np.random.default_rng(0), start=RQKMeans((4, 12)))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"grid \(8, 8\) has 64 points, but the last codebook size is 256"):
        RQKMeansFSQ((256, 256), RQKMeansFSQConfig(grid=(8, 8)))
    with pytest.raises(ConfigError, match="expected a residual level before the grid"):
        RQKMeansFSQ((256,))
    with pytest.raises(ConfigError, match=r"grid \(8, 1\), scale 1.5: expected at least 2 levels"):
        RQKMeansFSQConfig(grid=(8, 1))
    with pytest.raises(ConfigError, match="scale above 0"):
        RQKMeansFSQConfig(scale=0.0)
    with pytest.raises(DataError, match="6 wide: expected at least the 7 axes"):
        fitted((4, 128), grid=(2,) * 7)


def test_a_file_without_its_grid_is_refused(tmp_path):
    quantizer, path = fitted(), tmp_path / "quantizer.safetensors"
    quantizer.save(path)
    with safe_open(path, framework="np") as stored:
        metadata = stored.metadata()
    arrays = {f"codebook_{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    write_arrays(path, arrays, metadata)
    with pytest.raises(ArtifactError, match="'axes' is missing"):
        RQKMeansFSQ.load(path)
    write_arrays(path, {**arrays, "axes": quantizer.axes}, metadata)
    with pytest.raises(ArtifactError, match="'grid_0' is missing"):
        RQKMeansFSQ.load(path)
