import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import CatalogError
from itemic.sid.quality import collisions, level_use, measure_quality, reconstruction
from itemic.sid.quantizers.rqkmeans import RQKMeans


def test_collisions_by_hand():
    codes = np.array([[0, 1], [0, 1], [0, 1], [2, 0], [1, 1]])
    assert collisions(codes) == {"rate": 1 - 3 / 5, "share_of_items": 3 / 5, "max_items": 3}


def test_codebook_use_by_hand():
    use = level_use(np.array([0, 0, 1, 3]), 4)
    assert use["num_used"] == 3
    assert use["share_used"] == 3 / 4
    assert use["counts"] == [2, 1, 0, 1]
    assert use["entropy"] == pytest.approx(1 / 2 * math.log(2) + 1 / 2 * math.log(4))
    assert use["perplexity"] == pytest.approx(2**1.5)


def test_equal_use_of_all_codes_has_their_number_as_perplexity():
    assert level_use(np.arange(6), 6)["perplexity"] == pytest.approx(6)
    assert level_use(np.zeros(6, dtype=np.int64), 6)["perplexity"] == 1


def test_reconstruction_by_hand():
    x = np.array([[0.0, 0.0], [2.0, 4.0]], dtype=np.float32)
    quantizer = RQKMeans.from_codes(x, np.zeros((2, 1), dtype=np.int64), (1,))
    # One code, the mean (1, 2), explains nothing: squared error 1 + 4 for each item, over 4 numbers.
    assert reconstruction(np.zeros((2, 1), dtype=np.int64), x, quantizer) == {"mse": 10 / 4, "relative": 1}
    assert reconstruction(np.array([[0], [1]]), x, RQKMeans.from_codes(x, np.array([[0], [1]]), (2,)))["mse"] == 0


def test_vectors_without_variance_have_no_relative_error():
    x = np.ones((3, 2), dtype=np.float32)
    codes = np.zeros((3, 1), dtype=np.int64)
    assert reconstruction(codes, x, RQKMeans.from_codes(x, codes, (1,)))["relative"] is None


def test_quality_tells_before_from_after_and_is_json():
    x = np.array([[0.0], [0.0], [1.0]], dtype=np.float32)
    before, after = np.array([[0], [0], [2]]), np.array([[0], [1], [2]])
    figures = measure_quality(before, after, (3,), x, RQKMeans.from_codes(x, before, (3,)))
    assert figures["collisions"]["before"]["rate"] == 1 - 2 / 3
    assert figures["collisions"]["after"]["rate"] == 0
    assert figures["share_moved"] == 1 / 3
    assert figures["levels"][0]["num_used"] == 3
    assert figures["reconstruction"]["before"]["mse"] == 0
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert measure_quality(before, after, (3,))["reconstruction"] is None


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 2**32))
def test_figures_lie_where_they_must(num_items, size, seed):
    codes = np.random.default_rng(seed).integers(0, size, size=(num_items, 2))
    figures = collisions(codes)
    assert 0 <= figures["rate"] < 1
    assert figures["rate"] <= figures["share_of_items"] <= 1
    use = level_use(codes[:, 0], size)
    assert 1 - 1e-9 <= use["perplexity"] <= use["num_used"] + 1e-9
    assert sum(use["counts"]) == num_items


def test_a_level_that_was_added_moves_nobody():
    before, after = np.array([[0], [0], [2]]), np.array([[0, 0], [0, 1], [2, 0]])
    x = np.array([[0.0], [0.0], [1.0]], dtype=np.float32)
    figures = measure_quality(before, after, (3, 2), x, RQKMeans.from_codes(x, before, (3,)))
    assert figures["share_moved"] == 0
    assert figures["reconstruction"]["before"] == figures["reconstruction"]["after"]
    assert len(figures["levels"]) == len(figures["prefixes"]) == 2
    with pytest.raises(CatalogError, match="2 levels of codes, but codebook sizes"):
        measure_quality(before, after, (3,))


def test_every_figure_is_there_and_the_same_for_the_same_rng():
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, size=(50, 3))
    quantizer = RQKMeans.from_codes(x, codes, (4, 4, 4))
    labels = {"brand": ["a", "b"] * 25, "genres": [("x", "y"), None] * 25}
    figures, again = (
        measure_quality(codes, codes, (4, 4, 4), x, quantizer, labels=labels, rng=np.random.default_rng(7))
        for _ in range(2)
    )
    assert figures == again == json.loads(json.dumps(figures, allow_nan=False))
    assert figures["neighbourhood"]["k"] == 10
    assert figures["neighbourhood"]["num_queries"] == 50
    assert len(figures["reconstruction"]["by_length"]) == len(figures["neighbourhood"]["by_length"]) == 3
    assert len(figures["similarity"]) == 4
    assert set(figures["distance_correlation"]) == {"random_pairs", "stratified"}
    assert list(figures["purity"]) == ["brand", "genres"]


def test_items_that_do_not_count_are_as_if_they_were_not_there():
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, size=(40, 2))
    before = codes.copy()
    before[:5, 1] = 0
    quantizer = RQKMeans.from_codes(x, codes, (3, 3))
    active = np.arange(40) % 3 > 0
    brands = [f"b{row % 4}" for row in range(40)]
    figures = measure_quality(before, codes, (3, 3), x, quantizer, labels={"brand": brands}, active=active)
    kept = [brand for brand, stays in zip(brands, active, strict=True) if stays]
    alone = measure_quality(before[active], codes[active], (3, 3), x[active], quantizer, labels={"brand": kept})
    assert figures == alone
    assert figures["num_items"] == active.sum() == sum(figures["levels"][0]["counts"])


def test_one_item_and_no_vectors_are_enough_for_figures():
    codes = np.array([[1, 0]])
    x = np.ones((1, 2), dtype=np.float32)
    figures = measure_quality(codes, codes, (2, 1), x, RQKMeans.from_codes(x, codes, (2, 1)), labels={"brand": ["a"]})
    assert figures["neighbourhood"] is None
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    bare = measure_quality(codes, codes, (2, 1))
    assert bare["similarity"] is bare["distance_correlation"] is bare["neighbourhood"] is None
    assert bare["purity"] == {}


def test_neighbours_in_the_log_are_looked_for_among_items_that_it_knows():
    """Items 0, 1 go together in the log, as do 2, 3; nothing is known of 4; codes agree with the log on one pair."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [0, 2], [1, 1]])
    log_vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0, 0]])
    figures = measure_quality(codes, codes, (2, 3), log_vectors=log_vectors)["log_neighbourhood"]
    assert figures["num_queries"] == 4
    assert figures["k"] == 3
    assert figures["by_length"][0]["recall"] == pytest.approx(6 / 12)
    assert measure_quality(codes, codes, (2, 3))["log_neighbourhood"] is None
    nothing = measure_quality(codes, codes, (2, 3), log_vectors=np.zeros((5, 2)))
    assert nothing["log_neighbourhood"] is None
