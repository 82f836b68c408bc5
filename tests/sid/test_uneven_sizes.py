"""Codebooks of the k-means family may differ by level, grow from level to level, and need be no powers of two."""

import numpy as np
import pytest

from itemic.sid import RQOPQ, BalancedRQKMeans, HierarchicalKMeans, RQKMeans, RQKMeansFSQ, load_quantizer

KINDS = {kind.kind: kind for kind in (RQKMeans, BalancedRQKMeans, HierarchicalKMeans, RQOPQ, RQKMeansFSQ)}


@pytest.mark.parametrize("sizes", [(7, 30, 60), (45, 11, 3), (1, 5, 8)], ids=str)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_level_has_codes_of_its_own_number(kind, sizes, tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    quantizer = KINDS[kind](sizes).fit(x, np.random.default_rng(0))
    assert tuple(len(codebook) for codebook in quantizer.codebooks) == sizes
    codes = quantizer.encode(x)
    assert (codes.max(axis=0) < sizes).all()
    # A tree's node of ten items has but ten children.
    levels = 1 if kind == "hierarchical-kmeans" else 3
    for level, size in enumerate(sizes[:levels]):
        assert len(np.unique(codes[:, level])) > 0.6 * size
    errors = [np.square(x - quantizer.decode(codes[:, :length])).sum() for length in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    for level, size in enumerate(sizes):
        distances = quantizer.distances(x, codes[:, :level])
        assert distances.shape == (400, size)
        np.testing.assert_array_equal(distances.argmin(axis=1) == codes[:, level], True)
    again = KINDS[kind](sizes).fit(x[:380], np.random.default_rng(1), start=quantizer)
    assert (again.encode(x)[:, 0] == codes[:, 0]).mean() > 0.95
    quantizer.save(tmp_path / "quantizer.safetensors")
    np.testing.assert_array_equal(load_quantizer(tmp_path / "quantizer.safetensors").encode(x), codes)
