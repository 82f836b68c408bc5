"""Rewards that read more than the answers, the names of all of them, and their sum."""

import logging
import sys
import textwrap
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from itemic.baselines import SASRec, SASRecConfig
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import text_hash, write_arrays
from itemic.data.prepare import PrepareConfig
from itemic.data.sources.table import TableConfig
from itemic.decode.trie import Trie
from itemic.pipeline import STAGES, run_recipe
from itemic.recipe import Recipe, override
from itemic.train.rl.answers import Answers, AnswerTree, Question
from itemic.train.rl.config import RlConfig
from itemic.train.rl.rewards import REWARDS, RewardSources, check_rewards, make_rewards, sum_rewards
from itemic.train.rl.rewards import collaborative as collaborative_module
from itemic.train.rl.rewards.collaborative import collaborative, fit_or_load
from itemic.train.rl.rewards.custom import check_custom_rewards, custom_files, load_reward
from itemic.train.rl.rewards.semantic import semantic
from itemic.train.rl.stage import rl

NUM_ITEMS = 12
CODES = [[item // 4, item % 4, 0] for item in range(NUM_ITEMS)]
"""In the order of the tree, so that an item's index is its leaf."""
SMALL = SASRecConfig(hidden_size=8, num_heads=2, max_length=6, batch_tokens=64, max_epochs=2, device="cpu")


def answers(leaves, targets, histories=None, codes=CODES):
    leaf = torch.tensor(leaves)
    codes = np.array(codes)
    trie = Trie.from_codes(codes, (codes.max(axis=0) + 1).tolist())
    histories = histories or [()] * len(leaves)
    questions = [
        Question(task=0, prompt=[0], history=history, targets=each)
        for history, each in zip(histories, targets, strict=True)
    ]
    logprob = (-torch.arange(1.0, leaf.shape[1] + 1)).expand(leaf.shape).masked_fill(leaf < 0, -torch.inf)
    return Answers(questions=questions, tree=AnswerTree(trie=trie, level_ids=()), leaf=leaf, logprob=logprob)


@pytest.fixture
def sources(dataset, tmp_path):
    return RewardSources(
        dataset=dataset,
        vectors=None,
        num_items=NUM_ITEMS,
        seed=3,
        device=torch.device("cpu"),
        cache=tmp_path / "rewards",
        excludes_history=False,
    )


@pytest.fixture
def small_sasrec(monkeypatch):
    monkeypatch.setattr(collaborative_module, "SASRecConfig", lambda device: SMALL)


@pytest.fixture
def import_module(tmp_path, monkeypatch):
    """Makes a module of the test's own, found by Python under the given name until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


def assert_rewards(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def write_vectors(path, vectors, item_ids):
    write_arrays(path, {"embeddings": vectors.astype(np.float32)}, {"item_hash": text_hash(*item_ids)})


# Semantic.

UNIT = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])


def test_semantic_is_the_cosine_with_the_nearest_target():
    codes = [[0, item] for item in range(5)]
    some = answers([[0, 1, 2, 3, 4, -1], [0, 1, 2, 3, 4, -1]], [[0], [0, 2]], codes=codes)
    assert_rewards(semantic(some, UNIT), [[1, 3 / 5, 0, -1, 0, 0], [1, 4 / 5, 1, 0, 0, 0]])


def test_a_hit_on_a_shared_leaf_is_as_good_as_the_target():
    some = answers([[0, 1]], [[2]], codes=[[0, 0], [0, 1], [0, 0]])
    # Leaf 0 holds items 0 and 2, whose vectors stand at a right angle; leaf 1 holds item 1.
    assert_rewards(semantic(some, UNIT[:3]), [[1, 4 / 5]])


def test_a_hit_on_an_item_of_which_nothing_is_known_is_a_hit():
    assert_rewards(semantic(answers([[4, 0]], [[4]], codes=[[0, item] for item in range(5)]), UNIT), [[1, 0]])


def test_semantic_reads_the_run_s_vectors(sources, tmp_path):
    path = tmp_path / "embeddings.safetensors"
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5))
    write_vectors(path, vectors, sources.dataset.items["item_id"].to_list())
    reward = make_rewards({"semantic": 1.0}, replace(sources, vectors=path))["semantic"]
    lengths = np.linalg.norm(vectors, axis=1)
    expected = vectors[[5, 7]] @ vectors[2] / lengths[[5, 7]] / lengths[2]
    assert_rewards(reward(answers([[5, 7]], [[2]])), [expected.tolist()])


def test_semantic_without_fitting_vectors_is_refused(sources, tmp_path):
    path = tmp_path / "embeddings.safetensors"
    with pytest.raises(ArtifactError, match="run itemic embed"):
        make_rewards({"semantic": 1.0}, sources)
    with pytest.raises(ArtifactError, match=r"embeddings.safetensors: missing"):
        make_rewards({"semantic": 1.0}, replace(sources, vectors=path))
    write_vectors(path, np.ones((NUM_ITEMS, 2)), [f"other{item}" for item in range(NUM_ITEMS)])
    with pytest.raises(ArtifactError, match="other items"):
        make_rewards({"semantic": 1.0}, replace(sources, vectors=path))
    write_vectors(path, np.ones((NUM_ITEMS, 2)), sources.dataset.items["item_id"].to_list())
    with pytest.raises(ArtifactError, match="vectors of 12 items, the catalog has 13"):
        make_rewards({"semantic": 1.0}, replace(sources, vectors=path, num_items=13))


# Collaborative.


def test_collaborative_is_sasrec_s_logit_after_the_history(dataset):
    judge = SASRec.fit(dataset, seed=0, config=SMALL)
    histories = [(1, 2, 3), (), tuple(range(9))]
    found = collaborative(answers([[4, 9, -1], [1, 2, 3], [9, 9, 0]], [[4], [1], [9]], histories), judge)
    logits = judge.score([list(histories[0]), list(histories[2])])
    expected = [[logits[0][4], logits[0][9], 0], [0, 0, 0], [logits[1][9], logits[1][9], logits[1][0]]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_collaborative_judges_nothing_without_a_history(dataset):
    judge = SASRec.fit(dataset, seed=0, config=SMALL)
    assert_rewards(collaborative(answers([[4, 9]], [[4]]), judge), [[0, 0]])


def test_a_collaborative_reward_may_enter_a_loss(sources, small_sasrec):
    rewards = make_rewards({"collaborative": 1.0, "rule": 1.0}, sources)
    total, _ = sum_rewards(rewards, {"collaborative": 1.0, "rule": 1.0}, answers([[4, 9]], [[4]], [(1, 2, 3)]))
    assert not total.requires_grad
    logprobs = torch.zeros(1, 2, requires_grad=True)
    (logprobs * total).sum().backward()
    torch.testing.assert_close(logprobs.grad, total)


def test_sasrec_is_fitted_once_for_a_training_part_and_a_seed(dataset, tmp_path, monkeypatch):
    fits = []
    fit = SASRec.fit
    monkeypatch.setattr(SASRec, "fit", lambda data, **options: (fits.append(data), fit(data, **options))[1])
    first = fit_or_load(dataset, tmp_path, seed=0, config=SMALL)
    again = fit_or_load(dataset, tmp_path, seed=0, config=SMALL)
    assert len(fits) == 1
    histories = [[1, 2, 3], [], list(range(9))]
    np.testing.assert_array_equal(first.score(histories), again.score(histories))
    assert not any(parameter.grad_fn for parameter in again.network.parameters())

    later = replace(dataset, test=dataset.test.clear(), valid=dataset.valid.clear())
    fit_or_load(later, tmp_path, seed=0, config=SMALL)
    assert len(fits) == 1
    fit_or_load(dataset, tmp_path, seed=1, config=SMALL)
    assert len(fits) == 2
    fit_or_load(dataset, tmp_path, seed=1, config=replace(SMALL, dropout=0.1))
    assert len(fits) == 3
    fewer = replace(dataset, interactions=dataset.interactions.filter(pl.col("user_id") != "0"))
    fit_or_load(fewer, tmp_path, seed=1, config=replace(SMALL, dropout=0.1))
    assert len(fits) == 4


def test_nothing_but_the_training_part_reaches_sasrec(dataset, tmp_path):
    held_out = dataset.interactions.with_columns(
        pl.when(pl.col("split") == "train").then(pl.col("item_index")).otherwise(0).alias("item_index")
    )
    zeroed = {name: getattr(dataset, name).with_columns(target=pl.lit(0, pl.Int64)) for name in ("valid", "test")}
    other = replace(dataset, interactions=held_out, **zeroed)
    models = [
        fit_or_load(each, tmp_path / str(place), seed=0, config=SMALL) for place, each in enumerate((dataset, other))
    ]
    np.testing.assert_array_equal(*(model.score([[1, 2, 3]]) for model in models))


def test_a_damaged_cache_is_made_anew(dataset, tmp_path, caplog):
    first = fit_or_load(dataset, tmp_path, seed=0, config=SMALL)
    path = tmp_path / "sasrec.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.INFO, logger="itemic"):
        again = fit_or_load(dataset, tmp_path, seed=0, config=SMALL)
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(first.score([[1, 2]]), again.score([[1, 2]]))


def test_reward_hacking_is_warned_of(sources, small_sasrec, caplog):
    for weights, warns in (
        ({"collaborative": 1.0}, True),
        ({"collaborative": 1.0, "rule": 0.0, "rank": 1.0}, True),
        ({"collaborative": 1.0, "rule": 1.0}, False),
        ({"collaborative": 0.0, "rank": 1.0}, False),
    ):
        caplog.clear()
        make_rewards(weights, sources)
        assert caplog.text.count("invites reward hacking") == warns, weights


def test_items_that_sasrec_cannot_know_are_refused(sources):
    with pytest.raises(ArtifactError, match="the catalog has 13 items"):
        make_rewards({"collaborative": 1.0, "rule": 1.0}, replace(sources, num_items=13))


# Format.


def test_format_heeds_the_history_where_data_has_no_repeats(sources):
    some = answers([[1, 2, 2]], [[5]], [(1,)])
    weights = {"format": 1.0}
    assert_rewards(make_rewards(weights, sources)["format"](some), [[1, 1, 0]])
    assert_rewards(make_rewards(weights, replace(sources, excludes_history=True))["format"](some), [[0, 1, 0]])


# The user's own.

WRONG = {
    "nothing": ("return None", "found a NoneType"),
    "flat": ("return answers.leaf.flatten().float()", r"found torch.float32 of shape \(6,\) on cpu"),
    "elsewhere": ("return answers.leaf.float().to('meta')", r"of shape \(2, 3\) on meta"),
    "complex": ("return answers.leaf.to(torch.complex64)", "found torch.complex64"),
    "nan": ("return answers.leaf / answers.leaf", "found nan for question 0, candidate 1 of the batch"),
}


def test_a_reward_of_the_user_s_own(sources, import_module):
    import_module(
        "shop_rewards",
        """
        def even(answers):
            return (answers.item % 2 == 0).double() + 1
        """,
    )
    weights = {"rule": 1.0, "shop_rewards:even": -0.5}
    total, components = sum_rewards(make_rewards(weights, sources), weights, answers([[4, 3, -1]], [[3]]))
    assert_rewards(components["shop_rewards:even"], [[2, 1, 0]])
    assert_rewards(total, [[-1, 1 / 2, 0]])


@pytest.mark.parametrize(("body", "problem"), WRONG.values(), ids=WRONG)
def test_what_a_user_s_reward_returns_is_checked(sources, import_module, body, problem):
    import_module("wrong_reward", f"import torch\n\ndef judge(answers):\n    {body}\n")
    reward = make_rewards({"wrong_reward:judge": 1.0}, sources)["wrong_reward:judge"]
    with pytest.raises(ConfigError, match=f"reward 'wrong_reward:judge': expected .*{problem}"):
        reward(answers([[1, 0, 3], [2, 5, -1]], [[3], [1]]))


def test_what_a_user_s_reward_says_of_no_candidate_does_not_matter(sources, import_module):
    import_module("log_reward", "def judge(answers):\n    return answers.logprob\n")
    weights = {"log_reward:judge": 1.0}
    total, _ = sum_rewards(make_rewards(weights, sources), weights, answers([[1, -1]], [[3]]))
    assert_rewards(total, [[-1, 0]])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:judge", "cannot import no_such_module: no such module in .*; start there where it lies"),
        ("needs_another:judge", "cannot import needs_another: No module named 'another_that_is_missing'"),
        ("is_broken:judge", "cannot import is_broken: ZeroDivisionError"),
        ("is_fine:judges", "is_fine has no judges; did you mean judge?"),
        ("is_fine:nothing_alike", "is_fine has no nothing_alike"),
        ("is_fine:number", "expected a function, found a int"),
        ("is_fine:two", r"expected a function of the answers alone, found two\(answers, other\)"),
    ],
)
def test_an_import_that_leads_nowhere_says_why(sources, import_module, name, problem):
    import_module("needs_another", "import another_that_is_missing\n")
    import_module("is_broken", "1 / 0\n")
    import_module("is_fine", "number = 1\n\ndef judge(answers): ...\n\ndef two(answers, other): ...\n")
    check_rewards({name: 1.0})
    with pytest.raises(ConfigError, match=problem):
        make_rewards({name: 1.0}, sources)
    with pytest.raises(ConfigError, match=problem):
        check_custom_rewards({"rule": 1.0, name: 1.0})


def test_an_error_in_a_user_s_reward_says_which_and_where(sources, import_module):
    import_module("loses_its_way", "def judge(answers):\n    rows = answers.item\n    return answers.itme\n")
    reward = make_rewards({"loses_its_way:judge": 1.0}, sources)["loses_its_way:judge"]
    problem = r"reward 'loses_its_way:judge': raised AttributeError: .*itme.*loses_its_way.py:3\)"
    with pytest.raises(ConfigError, match=problem) as caught:
        reward(answers([[1, 0]], [[3]]))
    assert isinstance(caught.value.__cause__, AttributeError)


def test_an_error_in_an_import_says_where(import_module):
    import_module("is_broken", "\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero \(.*is_broken.py:2\)"):
        check_custom_rewards(["is_broken:judge"])


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "beside_the_recipe.py").write_text("def judge(answers):\n    return answers.leaf.float()\n")
    monkeypatch.chdir(tmp_path)
    searched = list(sys.path)
    assert custom_files({"rule": 1.0, "beside_the_recipe:judge": 1.0}) == {
        "reward beside_the_recipe:judge": tmp_path / "beside_the_recipe.py"
    }
    assert sys.path == searched


def test_a_function_from_elsewhere_has_two_files_and_one_without_any_is_warned_of(import_module, tmp_path, caplog):
    import_module("has_the_body", "def judge(answers): ...\n")
    import_module("has_the_name", "from has_the_body import judge\n")
    assert custom_files(["has_the_name:judge"]) == {
        "reward has_the_name:judge": tmp_path / "has_the_name.py",
        "reward has_the_name:judge, function": tmp_path / "has_the_body.py",
    }
    assert custom_files(["math:sqrt"]) == {}
    assert "reward 'math:sqrt' has no source file" in caplog.text


def test_an_edited_reward_is_imported_again(import_module, tmp_path):
    some = answers([[1, 0]], [[3]])
    import_module("edited_body", "def judge(answers):\n    return answers.leaf + 1.0\n")
    import_module("edited_name", "from edited_body import judge\n")
    assert_rewards(load_reward("edited_name:judge")(some), [[2, 1]])
    (tmp_path / "edited_body.py").write_text("def judge(answers):\n    return answers.leaf + 100.0\n")
    assert_rewards(load_reward("edited_name:judge")(some), [[101, 100]])


# Names, weights, sums.


def test_every_reward_gives_zero_for_no_candidate_and_finite_numbers(sources, tmp_path, small_sasrec):
    path = tmp_path / "embeddings.safetensors"
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
    write_vectors(path, vectors, sources.dataset.items["item_id"].to_list())
    weights = dict.fromkeys(REWARDS, 1.0)
    some = answers([[1, 2, -1], [-1, -1, -1], [3, 3, 4]], [[2, 5], [0], [3]], [(0, 1), (), (2,)])
    total, components = sum_rewards(make_rewards(weights, replace(sources, vectors=path)), weights, some)
    assert list(components) == list(REWARDS)
    for values in (total, *components.values()):
        assert values.shape == some.leaf.shape
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert (values[some.leaf < 0] == 0).all()
    torch.testing.assert_close(total, torch.stack(list(components.values())).sum(dim=0))


def test_the_hybrid_is_the_sum_of_rule_and_rank(sources):
    weights = {"rule": 1.0, "rank": 1.0}
    total, components = sum_rewards(make_rewards(weights, sources), weights, answers([[0, 1, 2]], [[1]]))
    whole = 1 + 1 / np.log2(3) + 1 / 2
    assert_rewards(total, [[-1 / whole, 1, -1 / 2 / whole]])
    assert_rewards(components["rule"], [[0, 1, 0]])


def test_weights_scale_the_sum_and_not_the_components(sources):
    weights = {"rule": 2.0, "prefix": -3.0, "rank": 0.0}
    total, components = sum_rewards(make_rewards(weights, sources), weights, answers([[0, 1]], [[1]]))
    assert_rewards(total, [[-1, -1]])
    assert_rewards(components["prefix"], [[1 / 3, 1]])
    assert (components["rank"] != 0).any()


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"ranks": 1.0}, "no reward 'ranks'; did you mean rank?"),
        ({"shop.rewards.margin": 1.0}, "did you mean shop.rewards:margin?.*your own as package.module:function"),
        ({"shop rewards:margin": 1.0}, "no reward 'shop rewards:margin'"),
        ({"rule": float("nan")}, "reward 'rule': expected a finite weight, found nan"),
        ({"rule": 1.0, "rank": float("inf")}, "reward 'rank': expected a finite weight, found inf"),
        ({"rule": 0.0}, "expected at least one weight other than 0"),
        ({}, "expected at least one weight other than 0"),
    ],
)
def test_names_and_weights_that_cannot_be_honoured_are_refused(sources, weights, problem):
    with pytest.raises(ConfigError, match=problem):
        check_rewards(weights)
    with pytest.raises(ConfigError, match=problem):
        make_rewards(weights, sources)


@pytest.mark.parametrize("codes", [CODES, [[*code[:1], 0, 0] for code in CODES]], ids=["unique", "shared"])
def test_rewards_are_computed_where_the_answers_lie(sources, dataset, codes):
    """On the meta device, which computes nothing and mixes with no other, as CUDA would not."""
    meta = torch.device("meta")
    some = answers([[0, 1, 2], [1, 2, -1]], [[2, 1], [0]], [(1, 2), ()], codes)
    moved = replace(
        some,
        tree=replace(some.tree, trie=some.tree.trie.to(meta)),
        leaf=some.leaf.to(meta),
        logprob=some.logprob.to(meta),
    )
    judge = SASRec.fit(dataset, seed=0, config=SMALL)
    judge.network.to(meta)
    plain = ("rule", "rank", "rank-if-hit", "prefix", "format")
    rewards = {name: REWARDS[name](replace(sources, excludes_history=True)) for name in plain}
    rewards["semantic"] = partial(semantic, unit_vectors=torch.ones(NUM_ITEMS, 3, device=meta))
    rewards["collaborative"] = partial(collaborative, judge=judge)
    total, components = sum_rewards(rewards, dict.fromkeys(rewards, 1.0), moved)
    assert {values.device for values in (total, *components.values())} == {meta}


def test_the_stage_runs_again_after_a_reward_was_edited(run, settings, import_module):
    body = "def judge(answers):\n    return answers.item % {} == 0\n"
    import_module("shop_rewards", body.format(2))
    config = settings(rewards={"shop_rewards:judge": 1.0}, training={"max_steps": 1}, max_valid_examples=1)
    rl(config, run, seed=0)
    assert rl(config, run, seed=0).skipped
    import_module("shop_rewards", body.format(3))
    assert not rl(config, run, seed=0).skipped


def test_a_recipe_s_own_rewards_are_imported_before_its_first_stage(monkeypatch):
    monkeypatch.setitem(STAGES, "prepare", lambda *_: pytest.fail("a stage has begun"))
    mistyped = RlConfig(rewards={"no_such_module:judge": 1.0})
    recipe = Recipe(prepare=PrepareConfig(source=TableConfig(interactions="log.csv", items="items.csv")), rl=mistyped)
    with pytest.raises(ConfigError, match="cannot import no_such_module"):
        run_recipe(recipe)


@pytest.mark.parametrize(
    ("change", "rewards"),
    [
        ("rl.rewards.rank=0.5", {"rule": 1.0, "rank": 0.5}),
        ("rl.rewards.shop:popular=0.1", {"rule": 1.0, "shop:popular": 0.1}),
        ("rl.rewards.shop.rewards:popular=0.1", {"rule": 1.0, "shop.rewards:popular": 0.1}),
        ("rl.rewards={'shop.rewards:popular': 0.1}", {"shop.rewards:popular": 0.1}),
    ],
)
def test_a_reward_is_overridden_by_its_name(change, rewards):
    values = {"rl": {"rewards": {"rule": 1.0}}}
    override(values, change)
    assert values == {"rl": {"rewards": rewards}}
    check_rewards(rewards)


def test_the_log_says_what_is_summed_and_warns_of_ranks_alone(sources, caplog):
    caplog.set_level(logging.INFO, "itemic")
    make_rewards({"rule": 1.0, "rank-if-hit": 0.25}, sources)
    assert caplog.messages == ["rewards: rule 1, rank-if-hit 0.25"]
    make_rewards({"rank-if-hit": 1.0}, sources)
    assert "rewards: rank-if-hit without rule" in caplog.messages[-1]
    make_rewards({"rank": 1.0, "rule": 0.0}, sources)  # on purpose, then
    assert caplog.messages[-1] == "rewards: rank 1, rule 0"
