"""A comparison in every format, to the letter."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from itemic.core.errors import ConfigError
from itemic.evaluate.compare import ComparisonTable, Difference, Estimate, PublishedCheck, TableRow
from itemic.evaluate.compare.render import FORMATS, render, render_latex, render_markdown, render_terminal

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def difference(value: float, p_value: float, verdict: str) -> Difference:
    return Difference(
        to="Co_visit",
        value=value,
        low=value - 0.01,
        high=value + 0.01,
        p_value=p_value / 2,
        adjusted_p_value=p_value,
        verdict=verdict,
    )


def estimate(value: float, to_best: Difference | None) -> Estimate:
    return Estimate(
        value=value,
        low=value - 0.01,
        high=value + 0.01,
        by_seed=(value,),
        spread=None,
        is_best=to_best is None,
        to_best=to_best,
        to_reference=to_best,
    )


def row(name: str, value: float, to_best: Difference | None, **facts: object) -> TableRow:
    settings = {"published_as": "", "published": (), "beyond": {"users_per_s": 120.0}, "dtype": None, **facts}
    return TableRow(name=name, runs=("r",), seeds=(0,), estimates={"HR@10": estimate(value, to_best)}, **settings)


@pytest.fixture
def table() -> ComparisonTable:
    check = PublishedCheck(
        metric="HR@10", value=0.1088, kind="paper", source="A paper, Table 1", note="A misprint.", place="within"
    )
    return ComparisonTable(
        rows=(
            row("Co_visit", 0.14, None),
            row("SASRec & co", 0.11, difference(-0.03, 0.004, "below"), published_as="SASRec", published=(check,)),
            row("Near", 0.138, difference(-0.002, 0.4, "unclear")),
        ),
        metrics=("HR@10",),
        headline="HR@10",
        reference="Co_visit",
        beyond=("users_per_s",),
        protocol={"split": "test", "num_examples": 4533, "num_candidates": 3686, "exclude_history": False},
        benchmark="amazon18-industrial",
        confidence=0.95,
        num_resamples=1000,
        notes=(),
    )


def test_markdown(table: ComparisonTable) -> None:
    assert (
        render_markdown(table)
        == r"""4,533 test examples, each ranked against all 3,686 items (seen items may come again).

HR@10: Co_visit is significantly above SASRec & co, but not above Near.

### Results

| Recommender | HR@10 | 95% | published |
| --- | ---: | ---: | ---: |
| Co\_visit | **0.1400** | [0.1300, 0.1500] | – |
| SASRec & co | 0.1100 | [0.1000, 0.1200] | 0.1088 ∈ |
| Near | 0.1380 † | [0.1280, 0.1480] | – |

Bold: the best of its column; †: not significantly below it (corrected p ≥ 0.05); a row without either is significantly below.

Intervals: 1,000 bootstrap resamples of users.

Published: ∈ lies inside the row's interval, ↑ the row lies above it, ↓ the row lies below it.

### Differences from Co\_visit

| Recommender | Δ HR@10 | 95% | p | p, Holm |
| --- | ---: | ---: | ---: | ---: |
| SASRec & co | −0.0300 \*\* | [−0.0400, −0.0200] | 0.002 | 0.004 |
| Near | −0.0020 | [−0.0120, +0.0080] | 0.200 | 0.400 |

Paired on the same examples: interval over users, p of a permutation test that swaps users, corrected by Holm's method for the 2 rows of each metric.

\* \*\* \*\*\*: corrected p below 0.05, 0.01, 0.001.

### Beyond accuracy

| Recommender | users/s |
| --- | ---: |
| Co\_visit | 120 |
| SASRec & co | 120 |
| Near | 120 |

Times and speeds are of the machine that each run was made on; means over the seeds.

### Published figures

| Recommender | method | metric | here | published | kind | source |
| --- | --- | --- | ---: | ---: | --- | --- |
| SASRec & co | SASRec | HR@10 | 0.1100 | 0.1088 ∈ | paper | A paper, Table 1 |

