"""The page of the semantic IDs: what it holds, that no title can break it, and that a browser draws it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest

from itemic.cli.main import main
from itemic.core.errors import ArtifactError
from itemic.core.files import read_json, text_hash, write_arrays, write_json, write_parquet
from itemic.core.run import Run
from itemic.sid import Catalog, RQKMeansConfig, TokenizeConfig, tokenize
from itemic.sid.quality.prefixes import prefix_ids
from itemic.sid.report import render_sid_report, write_sid_report
from itemic.sid.report.artifacts import read_sid_artifacts
from itemic.sid.report.collided import describe_collisions
from itemic.sid.report.groups import group_items
from itemic.sid.report.neighbours import describe_neighbours
from itemic.sid.report.summary import describe_use
from itemic.sid.report.tree import pick_rows

NASTY = '</script><b>é漢字</b> & "quotes" {{ 7 * 7 }} <img src=x onerror=alert(1)>'
SMALL = {"codebook_sizes": (4, 4, 4), "quantizer": RQKMeansConfig(num_iterations=3)}


def make_run(folder, num_items=40, *, embeddings=True):
    """Items in pairs of equal vectors, one with a title that attacks, one without any."""
    run = Run(folder)
    titles = [NASTY, "", *(f"Pump number {row // 2}" for row in range(2, num_items))][:num_items]
    items = {
        "item_index": range(num_items),
        "item_id": [f"id {row}" for row in range(num_items)],
        "title": titles,
        "brand": [f"<i>brand {row % 3}</i>" for row in range(num_items)],
    }
    write_parquet(run.path("dataset") / "items.parquet", pl.DataFrame(items))
    if embeddings:
        x = np.random.default_rng(3).normal(size=((num_items + 1) // 2, 6)).astype(np.float32)
        metadata = {"item_hash": text_hash(*items["item_id"])}
        write_arrays(run.path("embeddings.safetensors"), {"embeddings": np.repeat(x, 2, axis=0)[:num_items]}, metadata)
    return run


def tokenized(folder, **changes):
    run = make_run(folder)
    tokenize(TokenizeConfig(**{**SMALL, **changes}), run, seed=0)
    return run


def given(folder, codes, sizes, **changes):
    run = make_run(folder, len(codes), embeddings=False)
    table = pl.DataFrame({"item_index": range(len(codes)), "codes": codes})
    write_parquet(run.path("given_sids.parquet"), table)
    tokenize(TokenizeConfig(source="given", codebook_sizes=sizes, **changes), run, seed=0)
    return run


class Outline(html.parser.HTMLParser):
    """The words, the scripts and the attributes of a page."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.words, self.tags, self.links, self.ids, self.scripts = [], [], [], [], []
        self._in_script = self._in_style = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        self.tags.append(tag)
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self._in_script, self._in_style = tag == "script", tag == "style"
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = self._in_style = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        elif not self._in_style:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        return json.loads(self.scripts[0])


def outline(run, **arguments):
    return Outline(render_sid_report(run, **arguments))


def test_page_shows_the_catalog_and_its_figures(tmp_path):
    run = tokenized(tmp_path)
    page = outline(run)
    catalog = Catalog.load(run.path("catalog"))
    assert "40 items have semantic IDs of 3 codes, all of them different." in page.text
    assert "Neighbourhood recall" in page.text
    assert "Purity in brand" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert page.data["total"] == len(page.data["ids"]) == 40
    for place, item_id in enumerate(page.data["ids"]):
        row = catalog.item_ids.index(item_id)
        assert [column[place] for column in page.data["columns"]] == catalog.codes[row].tolist()
    assert [sum(level) for level in page.data["counts"]] == [40, 40, 40]
    assert page.data["titles"][page.data["ids"].index("id 1")] == "id 1"


def test_page_says_who_moved_from_where(tmp_path):
    run = tokenized(tmp_path)
    page = outline(run)
    moved = page.data["moved"]
    quality = read_json(run.path("catalog") / "quality.json")
    assert len(moved) / 40 == quality["share_moved"] > 0
    for place, before in moved.items():
        assert before != [column[int(place)] for column in page.data["columns"]]
    assert "moved" in page.words
    assert "stayed" in page.words


