"""Rows of several runs become one table."""

import json
from math import log2

import pytest

from itemic.core.errors import ArtifactError, ConfigError
from itemic.evaluate import compare_runs
from itemic.evaluate.compare import CompareConfig, build_table, read_rows
from itemic.evaluate.compare.records import ComparisonTable
from itemic.evaluate.compare.sheets import describe, verdicts

GOOD = [0] * 12 + [10] * 8
POOR = [0] * 2 + [10] * 18


def compare(*selections: object, **settings: object) -> ComparisonTable:
    rows = [row for selection in selections for row in read_rows(str(selection))]
    return build_table(rows, CompareConfig(**{"num_resamples": 2000, **settings}))


def test_one_run_by_hand(write_run) -> None:
    table = compare(write_run("run", {"Poor": POOR, "Good": GOOD}))
    assert [row.name for row in table.rows] == ["Good", "Poor"]
    assert table.metrics == ("HR@10", "NDCG@10")
    assert (table.headline, table.reference) == ("NDCG@10", "Good")
    good, poor = (row.estimates["HR@10"] for row in table.rows)
    assert (good.value, poor.value) == (12 / 20, 2 / 20)
    assert good.is_best
    assert good.to_best is None
    assert good.spread is None
    assert poor.to_reference == poor.to_best
    difference = poor.to_best
    assert difference is not None
    assert difference.value == pytest.approx(-10 / 20)
    # Ten users differ, all one way: of 2^10 swaps two are as large, p = 1/512 but for the sampling.
    assert difference.p_value == pytest.approx(2 / 2**10, abs=2e-3)
    assert difference.verdict == "below"
    assert verdicts(table)[0] == "HR@10: Good is significantly above Poor."


def test_differences_are_those_of_the_paired_test(write_run) -> None:
    run = write_run("run", {"Good": GOOD, "Other": [3] * 9 + [10] * 11})
    table = compare(run, metrics=("MRR@10",))
    files = [run / "rankings" / f"{name}.parquet" for name in ("other", "good")]
    tested = compare_runs(*files, "MRR@10", num_resamples=2000)
    found = table.rows[1].estimates["MRR@10"].to_reference
    assert found is not None
    assert found.value == pytest.approx(tested.difference)
    assert found.p_value == pytest.approx(tested.p_value, abs=0.03)
    assert (found.low, found.high) == pytest.approx((tested.low, tested.high), abs=0.05)


def test_holm_counts_the_rows_of_a_metric(write_run) -> None:
    table = compare(write_run("run", {"Good": GOOD, "Poor": POOR, "None": [10] * 20}))
    found = [row.estimates["HR@10"].to_reference for row in table.rows[1:]]
    raw = sorted(one.p_value for one in found)
    corrected = sorted(one.adjusted_p_value for one in found)
    assert corrected[0] == pytest.approx(2 * raw[0])
    assert corrected[1] == pytest.approx(max(2 * raw[0], raw[1]))


def test_what_cannot_be_told_from_the_best_is_marked(write_run) -> None:
    table = compare(write_run("run", {"Good": GOOD, "Near": [10, *GOOD[1:]], "Poor": POOR}))
    marks = {row[0].text: (row[1].is_best, row[1].marks) for row in describe(table)[0].rows}
    assert marks == {"Good": (True, ""), "Near": (False, "†"), "Poor": (False, "")}
    assert verdicts(table)[0] == "HR@10: Good is significantly above Poor, but not above Near."


def test_seeds_are_averaged_example_by_example(write_run) -> None:
    first = write_run("a", {"Model": [0, 0, 10, 10]}, seed=1)
    second = write_run("b", {"Model": [0, 10, 10, 10]}, seed=2)
    third = write_run("c", {"Model": [1, 0, 0, 10]}, seed=3)
    (row,) = compare(third, first, second).rows
    assert row.seeds == (1, 2, 3)
    assert [run.rpartition("/")[2] for run in row.runs] == ["a", "b", "c"]
    estimate = row.estimates["HR@10"]
    assert estimate.by_seed == (2 / 4, 1 / 4, 3 / 4)
    assert estimate.value == pytest.approx(1 / 2)
    assert estimate.spread == pytest.approx(1 / 4)
    assert row.estimates["NDCG@10"].value == pytest.approx((2 + 1 + 2 + 1 / log2(3)) / 12)
    assert row.beyond["users_per_s"] == pytest.approx((200 + 300 + 400) / 3)


