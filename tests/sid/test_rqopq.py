from itertools import pairwise

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import write_arrays
from itemic.sid.quantizers.opq import balanced_rotation, fit_opq, refit_opq, subspaces
from itemic.sid.quantizers.residual import squared_distances
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqopq import RQOPQ, RQOPQConfig

KMEANS = RQKMeansConfig(num_iterations=10)


def correlated(num_items=400, width=6, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.diag(2.0 ** -np.arange(width)) @ rng.normal(size=(width, width))
    return (rng.normal(size=(num_items, width)) @ spread).astype(np.float32)


def orthogonal(width, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0].astype(np.float32)


def fitted(sizes=(4, 8, 16), x=None, **options):
    return RQOPQ(sizes, RQOPQConfig(kmeans=KMEANS, **options)).fit(
        correlated() if x is None else x, np.random.default_rng(0)
    )


def error_of(product, x):
    y = x @ product.rotation
    blocks = zip(product.codebooks, subspaces(x.shape[1], len(product.codebooks)), strict=True)
    return sum(squared_distances(y[:, block], codebook).min(axis=1).sum() for codebook, block in blocks)


def test_subspaces_cut_the_coordinates_as_evenly_as_they_can():
    assert subspaces(4, 2) == [slice(0, 2), slice(2, 4)]
    assert subspaces(5, 2) == [slice(0, 2), slice(2, 5)]
    assert subspaces(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]


def test_axes_are_dealt_so_that_the_subspaces_have_variances_of_like_product():
    # Variances 16, 8, 4, 2: two axes each of product 32, and no other deal makes them equal.
    x = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32) * np.sqrt([16, 8, 4, 2], dtype=np.float32)
    axes = np.abs(balanced_rotation(x, [2, 2])).argmax(axis=0)
    assert {frozenset(axes[:2].tolist()), frozenset(axes[2:].tolist())} == {frozenset({0, 3}), frozenset({1, 2})}


def test_a_known_rotation_is_found_and_the_vectors_are_decoded_exactly():
    # Nine vectors, 3 x 3 in two planes that lie askew: nothing but the right planes codes them without error.
    # Variances are 32 and 1 in the first plane, 16 and 2 in the second, so that the planes have the same product.
    first = np.array([[8, 0], [-4, 1.5**0.5], [-4, -(1.5**0.5)]])
    second = np.array([[32**0.5, 0], [-(8**0.5), 3**0.5], [-(8**0.5), -(3**0.5)]])
    grid = np.array([[*a, *b] for a in first for b in second], dtype=np.float32)
    x = np.repeat(grid, 20, axis=0) @ orthogonal(4).T
    product = fit_opq(x, (3, 3), 10, 5, np.random.default_rng(0))
    np.testing.assert_allclose(product.rotation.T @ product.rotation, np.eye(4), atol=1e-5)
    assert error_of(product, x) < 1e-6 * np.square(x).sum()


def test_rotating_never_makes_the_error_larger():
    x = correlated()
    errors = [error_of(fit_opq(x, (8, 5), 10, rounds, np.random.default_rng(0)), x) for rounds in (0, 1, 4, 16)]
    for before, after in pairwise(errors):
        assert after <= before * (1 + 1e-5)
    assert errors[-1] < errors[0]


def test_the_error_is_no_larger_than_that_of_faiss():
    x = correlated(1000, 8)
    rotation = faiss.OPQMatrix(8, 2)
    rotation.train(x)
    y = rotation.apply(x)
    coder = faiss.ProductQuantizer(8, 2, 4)
    coder.train(y)
    peer = np.square(y - coder.decode(coder.compute_codes(y))).sum()
    assert error_of(fit_opq(x, (16, 16), 25, 20, np.random.default_rng(0)), x) <= 1.05 * peer


