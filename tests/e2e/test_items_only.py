"""Semantic IDs for a catalogue alone, from the command line."""

import json

import numpy as np
import polars as pl
import pytest

from itemic.cli.main import main
from itemic.core.dataset import Dataset
from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.core.files import path_hash
from itemic.core.run import Run
from itemic.embed import EmbedConfig, load_embeddings
from itemic.items_only import tokenize_items
from itemic.sid import Catalog, TokenizeConfig, load_quantizer
from itemic.upkeep import append_to_run

SIZES = ["--codebook-sizes", "4", "4", "4"]
SMALL = TokenizeConfig(codebook_sizes=(4, 4, 4))


def write_items(folder, num_items=30):
    path = folder / "items.csv"
    lines = [f"i{row},Thing {row},brand{row % 3}" for row in range(num_items)]
    path.write_text("\n".join(["item_id,title,brand", *lines]) + "\n")
    return path


def write_vectors(folder, num_items=30):
    """Vectors in another order than the items, and one of an item that the catalogue does not have."""
    x = np.random.default_rng(0).normal(size=(num_items + 1, 6)).astype(np.float16)
    np.save(folder / "x.npy", x)
    ids = [*(f"i{row}" for row in reversed(range(num_items))), "other"]
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return folder / "x.npy", folder / "ids.txt", x


def test_items_and_their_vectors_become_a_catalog_and_a_page(tmp_path, capsys):
    items, (vectors, ids, x) = write_items(tmp_path), write_vectors(tmp_path)
    command = ["tokenize", "--run", str(tmp_path / "run"), "--items", str(items), "--embeddings", str(vectors)]
    command += ["--embedding-ids", str(ids), "--report", *SIZES]
    main([*command, "--json"])
    figures = json.loads(capsys.readouterr().out)
    catalog = Catalog.load(tmp_path / "run" / "catalog")
    assert figures["catalog_version"] == catalog.version
    assert catalog.item_ids == tuple(f"i{row}" for row in range(30))
    assert "Thing 7" in (tmp_path / "run" / "sids.html").read_text()
    quality = json.loads((tmp_path / "run" / "catalog" / "quality.json").read_text())
    assert "brand" in json.dumps(quality)
    main(command)
    assert "report: " in capsys.readouterr().out
    assert Run(tmp_path / "run").manifest()["stages"]["embed"]["metrics"]["width"] == x.shape[1]


