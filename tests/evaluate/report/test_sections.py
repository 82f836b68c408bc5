"""What the sections say, on the miniature run and on single records bent to show one thing."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from itemic.core.errors import ArtifactError
from itemic.core.page.formats import write_percent
from itemic.core.run import Run
from itemic.evaluate.report.artifacts import RunArtifacts, TrainingLog, read_artifacts
from itemic.evaluate.report.figures import Figure, palette
from itemic.evaluate.report.focus import Standing, standing
from itemic.evaluate.report.sections.behaviour import describe_behaviour
from itemic.evaluate.report.sections.codebooks import describe_codebooks, distinct_prefixes, same_first_code
from itemic.evaluate.report.sections.data_card import describe_data
from itemic.evaluate.report.sections.examples import choose_examples, describe_examples
from itemic.evaluate.report.sections.exposure import describe_most_listed, shares_by_popularity
from itemic.evaluate.report.sections.headline import describe_headline
from itemic.evaluate.report.sections.parts import Missing, flatten, log2_histogram
from itemic.evaluate.report.sections.provenance import describe_provenance
from itemic.evaluate.report.sections.results import describe_results
from itemic.evaluate.report.sections.training import best_valid, describe_training, thin, with_speed
from itemic.sid.catalog import Catalog
from itemic.sid.quality import measure_quality


@pytest.fixture
def artifacts(whole_run: Run) -> RunArtifacts:
    return read_artifacts(whole_run)


@pytest.fixture
def place(artifacts: RunArtifacts) -> Standing:
    return standing(artifacts.metrics, 10, None)


def _findings(artifacts: RunArtifacts, **changes: Any) -> dict[str, str]:
    changed = dataclasses.replace(artifacts, **changes)
    place = standing(changed.metrics, 10, None) if changed.metrics else None
    headline = describe_headline(changed, place, cutoff=10, title="")
    return {finding.text: finding.level for finding in headline.findings}


def _levels(findings: dict[str, str], words: str) -> list[str]:
    return [level for text, level in findings.items() if words in text]


def _behaviour(artifacts: RunArtifacts, place: Standing) -> dict[str, Figure]:
    figures = describe_behaviour(artifacts, place, palette(place.order, place.focus), 10)
    return {figure.key: figure for figure in figures}


def _bent(value: Any, *path: str | int, to: Any) -> Any:
    """Returns a copy of nested mappings with one value changed."""
    head, *rest = path
    copy = list(value) if isinstance(value, (list, tuple)) else dict(value)
    copy[head] = _bent(value[head], *rest, to=to) if rest else to
    return copy


# Small parts.


def test_classes_of_a_histogram_double() -> None:
    names, counts = log2_histogram(np.array([0, 1, 2, 3, 4, 5, 8, 9, 16, 17]))
    assert names == ["0", "1", "2", "3–4", "5–8", "9–16", "17–32"]
    assert counts == [1, 1, 1, 2, 2, 2, 1]


def test_classes_outside_the_values_are_left_out() -> None:
    assert log2_histogram(np.array([3, 4, 9])) == (["3–4", "5–8", "9–16"], [2, 0, 1])
    assert log2_histogram(np.array([], dtype=np.int64)) == ([], [])


def test_nested_settings_become_pairs() -> None:
    values = {"a_b": {"c": 1, "d": None}, "e": [1, True], "f": ""}
    assert list(flatten(values)) == [("a b › c", "1"), ("e", "1, yes")]


# Results.


def test_every_cutoff_has_its_table(artifacts: RunArtifacts, place: Standing) -> None:
    section = describe_results(artifacts, place, 10)
    assert [board.cutoff for board in section.boards] == [1, 5, 10, 20, 50]
    for board in section.boards:
        assert tuple(row.name for row in board.rows) == place.order
        assert [row.is_focus for row in board.rows].count(True) == 1
        labels = [column.label for column in board.columns]
        assert labels[:3] == [f"{name}@{board.cutoff}" for name in ("NDCG", "HR", "MRR")]
        assert section.drops_recall
        assert f"Recall@{board.cutoff}" not in labels
        for column in range(3):
            values = [row.cells[column].value for row in board.rows]
            assert [row.cells[column].is_best for row in board.rows] == [value == max(values) for value in values]


def test_intervals_hold_their_value(artifacts: RunArtifacts, place: Standing) -> None:
    for board in describe_results(artifacts, place, 10).boards:
        for cell in (cell for row in board.rows for cell in row.cells if cell.span):
            low, value, high = cell.span
            assert 0 <= low <= value <= high <= 1


def test_recall_stays_where_it_is_another_figure(artifacts: RunArtifacts, place: Standing) -> None:
    bent = _bent(artifacts.metrics, "recommenders", "EASE", "metrics", "Recall@10", "value", to=0.5)
    section = describe_results(dataclasses.replace(artifacts, metrics=bent), place, 10)
    assert not section.drops_recall
    assert "Recall@10" in [column.label for column in section.boards[2].columns]


def test_costs_stand_in_a_table_of_their_own(artifacts: RunArtifacts, place: Standing) -> None:
    known = _bent(artifacts.metrics, "recommenders", "EASE", "latency_ms", to={"p50": 1.5, "p95": 1234.5})
    known = _bent(known, "recommenders", "EASE", "num_parameters", to=1000)
    costs = describe_results(dataclasses.replace(artifacts, metrics=known), place, 10).costs
    assert costs is not None
    labels = [column.label for column in costs.columns]
    assert labels == ["Parameters", "Fit", "Users/s", "Latency, median", "Latency, 95%"]
    assert tuple(row.name for row in costs.rows) == place.order
    cells = next(row.cells for row in costs.rows if row.name == "EASE")
    assert [cells[column].text for column in (0, 3, 4)] == ["1,000", "1.5 ms", "1,234 ms"]
    keys = ("users_per_s", "fit_s", "fit_cpu_s", "num_parameters", "latency_ms")
    bare = {name: {**entry, **dict.fromkeys(keys)} for name, entry in artifacts.metrics["recommenders"].items()}
    unknown = {**artifacts.metrics, "recommenders": bare}
    assert describe_results(dataclasses.replace(artifacts, metrics=unknown), place, 10).costs is None


def test_comparisons_are_read_from_the_focus(artifacts: RunArtifacts) -> None:
    made = {"metric": "NDCG@10", "num_examples": 60}
    pair = [
        {**made, "a": "EASE", "b": "itemic", "difference": -0.5, "low": -1.0, "high": -0.25, "p_value": 0.001},
        {**made, "a": "itemic", "b": "SASRec", "difference": -0.1, "low": -0.3, "high": 0.1, "p_value": 0.4},
    ]
    bent = {**artifacts.metrics, "comparisons": pair}
    section = describe_results(dataclasses.replace(artifacts, metrics=bent), standing(bent, 10, None), 10)
    duels = {duel.b: duel for duel in section.duels}
    assert (duels["EASE"].a, duels["EASE"].difference, duels["EASE"].verdict) == ("itemic", 0.5, "better")
    assert duels["EASE"].span == (0.625, 0.75, 1.0)
    assert (duels["SASRec"].verdict, duels["EASE"].adjusted) == ("unclear", "0.002")


def test_a_focus_that_was_compared_with_all_shows_its_own_pairs_alone(artifacts: RunArtifacts) -> None:
    names = sorted(artifacts.metrics["recommenders"])
    sure = {"metric": "NDCG@10", "num_examples": 60, "difference": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.01}
    every = [{**sure, "a": a, "b": b} for at, a in enumerate(names) for b in names[at + 1 :]]
    for made, num_shown in ((every, len(names) - 1), (every[:1], 1)):
        bent = {**artifacts.metrics, "comparisons": made}
        place = standing(bent, 10, names[-1])
        duels = describe_results(dataclasses.replace(artifacts, metrics=bent), place, 10).duels
        assert len(duels) == num_shown
        assert duels[0].adjusted == f"{0.01 * num_shown:.3f}"


# Behind the averages.


def test_figures_behind_the_averages(artifacts: RunArtifacts, place: Standing) -> None:
    figures = {
        figure.key: figure for figure in describe_behaviour(artifacts, place, palette(place.order, "itemic"), 10)
    }
    assert list(figures) == [
        "figure-history-length",
        "figure-target-popularity",
        "figure-curve",
        "figure-depth",
        "figure-overlap",
        "figure-slots",
        "figure-honesty",
    ]
    rows = figures["figure-history-length"].views[0].table.rows
    assert [row[0] for row in rows] == list(place.order)


def test_shares_by_popularity_by_hand() -> None:
    popularity = np.array([0, 3, 3, 7, 500])
    # Groups 0, 1-5, 6-20, 21-100, 101+; the empty slot counts nowhere.
    shares = shares_by_popularity(np.array([[0, 1], [2, 4], [4, -1]]), popularity)
    expected = [Fraction(1, 5), Fraction(2, 5), 0, 0, Fraction(2, 5)]
    assert shares.tolist() == pytest.approx([float(share) for share in expected])


def test_shares_of_slots_add_up(artifacts: RunArtifacts, place: Standing) -> None:
    figures = {
        figure.key: figure for figure in describe_behaviour(artifacts, place, palette(place.order, "itemic"), 10)
    }
    for trace in figures["figure-slots"].views[0].spec["data"]:
        assert sum(trace["y"]) == pytest.approx(1, abs=1e-4)


def test_what_is_shown_most_often_is_counted(artifacts: RunArtifacts, place: Standing) -> None:
    table = describe_most_listed(artifacts, place, 10)
    lists = artifacts.rankings["itemic"]["items"].list.head(10)
    item, count = lists.explode().value_counts(sort=True).row(0)
    assert table.rows[0][0] == artifacts.dataset.items["title"][item][:80]
    assert table.rows[0][1] == write_percent(count / len(lists))
    assert len(table.rows) == 10


def test_few_hits_draw_no_curve_of_honesty(artifacts: RunArtifacts, place: Standing) -> None:
    few = {**artifacts.rankings, "itemic": artifacts.rankings["itemic"].head(5)}
    assert "figure-honesty" not in _behaviour(dataclasses.replace(artifacts, rankings=few), place)


def test_a_breakdown_with_other_groups_is_refused(artifacts: RunArtifacts, place: Standing) -> None:
    bent = _bent(artifacts.metrics, "recommenders", "EASE", "breakdown", "history_length", to=[])
    with pytest.raises(ArtifactError, match="EASE has breakdown groups"):
        describe_behaviour(dataclasses.replace(artifacts, metrics=bent), place, palette(place.order, "itemic"), 10)


# Examples.


def test_half_the_examples_are_hits_where_there_are_enough() -> None:
    hits = np.array([True] * 3 + [False] * 30)
    rng = np.random.default_rng(0)
    assert hits[choose_examples(hits, 4, rng)].tolist() == [True, True, False, False]
    assert hits[choose_examples(hits, 10, rng)].tolist() == [True] * 3 + [False] * 7
    assert hits[choose_examples(~hits, 10, rng)].sum() == 3
    assert len(choose_examples(hits, 100, rng)) == len(hits)
    assert choose_examples(hits, 0, rng) == []


def test_examples_show_the_truth_and_how_it_was_ranked(artifacts: RunArtifacts, place: Standing) -> None:
    rng = np.random.default_rng(0)
    section = describe_examples(artifacts, place, cutoff=10, num_examples=6, num_history=3, rng=rng)
    assert section.score_name == "probability"
    for example in section.examples:
        assert len(example.history) <= 3
        assert all(code.is_shared for code in example.truth.sid)
        listed_truth = [one.rank for one in example.listed if one.is_truth]
        assert example.is_hit == bool(listed_truth)
        if listed_truth:
            assert example.truth_rank == str(listed_truth[0])
        assert [name for name, _ in example.other_ranks] == [name for name in place.order if name != "itemic"]
        assert all(0 <= one.width <= 1 for one in example.listed)


def test_other_scores_are_no_probabilities(artifacts: RunArtifacts) -> None:
    place = standing(artifacts.metrics, 10, "SASRec")
    rng = np.random.default_rng(0)
    section = describe_examples(artifacts, place, cutoff=10, num_examples=2, num_history=3, rng=rng)
    assert section.score_name == "score"
    assert "%" not in section.examples[0].listed[0].score


def test_lists_of_another_dataset_are_refused(artifacts: RunArtifacts, place: Standing) -> None:
    shifted = {name: table.with_columns(pl.col("example_id") + 10**6) for name, table in artifacts.rankings.items()}
    with pytest.raises(ArtifactError, match="which the dataset does not have"):
        describe_examples(
            dataclasses.replace(artifacts, rankings=shifted),
            place,
            cutoff=10,
            num_examples=1,
            num_history=1,
            rng=np.random.default_rng(0),
        )


# Training.


def test_long_logs_are_averaged_down() -> None:
    records = [{"step": step, "loss": float(step)} for step in range(1, 11)] + [{"step": 11}]
    assert thin(records, "loss", max_points=4) == ([3, 6, 9, 10], [2.0, 5.0, 8.0, 10.0])
    assert thin(records, "loss") == (list(range(1, 11)), [float(step) for step in range(1, 11)])
    assert thin(records, "grad_norm") == ([], [])


def test_speed_comes_from_the_log_or_from_tokens_and_time() -> None:
    records = [{"step": 1, "tokens": 100, "wall_time_s": 9.0}, {"step": 2, "tokens": 100, "wall_time_s": 9.5}]
    assert [record.get("tokens_per_s") for record in with_speed(records)] == [None, 200.0]
    assert with_speed([records[0], {**records[1], "tokens_per_s": 7.0}])[1]["tokens_per_s"] == 7.0


def test_the_best_model_is_the_one_that_training_kept() -> None:
    by_loss = TrainingLog(train=(), valid=({"step": 1, "valid_loss": 3.0}, {"step": 2, "valid_loss": 2.0}))
    assert (best_valid(by_loss).key, best_valid(by_loss).step) == ("valid_loss", 2)
    first, second = {"step": 1, "valid_ndcg@10": 0.5, "valid_loss": 3.0}, {"step": 2, "valid_ndcg@10": 0.4}
    by_ndcg = TrainingLog(train=(), valid=(first, {**second, "valid_loss": 2.0}))
    assert (best_valid(by_ndcg).key, best_valid(by_ndcg).step) == ("valid_ndcg@10", 1)
    assert best_valid(TrainingLog(train=(), valid=())) is None


def test_training_has_a_curve_for_each_task(artifacts: RunArtifacts) -> None:
    loss, steps = describe_training(artifacts).figures
    assert [view.label for view in loss.views] == ["All tasks", "By task"]
    assert [trace["name"] for trace in loss.views[1].spec["data"]] == ["next item", "title to sid"]
    assert [view.label for view in steps.views] == [
        "valid NDCG@10",
        "Learning rate",
        "Gradient norm",
        "Tokens a second",
    ]


def test_an_alignment_before_has_its_own_curve(artifacts: RunArtifacts) -> None:
    section = describe_training(dataclasses.replace(artifacts, alignment=artifacts.training))
    assert [figure.key for figure in section.figures] == ["figure-loss", "figure-steps", "figure-align"]


# Semantic IDs.


def test_distinct_prefixes_by_hand() -> None:
    assert distinct_prefixes(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0]])) == [2, 3, 4]


def test_the_map_holds_every_item_once(artifacts: RunArtifacts) -> None:
    section = describe_codebooks(artifacts, None, 10)
    trace = section.figures[1].views[0].spec["data"][0]
    sizes = dict(zip(trace["ids"], trace["values"], strict=True))
    children: dict[str, int] = {}
    for node, parent in zip(trace["ids"], trace["parents"], strict=True):
        children[parent] = children.get(parent, 0) + sizes[node]
    assert children.pop("") == len(artifacts.catalog)
    assert all(total == sizes[parent] for parent, total in children.items())
    assert section.num_groups == len(set(artifacts.catalog.codes[:, 0].tolist()))


def test_the_map_shows_hits_where_lists_are_there(artifacts: RunArtifacts, place: Standing) -> None:
    by_use, by_hits = describe_codebooks(artifacts, place, 10).figures[1].views
    assert (by_use.label, by_hits.label) == ("By use", "By hits")
    whole = by_hits.spec["data"][0]["marker"]["colors"][0]
    assert whole == pytest.approx(artifacts.metrics["recommenders"]["itemic"]["metrics"]["HR@10"]["value"], abs=1e-4)


def test_staying_under_one_code_is_set_against_chance() -> None:
    first_codes = np.array([0, 0, 1])
    # Pairs (0,1) and (2,2) stay, (0,2) does not; drawn apart: codes 0 0 1 against 0 1 1.
    stay, chance = same_first_code(first_codes, np.array([0, 2, 0]), np.array([1, 2, 2]))
    assert stay == pytest.approx(2 / 3)
    assert chance == pytest.approx(2 / 3 * 1 / 3 + 1 / 3 * 2 / 3)


def test_a_catalog_of_one_shared_level_is_described(artifacts: RunArtifacts) -> None:
    codes = artifacts.catalog.codes[:, :1]
    catalog = Catalog(codes, artifacts.catalog.item_ids, artifacts.catalog.codebook_sizes[:1], shares=True)
    figures = measure_quality(codes, codes, catalog.codebook_sizes)
    section = describe_codebooks(dataclasses.replace(artifacts, catalog=catalog, quality=figures), None, 10)
    assert {fact.label: fact.note for fact in section.facts}["Collision rate in the catalog"] == "items share IDs"
    assert len(section.levels.rows) == 1
    names = section.figures[1].views[0].spec["data"][0]["ids"]
    assert len(names) == 1 + section.num_groups


def test_titles_in_tooltips_are_text(artifacts: RunArtifacts) -> None:
    trace = describe_codebooks(artifacts, None, 10).figures[1].views[0].spec["data"][0]
    assert not any("<img" in text for text in trace["customdata"])


# Data.


def test_the_data_card_counts_the_tables(artifacts: RunArtifacts) -> None:
    section = describe_data(artifacts)
    facts = {fact.label: fact.value for fact in section.facts}
    dataset = artifacts.dataset
    assert facts["Items"] == str(dataset.num_items)
    assert facts["Interactions"] == f"{dataset.interactions.height:,}"
    assert [row[:2] for row in section.splits.rows] == [
        (name, f"{dataset.split(name).height:,}") for name in ("train", "valid", "test")
    ]
    assert section.checks == (("histories not in log", "0"), ("test targets unseen in train", "12.5%"))
    assert [row[0] for row in section.steps.rows] == ["read", "k core", "repeats"]
    assert section.steps.rows[1][2] == "−28"
    assert section.rejects.rows[0][:3] == ("unknown item", "2", "u.data, row 90")


def test_popularity_counts_training_only(artifacts: RunArtifacts) -> None:
    popularity = artifacts.dataset.train_counts()
    targets = artifacts.dataset.interactions.filter(split="train").height
    assert popularity.sum() == targets
    assert len(popularity) == artifacts.dataset.num_items


def test_a_log_without_times_has_no_timeline(artifacts: RunArtifacts) -> None:
    dataset = artifacts.dataset
    tables = ("interactions", "train", "valid", "test")
    no_time = pl.lit(None, pl.Int64).alias("timestamp")
    changes = {name: getattr(dataset, name).with_columns(no_time) for name in tables}
    untimed = dataclasses.replace(dataset, **changes)
    section = describe_data(dataclasses.replace(artifacts, dataset=untimed))
    assert "figure-time" not in [figure.key for figure in section.figures]
    assert section.splits.rows[0][-2:] == ("–", "–")


# Headline.


def test_the_verdict_says_how_far_and_how_sure(artifacts: RunArtifacts, place: Standing) -> None:
    verdict = describe_headline(artifacts, place, cutoff=10, title="").verdict
    assert verdict.startswith("itemic has the next item among its first 10 in ")
    assert place.rival in verdict
    assert "clear difference, p " in verdict


def test_a_good_run_has_no_warning(artifacts: RunArtifacts) -> None:
    assert "warning" not in _findings(artifacts).values()


def test_trouble_with_the_results_is_named(artifacts: RunArtifacts) -> None:
    metrics, own = artifacts.metrics, ("recommenders", "itemic", "metrics")
    beaten = {**_bent(metrics, *own, "NDCG@10", "value", to=0.0), "comparisons": []}
    for words, level, bent in (
        ("hold no real, allowed item", "warning", _bent(metrics, *own, "Invalid@10", "value", to=0.5)),
        ("rank above itemic", "note", beaten),
        ("of the valid split", "warning", _bent(metrics, "protocol", "split", to="valid")),
        ("Evaluated on 7 of", "note", _bent(metrics, "protocol", "num_examples", to=7)),
    ):
        assert _levels(_findings(artifacts, metrics=bent), words) == [level], words


def test_a_training_too_short_for_a_line_of_its_log_has_its_section(artifacts: RunArtifacts) -> None:
    short = dataclasses.replace(artifacts.training, train=(), valid=({"step": 2, "valid_loss": 3.5},))
    section = describe_training(dataclasses.replace(artifacts, training=short))
    assert {fact.label: fact.value for fact in section.facts} == {"Steps": "2", "Best valid loss": "3.5"}
    assert [trace["name"] for trace in section.figures[0].views[0].spec["data"]] == ["valid"]


def test_trouble_with_the_training_is_named(artifacts: RunArtifacts) -> None:
    log = artifacts.training
    broken = dataclasses.replace(log, train=({**log.train[0], "loss": float("nan")}, *log.train[1:]))
    worse = dataclasses.replace(log, valid=({**log.valid[0], "valid_ndcg@10": 0.9}, *log.valid[1:]))
    assert _levels(_findings(artifacts, training=broken), "not finite at 1 logged") == ["warning"]
    assert _levels(_findings(artifacts, training=worse), "was best at step 200 and worse by") == ["note"]
    other = dataclasses.replace(artifacts.model, itemic={"catalog_version": "f" * 64})
    assert _levels(_findings(artifacts, model=other), "trained on another catalog") == ["warning"]


def test_trouble_with_the_artefacts_is_named(artifacts: RunArtifacts) -> None:
    colliding = _bent(artifacts.quality, "collisions", "before", "rate", to=0.4)
    unused = _bent(artifacts.quality, "levels", 1, "share_used", to=0.25)
    stale = _bent(artifacts.stages, "evaluate", "inputs", to={"dataset": "0" * 64})
    assert _levels(_findings(artifacts, quality=colliding), "Collision rate 40.0% as coded") == ["note"]
    assert _levels(_findings(artifacts, quality=unused), "Level 2 uses 25% of its codes") == ["note"]
    assert _levels(_findings(artifacts, stages=stale), "Stage evaluate read another dataset") == ["warning"]


def test_half_a_run_says_what_it_can(artifacts: RunArtifacts) -> None:
    half = dataclasses.replace(artifacts, metrics=None, rankings={}, training=None, model=None)
    headline = describe_headline(half, None, cutoff=0, title="Half")
    assert (headline.title, headline.verdict) == ("Half", "")
    assert describe_results(half, None, 0) == Missing.of("metrics.json", "evaluate")
    assert describe_behaviour(half, None, {}, 0) == ()
    assert describe_training(half) == Missing.of("sft.jsonl", "sft")


# How it was made.


def test_stages_stand_with_time_settings_and_figures(artifacts: RunArtifacts) -> None:
    section = describe_provenance(artifacts)
    assert [stage.name for stage in section.stages] == ["prepare", "embed", "tokenize", "sft", "evaluate"]
    assert section.stages[2].config == "codebook_sizes:\n- 8\n- 8\n- 8\n"
    assert section.config.startswith("seed: 3\nprepare:\n  split: leave_one_out\n")
    assert ("num steps", "1,600") in section.stages[3].figures
    assert dict(section.machine)["seed"] == "3"
    assert {fact.label: fact.value for fact in section.model}["Architecture"] == "Qwen3"
