"""Quantizers of the k-means family need no more memory for more items, beyond input, output and a few integers each."""

import tracemalloc

import numpy as np
import pytest

from itemic.sid import (
    RQOPQ,
    BalancedRQKMeans,
    BalancedRQKMeansConfig,
    HierarchicalKMeans,
    HierarchicalKMeansConfig,
    RQKMeans,
    RQKMeansConfig,
    RQKMeansFSQ,
    RQKMeansFSQConfig,
    RQOPQConfig,
)
from itemic.sid.quantizers import fsq, hierarchical

SIZES = (8, 6, 8)
WIDTH = 64
POINTS = 64
BYTES_AN_ITEM = 48
"""Six integers; a copy of the vectors would take 256 bytes an item, of their costs 32."""

KMEANS = RQKMeansConfig(max_points_per_code=POINTS)
KINDS = {
    "rqkmeans": lambda: RQKMeans(SIZES, KMEANS),
    "rqkmeans of all": lambda: RQKMeans(SIZES, RQKMeansConfig(max_points_per_code=0, num_iterations=1)),
    "balanced": lambda: BalancedRQKMeans(SIZES, BalancedRQKMeansConfig(max_points_per_code=POINTS)),
    "hierarchical": lambda: HierarchicalKMeans(SIZES[:2], HierarchicalKMeansConfig(max_points_per_code=POINTS)),
    "fsq": lambda: RQKMeansFSQ(SIZES, RQKMeansFSQConfig(kmeans=KMEANS)),
    "rqopq": lambda: RQOPQ(SIZES, RQOPQConfig(kmeans=KMEANS)),
}


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr("itemic.sid.quantizers.protocol._CELLS_AT_ONCE", 1 << 14)
    monkeypatch.setattr(hierarchical, "_ROWS_AT_ONCE", 1 << 11)
    monkeypatch.setattr(fsq, "_SAMPLE_ROWS", 1 << 10)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(24_000, WIDTH)).astype(np.float16))
    return np.load(path, mmap_mode="r")


def peak_bytes(call):
    """Returns what a call takes at most, and what it returns."""
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_four_times_the_items_take_no_more_memory(kind, mapped):
    few, many = mapped[:6000], mapped
    start = KINDS[kind]().fit(few, np.random.default_rng(0))
    prefix = np.zeros((len(many), 1), dtype=np.int64)
    calls = {
        "fit": lambda x: KINDS[kind]().fit(x, np.random.default_rng(0)),
        "fit with start": lambda x: KINDS[kind]().fit(x, np.random.default_rng(0), start=start),
        "encode": start.encode,
        "distances": lambda x: start.distances(x, prefix[: len(x)]),
    }
    for name, call in calls.items():
        (least, small), (most, large) = peak_bytes(lambda: call(few)), peak_bytes(lambda: call(many))  # noqa: B023
        if isinstance(small, np.ndarray):
            least, most = least - small.nbytes, most - large.nbytes
        allowed = 1.1 * least + BYTES_AN_ITEM * (len(many) - len(few))
        assert most <= allowed, f"{name}: {least} bytes for {len(few)} items, {most} for {len(many)}"
