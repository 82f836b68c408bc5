"""A blend on the toy shop, from the recipe to what is served."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import itemic
from itemic.cli.main import main
from itemic.core.errors import ArtifactError, ConfigError


@pytest.mark.slow
def test_a_blend_is_as_good_as_its_members_and_is_refused_when_they_change(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = recipe(epochs=8), tmp_path / "run"
    values = yaml.safe_load(path.read_text())
    values["baselines"] = ["repeat-last", "covisit-knn", "text-knn"]
    values["blend"] = {"members": ["model", "dense-head", "covisit-knn", "text-knn"], "num_folds": 2}
    path.write_text(yaml.safe_dump(values))
    main(["run", str(path), "--stages", "prepare,embed,tokenize,sft,baselines,blend,evaluate"])
    figures = json.loads((run / "metrics.json").read_text())["recommenders"]
    assert next(iter(figures)) == "itemic blend"
    reached = {name: entry["metrics"]["NDCG@10"]["value"] for name, entry in figures.items()}
    assert reached["itemic blend"] >= max(reached["itemic"], reached["Co-visit KNN"], reached["Text KNN"]) - 1e-9
    card = json.loads((run / "blend.json").read_text())
    assert set(card["valid"]["members"]) == {"model", "dense-head", "covisit-knn", "text-knn"}

    capsys.readouterr()
    main(["recommend", "--run", str(run), "--blend", "--history", "Thing 3", "--k", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["items"][0]["item_id"] == "i16"
    trained = itemic.load_trained(run, blend=True)
    alone = itemic.load_trained(run)
    found = trained.recommend(["Thing 3"], 20, exclude=["i16"])
    assert "i16" not in {item.item_id for item in found}
    assert found.num_allowed == alone.recommend(["Thing 3"], 20, exclude=["i16"]).num_allowed == len(found)
    assert trained.identity != alone.identity
    with pytest.raises(ConfigError, match="a blend does not think"):
        trained.after_thinking()

    main(["run", str(path), "baselines.covisit-knn={settings: {decay: 0.5}}", "--stages", "baselines"])
    with pytest.raises(ArtifactError, match="baselines/covisit-knn changed since the blend was fitted"):
        itemic.load_trained(run, blend=True)
