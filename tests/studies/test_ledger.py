"""What is done stays done, what failed is tried again, and a kill loses one run at most."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from itemic.core.errors import ConfigError, DataError
from itemic.core.files import write_json
from itemic.recipe import load_recipe
from itemic.studies.ledger import Ledger, Trial, recipe_fingerprint


def trials(*names: str, fingerprint: str = "x") -> list[Trial]:
    return [Trial(name=name, fingerprint=fingerprint, facts={"name": name}) for name in names]


class Work:
    """Counts its runs, and fails or is killed where it is told to."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = errors
        self.ran: list[str] = []

    def __call__(self, trial: Trial) -> dict[str, Any]:
        self.ran.append(trial.name)
        if trial.name in self.errors:
            raise self.errors[trial.name]
        return {"figure": len(trial.name)}


def test_a_failure_is_recorded_and_does_not_stop_the_others(tmp_path: Path) -> None:
    outcomes = Ledger(tmp_path / "s", "fake").run_all(
        trials("a", "bb", "ccc"), Work(a=DataError("no rows"), bb=KeyError("lost"))
    )
    assert [one.figures for one in outcomes] == [None, None, {"figure": 3}]
    assert [one.error for one in outcomes] == ["no rows", "KeyError: 'lost'", ""]
    entries = json.loads((tmp_path / "s" / "study.json").read_text())["trials"]
    assert [entry["status"] for entry in entries.values()] == ["failed", "failed", "done"]
    again = Work()
    outcomes = Ledger(tmp_path / "s", "fake").run_all(trials("a", "bb", "ccc"), again)
    assert again.ran == ["a", "bb"]
    assert [one.figures for one in outcomes] == [{"figure": 1}, {"figure": 2}, {"figure": 3}]


def test_a_killed_study_goes_on_where_it_stood(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path / "s", "fake").run_all(trials("a", "b", "c"), Work(b=KeyboardInterrupt()))
    work = Work()
    Ledger(tmp_path / "s", "fake").run_all(trials("a", "b", "c"), work)
    assert work.ran == ["b", "c"]


def test_a_trial_of_other_settings_runs_again(tmp_path: Path) -> None:
    Ledger(tmp_path / "s", "fake").run_all(trials("a"), Work())
    work = Work()
    Ledger(tmp_path / "s", "fake").run_all(trials("a", fingerprint="y"), work)
    assert work.ran == ["a"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "s", "fake").run_all(trials("a"), Work())
    with pytest.raises(ConfigError, match="holds the study 'fake', not 'other'"):
        Ledger(tmp_path / "s", "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match=r"is not empty and holds no study\.json"):
        Ledger(tmp_path / "full", "fake")
    with pytest.raises(ConfigError, match="two runs of the study are called 'a'"):
        Ledger(tmp_path / "new", "fake").run_all(trials("a", "a"), Work())


def write_sources(folder: Path) -> Path:
    """A recipe that reads from elsewhere whatever a recipe can."""
    for name in ("log.csv", "items.csv", "encoder/weights", "backbone/weights"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("first")
    (folder / "ledger_rewards.py").write_text("def margin(answers):\n    return answers.leaf\n")
    write_json(folder / "other/manifest.json", {"stages": {"sft": {"outputs": {"model": "first"}}}})
    source = {"format": "table", "interactions": str(folder / "log.csv"), "items": str(folder / "items.csv")}
    recipe = {
        "prepare": {"source": source},
        "embed": {"encoder": str(folder / "encoder")},
        "sft": {"backbone": str(folder / "backbone")},
        "rl": {"rewards": {"rule": 1.0, "ledger_rewards:margin": 0.1}},
        "baselines": ["covisit-knn"],
        "blend": {"members": ["model", "covisit-knn"], "runs": [str(folder / "other")]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_a_fingerprint_is_of_all_that_a_recipe_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = write_sources(tmp_path)
    found = [recipe_fingerprint(load_recipe(path))]
    assert recipe_fingerprint(load_recipe(path, ("run=elsewhere",))) == found[0]
    assert recipe_fingerprint(load_recipe(path), "more") != found[0]
    for name in ("log.csv", "items.csv", "encoder/weights", "backbone/weights", "ledger_rewards.py"):
        (tmp_path / name).write_text("def margin(answers):\n    return -answers.leaf\n")
        found.append(recipe_fingerprint(load_recipe(path)))
    write_json(tmp_path / "other/manifest.json", {"stages": {"sft": {"outputs": {"model": "second"}}}})
    found.append(recipe_fingerprint(load_recipe(path)))
    assert len(set(found)) == len(found)
