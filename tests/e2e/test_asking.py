"""What users ask of a trained run: prompts as it reads them, its model and tree, seen items, and wrong requests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import itemic
from itemic.cli.main import main
from itemic.decode import constrained_beam_search

WRONG_REQUESTS = """
import sys
import itemic
from itemic.core.errors import ItemicError
from itemic.decode import constrained_beam_search, sample_without_replacement

run = sys.argv[1]
trained = itemic.load_trained(run)
requests = [
    lambda: trained.recommend([1, 50]),
    lambda: trained.recommend("Thing 3"),
    lambda: trained.recommend(["i1"], where=[None]),
    lambda: itemic.recommend_table(trained, "all", run + "/out.parquet", where=[None]),
    lambda: trained.recommend_many([["1"]], 3),
    lambda: trained.recommend_many([1], 3),
    lambda: trained.recommend_many([[1], [2]], 3, where=["title = x"]),
    lambda: constrained_beam_search(trained.model, [[3], [10**7]], trained.trie, 5),
    lambda: sample_without_replacement(trained.model, [[-3]], trained.trie, 2, seed=0),
    lambda: itemic.load_trained(run, normalize="foo"),
    lambda: itemic.load_trained(run + "/elsewhere", batch_size=-1),
    lambda: itemic.load_trained(run + "/elsewhere", num_beams=2.5),
]
for request in requests:
    try:
        print(request())
    except ItemicError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def trained(shop_run: Path) -> itemic.TrainedRun:
    return itemic.load_trained(shop_run)


def test_a_prompt_is_cut_as_serving_cuts_it(trained: itemic.TrainedRun) -> None:
    history = [*range(12)]
    assert trained.max_history == 5
    assert trained.prompt(history) == trained.renderer.next_item_prompt(history[-5:])
    prompts = [trained.prompt(history), trained.prompt([4])]
    found = constrained_beam_search(trained.model, prompts, trained.trie, num_beams=50)
    items = trained.trie.items(found.leaf)
    assert items.shape == (2, 50, 1)
    expected = trained.recommend_many([history, [4]], 8, exclude_seen=False)
    assert items[:, :8, 0].tolist() == expected.item_index.tolist()
    assert (items[:, 20:] == -1).all(), "20 items"


def test_seen_items_return_where_they_are_asked_for(shop_run: Path, trained: itemic.TrainedRun, capsys) -> None:
    assert not trained.dataset.keeps_repeats
    left_out = trained.recommend(["i1", "i2"], 20)
    assert (len(left_out), left_out.num_allowed, left_out.num_seen) == (18, 18, 2)
    kept = trained.recommend(["i1", "i2"], 20, exclude_seen=False)
    assert (len(kept), kept.num_allowed, kept.num_seen) == (20, 20, 0)
    assert trained.recommend(["i1", "i2"], 20, exclude=["i2"], allow=["i2", "i3"]).num_seen == 0
    ask = ["recommend", "--run", str(shop_run), "--history", "i1", "--allow", "i1", "-k", "2"]
    capsys.readouterr()
    main(ask)
    hint = "only 0 items are allowed, fewer than the 2 asked for; 1 more are left out as seen (--no-exclude-seen lists"
    assert hint in capsys.readouterr().err
    main([*ask, "--no-exclude-seen", "--json"])
    assert [item["item_id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["i1"]


def test_runs_and_trees_are_shown_in_a_line(trained: itemic.TrainedRun) -> None:
    assert repr(trained.trie) == f"Trie(20 items, 20 leaves, sizes {trained.catalog.codebook_sizes}, on cpu)"
    assert repr(trained).startswith("TrainedRun(Catalog(20 items, ")
    assert len(repr(trained)) < 300


def test_a_bad_setting_ends_before_the_run_is_looked_at(tmp_path: Path, capsys) -> None:
    for flag in ("--batch-size", "--num-beams"):
        with pytest.raises(SystemExit, match="2"):
            main(["recommend", "--run", str(tmp_path / "nothing"), "--history", "i1", flag, "0"])
        assert f"{flag[2:].replace('-', '_')} must be at least 1, found 0" in capsys.readouterr().err


def test_wrong_requests_are_answered_in_words(shop_run: Path) -> None:
    command = [sys.executable, "-c", WRONG_REQUESTS, str(shop_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [
        "history[0] is 1 (int); expected an id or title as text, '1' say",
        "history is the one text 'Thing 3'; expected a list of ids or titles: ['Thing 3']",
        "where holds None; expected conditions, text or polars expressions",
        "where holds None; expected conditions, text or polars expressions",
        "histories[0] holds '1'; expected item indices, whole numbers from 0",
        "histories[0] is 1; expected a list of item indices",
        "where has 1 conditions for 2 histories; expected one for each",
        "prompt 1 holds the token 10000000; the model has 0..",
        "prompt 0 holds the token -3; the model has 0..",
        "normalize 'foo': expected legal or full",
        "batch_size must be at least 1, found -1",
        "num_beams must be a whole number, found 2.5",
    ]
    for line, beginning in zip(done.stdout.splitlines(), expected, strict=True):
        assert line.startswith(beginning)
