"""A study's page: the same words in HTML and Markdown, escaped, and nothing loaded."""

import re
from pathlib import Path

from itemic.core.page.page import Fact
from itemic.evaluate.report.figures import Figure, Table, View, bar_chart
from itemic.studies.page import Finding, Section, StudyPage, render_html, render_markdown, write_study

SPEC = bar_chart(["a"], [1.0], x_title="x", y_title="y", hover="%{y}")
PAGE = StudyPage(
    title="A <study>",
    kind="Ablation",
    verdict="Nothing | came out.",
    facts=(Fact(label="Runs", value="3", note="one failed"),),
    findings=(Finding(level="warning", text="b failed: no <rows>"),),
    sections=(
        Section(
            key="rows",
            title="Rows",
            lead="Read them.",
            figures=(Figure(key="chart", title="Chart", caption="One bar.", views=(View(label="", spec=SPEC),)),),
            table=Table(columns=("Variant", "NDCG@10"), rows=(("a|b", 0.5), ("c", None))),
        ),
    ),
)


def test_markdown_by_hand() -> None:
    assert render_markdown(PAGE) == (
        "# A <study>\n\nNothing | came out.\n\n- Runs: 3 (one failed)\n- **Warning.** b failed: no <rows>\n\n"
        "## Rows\n\nRead them.\n\n| Variant | NDCG@10 |\n| --- | ---: |\n| a\\|b | 0.5 |\n| c |  |\n"
    )


def test_the_page_escapes_its_words_and_loads_nothing(tmp_path: Path) -> None:
    page = render_html(PAGE)
    assert "A &lt;study&gt;" in page
    assert "no &lt;rows&gt;" in page
    assert 'class="specs">[{"data"' in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    write_study(tmp_path, PAGE)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
