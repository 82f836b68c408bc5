import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.decode.trie import Trie
from itemic.language.corpus import Corpus
from itemic.language.prompts import Renderer
from itemic.language.spelling import Spelling
from itemic.language.tasks import TASKS
from itemic.model.backbone import make_sid_tokenizer
from itemic.train.rl.answers import Question
from itemic.train.rl.questions import QuestionBank, QuestionRefs, answer_trees

TITLES = ["Heat", "Alien", None, "Heat", "Up", "Held out"]
DESCRIPTIONS = ["A film", "In space", "A film", "", "A film", None]
CODES = np.array([[0, 1], [0, 2], [1, 1], [2, 0], [2, 3], [3, 3]])
HELD_OUT = 5
TRAIN: list[tuple[str, list[int], int]] = [
    ("u", [0], 1),
    ("u", [0, 1], 2),
    ("u", [0, 1, 2], 4),
    ("v", [0], 4),
    ("v", [0, 4], 1),
    ("w", [2], 3),
]
"""Users u and v begin alike and go on differently."""
VALID = [("u", [0, 1], HELD_OUT), ("v", [0, 4, 1], HELD_OUT)]
"""The first has a history that is also asked about in training."""
ASKED = ["next_item", "titles_to_sid", "sids_to_title", "title_to_sid", "sid_to_title", "description_to_sid"]


def toy_dataset(train: Sequence[tuple[str, list[int], int]] = TRAIN) -> Dataset:
    def examples(rows: Sequence[tuple[str, list[int], int]], first_id: int = 0) -> pl.DataFrame:
        return pl.DataFrame(
            [(first_id + number, *row, number) for number, row in enumerate(rows)], schema=EXAMPLE_SCHEMA, orient="row"
        )

    items = {"item_index": range(6), "item_id": list("abcdef"), "title": TITLES, "description": DESCRIPTIONS}
    trained = {user: [*history, target] for user, history, target in train}
    log = []
    for user, ids in trained.items():
        log += [(user, item, 0, None, "train") for item in ids]
        log += [(user, HELD_OUT, 0, None, split) for split in ("valid", "test") if user in [row[0] for row in VALID]]
    return Dataset(
        items=pl.DataFrame(items),
        interactions=pl.DataFrame(log, schema=INTERACTION_SCHEMA, orient="row"),
        train=examples(train),
        valid=examples(VALID, 100),
        test=examples(VALID, 200),
    )


@pytest.fixture(params=["plain", "wrapped"])
def chat(request: pytest.FixtureRequest, byte_tokenizer: Callable[..., Any]) -> Renderer:
    spelling = Spelling.of(request.param, (4, 4))
    return Renderer(byte_tokenizer(spelling), spelling, CODES, "chat")


@pytest.fixture(params=["plain", "wrapped"])
def sid_only(request: pytest.FixtureRequest) -> Renderer:
    spelling = Spelling.of(request.param, (4, 4))
    return Renderer(make_sid_tokenizer(spelling), spelling, CODES, "sid-only")


def make_bank(renderer: Renderer, weights: Mapping[str, float], max_history: int = 5, **options: Any) -> QuestionBank:
    dataset = options.get("dataset", toy_dataset())
    trie = options.get("trie", Trie.from_codes(renderer.codes, (4, 4)))
    trees = answer_trees(trie, dataset, renderer, weights)
    return QuestionBank(dataset, renderer, weights, trees, max_history=max_history)


def ask_all(bank: QuestionBank) -> list[Question]:
    return bank.ask(bank.epoch(np.random.default_rng(0)))


def answers_of(question: Question, task: str, renderer: Renderer) -> list[tuple[int, ...]]:
    """The tokens that would answer a question, one way for each target."""
    if TASKS[task].answer == "title":
        texts = [TITLES[item] for item in question.targets]
        return [(*renderer.encode(text), renderer.answer_end) for text in texts if text]
    opening, levels = len(renderer.sid_tokens.opening_ids), renderer.spelling.num_levels
    tokens = renderer.sid_tokens.encode(CODES[list(question.targets)])
    return [tuple(row) for row in tokens[:, opening : opening + levels].tolist()]


