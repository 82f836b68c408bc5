"""A small decoder that reads words names the next item of the toy shop, and its titles lead to the right one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from itemic.cli.main import main
from itemic.core.errors import ConfigError
from itemic.core.run import Run
from itemic.inference import load_trained
from itemic.titled import title_recommender

WORDS = ["sft.words=300", "sft.tasks={titles_to_title: 1}", "sft.row_tokens=512", "sft.rows_per_batch=1"]
SETTINGS = [*WORDS, "baselines=[popularity, covisit-knn]"]


def hit_rates(run: Path) -> dict[str, float]:
    rows = json.loads((run / "metrics.json").read_text())["recommenders"]
    return {name: row["metrics"]["HR@1"]["value"] for name, row in rows.items()}


@pytest.mark.slow
def test_titles_lead_to_every_next_item(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path, run = recipe(), tmp_path / "run"
    stages = ["--stages", "prepare,embed,tokenize,sft,baselines,evaluate"]
    main(["run", str(path), *stages, *SETTINGS, "evaluate.answer=title-grounded"])
    assert hit_rates(run)["itemic"] == 1.0
    main(["run", str(path), *stages, *SETTINGS, "evaluate.answer=title-tree"])
    assert hit_rates(run)["itemic"] == 1.0
    assisted = ["evaluate.titles={assistant: popularity, model_weight: 0.9}"]
    main(["run", str(path), *stages, *SETTINGS, "evaluate.answer=title-tree", *assisted])
    assert hit_rates(run)["itemic"] == 1.0
    assert hit_rates(run)["Popularity"] < 0.5

    trained = load_trained(run, device="cpu")
    recommender = title_recommender(trained, Run(run), "title-tree", device="cpu")
    items = trained.dataset.items["item_id"].to_list()
    lists = recommender.recommend([[items.index("i3")]], 20, exclude=[[items.index("i16")]])
    assert sorted(lists.item_index[0].tolist()) == [-1, *sorted(set(range(20)) - {items.index("i16")})]
    with pytest.raises(ConfigError, match="expected title-grounded or title-tree"):
        title_recommender(trained, Run(run), "sid")


def test_a_model_that_names_no_item_is_not_asked_to(shop_run: Path) -> None:
    trained = load_trained(shop_run, device="cpu")
    with pytest.raises(ConfigError, match=r"put titles_to_title among sft\.tasks"):
        title_recommender(trained, Run(shop_run), "title-grounded")
