"""The tree in small arrays and in a file."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from itemic.core.errors import ArtifactError
from itemic.decode import LanguageModelRecommender
from itemic.decode import trie as module
from itemic.decode.trie import Trie


def arrays(trie: Trie) -> dict[str, list[int]]:
    named = {"item_of_slot": trie.item_of_slot, "slot_of_item": trie.slot_of_item}
    for name in ("codes", "child_start", "slot_start"):
        named |= {f"{name}.{depth}": array for depth, array in enumerate(getattr(trie, name))}
    return {name: array.tolist() for name, array in named.items()}


def assert_same(a: Trie, b: Trie) -> None:
    assert arrays(a) == arrays(b)
    for name in ("codebook_sizes", "max_children", "max_items", "num_bytes", "is_shared", "num_leaves"):
        assert getattr(a, name) == getattr(b, name)
    assert [array.dtype for array in a.codes] == [array.dtype for array in b.codes]


@settings(max_examples=40)
@given(data=st.data())
def test_a_file_gives_the_tree_back(data: st.DataObject, tmp_path_factory) -> None:
    sizes = tuple(data.draw(st.lists(st.sampled_from([1, 3, 300, 40_000]), min_size=1, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = rng.integers(0, sizes, (data.draw(st.integers(1, 40)), len(sizes)))
    active = rng.random(len(codes)) < 0.8
    active[0] = True
    trie = Trie.from_codes(codes, sizes, active)
    path = tmp_path_factory.mktemp("trie") / "trie.safetensors"
    trie.save(path, "v1")
    assert_same(Trie.load(path, "v1"), trie)
    assert path.stat().st_size < trie.num_bytes + 4096


def test_unique_leaves_are_stored_once() -> None:
    unique = Trie.from_codes(np.array([[0, 1], [0, 2], [1, 0]]), (2, 3))
    assert unique.slot_start[1] is unique.child_start[1]
    assert not unique.is_shared
    assert len(unique.slot_start) == 2
    leaves = torch.arange(3)
    assert [each.tolist() for each in unique.slots(2, leaves)] == [[0, 1, 2], [1, 2, 3]]
    assert unique.num_items_below(2, leaves).tolist() == [1, 1, 1]
    assert unique.num_bytes == 4 * (3 + 3 + 2 + 2 + 3) + 2 + 3
    shared = Trie.from_codes(np.array([[0, 1], [0, 1], [1, 0]]), (2, 3))
    assert shared.is_shared
    assert shared.num_items_below(2, leaves[:2]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (256, torch.uint8),
        (257, torch.int16),
        (2**15, torch.int16),
        (2**15 + 1, torch.int32),
        (65_536, torch.int32),
        (10**6, torch.int32),
    ],
)
def test_codes_are_as_small_as_their_codebook_allows(size: int, dtype: torch.dtype) -> None:
    trie = Trie.from_codes(np.array([[size - 1], [0], [size // 2]]), (size,))
    assert trie.codes[0].dtype == dtype
    assert trie.codes[0].tolist() == sorted({0, size // 2, size - 1})


def test_a_file_is_mapped_and_outlives_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "trie.safetensors"
    first = Trie.from_codes(np.array([[0, 1], [1, 0]]), (2, 2))
    first.save(path)
    mapped = Trie.load(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    Trie.from_codes(np.array([[1, 1], [0, 0], [1, 0]]), (2, 2)).save(path)
    assert_same(mapped, first)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "trie.safetensors"
    with pytest.raises(ArtifactError, match="no such file"):
        Trie.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ArtifactError, match=r"not a tree that this itemic reads \(format None\)"):
        Trie.load(path)
    trie = Trie.from_codes(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2))
    trie.save(path, "a" * 64)
    with pytest.raises(ArtifactError, match="tree of catalog aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        Trie.load(path, "b" * 64)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ArtifactError, match="damaged"):
        Trie.load(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        Trie.load(path)
    path.write_bytes(whole.replace(b"child_start.1", b"child_start.9"))
    with pytest.raises(ArtifactError, match=r"damaged tree \(KeyError"):
        Trie.load(path)


def test_arrays_that_do_not_fit_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trie.safetensors"
    trie = Trie.from_codes(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2))
    for name in ("item_of_slot", "codes.1", "child_start.0", "child_start.1"):
        write = module.write_arrays
        monkeypatch.setattr(
            module,
            "write_arrays",
            lambda path, arrays, metadata, name=name: write(path, {**arrays, name: arrays[name][:-1]}, metadata),  # noqa: B023
        )
        trie.save(path)
        monkeypatch.undo()
        with pytest.raises(ArtifactError, match="do not fit each other"):
            Trie.load(path)


def test_a_large_catalog_is_stored_and_a_small_one_is_not(
    tmp_path: Path, make_catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trie.safetensors"
    catalog = make_catalog([[0, 0], [0, 1], [1, 1]], (2, 2))
    expected = Trie.from_catalog(catalog)
    assert_same(Trie.cached(path, catalog), expected)
    assert not path.exists()
    monkeypatch.setattr(module, "_WORTH_STORING", 2)
    for _ in range(2):
        assert_same(Trie.cached(path, catalog), expected)
        assert path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Trie, "from_catalog", None)
        assert_same(Trie.cached(path, catalog), expected)
    assert not caplog.records
    fewer = catalog.remove([0])
    with caplog.at_level(logging.WARNING):
        assert_same(Trie.cached(path, fewer), Trie.from_catalog(fewer))
        path.write_bytes(b"no tree")
        assert_same(Trie.cached(path, fewer), Trie.from_catalog(fewer))
    assert ["built anew" in record.message for record in caplog.records] == [True, True]
    assert_same(Trie.load(path, fewer.version), Trie.from_catalog(fewer))


def test_a_folder_that_cannot_be_written_costs_a_build(
    tmp_path: Path, make_catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_WORTH_STORING", 1)
    (tmp_path / "file").touch()
    catalog = make_catalog([[0, 0], [0, 1]], (2, 2))
    assert_same(Trie.cached(tmp_path / "file" / "trie.safetensors", catalog), Trie.from_catalog(catalog))
    assert "cannot be stored" in caplog.text


def test_a_recommender_keeps_the_tree_of_a_large_catalog(
    tmp_path: Path, make_catalog, fake_policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_STORING", 1)
    catalog = make_catalog([[0, 0], [0, 1], [1, 1]], (2, 2))
    policy = fake_policy((2, 2), catalog_version=catalog.version)
    path = tmp_path / "trie.safetensors"
    lists = [
        LanguageModelRecommender(policy, catalog, lambda history: [1], trie_path=trie_path).recommend([[0]], 3)
        for trie_path in (None, path, path)
    ]
    assert path.exists()
    assert [found.item_index.tolist() for found in lists] == [lists[0].item_index.tolist()] * 3
