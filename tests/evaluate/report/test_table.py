import io

import pytest
from rich.console import Console

from itemic.core.errors import ConfigError
from itemic.core.files import read_json
from itemic.core.page.formats import write_metric
from itemic.core.run import Run
from itemic.evaluate.report import metrics_table
from itemic.evaluate.report.table import temperature_table


def _render(metrics: dict, width: int = 80, **options: int) -> tuple[str, str]:
    plain, styled = io.StringIO(), io.StringIO()
    table = metrics_table(metrics, **options)
    Console(file=plain, width=width, color_system=None).print(table)
    Console(file=styled, width=width, force_terminal=True, color_system="standard").print(table)
    return plain.getvalue(), styled.getvalue()


def test_recommenders_stand_by_ndcg_with_the_best_in_bold(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    plain, styled = _render(metrics)
    scores = {name: entry["metrics"]["NDCG@10"]["value"] for name, entry in metrics["recommenders"].items()}
    order = sorted(scores, key=lambda name: -scores[name])
    assert [name for line in plain.splitlines() for name in order if line.strip().startswith(name)] == order
    assert f"\x1b[1m{write_metric(scores[order[0]])}" in styled
    assert "±" in plain


def test_it_fits_a_terminal_of_eighty_columns(whole_run: Run) -> None:
    plain, _ = _render(read_json(whole_run.path("metrics.json")))
    assert "…" not in plain
    assert max(map(len, plain.splitlines())) <= 80


def test_long_names_are_wrapped_and_lesser_columns_give_way(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    long_name = "Sequence-recommender of somebody else (settings of the paper)"
    metrics["recommenders"][long_name] = metrics["recommenders"].pop("EASE")
    for width, absent in ((100, ()), (80, ("MRR@10",)), (72, ("MRR@10", "users/s"))):
        stream = io.StringIO()
        Console(file=stream, width=width, color_system=None).print(metrics_table(metrics, width=width))
        plain = stream.getvalue()
        assert "…" not in plain
        assert max(map(len, plain.splitlines())) <= width
        assert not set(long_name.split()) - set(plain.split()), "no word is broken"
        shown = ("NDCG@10", "HR@10", "MRR@10", "Coverage", "users/s")
        assert [head for head in shown if head not in plain] == list(absent)


def test_slots_without_an_item_are_shown_where_there_are_any(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    assert "Invalid" not in _render(metrics)[0]
    metrics["recommenders"]["EASE"]["metrics"]["Invalid@10"]["value"] = 0.25
    assert "25.0%" in _render(metrics, width=100)[0]


def test_another_cutoff_can_be_asked_for(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    assert "NDCG@5" in _render(metrics, cutoff=5)[0]
    with pytest.raises(ConfigError, match="cutoff 7"):
        metrics_table(metrics, 7)


def test_a_name_is_no_markup(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    metrics["recommenders"]["[bold]x[/bold]"] = metrics["recommenders"].pop("EASE")
    assert "[bold]x[/bold]" in _render(metrics, width=100)[0]


def test_cold_and_warm_targets_have_a_table_where_the_dataset_holds_items_out(whole_run: Run) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    assert temperature_table(metrics) is None
    for number, entry in enumerate(metrics["recommenders"].values()):
        entry["breakdown"]["target_temperature"] = [
            {"bucket": bucket, "num_examples": size, "metrics": {"NDCG@10": {"value": (number + size) / 64}}}
            for bucket, size in (("cold", 1), ("warm", 3))
        ]
    table = temperature_table(metrics)
    assert table is not None
    assert [column.header for column in table.columns] == ["Recommender", "NDCG@10\ncold (1)", "NDCG@10\nwarm (3)"]
    place = list(metrics["recommenders"]).index("itemic")
    shown = list(zip(*(column.cells for column in table.columns), strict=True))
    cells = next(row[1:] for row in shown if str(row[0]) == "itemic")
    assert cells == tuple(write_metric((place + size) / 64) for size in (1, 3))
