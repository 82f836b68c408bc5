"""The records: leaves, targets and ranks, and what of them is worked out once."""

import numpy as np
import pytest
import torch

from itemic.decode.trie import Trie
from itemic.train.rl.answers import Answers, AnswerTree, Question, allowed_items, first_target, is_repeat

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 0], [2, 1]])
"""Items 2 and 3 share a leaf."""
INF = float("inf")


@pytest.fixture
def tree() -> AnswerTree:
    return AnswerTree(trie=Trie.from_codes(CODES, [3, 2]), level_ids=(np.arange(3), np.arange(3, 5)))


def test_a_target_that_was_put_in_ranks_before_what_is_missing(tree: AnswerTree) -> None:
    """It has -inf, as a missing candidate has, and stands behind it in the last column."""
    questions = [Question(task=0, prompt=[1], targets=[4])] * 2
    leaf = torch.tensor([[0, 2, -1, 3], [1, 0, 2, 3]])
    logprob = torch.tensor([[-2.0, -1.0, -INF, -INF], [-1.0, -1.0, -3.0, -2.0]])
    answers = Answers(questions=questions, tree=tree, leaf=leaf, logprob=logprob)
    assert answers.rank.tolist() == [[2, 1, 4, 3], [1, 2, 4, 3]]


def test_targets_are_looked_up_once(tree: AnswerTree) -> None:
    questions = [Question(task=0, prompt=[1], targets=[3]), Question(task=0, prompt=[1], targets=[0, 4])]
    answers = Answers(questions=questions, tree=tree, leaf=torch.tensor([[2, 0], [-1, 3]]), logprob=torch.zeros(2, 2))
    assert answers.target.tolist() == [[3, -1], [0, 4]]
    assert answers.target_leaf.tolist() == [[2, -1], [0, 3]]
    assert answers.is_hit.tolist() == [[True, False], [False, True]]
    assert answers.item.tolist() == [[2, 0], [-1, 4]]
    for name in ("target", "target_leaf", "is_hit", "item", "rank"):
        assert getattr(answers, name) is getattr(answers, name)


def test_the_first_target_is_one_that_is_in_the_tree() -> None:
    assert first_target(torch.tensor([[-1, 7], [5, -1], [-1, -1]])).tolist() == [[7], [5], [-1]]
    assert is_repeat(torch.tensor([[4, 4, 1, 4], [1, 2, 3, 1]])).tolist() == [
        [False, True, False, True],
        [False, False, False, True],
    ]


def test_a_target_is_always_open_and_a_shared_leaf_as_long_as_one_item_is(tree: AnswerTree) -> None:
    questions = [Question(task=0, prompt=[1], targets=[1]), Question(task=0, prompt=[1], targets=[4])]
    allowed = allowed_items(questions, tree, [[0, 1, 2], [2, 3, 4]])
    leaves = torch.arange(4).expand(2, -1)
    assert (allowed.num_allowed(2, leaves) > 0).tolist() == [[False, True, True, True], [True, True, False, True]]
