"""Unique codes whatever the catalogue and whatever the quantizer: what must hold, on inputs made to break it."""

import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError
from itemic.sid import Quantizer, resolve_unique
from itemic.sid.quality import collisions
from itemic.sid.quantizers.protocol import complete_codes


class FakeQuantizer:
    """Costs that need not come from any codebook; a vector is the row's number."""

    kind: ClassVar[str] = "fake"
    codebooks = ()

    def __init__(self, sizes, cost):
        self.codebook_sizes = tuple(sizes)
        self._cost = cost

    def distances(self, x, prefix):
        return self._cost(x[:, 0].astype(np.int64), prefix, self.codebook_sizes[prefix.shape[1]])

    def encode(self, x):
        return complete_codes(self, x, np.empty((len(x), 0), dtype=np.int64))

    def fit(self, x, rng, *, start=None):
        return self

    def decode(self, codes):
        raise NotImplementedError

    def save(self, path):
        raise NotImplementedError

    @classmethod
    def load(cls, path):
        raise NotImplementedError


def no_preference(row, prefix, size):
    return np.zeros((len(row), size), dtype=np.float32)


def first_codes(row, prefix, size):
    return np.tile(np.arange(size, dtype=np.float32), (len(row), 1))


def scattered(row, prefix, size):
    """Any number, another under each prefix: nothing like a distance."""
    seed = row[:, None] * 31 + (prefix.sum(axis=1) if prefix.shape[1] else 0 * row)[:, None] * 17
    return ((seed + np.arange(size)) * 2_654_435_761 % 1000).astype(np.float32)


def half_on_one(row, prefix, size):
    """Even rows want code 0 at every level, odd ones any."""
    return np.where(row[:, None] % 2 == 0, first_codes(row, prefix, size), scattered(row, prefix, size))


COSTS = [no_preference, first_codes, scattered, half_on_one]
codebook_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def numbered(num_items):
    return np.arange(num_items, dtype=np.float32)[:, None]


def crowded_below(codes, sizes):
    """Whether some prefix of one code or more has more items than SIDs."""
    for level in range(1, len(sizes)):
        counts = np.unique(codes[:, :level], axis=0, return_counts=True)[1]
        if counts.max() > math.prod(sizes[level:]):
            return True
    return False


def assert_settled(codes, unique, sizes, taken=None):
    everything = unique if taken is None else np.concatenate([np.unique(taken, axis=0), unique])
    assert collisions(everything)["rate"] == 0, "unique, and none taken"
    assert (unique >= 0).all()
    assert (unique < np.array(sizes)).all()
    if taken is None and not crowded_below(codes, sizes):
        np.testing.assert_array_equal(unique[:, :-1], codes[:, :-1], "only last codes change")
        num_moved = int((unique != codes).any(axis=1).sum())
        assert num_moved == len(codes) - len(np.unique(codes, axis=0)), "one item stays on every SID"


def test_the_fake_is_a_quantizer():
    assert isinstance(FakeQuantizer((2,), no_preference), Quantizer)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("sizes", [(4, 4, 4), (1, 8), (8, 1), (1, 1, 9), (3, 1, 5, 1), (7,), (2, 9, 3)])
@pytest.mark.parametrize("missing", [0, 1])
def test_a_code_space_that_is_full_or_almost_full(cost, sizes, missing):
    x = numbered(math.prod(sizes) - missing)
    quantizer = FakeQuantizer(sizes, cost)
    codes = quantizer.encode(x)
    unique = resolve_unique(codes, x, quantizer)
    assert_settled(codes, unique, sizes)
    np.testing.assert_array_equal(unique, resolve_unique(codes, x, quantizer))


@pytest.mark.parametrize("cost", COSTS)
def test_taken_sids_that_fill_whole_prefixes(cost):
    sizes = (3, 3, 4)
    every = np.indices(sizes).reshape(3, -1).T
    taken = every[(every[:, 0] == 0) | ((every[:, 0] == 1) & (every[:, 1] < 2))]
    for num_items in (1, 7, len(every) - len(taken)):
        x = numbered(num_items)
        quantizer = FakeQuantizer(sizes, cost)
        codes = quantizer.encode(x)
        unique = resolve_unique(codes, x, quantizer, taken)
        assert_settled(codes, unique, sizes, taken)


def test_codes_from_elsewhere_may_all_be_the_same():
    quantizer = FakeQuantizer((5, 5, 5), scattered)
    x, codes = numbered(125), np.full((125, 3), 4)
    assert_settled(codes, resolve_unique(codes, x, quantizer), (5, 5, 5))


@settings(max_examples=80)
@given(codebook_sizes, st.sampled_from(COSTS), st.data())
def test_any_catalogue_beside_any_taken_sids(sizes, cost, data):
    num_sids = math.prod(sizes)
    num_taken = data.draw(st.integers(0, num_sids - 1))
    num_items = data.draw(st.integers(1, num_sids - num_taken))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    taken = rng.permutation(np.indices(sizes).reshape(len(sizes), -1).T)[:num_taken]
    x, quantizer = numbered(num_items), FakeQuantizer(sizes, cost)
    codes = quantizer.encode(x)
    if data.draw(st.booleans()):
        codes = np.stack([rng.integers(size, size=num_items) for size in sizes], axis=1)
    unique = resolve_unique(codes, x, quantizer, taken if num_taken else None)
    assert_settled(codes, unique, sizes, taken if num_taken else None)
    np.testing.assert_array_equal(unique, resolve_unique(codes, x, quantizer, taken if num_taken else None))


def test_a_lonely_item_stays_whatever_happens_elsewhere():
    """Prefix 0 is over-full and spills into 1; the only item of prefix 2 does not move for that."""
    sizes = (3, 4)
    codes = np.array([[0, 0]] * 6 + [[2, 3]])
    x, quantizer = numbered(7), FakeQuantizer(sizes, first_codes)
    unique = resolve_unique(codes, x, quantizer)
    assert unique[6].tolist() == [2, 3]
    assert (unique[:6, 0] == 0).sum() == 4


def test_one_item_too_many_is_refused():
    quantizer = FakeQuantizer((2, 3), no_preference)
    with pytest.raises(CatalogError, match=r"7 items cannot have unique SIDs: .* spell only 6; make a codebook larger"):
        resolve_unique(np.zeros((7, 2), dtype=np.int64), numbered(7), quantizer)