def test_codes_and_vectors_are_those_of_faiss_with_the_same_codebooks():
    x = correlated(300, 8)
    quantizer = fitted((4, 16, 16), x)
    product, codes = quantizer.product_codebooks(), quantizer.encode(x)
    coder = faiss.ProductQuantizer(8, 2, 4)
    faiss.copy_array_to_vector(np.stack(product.codebooks).ravel(), coder.centroids)
    rest = (x - quantizer.decode(codes[:, :1])) @ product.rotation
    packed = coder.compute_codes(np.ascontiguousarray(rest))[:, 0]
    np.testing.assert_array_equal(codes[:, 1], packed & 15)
    np.testing.assert_array_equal(codes[:, 2], packed >> 4)
    decoded = quantizer.decode(codes[:, :1]) + coder.decode(packed[:, None]) @ product.rotation.T
    np.testing.assert_allclose(quantizer.decode(codes), decoded, atol=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_product_code_costs_its_distance_in_its_own_subspace_whatever_the_others_are(seed):
    rng = np.random.default_rng(seed)
    x = correlated(60, 5, seed)
    quantizer = RQOPQ((3, 4, 6), RQOPQConfig(kmeans=KMEANS)).fit(x, rng)
    product = quantizer.product_codebooks()
    first = quantizer.encode(x)[:, :1]
    rest = (x - quantizer.decode(first)) @ product.rotation
    own = squared_distances(rest[:, subspaces(5, 2)[1]], product.codebooks[1])
    any_code = rng.integers(4, size=(60, 1))
    found = quantizer.distances(x, np.column_stack([first, any_code]))
    beside = found - own
    np.testing.assert_allclose(beside, beside[:, :1].repeat(6, axis=1), atol=1e-3)


def test_residual_levels_are_those_of_residual_k_means():
    x = correlated()
    plain = RQKMeans((4, 8), KMEANS).fit(x, np.random.default_rng(0))
    quantizer = fitted((4, 8, 6, 5), x)
    assert quantizer.num_residual_levels == 2
    for level in range(2):
        np.testing.assert_array_equal(quantizer.codebooks[level], plain.codebooks[level])


def test_product_codes_lower_the_error_of_the_residual_levels():
    x = correlated()
    quantizer = fitted()
    codes = quantizer.encode(x)
    errors = [np.square(x - quantizer.decode(codes[:, :level])).sum() for level in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_a_refit_keeps_the_rotation_and_most_codes():
    x = correlated()
    before = fitted(x=x)
    changed = np.concatenate([x, correlated(20, seed=1)])
    after = RQOPQ((4, 8, 16), before.config).fit(changed, np.random.default_rng(9), start=before)
    np.testing.assert_array_equal(after.rotation, before.rotation)
    rest = x - before.decode(before.encode(x)[:, :1])
    again = refit_opq(rest, before.product_codebooks())
    for old, new in zip(before.product_codebooks().codebooks, again.codebooks, strict=True):
        assert np.square(old - new).sum() < 0.05 * np.square(old).sum()


def test_a_start_that_does_not_fit_is_refused():
    x, rng = correlated(), np.random.default_rng(0)
    target = RQOPQ((4, 8, 16), RQOPQConfig(kmeans=KMEANS))
    with pytest.raises(CatalogError, match=r"kind 'rqkmeans' with codebook sizes \(4, 8, 16\): expected 'rqopq'"):
        target.fit(x, rng, start=RQKMeans((4, 8, 16)))
    with pytest.raises(CatalogError, match=r"sizes \(4, 8, 8\): expected 'rqopq' with \(4, 8, 16\)"):
        target.fit(x, rng, start=RQOPQ((4, 8, 8)))
    with pytest.raises(CatalogError, match="no codebooks yet"):
        target.fit(x, rng, start=RQOPQ((4, 8, 16)))
    with pytest.raises(CatalogError, match="width 6: the vectors have 5"):
        target.fit(x[:, :5].copy(), rng, start=fitted())
    with pytest.raises(CatalogError, match="1 product levels: expected 2"):
        target.fit(x, rng, start=fitted(num_opq_levels=1))


def test_impossible_settings_are_refused():
    with pytest.raises(
        ConfigError, match=r"num_opq_levels 2 of codebook sizes \(8, 8\): expected at least one residual"
    ):
        RQOPQ((8, 8))
    with pytest.raises(ConfigError, match="num_opq_levels 0, num_rotations 5"):
        RQOPQConfig(num_opq_levels=0)
    with pytest.raises(DataError, match="2 wide: expected at least num_opq_levels 3"):
        RQOPQ((2, 2, 2, 2), RQOPQConfig(num_opq_levels=3)).fit(correlated(width=2), np.random.default_rng(0))


def test_a_file_without_its_rotation_is_refused(tmp_path):
    quantizer, path = fitted(), tmp_path / "quantizer.safetensors"
    quantizer.save(path)
    np.testing.assert_array_equal(RQOPQ.load(path).rotation, quantizer.rotation)
    with safe_open(path, framework="np") as stored:
        metadata = stored.metadata()
    arrays = {f"codebook_{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    write_arrays(path, arrays, metadata)
    with pytest.raises(ArtifactError, match="'rotation' is missing"):
        RQOPQ.load(path)
