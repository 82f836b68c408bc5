import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ArtifactError, CatalogError
from itemic.core.files import read_json, text_hash, write_json
from itemic.sid import catalog as catalog_module
from itemic.sid.catalog import Catalog

CODES = np.array([[0, 1], [1, 0], [0, 0]])


def small_catalog(**changes):
    return Catalog(**{"codes": CODES, "item_ids": ["x", "y", "z"], "codebook_sizes": (2, 3)} | changes)


codebook_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
seeds = st.integers(0, 2**32)


def random_catalog(sizes, seed):
    rng = np.random.default_rng(seed)
    every_sid = np.indices(sizes).reshape(len(sizes), -1).T
    num_items = rng.integers(1, len(every_sid), endpoint=True)
    codes = every_sid[rng.permutation(len(every_sid))[:num_items]]
    active = rng.random(num_items) < 0.8
    return Catalog(codes, [f"item {row}" for row in range(num_items)], sizes, active)


def test_both_ways_of_lookup_agree_with_the_table():
    catalog = small_catalog()
    assert [catalog.sid(row) for row in range(3)] == [(0, 1), (1, 0), (0, 0)]
    assert [catalog.item(sid) for sid in [(0, 1), (1, 0), (0, 0)]] == [0, 1, 2]
    assert catalog.items((1, 2)) == []
    assert (catalog.num_items, len(catalog), catalog.num_levels) == (3, 3, 2)


@given(codebook_sizes, seeds)
def test_every_item_is_found_by_its_sid_unless_removed(sizes, seed):
    catalog = random_catalog(sizes, seed)
    for row in range(len(catalog)):
        assert catalog.items(catalog.sid(row)) == ([row] if catalog.active[row] else [])


@settings(max_examples=30)
@given(codebook_sizes, seeds)
def test_loaded_catalog_equals_the_saved_one(tmp_path_factory, sizes, seed):
    catalog = random_catalog(sizes, seed)
    folder = tmp_path_factory.mktemp("catalog")
    catalog.save(folder)
    loaded = Catalog.load(folder)
    assert loaded == catalog
    np.testing.assert_array_equal(loaded.codes, catalog.codes)
    np.testing.assert_array_equal(loaded.active, catalog.active)
    assert (loaded.item_ids, loaded.codebook_sizes) == (catalog.item_ids, catalog.codebook_sizes)


def test_version_changes_with_everything_the_catalog_says():
    variants = [
        small_catalog(),
        small_catalog(codes=CODES[[1, 0, 2]]),
        small_catalog(item_ids=["x", "y", "zz"]),
        small_catalog(item_ids=["x", "yz", ""]),
        small_catalog(codebook_sizes=(2, 4)),
        small_catalog(active=np.array([True, True, False])),
        small_catalog(shares=True),
        small_catalog(spelling="wrapped"),
    ]
    assert len({catalog.version for catalog in variants}) == len(variants)
    assert small_catalog() == small_catalog()
    assert hash(small_catalog()) == hash(small_catalog())


def test_append_keeps_every_earlier_row():
    catalog = small_catalog().remove([1])
    grown = catalog.append(["new"], np.array([[1, 2]]))
    np.testing.assert_array_equal(grown.codes[:3], CODES)
    assert grown.item((1, 2)) == 3
    assert grown.active.tolist() == [True, False, True, True]
    assert len(catalog) == 3


def test_removed_item_keeps_its_sid_but_is_not_found_by_it():
    catalog = small_catalog().remove([0])
    assert catalog.sid(0) == (0, 1)
    assert catalog.items((0, 1)) == []
    with pytest.raises(CatalogError, match="belongs to no active item"):
        catalog.item((0, 1))
    with pytest.raises(CatalogError, match=r"both have SID \(0, 1\)"):
        catalog.append(["new"], np.array([[0, 1]]))


def test_shared_sid_names_all_its_items():
    catalog = small_catalog(codes=np.array([[0, 1], [1, 0], [0, 1]]), shares=True)
    assert catalog.items((0, 1)) == [0, 2]
    with pytest.raises(CatalogError, match=r"shared by items \[0, 2\]"):
        catalog.item((0, 1))


def test_arrays_cannot_be_written():
    catalog = small_catalog()
    with pytest.raises(ValueError, match="read-only"):
        catalog.codes[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        catalog.active[0] = False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.array([[0, 1], [1, 0], [0, 1]])}, r"'x' \(row 0\) and 'z' \(row 2\) both have SID \(0, 1\)"),
        ({"codes": np.array([[0, 1], [1, 3], [0, 0]])}, r"'y' \(row 1\) has code 3 at level 1, whose codes are 0..2"),
        ({"codes": np.array([[0, 1], [-1, 0], [0, 0]])}, r"code -1 at level 0"),
        ({"item_ids": ["x", "y", "x"]}, r"'x' occurs twice, again in row 2"),
        ({"item_ids": ["x", "y"]}, "3 rows of codes, 2 item ids"),
        ({"codebook_sizes": (2, 3, 4)}, r"do not fit codebook sizes \(2, 3, 4\)"),
    ],
)
def test_table_that_is_no_catalog_is_refused(changes, message):
    with pytest.raises(CatalogError, match=message):
        small_catalog(**changes)