Published: ∈ lies inside the row's interval, ↑ the row lies above it, ↓ the row lies below it.

SASRec, A paper, Table 1: A misprint.
"""  # noqa: E501
    )


def test_latex(table: ComparisonTable) -> None:
    first = render_latex(table, beyond=False).partition("\n\n")[0]
    assert first.splitlines() == [
        r"\begin{table}[t]",
        r"\centering",
        r"\caption{Results: 4,533 test examples, each ranked against all 3,686 items (seen items may come again).}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"Recommender & HR@10 & 95\% & published \\",
        r"\midrule",
        r"Co\_visit & \textbf{0.1400} & [0.1300, 0.1500] & -- \\",
        r"SASRec \& co & 0.1100 & [0.1000, 0.1200] & 0.1088$\in$ \\",
        r"Near & 0.1380$^{\dagger}$ & [0.1280, 0.1480] & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize Bold: the best of its column; $^{\dagger}$: not significantly below it "
        r"(corrected p $\geq$ 0.05); a row without either is significantly below. Intervals: 1,000 bootstrap "
        r"resamples of users. Published: $\in$ lies inside the row's interval, $\uparrow$ the row lies above it, "
        r"$\downarrow$ the row lies below it.",
        r"\end{table}",
    ]
    assert r"SASRec \& co & $-$0.0300$^{**}$ & [$-$0.0400, $-$0.0200] & 0.002 & 0.004 \\" in render_latex(table)


def test_the_terminal_fits_its_width(table: ComparisonTable) -> None:
    text = render_terminal(table, width=90)
    assert max(map(len, text.splitlines())) <= 90
    assert "  Near          0.1380 †   [0.1280, 0.1480]           –" in text.splitlines()
    assert text.endswith("HR@10: Co_visit is significantly above SASRec & co, but not above Near.\n")


def test_the_terminal_deals_columns_out_before_it_breaks_a_name(table: ComparisonTable) -> None:
    measured = {f"Coverage@10, {group} targets": 0.5 for group in ("cold", "warm", "new", "old")}
    names = ("Co_visit with many more words", "SASRec & co", "Near")
    rows = tuple(replace(one, name=name, beyond=measured) for one, name in zip(table.rows, names, strict=True))
    text = render_terminal(replace(table, rows=rows, beyond=tuple(measured), reference=names[0]), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert not set(names[0].split()) - set(text.split())
    assert "…" not in text
    assert text.count("Beyond accuracy, continued") == 1
    assert all(head in text for head in measured)


def test_published_figures_fit_a_terminal(table: ComparisonTable) -> None:
    lines = render_terminal(table, width=80).splitlines()
    assert "  SASRec & co   HR@10    0.1100    0.1088 ∈   SASRec, paper: A paper, Table 1" in lines


def test_json_keeps_every_field(table: ComparisonTable) -> None:
    read = json.loads(render(table, "json"))
    assert read["rows"][1]["estimates"]["HR@10"]["to_best"]["adjusted_p_value"] == 0.004
    assert read["rows"][1]["published"][0]["place"] == "within"


def test_the_page_loads_nothing_and_escapes_names(table: ComparisonTable) -> None:
    page = render(table, "html")
    assert "<td><strong>0.1400</strong></td>" in page
    assert "SASRec &amp; co" in page
    assert "Amazon 2018, Industrial and Scientific" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium on this machine")
def test_the_page_draws_its_chart(table: ComparisonTable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(table, "html"), encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    command = [str(_BROWSER), *flags, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=60000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    assert 'data-charts="drawn"' in done.stdout


def test_formats_have_one_writer_each(table: ComparisonTable) -> None:
    assert all(render(table, name) for name in FORMATS)
    with pytest.raises(ConfigError, match="format 'word': expected one of terminal"):
        render(table, "word")
