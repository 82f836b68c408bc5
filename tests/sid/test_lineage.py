import logging

import numpy as np
import pytest

from itemic.core.errors import CatalogError
from itemic.sid import Catalog
from itemic.sid.lineage import check_trained_on, describe_change


def small_catalog(**changes):
    return Catalog(**{"codes": np.array([[0], [1]]), "item_ids": ["x", "y"], "codebook_sizes": (6,)} | changes)


def check(catalog, trained, **changes):
    options = {"codebook_sizes": (6,), "spelling": "plain", "allow_change": False} | changes
    check_trained_on(catalog, trained.version, **options)


def test_the_very_catalog_is_fine(caplog):
    with caplog.at_level(logging.WARNING, logger="itemic"):
        check(small_catalog(), small_catalog())
    assert caplog.text == ""


def test_one_that_grew_is_refused_with_what_changed_and_allowed_when_told(caplog):
    trained = small_catalog()
    grown = trained.append(["a", "b", "c"], np.array([[2], [3], [4]])).remove([0]).remove([4])
    assert describe_change(grown, trained.version) == "descends from it: 3 items more, 2 retired"
    with pytest.raises(
        CatalogError, match=r"descends from it: 3 items more, 2 retired\. Train .* --allow-catalog-change"
    ):
        check(grown, trained)
    with caplog.at_level(logging.WARNING, logger="itemic"):
        check(grown, trained, allow_change=True)
    assert caplog.text == ""


def test_another_one_is_refused_and_allowed_with_a_warning(caplog):
    other = small_catalog(codes=np.array([[1], [0]]))
    with pytest.raises(CatalogError, match="is another catalog altogether, so its codes may mean other items"):
        check(other, small_catalog())
    with caplog.at_level(logging.WARNING, logger="itemic"):
        check(other, small_catalog(), allow_change=True)
    assert "its codes may mean other items" in caplog.text


def test_a_refit_is_called_one():
    trained = small_catalog()
    renewed = small_catalog(codes=np.array([[3], [2]]), refit_of=trained.version)
    with pytest.raises(CatalogError, match="is a refit of it: the items were coded anew, so its codes may mean"):
        check(renewed, trained)
    assert renewed.append(["z"], np.array([[0]])).refit_of == trained.version


def test_a_refit_knows_what_the_refitted_one_grew_from(tmp_path):
    trained = small_catalog()
    grown = trained.append(["z"], np.array([[2]])).remove([0])
    renewed = grown.refitted(np.array([[3], [2], [1]]), (6,), shares=False)
    assert describe_change(renewed, grown.version) == "is a refit of it: the items were coded anew"
    expected = "is a refit of a catalog that grew from it: the items were coded anew"
    assert describe_change(renewed, trained.version) == expected
    again = renewed.append(["w"], np.array([[0]])).refitted(np.array([[0], [1], [2], [3]]), (6,), shares=False)
    again.save(tmp_path)
    for earlier in (trained, grown, renewed):
        assert describe_change(Catalog.load(tmp_path), earlier.version) == expected
    assert describe_change(again, "other") == "is another catalog altogether"
    assert not again.descends_from(renewed.version)


@pytest.mark.parametrize("changes", [{"codebook_sizes": (8,)}, {"spelling": "wrapped"}])
def test_sids_that_the_model_cannot_write_are_refused_whatever_is_said(changes):
    with pytest.raises(CatalogError, match=r"the model cannot write its SIDs: it has codebook sizes \(.,\) spelled"):
        check(small_catalog(), small_catalog(item_ids=["x", "z"]), **changes, allow_change=True)