def test_no_title_can_break_the_page(tmp_path):
    run = tokenized(tmp_path)
    page = render_sid_report(run)
    parsed = Outline(page)
    assert "<b>é" not in page
    assert "onerror=alert(1)>" not in page.replace("\\u003cimg src=x onerror=alert(1)>", "")
    assert {"b", "img", "i"} & set(parsed.tags) <= {"b"}
    assert any(title.startswith("</script><b>é漢字</b> &") for title in parsed.data["titles"])
    assert len(parsed.scripts) == 3


def test_page_asks_the_network_for_nothing(tmp_path):
    run = tokenized(tmp_path)
    page = outline(run)
    assert all(link.startswith("#") for link in page.links)
    assert "default-src 'none'" in render_sid_report(run)
    assert not re.search(r"https?://", "".join(page.scripts[1:]))


def test_same_run_same_bytes(tmp_path):
    run = tokenized(tmp_path)
    path = write_sid_report(run, seed=1)
    first = path.read_bytes()
    assert path == tmp_path / "sids.html"
    assert write_sid_report(run, seed=1).read_bytes() == first


def test_given_sids_without_vectors_have_a_page(tmp_path):
    page = outline(given(tmp_path, [[0, 1], [3, 0], [0, 2]], (4, 3)))
    assert "The quantizer itself kept them apart." in page.text
    assert "There are no embeddings" in page.text
    assert "made without item vectors" in page.text
    assert "None: the quantizer gave every item codes of its own." in page.text


def test_shared_sids_have_a_page(tmp_path):
    page = outline(given(tmp_path, [[0, 1], [0, 1], [0, 2]], (4, 3), collisions="share"))
    assert "which items may share" in page.text
    assert "They share it." in page.text
    assert page.data["counts"] == [[3], [2, 1]]


def test_one_item_and_one_level_have_a_page(tmp_path):
    assert "1 item has a semantic ID of one code." in outline(given(tmp_path, [[0]], (2,))).text


def test_items_that_came_and_went_are_told(tmp_path):
    run = tokenized(tmp_path)
    folder = run.path("catalog")
    catalog = Catalog.load(folder)
    free = next(
        np.array([[a, b, c]]) for a in range(4) for b in range(4) for c in range(4) if not catalog.items((a, b, c))
    )
    catalog.append(["late"], free).remove([5, 6]).save(folder)
    page = outline(run)
    assert page.data["titles"][page.data["ids"].index("late")] == "late"
    assert sorted(page.data["inactive"]) == sorted(page.data["ids"].index(f"id {row}") for row in (5, 6))
    assert "The figures are those of 40 items; the catalog has 39 that can be recommended by now" in page.text
    assert "There are no embeddings" in page.text


def test_removed_items_are_nobodys_neighbours_and_fill_no_bars(tmp_path):
    run = tokenized(tmp_path)
    folder = run.path("catalog")
    catalog = Catalog.load(folder).remove(range(1, 40, 2))
    catalog.save(folder)
    found = read_sid_artifacts(run)
    examples = describe_neighbours(found, np.random.default_rng(0))
    active = {tuple(codes) for codes in catalog.codes[catalog.active].tolist()}
    assert examples
    assert {one.codes for example in examples for one in example.neighbours} <= active
    fullest = np.bincount(catalog.codes[catalog.active, 0]).max()
    assert describe_use(found)[0].largest == fullest
    groups = describe_collisions(found).groups
    assert any(not item.is_active for group in groups for item in group.items), "but they are listed, and marked"
    assert all(moved == sorted(moved) for moved in ([item.is_moved for item in group.items] for group in groups))