@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize("max_history", [2, 5])
def test_chat_questions_are_what_fine_tuning_teaches(chat: Renderer, task: str, max_history: int) -> None:
    corpus = Corpus(toy_dataset(), chat, {task: 1.0}, max_history=max_history, stride=1)
    taught = Counter(
        (tuple(example.tokens[~example.is_label].tolist()), tuple(example.tokens[example.is_label].tolist()))
        for group in corpus.epoch(np.random.default_rng(0))
        for example in group.examples
    )
    questions = ask_all(make_bank(chat, {task: 1.0}, max_history))
    assert Counter(tuple(question.prompt) for question in questions) == Counter(
        {prompt: sum(n for (other, _), n in taught.items() if other == prompt) for prompt, _ in taught}
    )
    for question in questions:
        for answer in answers_of(question, task, chat):
            assert (tuple(question.prompt), answer) in taught


def test_sid_only_questions_are_what_fine_tuning_teaches(sid_only: Renderer) -> None:
    corpus = Corpus(toy_dataset(), sid_only, {"next_item": 1.0}, max_history=5, stride=3)
    levels = sid_only.spelling.num_levels
    taught = set()
    for group in corpus.epoch(np.random.default_rng(0)):
        for example in group.examples:
            for place in np.flatnonzero(example.is_label)[::levels]:
                tokens = example.tokens.tolist()
                taught.add((tuple(tokens[:place]), tuple(tokens[place : place + levels])))
    for question in ask_all(make_bank(sid_only, {"next_item": 1.0})):
        (answer,) = answers_of(question, "next_item", sid_only)
        assert (tuple(question.prompt), answer) in taught


def test_next_item_questions_are_what_evaluation_asks(chat: Renderer, sid_only: Renderer) -> None:
    for renderer in (chat, sid_only):
        questions = ask_all(make_bank(renderer, {"next_item": 1.0}, max_history=2))
        asked = sorted((list(question.prompt), list(question.history)) for question in questions)
        expected = [(renderer.next_item_prompt(history[-2:]), history[-2:]) for _, history, _ in TRAIN]
        assert asked == sorted(expected)


@pytest.mark.parametrize("task", ["next_item", "titles_to_sid", "sids_to_title"])
def test_all_that_a_user_had_before_is_seen_and_the_newest_of_it_told(chat: Renderer, task: str) -> None:
    questions = ask_all(make_bank(chat, {task: 1.0}, max_history=1))
    asked = {(tuple(question.seen), tuple(question.targets)) for question in questions}
    assert asked <= {(tuple(history), (target,)) for _, history, target in TRAIN}
    assert max(len(seen) for seen, _ in asked) >= 2
    assert all(question.history == question.seen[-1:] for question in questions)


def test_a_question_about_an_item_alone_rules_nothing_out(chat: Renderer) -> None:
    assert all(not len(question.seen) for question in ask_all(make_bank(chat, {"title_to_sid": 1.0})))
    assert Question(task=0, prompt=[1], history=[2, 3], targets=[4]).seen == [2, 3]


@pytest.mark.parametrize("task", ["next_item", "titles_to_sid", "sids_to_title"])
def test_no_held_out_target_is_ever_asked_about(chat: Renderer, task: str) -> None:
    questions = ask_all(make_bank(chat, {task: 3.0}))
    assert questions
    assert all(HELD_OUT not in question.targets for question in questions)
    asked = {(tuple(question.history), tuple(question.targets)) for question in questions}
    assert asked <= {(tuple(history), (target,)) for _, history, target in TRAIN}


def test_equal_histories_with_different_targets_stay_apart(chat: Renderer) -> None:
    questions = ask_all(make_bank(chat, {"next_item": 1.0}))
    alike = [question for question in questions if list(question.history) == [0]]
    assert sorted(question.targets for question in alike) == [(1,), (4,)]
    assert alike[0].prompt == alike[1].prompt


def test_a_history_of_one_title_and_the_title_itself_have_targets_of_their_own(chat: Renderer) -> None:
    bank = make_bank(chat, {"titles_to_sid": 1.0, "title_to_sid": 1.0})
    by_task = [[q for q in ask_all(bank) if q.task == task] for task in range(2)]
    assert sorted(q.targets for q in by_task[0] if list(q.history) == [0]) == [(1,), (4,)]
    assert {tuple(q.targets) for q in by_task[1]} == {(0, 3), (1,), (4,), (5,)}


