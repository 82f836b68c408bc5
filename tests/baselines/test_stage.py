"""The stage fits each row once, keeps it, and goes on with a search that was killed."""

import dataclasses

import numpy as np
import pytest

from itemic.baselines import BaselineRow, CovisitKNNConfig, EASEConfig, PopularityConfig
from itemic.baselines import stage as stage_module
from itemic.baselines.search import combinations
from itemic.baselines.stage import baselines, load_rows
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import read_json
from itemic.core.run import Run


@pytest.fixture
def run(make_dataset, tmp_path) -> Run:
    rng = np.random.default_rng(3)
    dataset = make_dataset([rng.integers(0, 9, size=7).tolist() for _ in range(12)], 9)
    dataset.save(tmp_path / "dataset")
    return Run(tmp_path)


ROWS = {
    "popularity": BaselineRow(settings=PopularityConfig()),
    "knn": BaselineRow(
        settings=CovisitKNNConfig(), name="KNN, tuned", search={"decay": (0.5, 0.9), "max_distance": (1, 3)}
    ),
}


def test_rows_are_fitted_kept_and_read_back_by_name(run):
    result = baselines(ROWS, run, seed=0)
    rows = load_rows(run)
    assert list(rows) == ["popularity", "knn"]
    assert [row.baseline.name for row in rows.values()] == ["Popularity", "KNN, tuned"]
    card = rows["knn"].card
    assert len(card["trials"]) == 5  # the row's own settings and the grid of four
    best = max(card["trials"], key=lambda trial: trial["valid"])
    assert card["settings"] == best["settings"]
    assert card["valid"] == best["valid"] == result.metrics["knn"]["valid"]
    assert baselines(ROWS, run, seed=0).skipped


def test_a_changed_row_alone_is_fitted_again(run, monkeypatch):
    baselines(ROWS, run, seed=0)
    fitted = []
    fit = stage_module._fit
    monkeypatch.setattr(stage_module, "_fit", lambda key, *rest: fitted.append(key) or fit(key, *rest))
    renamed = {**ROWS, "popularity": dataclasses.replace(ROWS["popularity"], name="What is popular")}
    baselines(renamed, run, seed=0)
    assert fitted == []
    assert load_rows(run)["popularity"].baseline.name == "What is popular"
    baselines({**renamed, "ease": BaselineRow(settings=EASEConfig(l2=3.0))}, run, seed=0)
    assert fitted == ["ease"]
    baselines({"ease": BaselineRow(settings=EASEConfig(l2=5.0))}, run, seed=0)
    assert fitted == ["ease", "ease"]
    assert sorted(path.name for path in run.path("baselines").iterdir()) == ["ease.json", "ease.safetensors"]


def test_a_killed_search_goes_on_behind_its_last_trial(run, monkeypatch):
    whole = Run(run.folder.parent / "whole")
    whole.folder.mkdir()
    (whole.folder / "dataset").symlink_to(run.path("dataset"))
    baselines(ROWS, whole, seed=0)
    evaluate, calls = stage_module.evaluate_recommender, []

    def dies_at_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(stage_module, "evaluate_recommender", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        baselines(ROWS, run, seed=0)
    baselines(ROWS, run, seed=0)
    assert len(calls) == 6  # 2 trials, the killed one, and the 3 that were left
    cards = [read_json(each.path("baselines") / "knn.json") for each in (whole, run)]
    assert cards[0]["settings"] == cards[1]["settings"]
    assert cards[0]["trials"] == cards[1]["trials"]


def test_a_kill_between_a_row_s_file_and_its_card_leaves_no_card_of_another_fit(run, monkeypatch):
    rows, changed = ({"knn": BaselineRow(settings=CovisitKNNConfig(decay=decay))} for decay in (0.5, 0.3))
    baselines(rows, run, seed=0)
    before = load_rows(run)["knn"].baseline.recommend([[0, 1]], 5).score
    write_json = stage_module.write_json

    def dies_at_the_card(path, *values):
        if path.name == "knn.json":
            raise KeyboardInterrupt
        write_json(path, *values)

    monkeypatch.setattr(stage_module, "write_json", dies_at_the_card)
    with pytest.raises(KeyboardInterrupt):
        baselines(changed, run, seed=0)
    monkeypatch.setattr(stage_module, "write_json", write_json)
    with pytest.raises(ArtifactError, match=r"knn\.json: no such file"):
        load_rows(run)
    assert not baselines(rows, run, seed=0).skipped
    np.testing.assert_array_equal(load_rows(run)["knn"].baseline.recommend([[0, 1]], 5).score, before)


def test_a_search_over_what_is_no_setting_is_refused():
    row = BaselineRow(settings=EASEConfig(), search={"l3": (1.0,)})
    with pytest.raises(ConfigError, match=r"search\.l3: ease has no such setting; there are decay, kind, l2"):
        combinations(row, seed=0)
    wrong = BaselineRow(settings=EASEConfig(), search={"l2": (-1.0,)})
    with pytest.raises(ConfigError, match="l2 above 0"):
        combinations(wrong, seed=0)


def test_a_large_grid_is_drawn_from_and_keeps_the_row_s_own_settings():
    row = BaselineRow(settings=EASEConfig(l2=7.0), search={"l2": tuple(range(1, 60))}, max_trials=5)
    options = combinations(row, seed=0)
    assert len(options) == len(set(options)) == 5
    assert options[0] == row.settings
    assert combinations(row, seed=0) == options != combinations(row, seed=1)


def test_names_of_rows_are_names_of_files(run):
    with pytest.raises(ConfigError, match=r"baselines\.a/b: expected a name of letters"):
        baselines({"a/b": BaselineRow(settings=PopularityConfig())}, run, seed=0)
