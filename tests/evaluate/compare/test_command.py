"""``itemic compare`` on runs of hand-made lists and on the shop, from log to table."""

import json
from pathlib import Path

import pytest

from itemic.cli.compare import run_compare
from itemic.core.errors import ConfigError
from itemic.evaluate.metrics.labels import spell_label

GOOD, POOR = [0] * 6 + [10] * 4, [0] + [10] * 9
ROWS = {"Good": GOOD, "Poor": POOR}
FEW = ["--num-resamples", "50"]


def test_a_file_is_written_and_named(write_run, tmp_path, capsys) -> None:
    run, out = write_run("run", {"Good": GOOD, "Poor": POOR}), tmp_path / "table.md"
    run_compare([str(run), "--format", "markdown", "-o", str(out), "--num-resamples", "50", "--metrics", "MRR@10"])
    assert capsys.readouterr().out == f"{out}\n"
    assert "| Recommender | HR@10 | 95% | NDCG@10 | 95% | MRR@10 | 95% |" in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "table.md"]


def test_two_ranking_files_give_the_paired_test(write_run, capsys) -> None:
    folder = write_run("run", {"Good": GOOD, "Poor": POOR}) / "rankings"
    run_compare([str(folder / "good.parquet"), str(folder / "poor.parquet"), "--metric", "HR@1"])
    assert json.loads(capsys.readouterr().out)["difference"] == pytest.approx(0.5)


def test_files_and_folders_do_not_mix(write_run) -> None:
    run = write_run("run", {"Good": GOOD})
    with pytest.raises(ValueError, match="two ranking files and nothing else, found 1 ranking files among 2"):
        run_compare([str(run), str(run / "rankings" / "good.parquet")])


def test_the_command_prints_to_the_terminal(write_run, capsys) -> None:
    run = write_run("run", {"Good": GOOD, "Poor": POOR})
    run_compare([f"{run}:Good", f"{run}:Poor", "--no-beyond", "--num-resamples", "50"])
    shown = capsys.readouterr().out
    for metric in ("HR@10", "NDCG@10"):
        assert f"Differences from Good, {metric}" in shown
        assert f"Results, {metric}" in shown
    assert "Coverage" not in shown


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("t.tex", "\\begin{table"),
        ("t.md", "|"),
        ("t.html", "<!doctype html>"),
        ("t.json", "{"),
        ("t.txt", "Results, HR@10"),
    ],
)
def test_the_suffix_says_the_format(write_run, tmp_path: Path, name: str, begin: str) -> None:
    run_compare([str(write_run("run", ROWS)), "-o", str(tmp_path / name), *FEW])
    assert begin in (tmp_path / name).read_text()[:400]


def test_a_format_that_the_suffix_contradicts_is_refused(write_run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.tex is a file for latex"):
        run_compare([str(write_run("run", ROWS)), "--format", "html", "-o", str(tmp_path / "t.tex"), *FEW])
    run_compare([str(tmp_path / "run"), "--format", "html", "-o", str(tmp_path / "table.page"), *FEW])
    assert (tmp_path / "table.page").read_text().lower().startswith("<!doctype html>")


def test_rows_and_metrics_are_known_in_whatever_case(write_run, capsys) -> None:
    run = write_run("run", ROWS)
    run_compare([str(run), "--against", "poor", "--metrics", "hr@5,mrr@10", "--format", "json", *FEW])
    table = json.loads(capsys.readouterr().out)
    assert (table["reference"], table["metrics"]) == ("Poor", ["HR@10", "NDCG@10", "HR@5", "MRR@10"])
    files = [str(run / "rankings" / f"{name}.parquet") for name in ("good", "poor")]
    run_compare([*files, "--metric", "ndcg@5"])
    assert json.loads(capsys.readouterr().out)["metric"] == "NDCG@5"
    with pytest.raises(ConfigError, match="metric 'nDGC@5': expected one of HR"):
        spell_label("nDGC@5")


def test_the_test_of_two_ranking_files_is_not_written_elsewhere(write_run, tmp_path: Path) -> None:
    run = write_run("run", ROWS)
    files = [str(run / "rankings" / f"{name}.parquet") for name in ("good", "poor")]
    with pytest.raises(ConfigError, match="is printed as JSON"):
        run_compare([*files, "-o", str(tmp_path / "t.md")])