def test_whichever_item_shares_the_asked_text_is_right(chat: Renderer) -> None:
    questions = ask_all(make_bank(chat, {"title_to_sid": 1.0}))
    assert sorted(question.targets for question in questions) == [(0, 3), (0, 3), (1,), (4,), (5,)]
    assert all(len(question.history) == 0 for question in questions)
    questions = ask_all(make_bank(chat, {"description_to_sid": 1.0}))
    assert sorted(question.targets for question in questions) == [(0, 2, 4), (0, 2, 4), (0, 2, 4), (1,)]


def test_an_item_on_a_shared_semantic_id_may_be_named_for_the_other(byte_tokenizer: Callable[..., Any]) -> None:
    spelling, codes = Spelling.of("plain", (4, 4)), CODES.copy()
    codes[4] = codes[1]
    renderer = Renderer(byte_tokenizer(spelling), spelling, codes, "chat")
    questions = ask_all(make_bank(renderer, {"sid_to_title": 1.0}))
    assert sorted(question.targets for question in questions) == [(0,), (1, 4), (1, 4), (3,), (5,)]


def test_weights_say_how_often_each_question_is_asked(chat: Renderer) -> None:
    bank = make_bank(chat, {"next_item": 2.5, "title_to_sid": 0.5})
    epochs = [bank.epoch(np.random.default_rng(seed)) for seed in range(200)]
    counts = np.array([[(epoch.task == 0).sum(), (epoch.task == 1).sum()] for epoch in epochs])
    assert counts.mean(axis=0) == pytest.approx([2.5 * 6, 0.5 * 5], rel=0.1)
    times = Counter(epochs[0].row[epochs[0].task == 0].tolist())
    assert set(times) == set(range(6))
    assert set(times.values()) <= {2, 3}
    again = bank.epoch(np.random.default_rng(0))
    assert again.task.tolist() == epochs[0].task.tolist()
    assert again.row.tolist() == epochs[0].row.tolist()
    assert len({tuple(epoch.row.tolist()) for epoch in epochs}) > 100


