import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, DataError
from itemic.sid import Catalog
from itemic.sid.collisions.settle import settle_collisions
from itemic.sid.growth import append_items
from itemic.sid.quantizers.rqkmeans import RQKMeans

SIZES = (3, 4)


def some_quantizer(seed=0):
    rng = np.random.default_rng(seed)
    quantizer = RQKMeans(SIZES)
    quantizer._codebooks = tuple(rng.normal(size=(size, 2)).astype(np.float32) for size in SIZES)
    return quantizer


def catalog_of(x, quantizer, strategy):
    settled = settle_collisions(quantizer.encode(x), SIZES, strategy, x, quantizer)
    return Catalog(
        settled.codes, [f"old {row}" for row in range(len(x))], settled.codebook_sizes, shares=settled.shares
    )


@settings(max_examples=40)
@given(
    st.sampled_from(["unique", "suffix", "sinkhorn", "share"]), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_new_items_get_sids_of_their_own_and_nobody_else_s_change(strategy, num_old, num_new, seed):
    if strategy == "suffix":
        num_new = min(num_new, 2)  # as many always find a number: half of the level is free, two at least
    rng = np.random.default_rng(seed)
    quantizer = some_quantizer(seed)
    x = rng.normal(size=(num_old + num_new, 2)).astype(np.float32)
    catalog = catalog_of(x[:num_old], quantizer, strategy)
    grown = append_items(catalog.remove([0]), quantizer, [f"new {row}" for row in range(num_new)], x[num_old:])
    np.testing.assert_array_equal(grown.codes[:num_old], catalog.codes)
    assert grown.codebook_sizes == catalog.codebook_sizes
    assert grown.descends_from(catalog.version)
    if strategy in ("unique", "suffix"):
        assert len(np.unique(grown.codes, axis=0)) == len(grown)
    if strategy in ("suffix", "share"):
        np.testing.assert_array_equal(grown.codes[num_old:, :2], quantizer.encode(x[num_old:]))
    for row in range(num_old, len(grown)):
        assert row in grown.items(grown.sid(row))


def test_a_suffix_goes_on_until_there_is_none_left():
    quantizer = some_quantizer()
    x = np.ones((1, 2), dtype=np.float32)
    catalog = catalog_of(x, quantizer, "suffix")
    assert catalog.codebook_sizes == (3, 4, 4)
    for number in (1, 2, 3):
        catalog = append_items(catalog, quantizer, [f"new {number}"], x)
        assert catalog.sid(number)[-1] == number
    with pytest.raises(
        CatalogError, match=r"1 new items find no suffix: 'one more' would be number 4 on .* 0\.\.3; refit"
    ):
        append_items(catalog, quantizer, ["one more"], x)


def test_what_does_not_fit_the_catalog_is_refused():
    quantizer = some_quantizer()
    x = np.ones((2, 2), dtype=np.float32)
    catalog = catalog_of(x, quantizer, "unique")
    with pytest.raises(CatalogError, match="'old 1' occurs twice"):
        append_items(catalog, quantizer, ["old 1"], x[:1])
    with pytest.raises(DataError, match="1 item ids, 2 vectors"):
        append_items(catalog, quantizer, ["new"], x)
    with pytest.raises(DataError, match="new item 'b' holds NaN"):
        append_items(catalog, quantizer, ["a", "b"], np.array([[0, 0], [0, np.nan]], dtype=np.float32))
    with pytest.raises(CatalogError, match=r"codebook sizes \(2,\), the quantizer \(3, 4\): it did not make"):
        append_items(Catalog(np.array([[0]]), ["x"], (2,)), quantizer, ["new"], x[:1])
