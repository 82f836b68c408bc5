"""Conditions on the catalogue's columns, from two CSV files to the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

import itemic
from itemic.cli.main import main

NUM_ITEMS = 20


@pytest.fixture(scope="module")
def shop_run(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[..., Path]) -> Path:
    """A run of the shop in which every item has a stock, a day and genres; item 0 has none of them."""
    folder = tmp_path_factory.mktemp("where")
    lines = ["item,name,text,stock,released,genres"]
    for item in range(NUM_ITEMS):
        columns = (
            f'{item % 4},2024-01-{item + 1:02d},"odd, all"' if item % 2 else f"{item % 4},2024-01-{item + 1:02d},all"
        )
        lines.append(f"i{item},Thing {item},word{item}," + (columns if item else ",,"))
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    recipe = write_recipe(folder, epochs=1)
    values = yaml.safe_load(recipe.read_text())
    values["prepare"]["source"]["items"] = str(folder / "items.csv")
    recipe.write_text(yaml.safe_dump(values))
    main(["run", str(recipe), "--stages", "prepare,embed,tokenize,sft"])
    return folder / "run"


def test_conditions_by_flags(shop_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def recommend(*flags: str) -> tuple[list[int], str]:
        capsys.readouterr()
        main(
            ["recommend", "--run", str(shop_run), "--history", "i1", "--num-beams", "20", "-k", "20", "--json", *flags]
        )
        answer = capsys.readouterr()
        return [int(item["item_id"][1:]) for item in json.loads(answer.out)["items"]], answer.err

    ranking, _ = recommend()
    for flags, is_allowed in (
        (["--where", "stock > 0"], lambda item: item % 4 > 0),
        (["--where", "stock > 0", "--where", "genres contains odd"], lambda item: item % 2 == 1),
        (["--where", "released >= 2024-01-15 or title = 'Thing 3'"], lambda item: item >= 14 or item == 3),
        (["--where", "released is null"], lambda item: item == 0),
        (["--where", "title contains 'thing 1'"], lambda item: item == 1 or item >= 10),
        (["--where", "not stock = 1", "--exclude", "i2"], lambda item: item % 4 != 1 and item not in (0, 2)),
    ):
        assert recommend(*flags)[0] == [item for item in ranking if is_allowed(item)]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(shop_run), "--where", "stok > 0"])
    assert "condition 'stok > 0': the catalogue has no column 'stok'; did you mean 'stock'?" in capsys.readouterr().err
    main(["recommend", "--run", str(shop_run), "--history", "i1", "--where", "stock = 3", "-k", "9"])
    assert "only 5 items are allowed, fewer than the 9 asked for" in capsys.readouterr().err


def test_conditions_in_python(shop_run: Path) -> None:
    trained = itemic.load_trained(shop_run, num_beams=20)
    found = trained.recommend(["i1"], 20, where=pl.col("stock") == "3")
    assert {item.item_id for item in found} == {"i3", "i7", "i11", "i15", "i19"}
    assert found.num_allowed == 5
    nothing = trained.recommend(["i1"], 3, where=["stock = 3", "stock = 2"])
    assert (list(nothing), nothing.num_allowed) == ([], 0)
    assert len(trained.recommend(["i1"], 3)) == 3
    lists = trained.recommend_many([[1], [2], []], 4, where=["stock = 3", None, "released > 2024-01-18"])
    assert lists.num_allowed is not None
    assert lists.num_allowed.tolist() == [5, 20 if trained.dataset.keeps_repeats else 19, 2]
    assert lists.num_listed.tolist() == [4, 4, 2]


def test_live_stock_decides_and_shows_nowhere_else(
    shop_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    live = pl.DataFrame({"item_id": ["i3", "i2", "gone"], "stock": [0, 7, 1], "title": ["x", "y", "z"]})
    live.write_csv(tmp_path / "live.csv")
    plain = itemic.load_trained(shop_run, num_beams=20)
    trained = itemic.load_trained(shop_run, num_beams=20, items=live)
    expected = [replace(item, rank=1) for item in plain.recommend(["i1"], 20) if item.item_id == "i2"]
    assert trained.recommend(["i1"], 20, where="stock > 0") == expected, "same title, prompt and probability"
    assert trained.recommend([], 20, where="stock is null").num_allowed == 20 - 2
    assert trained.dataset.items.equals(plain.dataset.items)
    emptied = trained.with_items(live.with_columns(stock=pl.lit(0)))
    assert (
        emptied.recommend([], 20, where="stock > 0").num_allowed,
        len(trained.recommend([], where="stock > 0")),
    ) == (0, 1)
    assert len({run.identity.get("items") for run in (plain, trained, emptied)}) == 3
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(shop_run), "--items", str(tmp_path / "live.csv")])
    assert "--items is what conditions read: give --where too" in capsys.readouterr().err
    caplog.clear()
    ask = ["recommend", "--run", str(shop_run), "--items", str(tmp_path / "live.csv"), "--where"]
    main([*ask, "stock > 0", "--history", "i1", "--json"])
    assert [item["item_id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["i2"]
    assert "1 rows have an item_id that no item has, 'gone' first" in caplog.text
    main([*ask, "stock > 9", "--history", "i1", "--json"])
    assert json.loads(capsys.readouterr().out) == {"items": [], "num_allowed": 0, "num_seen": 0, "k": 10}
    assert "condition 'stock > 9' holds for no item" in caplog.text


def test_a_table_reads_live_stock_and_does_not_go_on_with_another(shop_run: Path, tmp_path: Path) -> None:
    live, target = tmp_path / "live.parquet", tmp_path / "recs.parquet"

    def recommend(stock: list[int]) -> None:
        pl.DataFrame({"item_id": ["i3", "i2"], "stock": stock}).write_parquet(live)
        ask = ["recommend", "--run", str(shop_run), "--users", "all", "--out", str(target), "--no-exclude-seen"]
        main([*ask, "--items", str(live), "--where", "stock > 0"])

    recommend([0, 7])
    assert pl.read_parquet(target)["item_id"].unique().to_list() == ["i2"]
    recommend([7, 0])
    assert pl.read_parquet(target)["item_id"].unique().to_list() == ["i3"]
