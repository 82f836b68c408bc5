"""``itemic compare`` on runs of hand-made lists and on the shop, from log to table."""

import json

import pytest

from itemic.cli.compare import run_compare

GOOD, POOR = [0] * 6 + [10] * 4, [0] + [10] * 9


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
    assert "Differences from Good" in shown
    assert "Coverage" not in shown
