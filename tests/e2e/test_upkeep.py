"""A shop after opening day: items come and go in new run folders, and the model says when it is out of its depth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import itemic
from itemic.cli.main import main
from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import path_hash
from itemic.sid import Catalog
from itemic.upkeep import append_to_run, describe_catalog, refit_run, retire_from_run

STAGES = "prepare,embed,tokenize,sft"


@pytest.fixture
def additions(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text('item,name,text\nj1,"Thing 1 again","word1 word1"\nj2,"Thing 7 again","word7 word2"\n')
    return path


def ids(found: list[Any]) -> set[str]:
    return {item.item_id for item in found}


def test_new_items_can_be_recommended_and_retired_ones_never(
    shop_run: Path, additions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path_hash(shop_run)
    grown, smaller = tmp_path / "grown", tmp_path / "smaller"
    main(["catalog", "append", "--run", str(shop_run), "--items", str(additions), "--out", str(grown)])
    assert "2 items are new; every other code is as it was" in capsys.readouterr().out
    main(["catalog", "retire", "--run", str(grown), "--items", "i3", "Thing 4", "--out", str(smaller), "--json"])
    assert json.loads(capsys.readouterr().out)["num_active"] == 20
    assert path_hash(shop_run) == before, "the old run is not touched"

    old, new = Catalog.load(shop_run / "catalog"), Catalog.load(smaller / "catalog")
    np.testing.assert_array_equal(new.codes[:20], old.codes)
    assert new.descends_from(old.version)
    trained = itemic.load_trained(smaller, num_beams=25, allow_catalog_change=True)
    found = ids(trained.recommend(["i5"], 22))
    assert found >= {"j1", "j2"}
    assert not found & {"i3", "i4"}
    after = ids(trained.recommend(["j1", "i3"], 22))
    assert after | {"j1"} == found | {"i5"}, "histories may hold new and retired items"

    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(smaller), "--history", "i5"])
    assert "descends from it: 2 items more, 2 retired. Train a model on it, or" in capsys.readouterr().err
    main(["recommend", "--run", str(smaller), "--history", "i5", "--allow-catalog-change", "--json"])
    assert len(json.loads(capsys.readouterr().out)["items"]) == 10
    main(["catalog", "show", "--run", str(smaller)])
    shown = capsys.readouterr().out
    assert "22 items, SIDs of 4 x 4 x 4 codes" in shown
    assert "active: 20, retired: 2" in shown
    assert "this one descends from it: 2 items more, 2 retired" in shown
    assert [step["operation"] for step in describe_catalog(smaller)["steps"]] == ["append", "retire"]


def test_training_a_new_run_keeps_its_codes(shop_run: Path, additions: Path, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    append_to_run(shop_run, additions, grown)
    version = Catalog.load(grown / "catalog").version
    main(["run", str(grown / "recipe.yaml"), "--stages", STAGES])
    assert Catalog.load(grown / "catalog").version == version, "up to the catalog everything counts as done"
    assert ids(itemic.load_trained(grown, num_beams=25).recommend(["i5"], 22)) >= {"j1", "j2"}
    assert json.loads((shop_run / "manifest.json").read_text())["stages"]["sft"]["metrics"]["num_steps"] > 0


def test_a_refit_has_a_mapping_and_no_model(shop_run: Path, tmp_path: Path) -> None:
    retired, renewed = tmp_path / "retired", tmp_path / "renewed"
    retire_from_run(shop_run, ["i7"], retired)
    figures = refit_run(retired, renewed)
    assert figures["num_active"] == 19
    assert all(0 <= share <= 1 for share in figures["share_with_same_prefix"])
    mapping = pl.read_parquet(renewed / figures["mapping"])
    catalog = Catalog.load(renewed / "catalog")
    assert mapping["new_codes"].to_list() == catalog.codes.tolist()
    assert mapping.filter(~pl.col("active"))["item_id"].to_list() == ["i7"]
    assert catalog.refit_of == figures["catalog_before"]
    with pytest.raises(ArtifactError, match="run itemic sft first"):
        itemic.load_trained(renewed)
    main(["run", str(renewed / "recipe.yaml"), "--stages", STAGES])
    assert Catalog.load(renewed / "catalog") == catalog
    assert "i7" not in ids(itemic.load_trained(renewed, num_beams=25).recommend(["i5"], 22))


def test_a_model_never_speaks_a_catalog_that_it_has_no_words_for(shop_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    retire_from_run(shop_run, ["i7"], run)
    old = Catalog.load(run / "catalog")
    Catalog(old.codes, old.item_ids, (5, 4, 4)).save(run / "catalog")
    with pytest.raises(CatalogError, match="the model cannot write its SIDs"):
        itemic.load_trained(run, allow_catalog_change=True)


def test_what_cannot_be_done_leaves_nothing_behind(shop_run: Path, additions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="is there already"):
        append_to_run(shop_run, additions, tmp_path)
    with pytest.raises(ConfigError, match="lies in the run"):
        append_to_run(shop_run, additions, shop_run / "inside")
    with pytest.raises(ConfigError, match=r"made from texts by the encoder .*; leave the file out"):
        append_to_run(shop_run, additions, out, vectors=additions)
    with pytest.raises(DataError, match=r"no items to retire: name their ids|needs some that stay"):
        retire_from_run(shop_run, [f"i{item}" for item in range(20)], out)
    many = tmp_path / "many.csv"
    many.write_text("item,name,text\n" + "".join(f'k{n},"Thing {n}","word1"\n' for n in range(45)))
    with pytest.raises(CatalogError, match="65 items cannot have unique SIDs"):
        append_to_run(shop_run, many, out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
    retire_from_run(shop_run, ["i1"], out)
    with pytest.raises(DataError, match="'i1' is retired already"):
        retire_from_run(out, ["i1"], tmp_path / "again")