def test_vectors_alone_suffice(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    path = tmp_path / "x.parquet"
    pl.DataFrame({"item_id": [f"p{row}" for row in range(20)], "embedding": x.tolist()}).write_parquet(path)
    run = Run(tmp_path / "run")
    config = TokenizeConfig(codebook_sizes=(8, 4))
    tokenize_items(config, run, embed_config=EmbedConfig(vectors=str(path)), seed=0)
    assert Catalog.load(run.path("catalog")).item_ids[19] == "p19"
    assert Dataset.load(run.path("dataset")).train.height == 0
    assert tokenize_items(config, run, embed_config=EmbedConfig(vectors=str(path)), seed=0).skipped


def test_neither_items_nor_vectors_or_a_run_with_a_log_is_refused(tmp_path, shop):
    with pytest.raises(ConfigError, match="a table of items, a file of vectors, or both"):
        tokenize_items(TokenizeConfig(), Run(tmp_path / "run"), seed=0)
    (tmp_path / "old" / "dataset").mkdir(parents=True)
    (tmp_path / "old" / "dataset" / "dataset.json").write_text('{"split": "temporal"}')
    with pytest.raises(ConfigError, match="holds a run with a log"):
        tokenize_items(TokenizeConfig(), Run(tmp_path / "old"), items=write_items(tmp_path), seed=0)


def test_items_without_a_vector_are_named(tmp_path):
    items, (vectors, ids, _) = write_items(tmp_path, 31), write_vectors(tmp_path)
    config = EmbedConfig(vectors=str(vectors), vector_ids=str(ids))
    with pytest.raises(DataError, match="1 of 31 items have no vector: 'i30'"):
        tokenize_items(SMALL, Run(tmp_path / "run"), items=items, embed_config=config, seed=0)


def test_the_command_needs_a_folder_of_its_own(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tokenize", "--items", str(write_items(tmp_path))])
    assert stopped.value.code == 2
    assert "give --run" in capsys.readouterr().err


def test_the_quantizer_is_chosen_by_its_kind_and_set_by_its_own_flags(tmp_path):
    items, (vectors, ids, _) = write_items(tmp_path), write_vectors(tmp_path)
    command = ["tokenize", "--run", str(tmp_path / "run"), "--items", str(items), "--embeddings", str(vectors)]
    command += ["--embedding-ids", str(ids), *SIZES]
    main([*command, "--quantizer.kind", "balanced-rqkmeans", "--quantizer.tolerance", "0.5"])
    config = Run(tmp_path / "run").manifest()["stages"]["tokenize"]["config"]["quantizer"]
    assert (config["kind"], config["tolerance"]) == ("balanced-rqkmeans", 0.5)
    assert load_quantizer(tmp_path / "run" / "catalog" / "quantizer.safetensors").kind == "balanced-rqkmeans"


def test_new_items_bring_their_vectors(tmp_path, capsys):
    items, (vectors, ids, _) = write_items(tmp_path), write_vectors(tmp_path)
    run, new = tmp_path / "run", tmp_path / "new.csv"
    command = ["tokenize", "--run", str(run), "--items", str(items), "--embeddings", str(vectors)]
    main([*command, "--embedding-ids", str(ids), *SIZES])
    new.write_text("item_id,title,brand\nj1,New 1,brand0\nj2,New 2,brand1\n")
    x = np.random.default_rng(1).normal(size=(2, 6))
    pl.DataFrame({"item_id": ["j2", "j1"], "x": x.tolist()}).write_parquet(tmp_path / "new.parquet")

    append = ["catalog", "append", "--run", str(run), "--items", str(new), "--out", str(tmp_path / "grown")]
    with pytest.raises(SystemExit, match="2"):
        main(append)
    told = capsys.readouterr().err
    assert "2 of 2 items have no vector: 'j1', 'j2'" in told
    assert "name a file with those of the new items, --embeddings FILE" in told
    with pytest.raises(SystemExit, match="2"):
        main([*append, "--embedding-ids", str(ids)])
    assert "ids of which vectors?" in capsys.readouterr().err

    main([*append, "--embeddings", str(tmp_path / "new.parquet")])
    grown = Catalog.load(tmp_path / "grown" / "catalog")
    np.testing.assert_array_equal(grown.codes[:30], Catalog.load(run / "catalog").codes)
    embedded = load_embeddings(tmp_path / "grown" / "embeddings.safetensors")
    np.testing.assert_allclose(embedded[30:], x[::-1], rtol=1e-6)
    quantizer = load_quantizer(tmp_path / "grown" / "catalog" / "quantizer.safetensors")
    assert grown.codes[30:, 0].tolist() == quantizer.encode(embedded[30:])[:, 0].tolist()


def test_vectors_that_the_runs_file_has_already_need_no_other(tmp_path):
    items, (vectors, ids, x) = write_items(tmp_path), write_vectors(tmp_path)
    run = Run(tmp_path / "run")
    embed_config = EmbedConfig(vectors=str(vectors), vector_ids=str(ids))
    tokenize_items(TokenizeConfig(codebook_sizes=(4, 4, 4)), run, items=items, embed_config=embed_config, seed=0)
    new = tmp_path / "new.csv"
    new.write_text("item_id,title,brand\nother,New,brand0\n")
    append_to_run(run.folder, new, tmp_path / "grown")
    embedded = load_embeddings(tmp_path / "grown" / "embeddings.safetensors")
    np.testing.assert_array_equal(embedded[30], x[30].astype(np.float32))


def test_a_quantizer_inside_a_quantizer_is_chosen_by_its_kind_too(tmp_path):
    items, (vectors, ids, _) = write_items(tmp_path), write_vectors(tmp_path)
    command = ["tokenize", "--run", str(tmp_path / "run"), "--items", str(items), "--embeddings", str(vectors)]
    command += ["--embedding-ids", str(ids), *SIZES, "--quantizer.kind", "rqkmeans-plus", "--quantizer.epochs", "1"]
    main([*command, "--quantizer.base.kind=balanced-rqkmeans", "--quantizer.base.tolerance", "0.5"])
    config = Run(tmp_path / "run").manifest()["stages"]["tokenize"]["config"]["quantizer"]
    assert (config["kind"], config["epochs"]) == ("rqkmeans-plus", 1)
    assert (config["base"]["kind"], config["base"]["tolerance"]) == ("balanced-rqkmeans", 0.5)


def test_what_is_refused_changes_nothing(tmp_path):
    items, (vectors, ids, _) = write_items(tmp_path), write_vectors(tmp_path)
    given = EmbedConfig(vectors=str(vectors), vector_ids=str(ids))
    run = Run(tmp_path / "run")
    tokenize_items(SMALL, run, items=items, embed_config=given, seed=0)
    before = path_hash(run.folder)
    fewer = write_items(tmp_path, 20)
    with pytest.raises(ConfigError, match="holds a catalog of 30 other items; name another folder, or replace it"):
        tokenize_items(SMALL, run, items=fewer, embed_config=given, seed=0)
    with pytest.raises(CatalogError, match="more codes than the 20 items"):
        tokenize_items(TokenizeConfig(), run, items=fewer, embed_config=given, seed=0, force=True)
    assert path_hash(run.folder) == before
    tokenize_items(SMALL, run, items=fewer, embed_config=given, seed=0, force=True)
    assert len(Catalog.load(run.path("catalog"))) == 20
