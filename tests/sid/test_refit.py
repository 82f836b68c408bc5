import numpy as np
import pytest

from itemic.core.errors import CatalogError
from itemic.sid import Catalog, RQKMeans, RQKMeansConfig
from itemic.sid.collisions.settle import settle_collisions
from itemic.sid.refit import code_mapping, refit_catalog

SIZES = (6, 4)


def vectors(num_items, seed=0):
    """Six far places with four near ones each, so that a fit finds the same codes from any sample."""
    rng = np.random.default_rng(seed)
    place = np.arange(num_items) % 24
    centres = np.random.default_rng(9).normal(size=(6, 8)) * 10
    steps = np.random.default_rng(10).normal(size=(4, 8))
    return (centres[place % 6] + steps[place // 6] + 0.01 * rng.normal(size=(num_items, 8))).astype(np.float32)


def coded(x, strategy="unique", removed=()):
    quantizer = RQKMeans(SIZES, RQKMeansConfig()).fit(x, np.random.default_rng(0))
    settled = settle_collisions(quantizer.encode(x), SIZES, strategy, x, quantizer)
    ids = [f"id {row}" for row in range(len(x))]
    catalog = Catalog(settled.codes, ids, settled.codebook_sizes, shares=settled.shares, spelling="wrapped")
    return catalog.remove(list(removed)), quantizer


def test_items_that_did_not_change_keep_their_codes():
    x = vectors(24)
    catalog, quantizer = coded(x)
    result = refit_catalog(catalog, quantizer, x, np.random.default_rng(1))
    np.testing.assert_array_equal(result.catalog.codes, catalog.codes)
    assert result.mapping["changed_level"].null_count() == 24
    assert result.summary == {"num_items": 24, "num_active": 24, "share_with_same_prefix": [1.0, 1.0]}


def test_a_refit_is_a_line_of_its_own_that_says_where_it_is_from():
    x = vectors(20)
    catalog, quantizer = coded(x, removed=[3])
    before = [codebook.copy() for codebook in quantizer.codebooks]
    others = x[::-1].copy()
    renewed = refit_catalog(catalog, quantizer, others, np.random.default_rng(1)).catalog
    assert not renewed.descends_from(catalog.version)
    assert (renewed.refit_of, renewed.parents) == (catalog.version, ())
    assert [earlier.version for earlier in renewed.before_refit] == [catalog.version, catalog.parents[0].version]
    assert (renewed.item_ids, renewed.spelling) == (catalog.item_ids, "wrapped")
    np.testing.assert_array_equal(renewed.active, catalog.active)
    for codebook, codebook_before in zip(quantizer.codebooks, before, strict=True):
        np.testing.assert_array_equal(codebook, codebook_before, "the old quantizer is left alone")


@pytest.mark.parametrize("strategy", ["unique", "suffix", "sinkhorn", "share"])
def test_removed_items_are_coded_too_and_after_the_others(strategy):
    x = np.concatenate([vectors(15), vectors(4)])
    catalog, quantizer = coded(x, strategy, removed=[0, 1])
    result = refit_catalog(catalog, quantizer, x, np.random.default_rng(1), strategy)
    renewed, fresh = result.catalog, result.quantizer.encode(x)
    alone = settle_collisions(fresh[2:], SIZES, strategy, x[2:], result.quantizer)
    np.testing.assert_array_equal(renewed.codes[2:], alone.codes, "the active items, as if there were no others")
    assert renewed.shares == alone.shares
    if strategy in ("unique", "suffix"):
        assert len(np.unique(renewed.codes, axis=0)) == len(x)
    if strategy in ("suffix", "share"):
        np.testing.assert_array_equal(renewed.codes[:, :2], fresh)
    if strategy == "suffix":
        assert renewed.codebook_sizes[:2] == SIZES
        assert renewed.codebook_sizes[2] >= 2 * (renewed.codes[:, 2].max() + 1)


def test_the_mapping_names_the_first_level_that_differs():
    old = Catalog(np.array([[0, 0], [0, 1], [1, 0]]), ["a", "b", "c"], (2, 2))
    new = Catalog(np.array([[0, 0], [0, 2], [0, 1]]), ["a", "b", "c"], (2, 3))
    table = code_mapping(old, new)
    assert table.columns == ["item_index", "item_id", "active", "old_codes", "new_codes", "changed_level"]
    assert table["changed_level"].to_list() == [None, 1, 0]
    assert table["old_codes"].to_list()[1] == [0, 1]
    longer = Catalog(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0]]), ["a", "b", "c"], (2, 2, 4))
    assert code_mapping(old, longer)["changed_level"].to_list() == [2, 2, 1]


def test_too_few_active_items_are_refused():
    x = vectors(8)
    catalog, quantizer = coded(x, removed=[0, 1, 2])
    with pytest.raises(CatalogError, match="need at least 6 items to learn from, found 5"):
        refit_catalog(catalog, quantizer, x, np.random.default_rng(1))