def test_large_catalogs_give_some_items_of_every_full_prefix():
    codes = np.random.default_rng(0).integers(0, 8, size=(5000, 3))
    codes[:3000, :2] = 0
    codes[0] = [7, 7, 7]
    ids = prefix_ids(codes)
    rows = pick_rows(codes, ids, 400)
    assert len(rows) <= 400
    assert len(np.unique(rows)) == len(rows)
    assert set(codes[rows, 0]) == set(range(8))
    shown = codes[rows]
    assert shown.tolist() == sorted(shown.tolist())
    assert ((shown[:, 0] == 0) & (shown[:, 1] == 0)).sum() >= 4


def test_a_page_of_some_items_counts_all(tmp_path):
    run = tokenized(tmp_path)
    page = outline(run, max_items=10)
    assert len(page.data["ids"]) < 40
    assert page.data["total"] == 40
    assert sum(page.data["counts"][0]) == 40
    assert "The catalog has 40 items: the page carries" in page.text


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="run itemic tokenize first"):
        render_sid_report(Run(tmp_path / "empty"))
    run = tokenized(tmp_path / "bare")
    for name in ("quality.json", "moved.parquet"):
        (run.path("catalog") / name).unlink()
    page = outline(run)
    assert "catalog/moved.parquet is missing" in page.text
    assert "catalog/quality.json is missing" in page.text
    write_json(run.path("catalog") / "quality.json", {"levels": []})
    with pytest.raises(ArtifactError, match="earlier version of itemic; run itemic tokenize again"):
        outline(run)


_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_tree_and_zooms_to_an_address(tmp_path):
    run = tokenized(tmp_path)
    path = write_sid_report(run)
    sid = "-".join(map(str, Catalog.load(run.path("catalog")).codes[0].tolist()))
    command = [str(_BROWSER), *_FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=5000"]
    result = subprocess.run(
        [*command, "--dump-dom", f"{path.as_uri()}#at={sid}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert 'data-tree="drawn"' in result.stdout
    assert f"<h3>Prefix {sid.rpartition('-')[0]}</h3>" in result.stdout
    assert "&lt;/script&gt;&lt;b&gt;é漢字&lt;/b&gt;" in result.stdout


def test_like_first_codes_are_grouped_and_groups_count_all_items():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 60, size=900)
    x = np.eye(4)[code % 4] + 0.1 * rng.normal(size=(900, 4))
    groups = group_items(code, x)
    assert set(groups) == set(range(8))
    for one in range(60):
        assert len(set(groups[code == one])) == 1
    for group in range(8):
        assert len(set(code[groups == group] % 4)) == 1
    assert group_items(code % 24, x) is None


def test_many_first_codes_come_in_groups(tmp_path):
    run = make_run(tmp_path, 200)
    tokenize(TokenizeConfig(codebook_sizes=(40, 8), quantizer=RQKMeansConfig(num_iterations=3)), run, seed=0)
    data = outline(run, max_items=120).data
    assert data["has_groups"]
    assert len(data["columns"]) == len(data["counts"]) == 3
    assert len(data["ids"]) < 200
    assert sum(data["counts"][0]) == sum(data["counts"][1]) == 200
    assert data["columns"][0] == sorted(data["columns"][0])


def test_a_level_of_suffixes_has_a_page(tmp_path):
    page = outline(given(tmp_path, [[0, 1], [0, 1], [2, 2]], (4, 3), collisions="suffix"))
    assert len(page.data["columns"]) == 3
    assert page.data["moved"] == {}
    assert "The quantizer gave 66.7% of them an ID that another item has too." in page.text


def test_the_command_writes_the_page_even_where_the_stage_is_skipped(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"run: {run.folder.as_posix()}\n"
        "prepare: {source: {format: movielens, path: packaged}}\n"
        "tokenize: {codebook_sizes: [4, 4, 4], quantizer: {kind: rqkmeans, num_iterations: 3}}\n"
    )
    main(["tokenize", "--recipe", str(recipe)])
    assert not run.path("sids.html").exists()
    main(["tokenize", "--recipe", str(recipe), "--report"])
    assert f"report: {run.path('sids.html')}" in capsys.readouterr().out
    assert "40 items" in run.path("sids.html").read_text(encoding="utf-8")
