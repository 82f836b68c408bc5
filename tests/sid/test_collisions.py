import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import itemic.sid.collisions.unique
from itemic.core.errors import CatalogError
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.quality import collisions
from itemic.sid.quantizers.rqkmeans import RQKMeans

codebook_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
seeds = st.integers(0, 2**32)


def quantizer_with(*codebooks):
    """A quantizer with exactly these codebooks: the codes of items that lie on every sum of centroids."""
    quantizer = RQKMeans([len(centroids) for centroids in codebooks])
    quantizer._codebooks = tuple(np.array(centroids, dtype=np.float32) for centroids in codebooks)
    return quantizer


def random_quantizer(sizes, width, rng):
    return quantizer_with(*(rng.normal(size=(size, width)) * 0.5**level for level, size in enumerate(sizes)))


def vectors_of_kind(kind, num_items, width, rng):
    x = rng.normal(size=(num_items, width)).astype(np.float32)
    if kind == "identical":
        x[:] = x[:1]
    if kind == "half identical":
        x[: num_items // 2] = x[:1]
    if kind == "clustered":
        x = x[rng.integers(0, max(1, num_items // 5), size=num_items)] + 0.01 * x
    return x


def test_nearest_item_keeps_its_code_and_the_other_takes_the_nearest_free_one():
    quantizer = quantizer_with([[0.0]], [[0.0], [1.0], [3.0]])
    x = np.array([[0.2], [0.1], [3.0]], dtype=np.float32)
    codes = quantizer.encode(x)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 2]]
    assert resolve_unique(codes, x, quantizer).tolist() == [[0, 1], [0, 0], [0, 2]]


def test_movers_are_assigned_by_the_least_sum_of_distances():
    # Item 0 keeps code 0. To codes 1 and 2 item 1 costs 1.69 and .49, item 2 costs 1.96 and .36. Both would rather
    # have code 2; 1.69 + .36 is less than .49 + 1.96, so item 2 gets it although item 1 comes first.
    quantizer = quantizer_with([[0.0]], [[0.0], [1.0], [-1.0], [9.0]])
    x = np.array([[0.0], [-0.3], [-0.4]], dtype=np.float32)
    codes = np.zeros((3, 2), dtype=np.int64)
    assert resolve_unique(codes, x, quantizer).tolist() == [[0, 0], [0, 1], [0, 2]]


def test_equal_distances_leave_the_code_to_the_lower_row():
    quantizer = quantizer_with([[0.0]], [[0.0], [1.0]])
    x = np.zeros((2, 1), dtype=np.float32)
    assert resolve_unique(np.zeros((2, 2), dtype=np.int64), x, quantizer).tolist() == [[0, 0], [0, 1]]


def test_overfull_prefix_spills_the_item_that_loses_least():
    # Three items for the two last codes under prefix 0; item 1 lies nearest to prefix 1.
    quantizer = quantizer_with([[0.0], [4.0]], [[0.0], [0.5]])
    x = np.array([[0.0], [1.9], [0.6]], dtype=np.float32)
    codes = quantizer.encode(x)
    assert codes[:, 0].tolist() == [0, 0, 0]
    assert resolve_unique(codes, x, quantizer).tolist() == [[0, 0], [1, 0], [0, 1]]


def test_spilled_items_go_to_the_next_nearest_prefix_with_room():
    # All four items on prefix 0; prefixes 1, 2, 3 lie ever farther and hold one item each, one of 1 is taken.
    quantizer = quantizer_with([[0.0], [1.0], [2.0], [3.0]], [[0.0]])
    x = np.array([[0.0], [0.1], [0.2], [0.3]], dtype=np.float32)
    assert resolve_unique(np.zeros((4, 2), dtype=np.int64), x, quantizer)[:, 0].tolist() == [0, 3, 2, 1]
    taken = np.array([[1, 0]])
    assert resolve_unique(np.zeros((3, 2), dtype=np.int64), x[:3], quantizer, taken)[:, 0].tolist() == [0, 3, 2]


@settings(max_examples=80)
@given(codebook_sizes, seeds, st.sampled_from(["random", "identical", "half identical", "clustered"]), st.booleans())
def test_codes_become_unique_and_lonely_items_stay(sizes, seed, kind, full):
    rng = np.random.default_rng(seed)
    num_items = math.prod(sizes) if full else int(rng.integers(1, math.prod(sizes), endpoint=True))
    quantizer = random_quantizer(sizes, 3, rng)
    x = vectors_of_kind(kind, num_items, 3, rng)
    codes = quantizer.encode(x)
    unique = resolve_unique(codes, x, quantizer)
    assert collisions(unique)["rate"] == 0
    assert (unique >= 0).all()
    assert (unique < np.array(sizes)).all()
    _assert_roomy_prefixes_stay(codes, unique, sizes)
    np.testing.assert_array_equal(unique, resolve_unique(codes, x, quantizer))
    np.testing.assert_array_equal(unique, resolve_unique(unique, x, quantizer))


def _assert_roomy_prefixes_stay(codes, unique, sizes):
    """An item may leave a prefix only if the prefix, or the one it is part of, holds more than it has room for."""
    for level in range(1, len(sizes)):
        _, group, count = np.unique(codes[:, :level], axis=0, return_inverse=True, return_counts=True)
        if (count <= math.prod(sizes[level:])).all():
            np.testing.assert_array_equal(unique[:, :level], codes[:, :level])
        else:
            break
    _, group, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    if (unique[:, :-1] == codes[:, :-1]).all():
        lonely = count[group.ravel()] == 1
        np.testing.assert_array_equal(unique[lonely], codes[lonely])


@settings(max_examples=60)
@given(codebook_sizes, seeds)
def test_new_items_take_only_free_codes(sizes, seed):
    rng = np.random.default_rng(seed)
    every_sid = rng.permutation(np.indices(sizes).reshape(len(sizes), -1).T)
    num_taken = int(rng.integers(0, len(every_sid)))
    taken = every_sid[:num_taken]
    num_new = int(rng.integers(1, len(every_sid) - num_taken, endpoint=True))
    quantizer = random_quantizer(sizes, 3, rng)
    x = vectors_of_kind("clustered", num_new, 3, rng)
    codes = quantizer.encode(x)
    unique = resolve_unique(codes, x, quantizer, taken)
    assert collisions(np.concatenate([taken, unique]))["rate"] == 0
    if collisions(np.concatenate([taken, codes]))["rate"] == 0:
        np.testing.assert_array_equal(unique, codes)


def test_input_is_not_written():
    quantizer = quantizer_with([[0.0]], [[0.0], [1.0]])
    codes = np.zeros((2, 2), dtype=np.int64)
    resolve_unique(codes, np.zeros((2, 1), dtype=np.float32), quantizer)
    assert codes.tolist() == [[0, 0], [0, 0]]


def test_more_items_than_sids_are_refused_with_the_remedy():
    quantizer = quantizer_with([[0.0], [1.0]], [[0.0], [1.0]])
    x = np.zeros((3, 1), dtype=np.float32)
    taken = np.array([[0, 0], [0, 1]])
    with pytest.raises(CatalogError, match=r"5 items cannot have unique SIDs: .* spell only 4; make a codebook larger"):
        resolve_unique(np.zeros((3, 2), dtype=np.int64), x, quantizer, taken)


def test_a_taken_sid_that_items_share_counts_once():
    quantizer = quantizer_with([[0.0], [1.0]], [[0.0], [1.0]])
    taken = np.array([[0, 0], [0, 0], [0, 0]])
    unique = resolve_unique(np.zeros((3, 2), dtype=np.int64), np.zeros((3, 1), dtype=np.float32), quantizer, taken)
    assert sorted(map(tuple, unique.tolist())) == [(0, 1), (1, 0), (1, 1)]


def test_pieces_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    quantizer = random_quantizer((6, 5, 2), 3, rng)
    x = vectors_of_kind("half identical", 58, 3, rng)
    codes = quantizer.encode(x)
    whole = resolve_unique(codes, x, quantizer)
    monkeypatch.setattr(itemic.sid.collisions.unique, "_CELLS_AT_ONCE", 7)
    np.testing.assert_array_equal(resolve_unique(codes, x, quantizer), whole)


def test_thousand_identical_items_fill_every_sid():
    quantizer = random_quantizer((10, 10, 10), 4, np.random.default_rng(0))
    x = np.ones((1000, 4), dtype=np.float32)
    unique = resolve_unique(quantizer.encode(x), x, quantizer)
    assert collisions(unique)["max_items"] == 1
