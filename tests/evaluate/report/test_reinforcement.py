"""The section on reinforcement learning: there with its log only, and drawn from whatever the log has."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from itemic.core.run import Run
from itemic.evaluate.report import ReportConfig, render_report, report
from itemic.evaluate.report.artifacts import RunArtifacts, TrainingLog, read_artifacts, read_training_log
from itemic.evaluate.report.figures import Figure
from itemic.evaluate.report.sections.headline import describe_headline
from itemic.evaluate.report.sections.reinforcement import ReinforcementSection, describe_reinforcement

_SECTION = '<section id="reinforcement">'
_LINK = 'href="#reinforcement"'


@pytest.fixture(scope="module")
def artifacts(reinforced_run: Run) -> RunArtifacts:
    return read_artifacts(reinforced_run)


def _describe(artifacts: RunArtifacts, *records: dict[str, Any], **metrics: Any) -> ReinforcementSection | None:
    """Returns the section of a log with these records, and of a manifest with these metrics, if any."""
    valid = tuple(record for record in records if any(key.startswith("valid_") for key in record))
    train = tuple(record for record in records if record not in valid)
    stages = {"rl": {"metrics": metrics}} if metrics else {}
    log = TrainingLog(train=train, valid=valid)
    return describe_reinforcement(dataclasses.replace(artifacts, reinforcement=log, stages=stages))


def _valid(step: int, ndcg: float, hits: float = 0.25) -> dict[str, Any]:
    return {"step": step, "valid_score": ndcg + hits, "valid_ndcg@10": ndcg, "valid_hr@50": hits}


def _by_key(section: ReinforcementSection | None) -> dict[str, Figure]:
    assert section is not None
    return {figure.key.removeprefix("figure-rl-"): figure for figure in section.figures}


def _names(figure: Figure) -> list[str]:
    return [trace["name"] for trace in figure.views[0].spec["data"]]


def test_a_run_without_the_log_has_no_section(whole_run: Run) -> None:
    page = render_report(ReportConfig(), whole_run, seed=3)
    assert _SECTION not in page
    assert _LINK not in page
    assert describe_reinforcement(read_artifacts(whole_run)) is None


def test_a_log_without_a_line_makes_no_section(artifacts: RunArtifacts) -> None:
    assert _describe(artifacts) is None


def test_a_run_with_the_log_has_the_section(reinforced_run: Run) -> None:
    page = render_report(ReportConfig(), reinforced_run, seed=3)
    assert _SECTION in page
    assert _LINK in page
    assert "On valid, NDCG@10 went from 0.1203 to 0.1251 (+4.0%)" in page
    packed = re.findall(r'class="specs">(.*?)</script>', page)
    assert not any(word in text for text in packed for word in ("NaN", "Infinity"))


def test_every_signal_of_the_log_is_drawn_over_the_same_steps(artifacts: RunArtifacts) -> None:
    figures = _by_key(describe_reinforcement(artifacts))
    assert list(figures) == ["ranking", "hits", "rewards", "groups", "entropy", "kl", "clip", "loss"]
    assert [view.label for view in figures["ranking"].views] == ["NDCG@10", "score"]
    assert [view.label for view in figures["hits"].views] == ["HR@50", "HR@10"]
    assert _names(figures["rewards"]) == ["total", "rank aware", "rule"]
    assert _names(figures["groups"]) == ["with target", "no signal", "distinct"]
    specs = [view.spec for figure in figures.values() for view in figure.views]
    assert {tuple(spec["layout"]["xaxis"]["range"]) for spec in specs} == {(-6.0, 306.0)}
    assert {shape["x0"] for spec in specs for shape in spec["layout"]["shapes"]} == {240}
    for spec in specs:
        go.Figure(spec)


def test_every_chart_is_a_table_too(artifacts: RunArtifacts) -> None:
    figures = _by_key(describe_reinforcement(artifacts))
    views = {view.label: view.table for figure in figures.values() for view in figure.views}
    assert all(views.values())
    assert views["Rewards"].columns == ("Step", "total", "rank aware", "rule")
    assert all(len(table.rows) <= 20 for table in views.values())
    assert views["Rewards"].rows[-1][0] == "299"
    rates = [row[1] for row in views["Learning rate"].rows]
    assert rates[0].startswith("9.8e") or rates[0].startswith("9.7e")


def test_the_start_is_a_dashed_line(artifacts: RunArtifacts) -> None:
    curve, start = _by_key(describe_reinforcement(artifacts))["ranking"].views[0].spec["data"]
    assert start["line"]["dash"] == "dash"
    assert start["y"] == [curve["y"][0], curve["y"][0]]
    assert (start["x"][0], start["x"][-1]) == (curve["x"][0], curve["x"][-1]) == (0, 280)


def test_validations_read_as_a_table(artifacts: RunArtifacts) -> None:
    table = _by_key(describe_reinforcement(artifacts))["hits"].views[0].table
    assert table is not None
    assert table.columns == ("Step", "HR@50", "HR@10")
    assert table.rows[0] == ("0", "0.2300", "0.1500")


@pytest.mark.parametrize(
    ("records", "summary"),
    [
        ([_valid(0, 0.1, 0.2), _valid(50, 0.11, 0.21)], "NDCG@10 went from 0.1000 to 0.1100 (+10.0%) and HR@50 from"),
        ([_valid(0, 0.1), _valid(50, 0.11)], "at step 50, the only validation since."),
        ([_valid(0, 0.1), _valid(50, 0.12), _valid(90, 0.11)], "at step 50, the best of 2 validations."),
        ([_valid(0, 0.1), _valid(5, 0.09), _valid(9, 0.08)], "none of 2 validations was better, so the model kept is"),
        ([_valid(0, 0.1), _valid(50, 0.09)], "the only validation since was not better"),
        ([_valid(0, 0.1)], "there is no validation since."),
        ([_valid(50, 0.1)], "At step 50, the only validation, NDCG@10 was 0.1000 and HR@50 was 0.2500 on valid."),
        ([_valid(0, 0.0), _valid(50, 0.1)], "NDCG@10 went from 0.0000 to 0.1000 and"),
        (
            [{"step": 5, "valid_loss": 2.0}, {"step": 9, "valid_loss": 1.5}],
            "At step 9, the best of 2 validations, loss",
        ),
    ],
)
def test_the_gain_is_said_in_words(artifacts: RunArtifacts, records: list[dict[str, Any]], summary: str) -> None:
    section = _describe(artifacts, *records)
    assert section is not None
    assert summary in section.summary


@pytest.mark.parametrize(
    ("metrics", "ending"),
    [
        ({"stopped_early": True, "stop_reason": "KL is 7 nats."}, "It stopped at step 60: KL is 7 nats."),
        ({"stopped_early": True, "stop_reason": ""}, "It stopped early at step 60, after too many validations"),
        ({"stopped_early": False}, "It ran its 60 steps to the end."),
    ],
)
def test_the_end_is_said_in_words(artifacts: RunArtifacts, metrics: dict[str, Any], ending: str) -> None:
    section = _describe(artifacts, _valid(0, 0.1), {"step": 60, "loss": 0.1}, **metrics)
    assert section is not None
    assert ending in section.summary


def test_the_step_kept_is_the_manifests(artifacts: RunArtifacts) -> None:
    records = [_valid(0, 0.1), _valid(50, 0.12), _valid(90, 0.11)]
    for best_step, kept in ((90, "at step 90"), (70, "at step 50")):
        section = _describe(artifacts, *records, best_step=best_step)
        assert section is not None
        assert kept in section.summary


@pytest.mark.parametrize(
    ("lost", "panels"),
    [
        ("loss", set()),
        ("reward", set()),
        ("hit_share", set()),
        ("entropy", {"entropy"}),
        ("kl", {"kl"}),
        ("clip_fraction", {"clip"}),
        ("wall_time_s", set()),
        ("tokens", set()),
        ("epoch", set()),
    ],
)
def test_any_figure_may_be_missing(artifacts: RunArtifacts, lost: str, panels: set[str]) -> None:
    log = artifacts.reinforcement
    assert log is not None
    train = tuple({key: value for key, value in record.items() if key != lost} for record in log.train)
    less = dataclasses.replace(artifacts, reinforcement=TrainingLog(train=train, valid=log.valid))
    whole, shown = _by_key(describe_reinforcement(artifacts)), _by_key(describe_reinforcement(less))
    assert whole.keys() - shown.keys() == panels


def test_steps_without_a_validation_and_validations_without_a_step(artifacts: RunArtifacts) -> None:
    assert list(_by_key(_describe(artifacts, {"step": 1, "entropy": 1.0}))) == ["entropy"]
    assert list(_by_key(_describe(artifacts, _valid(0, 0.1)))) == ["ranking", "hits"]


def test_preferences_have_their_own_panels(artifacts: RunArtifacts) -> None:
    figures = _by_key(_describe(artifacts, {"step": 1, "margin": -0.5, "accuracy": 0.4}))
    assert list(figures) == ["margin", "accuracy"]


def test_a_single_point_is_a_mark(artifacts: RunArtifacts) -> None:
    figures = _by_key(_describe(artifacts, {"step": 0, "entropy": 1.0}, _valid(0, 0.1)))
    for figure in figures.values():
        spec = figure.views[0].spec
        assert [trace["mode"] for trace in spec["data"]] == ["lines+markers"]
        assert spec["layout"]["xaxis"]["range"] == [-0.02, 1.02]


def test_figures_that_are_no_numbers_are_gaps(reinforced_run: Run, tmp_path: Path) -> None:
    shutil.copytree(reinforced_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    lines = [{"step": 1, "loss": 0.1, "kl": float("nan"), "reward": float("inf")}, _valid(2, float("nan"))]
    run.path("rl/rl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    page = render_report(ReportConfig(), run, seed=3)
    specs = re.findall(r'class="specs">(.*?)</script>', page)
    assert specs
    for text in specs:
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in a chart"))


def test_a_line_without_a_loss_counts_too(tmp_path: Path) -> None:
    lines = [{"step": 1, "entropy": 1.0}, {"step": 2, "epoch": 0.1, "valid_score": 0.3}, {"step": 3, "epoch": 0.2}]
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    log = read_training_log(tmp_path / "rl.jsonl")
    assert [record["step"] for record in log.train] == [1]
    assert [record["step"] for record in log.valid] == [2]


def test_a_collapse_and_a_gain_of_nothing_are_found(artifacts: RunArtifacts) -> None:
    findings = describe_headline(artifacts, None, cutoff=10, title="").findings
    told = {finding.text: finding.level for finding in findings if finding.section == "reinforcement"}
    words = (
        "Reinforcement learning stopped at step 300: the entropy fell to 0.03 nats, below 0.05: the policy collapsed."
    )
    assert told == {words: "warning"}
    log = TrainingLog(train=(), valid=(_valid(0, 0.2), _valid(9, 0.1)))
    harmed = dataclasses.replace(artifacts, reinforcement=log, stages={})
    texts = [finding.text for finding in describe_headline(harmed, None, cutoff=10, title="").findings]
    assert any(text.startswith("Reinforcement learning gained nothing on valid") for text in texts)


def test_an_evaluation_of_either_model_is_not_stale(artifacts: RunArtifacts) -> None:
    made = {name: artifacts.stages[name]["outputs"] for name in ("sft", "rl")}
    before, after = made["sft"]["model"], made["rl"]["rl/model"]
    assert before != after
    read = (("model", before), ("model", after), ("rl/model", after), ("model", "0" * 64), ("rl/model", "0" * 64))
    for name, digest in read:
        evaluated = {**artifacts.stages["evaluate"], "inputs": {name: digest}}
        bent = dataclasses.replace(artifacts, stages={**artifacts.stages, "evaluate": evaluated})
        texts = [finding.text for finding in describe_headline(bent, None, cutoff=10, title="").findings]
        assert any(f"evaluate read another {name}" in text for text in texts) == (digest not in (before, after))


def test_a_longer_log_makes_a_new_page(reinforced_run: Run, tmp_path: Path) -> None:
    shutil.copytree(reinforced_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    report(ReportConfig(), run, seed=3)
    assert report(ReportConfig(), run, seed=3).skipped
    with run.path("rl/rl.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": 302, "entropy": 0.1}) + "\n")
    assert not report(ReportConfig(), run, seed=3).skipped
