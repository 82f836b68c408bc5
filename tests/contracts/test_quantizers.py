"""What every quantizer must do; a new one is added to QUANTIZERS and to ``make_quantizer`` and inherits the suite."""

import numpy as np
import pytest

from itemic.core.errors import ArtifactError, CatalogError, DataError
from itemic.core.files import write_arrays
from itemic.sid import (
    QUANTIZERS,
    RQOPQ,
    RQVAE,
    BalancedRQKMeans,
    HierarchicalKMeans,
    Quantizer,
    RQKMeans,
    RQKMeansConfig,
    RQKMeansFSQ,
    RQKMeansFSQConfig,
    RQKMeansPlus,
    RQKMeansPlusConfig,
    RQOPQConfig,
    RQVAEConfig,
    load_quantizer,
    resolve_unique,
)

SIZES = (8, 4, 6)


def make_quantizer(kind):
    kmeans = RQKMeansConfig(num_iterations=5)
    return {
        "rqkmeans": lambda: RQKMeans(SIZES, kmeans),
        "balanced-rqkmeans": lambda: BalancedRQKMeans(SIZES),
        "hierarchical-kmeans": lambda: HierarchicalKMeans(SIZES),
        "rqkmeans-fsq": lambda: RQKMeansFSQ(SIZES, RQKMeansFSQConfig(grid=(3, 2), kmeans=kmeans)),
        "rqkmeans-plus": lambda: RQKMeansPlus(SIZES, RQKMeansPlusConfig(base=kmeans, hidden_sizes=(8,), epochs=3)),
        "rqvae": lambda: RQVAE(SIZES, RQVAEConfig(hidden_sizes=(16,), latent_size=4, epochs=20, batch_size=16)),
        "rqopq": lambda: RQOPQ(SIZES, RQOPQConfig(kmeans=kmeans)),
    }[kind]()


def some_vectors(num_items=80, width=5):
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(6, width))
    return (centres[rng.integers(0, 6, size=num_items)] + 0.2 * rng.normal(size=(num_items, width))).astype(np.float32)


@pytest.fixture(params=sorted(QUANTIZERS))
def kind(request):
    return request.param


@pytest.fixture
def fitted(kind):
    return make_quantizer(kind).fit(some_vectors(), np.random.default_rng(0))


def test_it_is_a_quantizer_of_its_kind(kind):
    quantizer = make_quantizer(kind)
    assert isinstance(quantizer, Quantizer)
    assert quantizer.kind == kind
    assert quantizer.codebook_sizes == SIZES


def test_codes_lie_in_their_codebooks(fitted):
    codes = fitted.encode(some_vectors())
    assert codes.shape == (80, len(SIZES))
    assert codes.dtype == np.int64
    assert (codes >= 0).all()
    assert (codes < np.array(SIZES)).all()


def test_codebooks_have_a_vector_for_every_code(fitted):
    assert tuple(len(codebook) for codebook in fitted.codebooks) == SIZES


def test_decoded_codes_resemble_the_vectors(fitted):
    x = some_vectors()
    decoded = fitted.decode(fitted.encode(x))
    assert decoded.shape == x.shape
    assert decoded.dtype == np.float32
    assert np.square(decoded - x).sum() < 0.5 * np.square(x - x.mean(axis=0)).sum()


def test_a_prefix_decodes_to_a_coarser_vector(fitted):
    x = some_vectors()
    codes = fitted.encode(x)
    errors = []
    for length in range(1, len(SIZES) + 1):
        decoded = fitted.decode(codes[:, :length])
        assert decoded.shape == x.shape
        assert decoded.dtype == np.float32
        errors.append(float(np.square(decoded - x).sum()))
        for code in np.unique(codes[:, :length], axis=0)[:3]:
            same = (codes[:, :length] == code).all(axis=1)
            assert np.ptp(decoded[same], axis=0).max() < 1e-5, "the prefix alone decides"
    assert errors[-1] < errors[0] < np.square(x).sum()


def test_half_precision_and_mapped_vectors_get_the_same_codes(tmp_path, fitted):
    x = some_vectors()
    codes = fitted.encode(x)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(fitted.encode(mapped), codes)
    np.testing.assert_allclose(fitted.distances(mapped, codes[:, :1]), fitted.distances(x, codes[:, :1]), rtol=1e-6)
    half = x.astype(np.float16)
    assert (fitted.encode(half) == codes).all(axis=1).mean() > 0.9, "rounding moves an item or two across a border"
    np.testing.assert_array_equal(fitted.encode(half), fitted.encode(half.astype(np.float32)))
    assert fitted.distances(half, codes[:, :1]).dtype == np.float32


