from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError, DataError
from itemic.decode.beam import search_prompts
from itemic.decode.walk import TreeWalker
from itemic.language.prompts import Renderer
from itemic.language.spelling import Spelling
from itemic.language.tasks import TASKS, ItemTexts
from itemic.model.backbone import make_sid_tokenizer
from itemic.train.rl.answers import Answers, AnswerTree, Question
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates
from itemic.train.rl.titles import title_token_ids, title_tree

END = 0
TITLES = [[5, 6, 7], [5, 6], [8, 8], [5, 6, 7], [], [5, 9, 1, 1]]
"""Items 0 and 3 share a title, item 1's begins it, item 4 has none."""
PATHS = {0: [5, 6, 7], 1: [5, 6, END], 2: [8, END, END], 3: [5, 6, 7], 5: [5, 9, END]}


def path(tree: AnswerTree, item: int) -> list[int]:
    """The tokens from the root to an item's leaf."""
    trie, tokens = tree.trie, []
    slot = int(trie.slot_of_item[item])
    for depth in range(1, trie.num_levels + 1):
        first, last = trie.slots(depth, torch.arange(trie.num_nodes(depth)))
        (node,) = ((first <= slot) & (slot < last)).nonzero().flatten().tolist()
        tokens.append(int(tree.level_ids[depth - 1][int(trie.codes[depth - 1][node])]))
    return tokens


def distinct_children(titles: Sequence[Sequence[int]], prefix: Sequence[int]) -> list[int]:
    """The tokens that continue a prefix in the tree of whole titles with their end."""
    depth, whole = len(prefix), [[*title, END] for title in titles if title]
    return sorted({title[depth] for title in whole if len(title) > depth and title[:depth] == list(prefix)})


def test_a_title_is_cut_where_it_is_told_apart_and_equal_ones_share_a_leaf() -> None:
    tree = title_tree(TITLES, END)
    assert {item: path(tree, item) for item in PATHS} == PATHS
    assert [ids.tolist() for ids in tree.level_ids] == [[5, 8], [END, 6, 9], [END, 7]]
    assert tree.trie.codebook_sizes == (2, 3, 2)
    assert tree.trie.num_leaves == 4
    assert tree.is_padded
    assert tree.trie.items(tree.leaves(torch.tensor([3, 4]))).tolist() == [[0, 3], [-1, -1]]


def test_candidates_on_a_shared_leaf_hit_whichever_item_was_meant() -> None:
    tree = title_tree(TITLES, END)
    leaves = tree.leaves(torch.tensor([0, 1, 2, 3, 4, 5, -1]))
    assert leaves[0] == leaves[3]
    assert leaves[4] == leaves[6] == -1
    questions = [Question(task=0, prompt=[1], targets=[3]), Question(task=0, prompt=[1], targets=[4, 2])]
    leaf = torch.stack([leaves[[0, 1, 5, 4]], leaves[[2, 0, 4, 6]]])
    answers = Answers(questions=questions, tree=tree, leaf=leaf, logprob=torch.zeros(2, 4))
    assert answers.is_hit.tolist() == [[True, False, False, False], [True, False, False, False]]
    assert answers.item.tolist() == [[0, 1, 5, -1], [2, 0, -1, -1]]


@given(st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=8).filter(any))
@settings(max_examples=40)
def test_paths_are_beginnings_of_titles_and_forced_beyond_the_cut(titles: list[list[int]]) -> None:
    tree = title_tree(titles, END)
    is_in_tree = tree.trie.slot_of_item >= 0
    assert is_in_tree.tolist() == [bool(title) for title in titles]
    distinct = {tuple(title) for title in titles if title}
    assert tree.trie.num_leaves == len(distinct)
    for title in distinct:
        tokens = path(tree, titles.index(list(title)))
        whole = [*title, END]
        shared = [len(common(whole, [*other, END])) for other in distinct - {title}]
        cut = max(shared, default=0) + 1
        assert tokens[:cut] == whole[:cut]
        assert set(tokens[cut:]) <= {END}
        assert all(len(distinct_children(titles, whole[:depth])) == 1 for depth in range(cut, len(whole)))


