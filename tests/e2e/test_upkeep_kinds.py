"""The same upkeep on runs of every make: joint vectors, suffixes, shared SIDs, a catalogue without a log."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from itemic.cli.main import main
from itemic.core.errors import ArtifactError, CatalogError
from itemic.core.run import Run
from itemic.embed import EmbedConfig
from itemic.inference import load_trained
from itemic.items_only import tokenize_items
from itemic.sid import Catalog, TokenizeConfig
from itemic.sid.vectors import load_transform, read_collaborative, read_embeddings
from itemic.upkeep import append_to_run, describe_catalog, refit_run, retire_from_run

RunOf = Callable[..., Path]


@pytest.fixture
def run_of(write_recipe: Callable[..., Path], tmp_path: Path) -> RunOf:
    """Makes a run up to the catalog; keyword arguments are settings of ``tokenize``."""

    def make(stages: str = "prepare,embed,tokenize", **tokenize: Any) -> Path:
        path = write_recipe(tmp_path, epochs=1)
        values = yaml.safe_load(path.read_text())
        values["tokenize"] |= tokenize
        values["collaborative"] = {"kind": "svd", "num_dimensions": 4}
        path.write_text(yaml.safe_dump(values))
        main(["run", str(path), "--stages", stages])
        return tmp_path / "run"

    return make


@pytest.fixture
def additions(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text('item,name,text\nj1,"Thing 1","word1 word1"\nj2,"Thing 7 again","word7 word2"\n')
    return path


def check_figures(folder: Path) -> None:
    """The figures on disk, in the manifest and of ``catalog show`` speak of the same active items."""
    shown = describe_catalog(folder)
    figures = json.loads((folder / "catalog" / "quality.json").read_text())
    assert figures["num_items"] == shown["num_active"] == sum(figures["levels"][0]["counts"])
    assert figures["collisions"]["after"] == shown["collisions"]
    stated = Run(folder).manifest()["stages"]["tokenize"]["metrics"]
    assert stated["catalog_version"] == shown["version"]
    assert stated["collision_rate_after"] == shown["collisions"]["rate"]


def check_upkeep(run: Path, additions: Path) -> tuple[Path, Path, Path, Path]:
    """Returns the runs of append, retire, refit and append again, after checking what all kinds promise."""
    grown, smaller, renewed, again = (run.parent / name for name in ("grown", "smaller", "renewed", "again"))
    append_to_run(run, additions, grown)
    retire_from_run(grown, ["j1", "i3"], smaller)
    figures = refit_run(smaller, renewed)
    last = additions.with_name("last.csv")
    last.write_text(additions.read_text().replace("j1", "k1").replace("j2", "k2"))
    append_to_run(renewed, last, again)
    catalogs = [Catalog.load(folder / "catalog") for folder in (run, grown, smaller, renewed, again)]
    for folder in (grown, smaller, renewed, again):
        check_figures(folder)
    np.testing.assert_array_equal(catalogs[1].codes[:20], catalogs[0].codes)
    np.testing.assert_array_equal(catalogs[4].codes[:22], catalogs[3].codes)
    assert catalogs[4].descends_from(catalogs[3].version)
    assert [catalog.num_active for catalog in catalogs] == [20, 22, 20, 20, 22]
    mapping = pl.read_parquet(again / figures["mapping"])
    assert mapping["new_codes"].to_list() == catalogs[3].codes.tolist(), "later steps keep it"
    return grown, smaller, renewed, again


def test_joint_vectors(run_of: RunOf, additions: Path) -> None:
    run = run_of(stages="prepare,embed,collaborative,tokenize", vectors={"kind": "joint"})
    folders = check_upkeep(run, additions)
    catalog = Catalog.load(folders[-1] / "catalog")
    for folder in (run, *folders):
        assert json.loads((folder / "catalog" / "quality.json").read_text())["log_neighbourhood"]["num_queries"] > 0
    known = read_collaborative(folders[-1] / "collaborative.safetensors", catalog.item_ids)
    assert known.seen.tolist() == [True] * 20 + [False] * 4
    text = read_embeddings(folders[-1] / "embeddings.safetensors", catalog.item_ids)
    transform = load_transform(folders[-1] / "catalog" / "vectors.safetensors")
    assert transform.transform(text, known).shape[1] > text.shape[1]
    assert not (run / "collaborative.safetensors").samefile(folders[0] / "collaborative.safetensors")


def test_joint_vectors_whose_part_from_the_log_is_gone_are_refused(run_of: RunOf, additions: Path) -> None:
    run = run_of(stages="prepare,embed,collaborative,tokenize", vectors={"kind": "joint"})
    (run / "collaborative.safetensors").unlink()
    out = run.parent / "out"
    for change in (
        lambda: append_to_run(run, additions, out),
        lambda: retire_from_run(run, ["i3"], out),
        lambda: refit_run(run, out),
    ):
        with pytest.raises(ArtifactError, match=r"collaborative\.safetensors: missing, but joint vectors"):
            change()
    assert not out.exists()


def test_vectors_from_the_log_grow_with_the_catalogue_whoever_made_them(run_of: RunOf, additions: Path) -> None:
    run = run_of(stages="prepare,embed,collaborative,tokenize")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["collaborative"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    append_to_run(run, additions, run.parent / "grown")
    ids = Catalog.load(run.parent / "grown" / "catalog").item_ids
    assert len(read_collaborative(run.parent / "grown" / "collaborative.safetensors", ids).seen) == 22


def test_suffixes(run_of: RunOf, additions: Path) -> None:
    run = run_of(codebook_sizes=[4, 4], collisions="suffix")
    _, _, renewed, again = check_upkeep(run, additions)
    assert Catalog.load(renewed / "catalog").num_levels == 3
    assert json.loads((again / "catalog" / "quality.json").read_text())["share_moved"] == 0


def test_shared_sids(run_of: RunOf, additions: Path) -> None:
    run = run_of(codebook_sizes=[4, 2], collisions="share")
    folders = check_upkeep(run, additions)
    assert all(Catalog.load(folder / "catalog").shares for folder in folders)
    assert describe_catalog(folders[1])["collisions"]["rate"] > 0


def test_a_catalogue_without_a_log(shop: Path, tmp_path: Path) -> None:
    items, additions = tmp_path / "items.csv", tmp_path / "new.csv"
    head = "item_id,title,description\n"
    items.write_text(head + "".join(f"i{row},Thing {row},word{row} word{row % 3}\n" for row in range(20)))
    additions.write_text(head + "j1,Thing 1,word1 word1\nj2,Thing 7 again,word7 word2\n")
    config = EmbedConfig(encoder=str(shop / "encoder"), pooling="mean")
    run = Run(tmp_path / "run")
    tokenize_items(TokenizeConfig(codebook_sizes=(4, 4, 4)), run, items=items, embed_config=config, seed=0)
    check_upkeep(run.folder, additions)


def test_evaluation_is_told_to_take_a_changed_catalog(
    run_of: RunOf, additions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(stages="prepare,embed,tokenize,sft")
    grown = run.parent / "grown"
    append_to_run(run, additions, grown)
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--run", str(grown)])
    assert "--allow-catalog-change" in capsys.readouterr().err
    main(["evaluate", "--run", str(grown), "--allow-catalog-change"])
    assert (grown / "metrics.json").is_file()


def test_a_model_that_meets_a_refit_warns_once(
    run_of: RunOf, additions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(stages="prepare,embed,tokenize,sft")
    grown, renewed = run.parent / "grown", run.parent / "renewed"
    append_to_run(run, additions, grown)
    refit_run(grown, renewed)
    shutil.copytree(run / "model", renewed / "model")
    manifest = json.loads((renewed / "manifest.json").read_text())
    manifest["stages"]["sft"] = json.loads((run / "manifest.json").read_text())["stages"]["sft"]
    (renewed / "manifest.json").write_text(json.dumps(manifest))
    catalog = Catalog.load(grown / "catalog")
    catalog.refitted(catalog.codes[::-1].copy(), catalog.codebook_sizes, shares=False).save(renewed / "catalog")
    expected = "is a refit of a catalog that grew from it"
    assert expected in describe_catalog(renewed)["model"]
    with pytest.raises(CatalogError, match=expected):
        load_trained(renewed)
    with caplog.at_level("WARNING", logger="itemic"):
        load_trained(renewed, allow_catalog_change=True)
    assert caplog.text.count(expected) == 1