def test_seeds_whose_misses_complement_each_other_leave_no_doubt_about_users(write_run) -> None:
    first = write_run("a", {"Model": [0, 10, 0, 10]}, seed=1)
    second = write_run("b", {"Model": [10, 0, 10, 0]}, seed=2)
    (row,) = compare(first, second).rows
    estimate = row.estimates["HR@10"]
    assert (estimate.low, estimate.value, estimate.high) == (1 / 2, 1 / 2, 1 / 2)


def test_other_settings_are_other_rows_with_the_names_of_their_runs(write_run) -> None:
    facts = [{"Model": {"settings": {"kind": "m", "width": width}}} for width in (8, 16)]
    runs = [write_run(f"w{at}", {"Model": GOOD[at:] + [10] * at}, seed=at, facts=facts[at]) for at in (0, 1)]
    assert [row.name for row in compare(*runs).rows] == ["Model (w0)", "Model (w1)"]
    assert [row.name for row in compare(*runs, seeds="name").rows] == ["Model"]


def test_rows_of_one_setting_made_from_other_things_are_no_seeds_of_one(write_run) -> None:
    facts = [{"Blend": {"settings": {"members": ["model"]}, "made_from": made}} for made in ("poor", "good", "good")]
    runs = [
        write_run(name, {"Blend": GOOD[at:] + [10] * at}, seed=seed, facts=facts[at])
        for at, (name, seed) in enumerate((("a", 1), ("b", 1), ("c", 2)))
    ]
    assert [(row.name, row.seeds) for row in compare(*runs).rows] == [("Blend (a)", (1,)), ("Blend (b, c)", (1, 2))]


@pytest.mark.parametrize(
    ("stage", "configs"),
    [
        ("prepare", ({"max_history": 10}, {"max_history": 50})),
        ("evaluate", ({"answer": "title-grounded"}, {"answer": "title-tree"})),
        ("evaluate", ({"answer": "title-tree", "titles": {}}, {"answer": "title-tree", "titles": {"assistant": "s"}})),
        ("blend", ({"members": ["model"]}, {"members": ["ours"]})),
    ],
)
def test_figures_that_do_not_say_what_they_were_made_from_go_by_the_whole_run(write_run, stage, configs) -> None:
    facts = {"itemic": {"settings": None}}
    runs = [write_run(f"r{at}", {"itemic": GOOD[at:] + [10] * at}, seed=at, facts=facts) for at in (0, 1)]
    for run, config in zip(runs, configs, strict=True):
        (run / "manifest.json").write_text(json.dumps({"stages": {stage: {"config": config}}}))
    assert [row.name for row in compare(*runs).rows] == ["itemic (r0)", "itemic (r1)"]


def test_seeds_may_be_kept_apart(write_run) -> None:
    runs = [write_run(name, {"Model": GOOD[at:] + [10] * at}, seed=at) for at, name in enumerate("ab")]
    assert [row.name for row in compare(*runs, seeds="apart").rows] == ["Model (a)", "Model (b)"]


def test_the_same_baseline_in_two_runs_is_shown_once(write_run) -> None:
    runs = [write_run(name, {"Popularity": POOR, f"Model {name}": GOOD}) for name in "ab"]
    table = compare(*runs)
    assert sorted(row.name for row in table.rows) == ["Model a", "Model b", "Popularity"]
    assert table.notes == ("Popularity: the same in several runs, shown once",)


def test_one_seed_with_two_results_is_refused(write_run) -> None:
    runs = [write_run(name, {"Model": GOOD[at:] + [10] * at}) for at, name in enumerate("ab")]
    with pytest.raises(ConfigError, match="have Model of one seed, 0, with different results"):
        compare(*runs)


def test_a_row_of_a_run_is_chosen_by_its_name(write_run) -> None:
    run = write_run("run", {"Good": GOOD, "Poor": POOR})
    assert [row.name for row in read_rows(f"{run}:Poor")] == ["Poor"]
    with pytest.raises(ConfigError, match="no recommender 'Pour'; did you mean Poor"):
        read_rows(f"{run}:Pour")