def common(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """What both begin with."""
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def test_log_probabilities_are_those_of_whole_titles_and_the_search_finds_the_best(
    fake_policy: Callable[..., Any],
) -> None:
    policy, rng = fake_policy((12, 12)), np.random.default_rng(3)
    titles = [rng.integers(1, 4, size=rng.integers(1, 7)).tolist() for _ in range(25)]
    tree = title_tree(titles, END)
    prompts = [[9, 4, 30], [17], [2, 2, 8, 11]]
    walker = TreeWalker(policy, tree.trie, "legal", level_ids=tree.level_ids)
    leaf, logprob, _ = search_prompts(walker, walker.read(prompts), tree.trie.num_leaves)
    rows = pack_candidates(prompts, leaf, tree, policy.device)
    packed, _ = candidate_logprobs(policy, rows, tree)
    assert torch.allclose(packed.sum(dim=-1), logprob), "and so does the packed sequence that learns"
    assert (packed[~rows.is_token] == 0).all(), "what does not count was forced"
    leaf_of_item = tree.leaves(torch.arange(len(titles)))
    for row, prompt in enumerate(prompts):
        found = dict(zip(leaf[row].tolist(), logprob[row].tolist(), strict=True))
        exact = {
            int(leaf_of_item[item]): whole_title_logprob(policy, prompt, titles, title)
            for item, title in enumerate(titles)
        }
        assert found == pytest.approx(exact, abs=1e-9)
        assert int(leaf[row, 0]) == max(exact, key=lambda number: exact[number])
        assert sum(np.exp(list(exact.values()))) == pytest.approx(1)


def whole_title_logprob(policy: Any, prompt: list[int], titles: list[list[int]], title: list[int]) -> float:
    """Σ log p of a whole title and its end, each over what continues some whole title: token by token, no cache."""
    total, whole = 0.0, [*title, END]
    for depth, token in enumerate(whole):
        ids = torch.tensor([[*prompt, *whole[:depth]]])
        size = ids.shape[1]
        mask = torch.ones(1, 1, size, size, dtype=torch.bool).tril()
        hidden, _ = policy.hidden(ids, mask, torch.arange(size)[None])
        children = distinct_children(titles, whole[:depth])
        logprobs = policy.logits(hidden[0, -1], torch.tensor(children)).log_softmax(dim=0)
        total += float(logprobs[children.index(token)])
    return total


@pytest.mark.parametrize("style", ["plain", "wrapped"])
def test_every_path_begins_the_answer_that_training_learns(byte_tokenizer: Callable[..., Any], style: str) -> None:
    spelling = Spelling.of(style, (4, 4))
    renderer = Renderer(byte_tokenizer(spelling), spelling, np.array([[0, 1], [2, 3], [1, 1], [3, 0]]), "chat")
    texts = ItemTexts(["Heat 2", "Heat", "", "Héat < a_1> <|x"], ["", "", "", ""])
    tree = title_tree(title_token_ids(texts, renderer), renderer.answer_end)
    build = TASKS["sids_to_title"].from_history
    assert build is not None
    answers = {}
    for item in (0, 1, 3):
        message = build([2, 1], item, texts, renderer)
        assert message is not None
        example = renderer.example(message)
        answers[item] = example.tokens[example.is_label].tolist()
    for item, answer in answers.items():
        tokens = path(tree, item)
        beginning = common(tokens, answer)
        assert sum(common(beginning, other) == beginning for other in answers.values()) == 1, "told apart"
        assert set(tokens[len(beginning) :]) <= {renderer.answer_end}
    assert path(tree, 1)[:5] == [*renderer.encode("Heat"), renderer.answer_end], "it begins another title"


def test_catalogues_without_titles_and_titles_that_hold_the_end_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 2 items has one"):
        title_tree([[], []], END)
    with pytest.raises(DataError, match=r"\[7, 0, 3\] holds the end-of-turn token 0"):
        title_tree([[1], [7, 0, 3], [2]], END)
    spelling = Spelling.of("plain", (2, 2))
    sid_only = Renderer(make_sid_tokenizer(spelling), spelling, np.zeros((1, 2), dtype=np.int64), "sid-only")
    with pytest.raises(ConfigError, match="a text answer needs words"):
        _ = sid_only.answer_end