def test_micro_batches_hold_every_question_once_and_one_tree_each(chat: Renderer) -> None:
    bank = make_bank(chat, dict.fromkeys(ASKED, 3.0))
    refs = bank.epoch(np.random.default_rng(0))
    batches = bank.micro_batches(refs, 4, np.random.default_rng(1))
    pairs = Counter(pair for batch in batches for pair in zip(batch.task.tolist(), batch.row.tolist(), strict=True))
    assert pairs == Counter(zip(refs.task.tolist(), refs.row.tolist(), strict=True))
    trees = [{id(bank.tree(task)) for task in batch.task.tolist()} for batch in batches]
    assert all(len(each) == 1 for each in trees)
    assert sum(len(batch) < 4 for batch in batches) <= 2
    assert max(len(batch) for batch in batches) == 4
    assert any(len(set(batch.task.tolist())) > 1 for batch in batches), "tasks of one tree mix"
    assert len({tuple(sorted(each)) for each in trees[: len(trees) // 2]}) == 2, "and so do batches of both trees"
    again = bank.micro_batches(refs, 4, np.random.default_rng(1))
    assert [batch.row.tolist() for batch in again] == [batch.row.tolist() for batch in batches]


def test_batches_of_one_roll_out_hold_prompts_of_like_length(chat: Renderer) -> None:
    bank = make_bank(chat, dict.fromkeys(ASKED, 4.0))
    refs = bank.epoch(np.random.default_rng(0))
    apart = bank.micro_batches(refs, 4, np.random.default_rng(1))
    together = bank.micro_batches(refs, 4, np.random.default_rng(1), 6)
    filling = []
    for batches in (apart, together):
        lengths = [[len(question.prompt) for question in bank.ask(batch)] for batch in batches]
        filling.append(sum(len(each) * max(each) - sum(each) for each in lengths))
    assert filling[1] < 0.6 * filling[0]
    for start in range(0, len(apart), 6):
        one, other = (
            Counter(pair for batch in batches[start : start + 6] for pair in zip(batch.task, batch.row, strict=True))
            for batches in (apart, together)
        )
        assert one == other, "the questions of a roll-out stay the same"
        for mine, theirs in zip(apart[start : start + 6], together[start : start + 6], strict=True):
            assert len(mine) == len(theirs)
            assert {id(bank.tree(task)) for task in theirs.task.tolist()} == {id(bank.tree(int(mine.task[0])))}


def test_the_order_of_a_tree_that_one_task_asks_about_is_left_alone(sid_only: Renderer) -> None:
    bank = make_bank(sid_only, {"next_item": 4.0})
    refs = bank.epoch(np.random.default_rng(0))
    batches = bank.micro_batches(refs, 4, np.random.default_rng(1), 3)
    cut = [refs.row[start : start + 4].tolist() for start in range(0, len(refs), 4)]
    assert [batch.row.tolist() for batch in batches] == [cut[at] for at in np.random.default_rng(1).permutation(6)]


def test_what_the_catalog_no_longer_has_is_not_asked_for(chat: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    active = np.array([True, False, True, False, True, True])
    trie = Trie.from_codes(CODES, (4, 4), active)
    with caplog.at_level(logging.WARNING, logger="itemic"):
        bank = make_bank(chat, {"next_item": 1.0, "title_to_sid": 1.0, "sids_to_title": 1.0}, trie=trie)
    questions = ask_all(bank)
    assert sorted(q.targets for q in questions if q.task == 0) == [(2,), (4,), (4,)]
    assert sorted(q.targets for q in questions if q.task == 1) == [(0, 3), (0, 3), (4,), (5,)]
    assert sorted(q.targets for q in questions if q.task == 2) == [(4,), (4,)]
    assert (bank.tree(2).leaves(torch.arange(6)) >= 0).tolist() == [True, False, False, False, True, True]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "rl: next_item: 3 of 6 questions are left out",
        "rl: title_to_sid: 1 of 5 questions are left out",
        "rl: sids_to_title: 3 of 5 questions are left out",
    ]


def test_a_bank_of_references_renders_only_what_is_asked(chat: Renderer) -> None:
    bank = make_bank(chat, {"sids_to_title": 1.0, "next_item": 1.0})
    assert bank.task_names == ["sids_to_title", "next_item"]
    (question,) = bank.ask(QuestionRefs(np.array([0]), np.array([2])))
    assert (question.task, question.targets) == (0, (4,))
    assert bank.tree(0).trie.num_leaves == 4, "titles"
    assert bank.tree(1).trie.num_leaves == 6, "semantic IDs"


def test_what_cannot_be_asked_is_refused(chat: Renderer, sid_only: Renderer) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.sid_to_description: its answers are free text"):
        make_bank(chat, {"sid_to_description": 1.0})
    with pytest.raises(ConfigError, match="needs words"):
        make_bank(sid_only, {"next_item": 1.0, "titles_to_sid": 1.0})
    with pytest.raises(ConfigError, match="max_history: expected at least 1"):
        make_bank(chat, {"next_item": 1.0}, max_history=0)
    with pytest.raises(ConfigError, match=r"tasks\.titles_to_sid: nothing to ask"):
        make_bank(chat, {"titles_to_sid": 1.0}, dataset=toy_dataset([("u", [2], 1)]))
    untitled = toy_dataset()
    object.__setattr__(untitled, "items", untitled.items.with_columns(title=pl.lit("")))
    with pytest.raises(DataError, match="none of the 6 items has one"):
        make_bank(chat, {"sids_to_title": 1.0}, dataset=untitled)


def test_the_newest_rows_are_asked_about_by_time_or_by_order(sid_only: Renderer) -> None:
    times = [5, 1, 9, 2, 8, 9]
    for given, newest in ((times, [2, 4, 5]), ([*times[:5], None], [3, 4, 5])):
        dataset = toy_dataset()
        train = dataset.train.with_columns(timestamp=pl.Series(given, dtype=pl.Int64))
        dataset = replace(dataset, train=train)
        trees = answer_trees(Trie.from_codes(CODES, (4, 4)), dataset, sid_only, {"next_item": 1.0})
        bank = QuestionBank(dataset, sid_only, {"next_item": 1.0}, trees, max_history=5, newest_share=0.45)
        assert sorted(bank.epoch(np.random.default_rng(0)).row.tolist()) == newest
