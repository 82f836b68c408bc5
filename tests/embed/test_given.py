import numpy as np
import polars as pl
import pytest

from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.core.files import write_arrays, write_parquet
from itemic.core.run import Run
from itemic.embed import EmbedConfig, embed, load_embeddings
from itemic.embed.given import find_rows, read_vectors

X = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
IDS = ["b", "a", "c"]


def vectors_of(item_ids, path, ids_path=None):
    ids, x = read_vectors(path, ids_path)
    return x[find_rows(item_ids, ids, path)]


def write_all(folder):
    """The same vectors in every format; returns (file, file of ids) of each."""
    folder.mkdir(exist_ok=True)
    pl.DataFrame({"item_id": IDS, "embedding": X.tolist()}).write_parquet(folder / "x.parquet")
    np.save(folder / "x.npy", X.astype(np.float16))
    write_arrays(folder / "x.safetensors", {"anything": X.astype(np.float64)})
    ids = folder / "ids.txt"
    ids.write_text("b\na\nc\n", encoding="utf-8")
    return [(folder / "x.parquet", None), (folder / "x.npy", ids), (folder / "x.safetensors", ids)]


@pytest.mark.parametrize("number", range(3))
def test_vectors_come_in_the_items_order_whatever_the_format(tmp_path, number):
    path, ids = write_all(tmp_path)[number]
    np.testing.assert_array_equal(vectors_of(["c", "b"], path, ids), [[5, 6], [1, 2]])


def test_arrays_are_mapped_not_read(tmp_path):
    _, (path, ids), _ = write_all(tmp_path)
    assert isinstance(read_vectors(path, ids)[1], np.memmap)


def test_embed_stage_adopts_them_and_runs_again_only_when_the_file_changed(tmp_path):
    files = write_all(tmp_path / "given")
    run = Run(tmp_path / "run")
    items = pl.DataFrame({"item_index": [0, 1], "item_id": ["a", "c"], "title": ["", ""], "description": ["", ""]})
    write_parquet(run.path("dataset") / "items.parquet", items)
    config = EmbedConfig(vectors=str(files[1][0]), vector_ids=str(files[1][1]))
    assert embed(config, run, seed=0).metrics == {"num_items": 2, "width": 2}
    np.testing.assert_array_equal(load_embeddings(run.path("embeddings.safetensors")), [[3, 4], [5, 6]])
    assert embed(config, run, seed=0).skipped
    np.save(files[1][0], 2 * X)
    assert not embed(config, run, seed=0).skipped
    np.testing.assert_array_equal(load_embeddings(run.path("embeddings.safetensors")), [[6, 8], [10, 12]])


def test_items_without_a_vector_are_named(tmp_path):
    path, _ = write_all(tmp_path)[0]
    with pytest.raises(DataError, match="2 of 3 items have no vector: 'd', 'e'"):
        vectors_of(["a", "d", "e"], path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("b\na\n", "2 item ids for 3 vectors"),
        ("b\na\nb\n", "row 2: item id occurs again: 'b'"),
        ("b\n\nc\n", "row 1: em"),
    ],
)
def test_ids_must_be_one_a_vector(tmp_path, ids, message):
    _, (path, ids_path), _ = write_all(tmp_path)
    ids_path.write_text(ids, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_vectors(path, ids_path)


def test_files_that_hold_no_vectors_are_refused(tmp_path):
    (parquet, _), (npy, ids), (safe, _) = write_all(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no item ids; name a text file"):
        read_vectors(npy)
    with pytest.raises(ConfigError, match=r"not needed, .*x\.parquet has its own"):
        read_vectors(parquet, ids)
    with pytest.raises(ConfigError, match=r"none\.npy: no such file"):
        read_vectors(tmp_path / "none.npy", ids)
    with pytest.raises(ConfigError, match=r"expected vectors as \.parquet"):
        read_vectors(ids, ids)
    np.save(npy, X.astype(np.int64))
    with pytest.raises(ConfigError, match=r"expected floating-point numbers .* found int64"):
        read_vectors(npy, ids)
    for path in (npy, safe, parquet):
        path.write_bytes(b"not such a file")
        with pytest.raises(ConfigError, match="not a "):
            read_vectors(path, None if path is parquet else ids)
    write_arrays(safe, {"a": X, "b": X})
    with pytest.raises(ConfigError, match="expected one array, found a, b"):
        read_vectors(safe, ids)
    pl.DataFrame({"item_id": IDS, "embedding": [[1.0], [1.0, 2.0], [1.0, 2.0]]}).write_parquet(parquet)
    with pytest.raises(DataError, match="row 0: expected 2 numbers in embedding"):
        read_vectors(parquet)
    pl.DataFrame({"pid": IDS, "embedding": X.tolist()}).write_parquet(parquet)
    with pytest.raises(ConfigError, match=r"expected a column item_id .* found pid, embedding"):
        read_vectors(parquet)


def test_ids_of_no_vectors_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="of which vectors"):
        EmbedConfig(vector_ids="ids.txt")
    run = Run(tmp_path)
    write_parquet(run.path("dataset") / "items.parquet", pl.DataFrame({"item_id": ["a"]}))
    with pytest.raises(ArtifactError, match=r"none\.npy: no such file"):
        embed(EmbedConfig(vectors=str(tmp_path / "none.npy")), run, seed=0)
