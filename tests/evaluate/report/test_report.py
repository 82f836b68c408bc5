import shutil
from pathlib import Path

import pytest

from itemic.core.errors import ConfigError
from itemic.core.files import read_json, write_json
from itemic.core.run import Run
from itemic.evaluate.report import ReportConfig, report


@pytest.fixture
def run(whole_run: Run, tmp_path: Path) -> Run:
    shutil.copytree(whole_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def test_the_stage_writes_the_page_and_skips_what_is_unchanged(run: Run) -> None:
    first = report(ReportConfig(), run, seed=3)
    page = run.path("report.html")
    assert first.metrics == {"page_bytes": page.stat().st_size}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert report(ReportConfig(), run, seed=3).skipped
    assert not report(ReportConfig(num_examples=2), run, seed=3).skipped


def test_new_figures_make_a_new_page(run: Run) -> None:
    report(ReportConfig(), run, seed=3)
    metrics = read_json(run.path("metrics.json"))
    metrics["recommenders"]["itemic"]["metrics"]["NDCG@10"]["value"] = 0.98765
    write_json(run.path("metrics.json"), metrics)
    assert not report(ReportConfig(), run, seed=3).skipped
    assert "0.9877" in run.path("report.html").read_text(encoding="utf-8")


def test_a_stage_that_ran_again_makes_a_new_page(run: Run) -> None:
    report(ReportConfig(), run, seed=3)
    manifest = read_json(run.manifest_path)
    manifest["stages"]["sft"]["wall_time_s"] = 99.0
    write_json(run.manifest_path, manifest)
    assert not report(ReportConfig(), run, seed=3).skipped


def test_settings_reach_the_page(run: Run) -> None:
    config = ReportConfig(title="A <title>", focus="EASE", cutoff=5, num_examples=2, num_history=1)
    report(config, run, seed=3)
    page = run.path("report.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "EASE has the next item among its first 5" in page
    assert page.count('<article class="card example"') == 2
    assert page.count('<li><span class="title"') <= 2


def test_no_example_is_asked_for(run: Run) -> None:
    report(ReportConfig(num_examples=0), run, seed=3)
    assert "num_examples: 0" in run.path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "message"),
    [(ReportConfig(focus="nobody"), "focus 'nobody'"), (ReportConfig(cutoff=7), "cutoff 7")],
)
def test_what_was_not_evaluated_is_refused(run: Run, config: ReportConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        report(config, run, seed=3)
    assert not run.path("report.html").exists()


@pytest.mark.parametrize("field", ["cutoff", "num_examples", "num_history"])
def test_impossible_settings_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be at least"):
        ReportConfig(**{field: -1})