def test_another_reference_on_request(write_run) -> None:
    run = write_run("run", {"Good": GOOD, "Poor": POOR})
    table = compare(run, against="Poor")
    good, poor = (row.estimates["HR@10"] for row in table.rows)
    assert good.to_reference is not None
    assert good.to_reference.verdict == "above"
    assert poor.to_reference is None
    assert poor.to_best is not None
    assert compare(run, against="poor").reference == "Poor"
    with pytest.raises(ConfigError, match="did you mean Poor"):
        compare(run, against="Pour")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"split": "valid"}, "split is test in the one and valid in the other"),
        ({"exclude_history": True}, "exclude_history is False in the one and True"),
        ({"num_candidates": 21}, "num_candidates is 20 in the one and 21"),
        ({"cutoffs": [1, 10, 20]}, r"cutoffs is \[1, 10\] in the one"),
        ({"num_cold_items": 3}, "num_cold_items is 0 in the one and 3 in the other"),
        ({"targets": [8] * 20}, "Good and Good have other values of target"),
        ({"users": ["u"] * 20}, "Good and Good have other values of user_id"),
    ],
)
def test_other_protocols_are_refused(write_run, other, words) -> None:
    one, two = write_run("one", {"Good": GOOD}), write_run("two", {"Good": GOOD}, seed=1, **other)
    with pytest.raises(ConfigError, match=f"one and .*two were not evaluated alike: {words}"):
        compare(one, two)


def test_other_histories_are_refused(write_run) -> None:
    known = {"histories_hash": "a", "max_history": 10, "rebuilt_histories": False}
    rebuilt = {"histories_hash": "b", "max_history": 50, "rebuilt_histories": True}
    one, two = write_run("one", {"Good": GOOD}, **known), write_run("two", {"Poor": POOR}, **rebuilt)
    words = r"histories of the examples differ \(max_history 10 in the one, max_history 50, rebuilt from the log in"
    with pytest.raises(ConfigError, match=words):
        compare(one, two)
    # A bound that no history reaches changes nothing.
    three = write_run("three", {"Poor": POOR}, **{**known, "max_history": 99})
    assert compare(one, three).notes == ()


def test_histories_that_were_not_recorded_are_no_reason_to_refuse_but_named(write_run) -> None:
    one, two = write_run("one", {"Good": GOOD}), write_run("two", {"Poor": POOR}, histories_hash="")
    (note,) = compare(one, two).notes
    assert note.startswith(f"{two}: evaluated by an earlier version, which did not record the histories")
    assert compare(two).notes == ()


def test_runs_that_are_not_evaluated_say_so(tmp_path, write_run) -> None:
    with pytest.raises(ArtifactError, match="no such run folder"):
        read_rows(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="run itemic evaluate --run"):
        read_rows(str(tmp_path / "empty"))
    run = write_run("run", {"Good": GOOD})
    (run / "rankings" / "good.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"good\.parquet: missing"):
        read_rows(str(run))


def test_a_cut_beyond_the_lists_is_refused(write_run) -> None:
    with pytest.raises(ConfigError, match="metric HR@20: the lists of these runs have 10 items"):
        compare(write_run("run", {"Good": GOOD}), metrics=("HR@20",))


def test_what_else_was_measured_is_shown_where_it_is_there(write_run) -> None:
    temperature = [{"bucket": "cold", "num_examples": 3, "metrics": {"HR@10": {"value": 0.25}}}]
    facts = {
        "Good": {
            "latency_ms": {"p50": 2.0, "p95": 5.0},
            "breakdown": {"target_temperature": temperature},
            "metrics": {"Diversity@10": {"value": 0.4}},
        },
        "Poor": {"latency_ms": None},
    }
    table = compare(write_run("run", {"Good": GOOD, "Poor": POOR}, facts=facts))
    good, poor = table.rows
    assert good.beyond["latency_p95_ms"] == 5
    assert good.beyond["HR@10, cold"] == 0.25
    assert good.beyond["Diversity@10"] == 0.4
    assert "latency_p50_ms" not in poor.beyond
    assert "Coverage@10" in table.beyond
    sheet = next(one for one in describe(table) if one.key == "beyond")
    column = sheet.columns.index("ms, median")
    assert [row[column].text for row in sheet.rows] == ["2", "–"]
    assert "beyond" not in [one.key for one in describe(table, beyond=False)]


def test_a_row_that_may_repeat_nothing_says_why_it_equals_popularity(write_run) -> None:
    facts = {"Last": {"settings": {"kind": "repeat-last"}}}
    for excluded in (True, False):
        run = write_run(str(excluded), {"Last": [0, 1], "Other": [0, 1]}, facts=facts, exclude_history=excluded)
        notes = compare(run, num_resamples=10).notes
        assert [note.partition(",")[0] for note in notes] == ["Last has nothing to repeat here"] * excluded
