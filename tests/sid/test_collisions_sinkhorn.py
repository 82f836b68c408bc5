import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import itemic.sid.collisions.sinkhorn
from itemic.core.errors import CatalogError
from itemic.sid.collisions.settle import settle_collisions
from itemic.sid.collisions.sinkhorn import resolve_sinkhorn, sinkhorn_assignment
from itemic.sid.quality import collisions
from itemic.sid.quantizers.rqkmeans import RQKMeans


def random_quantizer(sizes, width, rng):
    quantizer = RQKMeans(sizes)
    quantizer._codebooks = tuple(
        rng.normal(size=(size, width)).astype(np.float32) * 0.5**level for level, size in enumerate(sizes)
    )
    return quantizer


def plain_sinkhorn(distance, epsilon=0.003, num_iterations=50):
    """The iteration as it is usually written, on probabilities; enough digits only where distances are moderate."""
    middle = (distance.max() + distance.min()) / 2
    q = np.exp(-(distance - middle) / (distance.max() - middle + 1e-5) / epsilon)
    q /= q.sum()
    for _ in range(num_iterations):
        q /= q.sum(axis=1, keepdims=True) * len(q)
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return q.argmax(axis=1)


def test_two_items_that_want_one_code_part():
    distance = np.array([[[0.1, 0.5], [0.2, 0.4]]])
    assert sinkhorn_assignment(distance).tolist() == [[0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_at_once_equal_the_plain_iteration_of_each(seed):
    distance = np.random.default_rng(seed).random((3, 4, 6))
    for epsilon in (0.05, 0.003):
        expected = [plain_sinkhorn(one, epsilon).tolist() for one in distance]
        assert sinkhorn_assignment(distance, epsilon).tolist() == expected


def test_small_epsilons_neither_overflow_nor_divide_by_zero():
    distance = np.random.default_rng(0).random((1, 8, 8)) * 1e6
    assert len(np.unique(sinkhorn_assignment(distance))) >= 6
    assert sinkhorn_assignment(np.zeros((1, 2, 3))).shape == (1, 2)
    assert len(np.unique(sinkhorn_assignment(distance, epsilon=1e-6))) > 1


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 2**32))
def test_it_is_never_worse_and_only_last_codes_change(sizes, num_items, seed):
    rng = np.random.default_rng(seed)
    quantizer = random_quantizer(sizes, 3, rng)
    x = rng.normal(size=(num_items, 3)).astype(np.float32)
    codes = quantizer.encode(x)
    balanced = resolve_sinkhorn(codes, x, quantizer)
    assert collisions(balanced)["rate"] <= collisions(codes)["rate"]
    np.testing.assert_array_equal(balanced[:, :-1], codes[:, :-1])
    assert (balanced < np.array(sizes)).all()
    np.testing.assert_array_equal(balanced, resolve_sinkhorn(codes, x, quantizer))


def test_pieces_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    quantizer = random_quantizer((3, 8), 3, rng)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    codes = quantizer.encode(x)
    whole = resolve_sinkhorn(codes, x, quantizer)
    assert collisions(whole)["rate"] < collisions(codes)["rate"]
    monkeypatch.setattr(itemic.sid.collisions.sinkhorn, "_CELLS_AT_ONCE", 9)
    np.testing.assert_array_equal(resolve_sinkhorn(codes, x, quantizer), whole)


def test_groups_larger_than_the_last_codebook_stay_and_are_named(caplog, monkeypatch):
    rng = np.random.default_rng(0)
    quantizer = random_quantizer((2, 4), 2, rng)
    codes = np.array([[0, 1]] * 5 + [[1, 2]] * 3)
    x = rng.normal(size=(8, 2)).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="itemic"):
        balanced = resolve_sinkhorn(codes, x, quantizer)
    np.testing.assert_array_equal(balanced[:5], codes[:5])
    assert len(np.unique(balanced[5:], axis=0)) == 3
    assert "sinkhorn leaves 5 items on 1 SIDs as they are: more than 4 items on one SID" in caplog.text
    monkeypatch.setattr(itemic.sid.collisions.sinkhorn, "_MOST_CELLS", 11)
    np.testing.assert_array_equal(resolve_sinkhorn(codes, x, quantizer), codes, "three items of four codes are 12")


def test_what_remains_is_shared_and_said(caplog):
    rng = np.random.default_rng(0)
    quantizer = random_quantizer((3, 8), 3, rng)
    x = np.concatenate([np.ones((2, 3)), rng.normal(size=(3, 3))]).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="itemic"):
        settled = settle_collisions(quantizer.encode(x), (3, 8), "sinkhorn", x, quantizer)
    assert settled.shares
    assert "leaves 1 of 5 items without a SID of their own (before: 1); collisions: unique leaves none" in caplog.text


def test_a_catalog_that_became_unique_does_not_share():
    quantizer = random_quantizer((1, 4), 1, np.random.default_rng(1))
    x = np.array([[0.2], [0.21]], dtype=np.float32)
    settled = settle_collisions(quantizer.encode(x), (1, 4), "sinkhorn", x, quantizer)
    assert not settled.shares
    assert settled.codes[0].tolist() != settled.codes[1].tolist()


def test_vectors_are_needed():
    with pytest.raises(CatalogError, match="needs embeddings"):
        settle_collisions(np.zeros((2, 1), dtype=np.int64), (2,), "sinkhorn")
