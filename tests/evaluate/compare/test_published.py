"""Published figures: the list itself, its names, and the check of a row against it."""

import pytest

from itemic.core.errors import ConfigError
from itemic.evaluate.compare import (
    CompareConfig,
    build_table,
    check_published,
    find_figures,
    read_benchmarks,
    read_rows,
)
from itemic.evaluate.metrics.labels import parse_label


def test_every_figure_is_a_share_of_a_ranking_metric() -> None:
    for benchmark in read_benchmarks().values():
        for figures in benchmark.methods.values():
            for one in figures:
                assert one.source
                for label, value in one.metrics.items():
                    assert parse_label(label)[0] in ("HR", "NDCG")
                    assert 0 < value < 0.2


def test_longer_lists_have_no_less_but_for_the_misprints_that_are_named() -> None:
    odd = []
    for name, benchmark in read_benchmarks().items():
        for method, figures in benchmark.methods.items():
            for one in figures:
                for kind in ("HR", "NDCG"):
                    values = [one.metrics[f"{kind}@{cut}"] for cut in (3, 5, 10) if f"{kind}@{cut}" in one.metrics]
                    if values != sorted(values):
                        odd.append((name, method, kind))
                        assert "misprint" in one.note
    assert odd == [("amazon18-industrial", "D3", "NDCG")]


def test_the_paper_stands_first() -> None:
    paper, claim, rerun = find_figures("amazon18-industrial", "MiniOneRec")
    assert (paper.metrics["HR@10"], claim.metrics["HR@10"], rerun.metrics["HR@10"]) == (0.1586, 0.1546, 0.1313)
    assert [one.kind for one in (paper, claim, rerun)] == ["paper", "paper", "re-run"]


def test_unknown_names_give_the_nearest() -> None:
    check_published("", [""])
    check_published("amazon14-beauty", ["TIGER", ""])
    check_published("", ["SASRec"])
    with pytest.raises(ConfigError, match=r"benchmark 'amazon18-industry' .* did you mean amazon18-industrial"):
        check_published("amazon18-industry", [])
    with pytest.raises(
        ConfigError, match="published 'sasrek': nothing is listed on amazon18-office; did you mean SASRec"
    ):
        check_published("amazon18-office", ["sasrek"])
    with pytest.raises(ConfigError, match="on any benchmark"):
        check_published("", ["Zzz"])


def test_a_row_is_held_against_what_is_published(write_run) -> None:
    # HR@10 is exactly 1/10 for each user, so that the interval is a point: .1088 and .1052 lie above it.
    ranks = [0, *[10] * 9] * 4
    users = [f"u{row // 10}" for row in range(40)]
    facts = {"Ours": {"published": "SASRec"}}
    run = write_run("run", {"Ours": ranks}, users=users, facts=facts, benchmark="amazon18-industrial")
    table = build_table(read_rows(str(run)), CompareConfig(num_resamples=100))
    (row,) = table.rows
    checks = [(one.metric, one.value, one.kind, one.place) for one in row.published]
    assert checks == [
        ("HR@10", 0.1088, "paper", "below"),
        ("HR@10", 0.1052, "re-run", "below"),
        ("NDCG@10", 0.0806, "paper", "above"),
        ("NDCG@10", 0.0805, "re-run", "above"),
    ]
    assert table.notes[0] == "published figures are of 4,533 test examples, these rows of 40: not the same benchmark"


def test_a_figure_inside_the_interval_is_within(write_run) -> None:
    ranks = [0] * 4 + [10] * 36
    facts = {"Ours": {"published": "SASRec"}}
    run = write_run("run", {"Ours": ranks}, facts=facts, benchmark="amazon18-industrial")
    (row,) = build_table(read_rows(str(run)), CompareConfig(num_resamples=500)).rows
    assert {one.place for one in row.published} == {"within"}
