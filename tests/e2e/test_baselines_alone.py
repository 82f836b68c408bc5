"""A recipe of baselines alone, and what its commands say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from itemic.baselines.registry import BASELINES
from itemic.cli.main import main


@pytest.fixture
def alone(recipe: Callable[..., Path]) -> Path:
    """The toy shop's recipe without a language model."""
    path = recipe()
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "sft": None}))
    return path


def test_help_says_that_rows_are_set_in_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["baselines", "--help"])
    said = capsys.readouterr().out
    assert "Settings are in the recipe, row by row" in said
    assert all(kind in said for kind in BASELINES)


def test_a_search_and_a_blend_say_what_they_chose_and_recommend_that_there_is_no_model(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    values = yaml.safe_load(alone.read_text())
    values["baselines"] = {
        "popularity": {},
        "covisit-knn": {"settings": {"decay": 0.5}, "search": {"decay": [0.5, 0.9], "max_distance": [1]}},
    }
    values["blend"] = {"members": ["popularity", "covisit-knn"], "num_folds": 2}
    alone.write_text(yaml.safe_dump(values, sort_keys=False))
    run = tmp_path / "run"
    caplog.set_level("INFO", logger="itemic")
    main(["prepare", "--run", str(run), "--recipe", str(alone)])
    capsys.readouterr()
    main(["baselines", "--run", str(run)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("popularity   fitted in ")
    assert re.fullmatch(
        r"covisit-knn  fitted in .* s; decay=0\.\d, max_distance=\d+, the best of 3 with valid .*", said[1]
    )
    assert said[2] == f"baselines: 2 rows in {run / 'baselines'}; next: itemic evaluate --run {run}"
    logged = [record.getMessage() for record in caplog.records]
    trials = [line for line in logged if line.startswith("covisit-knn: trial ")]
    assert "trial 2 of 3 (decay=0.5, max_distance=1), valid NDCG@10" in trials[1]
    assert sum(line.startswith("covisit-knn: chose decay=") for line in logged) == 1

    main(["blend", "--run", str(run)])
    said = capsys.readouterr().out.splitlines()
    card = json.loads((run / "blend.json").read_text())
    assert [line.split("  ")[0] for line in said[:3]] == ["popularity", "covisit-knn", "blend, out of fold"]
    assert f"NDCG@10 {card['valid']['out_of_fold']['NDCG@10']:.4f}" in said[2]
    assert said[3] == "weights: " + "; ".join(f"{name} {value:.3g}" for name, value in card["weights"].items())
    assert said[4].startswith(f"blend: {run / 'blend.json'}, l2 ")

    for stage in ("baselines", "blend"):
        caplog.clear()
        main(["run", str(run / "recipe.yaml"), "--stages", "baselines,blend,evaluate"])
        logged = [record.getMessage() for record in caplog.records]
        assert logged.count(f"{stage}: unchanged, skipped") == 1

    for flags in ([], ["--blend"]):
        with pytest.raises(SystemExit, match="2"):
            main(["recommend", "--run", str(run), "--history", "Thing 3", *flags])
        assert "has no language model (its recipe says sft: null), so recommend" in capsys.readouterr().err
