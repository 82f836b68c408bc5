import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError
from itemic.sid.collisions.settle import settle_collisions
from itemic.sid.collisions.suffix import add_suffix, suffix_size
from itemic.sid.quality import collisions
from itemic.sid.quantizers.rqkmeans import RQKMeans


def quantizer_with(*codebooks):
    quantizer = RQKMeans([len(centroids) for centroids in codebooks])
    quantizer._codebooks = tuple(np.array(centroids, dtype=np.float32) for centroids in codebooks)
    return quantizer


def test_the_nearest_item_of_a_sid_is_number_0_and_ties_go_by_row():
    quantizer = quantizer_with([[0.0]], [[0.0], [1.0]])
    x = np.array([[0.3], [0.1], [1.0], [0.3]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 0], [0, 1], [0, 0]])
    assert add_suffix(codes, x, quantizer).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 2]]
    assert add_suffix(codes).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 2]]


def test_numbers_go_on_after_the_highest_that_is_taken():
    taken = np.array([[0, 0], [0, 4], [2, 1]])
    assert add_suffix(np.array([[0], [0], [1], [2]]), taken=taken).tolist() == [[0, 5], [0, 6], [1, 0], [2, 2]]
    assert add_suffix(np.empty((0, 1), dtype=np.int64), taken=taken).shape == (0, 2)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**32))
def test_items_and_those_that_come_later_never_meet(num_codes, num_items, num_later, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(num_codes, size=(num_items, 2))
    later = rng.integers(num_codes, size=(num_later, 2))
    suffixed = add_suffix(codes)
    np.testing.assert_array_equal(suffixed[:, :-1], codes)
    everything = np.concatenate([suffixed, add_suffix(later, taken=suffixed)])
    assert collisions(everything)["rate"] == 0
    counts = np.unique(np.concatenate([codes, later]), axis=0, return_counts=True)[1]
    assert everything[:, -1].max() == counts.max() - 1


def test_the_level_has_room_for_as_many_items_again():
    for num_used, size in [(1, 4), (2, 4), (3, 8), (4, 8), (5, 16), (32_768, 65_536)]:
        assert suffix_size(np.arange(num_used)) == size
    with pytest.raises(
        CatalogError, match=r"32769 items share one SID: .* 131072 codes, .*; make codebook_sizes larger"
    ):
        suffix_size(np.arange(32_769))


def test_every_sid_gets_the_level_even_where_nothing_collides():
    settled = settle_collisions(np.array([[0], [1]]), (2,), "suffix")
    assert settled.codes.tolist() == [[0, 0], [1, 0]]
    assert (settled.codebook_sizes, settled.shares) == ((2, 4), False)