def test_half_precision_and_mapped_vectors_can_be_learned_from(tmp_path, kind, fitted):
    x = some_vectors()
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    learned = make_quantizer(kind).fit(mapped, np.random.default_rng(0))
    error, wanted = (float(np.square(each.decode(each.encode(x)) - x).sum()) for each in (learned, fitted))
    assert error < 1.2 * wanted + 0.02 * np.square(x - x.mean(axis=0)).sum()


def test_encode_takes_the_code_of_least_distance_at_every_level(fitted):
    x = some_vectors()
    codes = fitted.encode(x)
    for level, size in enumerate(SIZES):
        distances = fitted.distances(x, codes[:, :level])
        assert distances.shape == (len(x), size)
        assert (distances >= 0).all()
        np.testing.assert_allclose(distances[np.arange(len(x)), codes[:, level]], distances.min(axis=1), rtol=1e-5)


def test_same_rng_state_gives_the_same_codebooks(kind, fitted):
    again = make_quantizer(kind).fit(some_vectors(), np.random.default_rng(0))
    for codebook, codebook_again in zip(fitted.codebooks, again.codebooks, strict=True):
        np.testing.assert_array_equal(codebook, codebook_again)


def test_another_rng_state_gives_other_codebooks(kind, fitted):
    other = make_quantizer(kind).fit(some_vectors(), np.random.default_rng(1))
    assert not np.array_equal(fitted.codebooks[0], other.codebooks[0])


def test_fit_leaves_its_input_alone(kind):
    x = some_vectors()
    make_quantizer(kind).fit(x, np.random.default_rng(0))
    np.testing.assert_array_equal(x, some_vectors())


def test_loaded_quantizer_gives_the_same_codes_and_vectors(tmp_path, kind, fitted):
    fitted.save(tmp_path / "quantizer.safetensors")
    x = some_vectors()
    for load in (load_quantizer, QUANTIZERS[kind].load):
        loaded = load(tmp_path / "quantizer.safetensors")
        assert type(loaded) is QUANTIZERS[kind]
        assert loaded.codebook_sizes == SIZES
        np.testing.assert_array_equal(loaded.encode(x), fitted.encode(x))
        np.testing.assert_array_equal(loaded.decode(fitted.encode(x)), fitted.decode(fitted.encode(x)))


def test_collisions_can_be_resolved_through_its_distances(fitted):
    x = np.repeat(some_vectors(20), 9, axis=0)
    codes = resolve_unique(fitted.encode(x), x, fitted)
    assert len(np.unique(codes, axis=0)) == len(x)


def test_identical_vectors_are_no_trouble(kind):
    x = np.ones((20, 5), dtype=np.float32)
    quantizer = make_quantizer(kind).fit(x, np.random.default_rng(0))
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(x)), x, atol=1e-2)


def test_more_codes_than_vectors_are_refused(kind):
    with pytest.raises(CatalogError, match=r"need at least 8 items to learn from, found 7; set codebook_sizes"):
        make_quantizer(kind).fit(some_vectors(7), np.random.default_rng(0))


def test_vectors_that_are_not_finite_are_refused(kind):
    x = some_vectors()
    x[3, 2] = np.nan
    with pytest.raises(DataError, match="item row 3 holds NaN"):
        make_quantizer(kind).fit(x, np.random.default_rng(0))


def test_nothing_can_be_coded_before_fit(kind):
    with pytest.raises(CatalogError, match="call fit first"):
        make_quantizer(kind).encode(some_vectors())


def test_files_that_hold_no_such_quantizer_are_refused(tmp_path, kind):
    path = tmp_path / "quantizer.safetensors"
    for load in (load_quantizer, QUANTIZERS[kind].load):
        with pytest.raises(ArtifactError, match="no such file"):
            load(tmp_path / "none.safetensors")
        path.write_bytes(b"not safetensors")
        with pytest.raises(ArtifactError, match="damaged quantizer"):
            load(path)
        write_arrays(path, {"codebook_0": np.zeros((2, 2), dtype=np.float32)}, {"kind": "another"})
        with pytest.raises(ArtifactError, match="kind 'another'"):
            load(path)
    write_arrays(path, {"codebook_0": np.zeros((2, 2), dtype=np.float32)}, {"kind": kind})
    with pytest.raises(ArtifactError, match="damaged quantizer"):
        load_quantizer(path)
