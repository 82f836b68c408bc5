"""The shop evaluated under two seeds, from its log to one table."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from itemic.cli.main import main


def test_two_seeds_of_the_shop_become_one_table(recipe: Callable[..., Path], tmp_path: Path, capsys) -> None:
    path = recipe()
    values = {**yaml.safe_load(path.read_text()), "sft": None}
    path.write_text(yaml.safe_dump(values))
    runs = [str(tmp_path / f"seed{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        main(["run", str(path), "--run", run, f"seed={seed}", "--stages", "prepare,baselines,evaluate"])
    capsys.readouterr()
    main(["compare", *runs, "--format", "json", "--num-resamples", "100"])
    table = json.loads(capsys.readouterr().out)
    metrics = json.loads((Path(runs[0]) / "metrics.json").read_text())["recommenders"]
    assert {row["name"] for row in table["rows"]} == set(metrics)
    for row in table["rows"]:
        assert row["seeds"] == [0, 1]
        label = table["headline"]
        assert abs(row["estimates"][label]["by_seed"][0] - metrics[row["name"]]["metrics"][label]["value"]) < 1e-12
    assert all(len(entry["made_from"]) == 64 for entry in metrics.values())
    shorter = [str(tmp_path / "shorter"), "prepare.max_history=2"]
    main(["run", str(path), "--run", *shorter, "--stages", "prepare,baselines,evaluate"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *runs, shorter[0]])
    assert "histories of the examples differ (max_history 5 in the one, max_history 2 in" in capsys.readouterr().err
    best = table["rows"][0]
    assert best["name"] == table["reference"] == "Co-visit KNN"
    popularity = next(row for row in table["rows"] if row["name"] == "Popularity")
    assert (
        popularity["estimates"]["HR@10"]["to_best"] is None or popularity["estimates"]["HR@10"]["to_best"]["value"] < 0
    )
