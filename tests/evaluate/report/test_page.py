import base64
import gzip
import html.parser
import json
import re
from pathlib import Path

import plotly.graph_objects as go
import plotly.offline
import pytest

from itemic.core.files import read_json, write_json
from itemic.core.page.page import write_json_script
from itemic.core.run import Run
from itemic.evaluate.report import ReportConfig, render_report

_VOID = {"br", "img", "input", "link", "meta", "rect", "circle"}


class Outline(html.parser.HTMLParser):
    """Checks that elements close in order, and collects what the tests ask about."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.scripts: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [str(values[name]) for name in ("href", "src") if name in values]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        assert not any(name.startswith("on") for name in values), f"{tag} has an inline handler"
        if tag == "script":
            self._script = values.get("id") or values.get("class") or "code"
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts.setdefault(self._script, []).append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


def _parse(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def page(whole_run: Run) -> str:
    return render_report(ReportConfig(), whole_run, seed=3)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return _parse(page)


def test_the_page_is_well_formed(outline: Outline) -> None:
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    steps = [after - before for before, after in zip(outline.headings, outline.headings[1:], strict=False)]
    assert max(steps) == 1, "a heading skips a level"


def test_every_link_stays_on_the_page(outline: Outline) -> None:
    assert outline.links
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)


def test_the_page_may_load_nothing(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]


def test_the_page_is_small_enough_to_send(page: str) -> None:
    assert len(page.encode("utf-8")) < 3_000_000


def test_the_same_run_gives_the_same_bytes(page: str, whole_run: Run) -> None:
    assert render_report(ReportConfig(), whole_run, seed=3) == page
    assert render_report(ReportConfig(), whole_run, seed=4) != page


def test_plotly_arrives_whole(outline: Outline) -> None:
    packed = "".join(outline.scripts["plotly"])
    assert gzip.decompress(base64.b64decode(packed)).decode("utf-8") == plotly.offline.get_plotlyjs()


def test_every_chart_is_one_that_plotly_accepts(outline: Outline) -> None:
    figures = [json.loads(text) for text in outline.scripts["specs"]]
    assert len(figures) == outline.tags.count("figure") >= 13
    for spec in (spec for views in figures for spec in views):
        go.Figure(spec)


def test_colours_are_those_of_the_palette(page: str, outline: Outline) -> None:
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", "".join(outline.scripts["specs"])))
    styles = re.findall(r"<style[^>]*>(.*?)</style>", page, flags=re.DOTALL)
    assert len(styles) == 2
    for style in styles:
        assert used <= set(re.findall(r"^\s*(--[a-z0-9-]+):", style, flags=re.MULTILINE))


def test_titles_are_text_wherever_they_stand(page: str, outline: Outline) -> None:
    assert "<img" not in page
    assert "img" not in outline.tags
    assert any("<img src=x onerror=alert(1)>" in words for words in outline.words)
    assert not any("49" in words and "quotes" in words for words in outline.words)


def test_json_cannot_close_its_script() -> None:
    text = write_json_script({"a": "</script><!--", "b": [float("nan"), float("inf"), 1.5], "c": "\u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": [None, None, 1.5], "c": "\u2028"}


def test_the_page_of_the_semantic_ids_is_linked_once_it_is_there(whole_run: Run, page: str) -> None:
    assert 'href="sids.html"' not in page
    path = whole_run.path("sids.html")
    path.write_text("", encoding="utf-8")
    try:
        assert 'href="sids.html"' in render_report(ReportConfig(), whole_run, seed=3)
    finally:
        path.unlink()


def test_an_empty_run_names_every_stage(tmp_path: Path) -> None:
    outline = _parse(render_report(ReportConfig(), Run(tmp_path / "empty"), seed=0))
    text = " ".join(outline.words)
    for stage in ("prepare", "tokenize", "sft", "evaluate", "run"):
        assert f"itemic {stage}" in text
    assert "specs" not in outline.scripts


def test_metrics_without_a_breakdown_or_lists_still_make_a_page(whole_run: Run, tmp_path: Path) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    for entry in metrics["recommenders"].values():
        entry["breakdown"] = {}
    write_json(tmp_path / "metrics.json", metrics)
    text = " ".join(_parse(render_report(ReportConfig(), Run(tmp_path), seed=0)).words)
    assert "have no breakdown and there are no ranked lists" in text


def test_a_run_of_baselines_alone_has_no_place_for_what_only_a_model_has(whole_run: Run, tmp_path: Path) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    own = metrics["recommenders"].pop("itemic")
    metrics["comparisons"] = []
    page = _page_of(metrics, tmp_path / "alone")
    assert not {"#training", "#sids"} & set(page.links)
    assert not {"training", "sids"} & set(page.ids)
    page = _page_of({**metrics, "recommenders": {**metrics["recommenders"], "itemic": own}}, tmp_path / "both")
    assert {"#training", "#sids"} <= set(page.links)


def test_a_row_that_may_repeat_nothing_says_why_it_equals_popularity(whole_run: Run, tmp_path: Path) -> None:
    metrics = read_json(whole_run.path("metrics.json"))
    metrics["recommenders"]["EASE"]["settings"] = {"kind": "repeat-last"}
    for excluded in (True, False):
        metrics["protocol"]["exclude_history"] = excluded
        text = " ".join(_page_of(metrics, tmp_path / str(excluded)).words)
        assert ("EASE has nothing to repeat here, for seen items are left out" in text) == excluded


def _page_of(metrics: dict, folder: Path) -> Outline:
    folder.mkdir()
    write_json(folder / "metrics.json", metrics)
    return _parse(render_report(ReportConfig(), Run(folder), seed=0))


@pytest.mark.parametrize("lost", ["dataset", "catalog", "sft.jsonl", "model", "metrics.json", "rankings"])
def test_any_artefact_may_be_missing(whole_run: Run, tmp_path: Path, lost: str) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    for path in whole_run.folder.iterdir():
        if path.name != lost:
            (run.folder / path.name).symlink_to(path, target_is_directory=path.is_dir())
    text = " ".join(_parse(render_report(ReportConfig(), run, seed=0)).words)
    assert "Results" in text
    assert "Semantic IDs" in text, "the other sections stay"
