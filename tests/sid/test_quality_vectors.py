import numpy as np
import pytest

from itemic.sid.quality import (
    distance_correlation,
    nearest_items,
    neighbourhood_recall,
    prefix_reconstruction,
    prefix_similarity,
    reconstruction,
)
from itemic.sid.quality import neighbours as neighbours_module
from itemic.sid.quality.prefixes import prefix_ids
from itemic.sid.quantizers.rqkmeans import RQKMeans

RNG = np.random.default_rng


def on_circle(*degrees):
    angle = np.deg2rad(np.array(degrees, dtype=np.float64))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_nearest_items_by_hand():
    x = on_circle(0, 10, 30, 180) * np.array([[1.0], [9.0], [0.1], [3.0]], dtype=np.float32)
    assert nearest_items(x, np.arange(4), 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_nearest_items_among_some():
    x = on_circle(0, 10, 30, 180)
    assert nearest_items(x, np.array([0, 3]), 2, np.array([True, False, True, True])).tolist() == [[2, 3], [2, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nearest_items_in_pieces_equal_a_full_sort(dtype, monkeypatch):
    monkeypatch.setattr(neighbours_module, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(neighbours_module, "_QUERIES_AT_ONCE", 5)
    x = RNG(0).normal(size=(60, 8)).astype(dtype)
    queries = RNG(1).choice(60, size=23, replace=False)
    units = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = units[queries] @ units.T
    cosine[np.arange(23), queries] = -np.inf
    assert nearest_items(x, queries, 6).tolist() == np.argsort(-cosine, axis=1)[:, :6].tolist()


def test_neighbourhood_recall_by_hand():
    ids = prefix_ids(np.array([[0, 0], [0, 0], [0, 1], [1, 0]]))
    nearest = np.array([[1, 2], [0, 3], [3, 0], [2, 1]])
    first, second = neighbourhood_recall(ids, nearest, np.arange(4))
    assert first["recall"] == pytest.approx((2 + 1 + 1 + 0) / 8)
    assert first["chance"] == pytest.approx(6 / 12)
    assert first["lift"] == pytest.approx(1)
    assert first["ceiling"] == pytest.approx((2 + 2 + 2 + 0) / 8)
    assert second["recall"] == pytest.approx((1 + 1 + 0 + 0) / 8)
    assert second["lift"] == pytest.approx(2 / 8 / (2 / 12))
    assert second["ceiling"] == pytest.approx((1 + 1 + 0 + 0) / 8)


def test_unique_codes_have_no_lift():
    ids = prefix_ids(np.arange(3)[:, None])
    figures = neighbourhood_recall(ids, np.array([[1], [2], [0]]), np.arange(3))
    assert figures == [{"recall": 0, "chance": 0, "lift": None, "ceiling": 0}]


def test_similarity_under_a_prefix_by_hand():
    ids = prefix_ids(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    overall, first, second = prefix_similarity(ids, on_circle(0, 60, 180, 240), 4000, RNG(0))
    # Partners stand 60 degrees apart; the other pairs 180, 120, 180 and 120: cosines 1/2, -1 and -1/2.
    assert first == pytest.approx(1 / 2)
    assert overall == pytest.approx((2 * 1 / 2 - 2 * 1 - 2 * 1 / 2) / 6, abs=0.05)
    assert second is None


def test_correlation_is_one_where_sid_distance_is_the_order_of_distances():
    codes = np.array([[0], [0], [1], [1]])
    # Two directions alone: items of one code are at distance 0, all others at distance 1.
    figures = distance_correlation(codes, prefix_ids(codes), on_circle(0, 0, 90, 90), 500, RNG(0))
    assert figures == {"random_pairs": pytest.approx(1), "stratified": pytest.approx(1)}


def test_correlation_is_minus_one_where_like_codes_are_far():
    codes = np.array([[0], [0], [1], [1]])
    # Items of one code are opposite, all others at a right angle.
    figures = distance_correlation(codes, prefix_ids(codes), on_circle(0, 180, 90, 270), 500, RNG(0))
    assert figures["random_pairs"] == pytest.approx(-1)
    assert figures["stratified"] == pytest.approx(-1)


def test_correlation_is_null_where_a_distance_never_varies():
    codes = np.arange(3)[:, None]
    figures = distance_correlation(codes, prefix_ids(codes), on_circle(0, 10, 90), 50, RNG(0))
    assert figures == {"random_pairs": None, "stratified": None}


def test_every_level_of_residual_codes_explains_more():
    x = np.array([[0.0], [1.0], [10.0], [13.0]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    quantizer = RQKMeans.from_codes(x, codes, (2, 2))
    first, second = prefix_reconstruction(codes, x, quantizer)
    # Means 1/2 and 23/2 leave errors of 1/2 twice and 3/2 twice.
    assert first["mse"] == pytest.approx((2 * 1 / 4 + 2 * 9 / 4) / 4)
    # Residuals -1/2 and -3/2 have mean -1, so that every error is 1/2.
    assert second["mse"] == pytest.approx(1 / 4)
    assert second == pytest.approx(reconstruction(codes, x, quantizer))
