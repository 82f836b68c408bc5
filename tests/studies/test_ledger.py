"""What is done stays done, what failed is tried again, and a kill loses one run at most."""

import json
from pathlib import Path
from typing import Any

import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.studies.ledger import Ledger, Trial


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