def test_lookup_of_what_is_not_there_is_refused():
    catalog = small_catalog()
    with pytest.raises(CatalogError, match="no item index 3: the catalog has 3 items"):
        catalog.sid(3)
    with pytest.raises(CatalogError, match="no item index -1"):
        catalog.remove([-1])
    with pytest.raises(CatalogError, match="has 1 codes, expected 2"):
        catalog.items((0,))
    with pytest.raises(CatalogError, match=r"expected \(n, 2\)"):
        catalog.append(["new"], np.array([[1, 2, 0]]))


def test_damaged_files_are_refused(tmp_path):
    small_catalog().save(tmp_path)
    info = read_json(tmp_path / "catalog.json")
    write_json(tmp_path / "catalog.json", info | {"version": "0" * 64})
    with pytest.raises(ArtifactError, match="version differs"):
        Catalog.load(tmp_path)
    write_json(tmp_path / "catalog.json", info | {"num_levels": 3})
    with pytest.raises(ArtifactError, match="exactly 3 codes"):
        Catalog.load(tmp_path)
    write_json(tmp_path / "catalog.json", info | {"format": 2})
    with pytest.raises(ArtifactError, match="format 2"):
        Catalog.load(tmp_path)
    (tmp_path / "catalog.parquet").unlink()
    write_json(tmp_path / "catalog.json", info)
    with pytest.raises(ArtifactError, match="missing; run itemic tokenize"):
        Catalog.load(tmp_path)


def test_a_catalog_fits_the_items_it_begins_with():
    catalog = Catalog(np.array([[0], [1], [2]]), ["a", "b", "c"], (3,))
    for fitting in (["a", "b", "c"], ["a", "b"], []):
        catalog.check_fits(fitting)
    for other in (["b", "a"], ["a", "x"], ["a", "b", "c", "d"]):
        with pytest.raises(ArtifactError, match="made for other items than dataset/; run itemic tokenize again"):
            catalog.check_fits(other)


def test_a_catalog_knows_what_it_grew_from(tmp_path):
    first = small_catalog()
    grown = first.append(["new"], np.array([[1, 2]]))
    smaller = grown.remove([0, 3])
    assert [parent.version for parent in smaller.parents] == [grown.version, first.version]
    assert smaller.descends_from(first.version)
    assert smaller.descends_from(smaller.version)
    assert not first.descends_from(grown.version)
    assert not smaller.descends_from("another")
    assert (smaller.ancestor(first.version).num_items, smaller.ancestor(grown.version).num_active) == (3, 4)
    assert smaller.ancestor(smaller.version) is None
    smaller.save(tmp_path)
    assert Catalog.load(tmp_path).parents == smaller.parents


def test_what_a_catalog_grew_from_is_no_part_of_its_version():
    grown = small_catalog().append(["new"], np.array([[1, 2]]))
    made = small_catalog(codes=grown.codes, item_ids=grown.item_ids)
    assert grown == made
    assert made.parents == ()


def test_catalogs_from_before_there_were_parents_still_load(tmp_path):
    catalog = small_catalog()
    catalog.save(tmp_path)
    info = read_json(tmp_path / "catalog.json")
    old = {key: value for key, value in info.items() if key not in ("parents", "refit_of")}
    write_json(tmp_path / "catalog.json", old)
    assert Catalog.load(tmp_path) == catalog
    assert Catalog.load(tmp_path).parents == ()
    write_json(tmp_path / "catalog.json", old | {"parents": [{"version": "x"}]})
    with pytest.raises(ArtifactError, match="damaged entry parents"):
        Catalog.load(tmp_path)


def test_versions_do_not_change_with_the_code():
    assert small_catalog().version == "19815e157a53f69c6c7192fe0c4082fc9a966bf2ad1adf6e39917c8894672cd6"


def test_the_version_is_one_hash_however_it_is_fed(monkeypatch):
    catalog = small_catalog(active=np.array([True, False, True]), spelling="wrapped")
    arrays = (catalog.codes.astype("<i8").tobytes().hex(), catalog.active.tobytes().hex())
    sizes = ",".join(map(str, catalog.codebook_sizes))
    expected = text_hash("1", "wrapped", "False", sizes, *arrays, *catalog.item_ids)
    assert catalog.version == expected
    monkeypatch.setattr(catalog_module, "_ROWS_AT_ONCE", 2)
    in_columns = np.asfortranarray(catalog.codes)
    again = small_catalog(codes=in_columns, active=np.array([True, False, True]), spelling="wrapped")
    assert again.version == expected


@settings(max_examples=30)
@given(codebook_sizes, seeds, st.data())
def test_growth_never_changes_what_is_there(sizes, seed, data):
    catalog = random_catalog(sizes, seed)
    every_sid = [tuple(sid) for sid in np.indices(sizes).reshape(len(sizes), -1).T.tolist()]
    free = sorted(set(every_sid) - {catalog.sid(row) for row in range(len(catalog))})
    num_new = data.draw(st.integers(0, len(free)))
    codes = np.array(free[:num_new], dtype=np.int64).reshape(num_new, len(sizes))
    grown = catalog.append([f"new {row}" for row in range(num_new)], codes)
    gone = data.draw(st.sets(st.integers(0, len(grown) - 1)))
    later = grown.remove(sorted(gone))
    np.testing.assert_array_equal(later.codes[: len(catalog)], catalog.codes)
    assert later.item_ids[: len(catalog)] == catalog.item_ids
    assert set(np.flatnonzero(~later.active)) == gone | set(np.flatnonzero(~catalog.active))
    for row in range(len(catalog), len(later)):
        assert later.items(later.sid(row)) == ([] if row in gone else [row])
