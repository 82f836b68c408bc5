"""Answers judged: each question by its own targets, advantages by hand, preferences that prefer a target."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from itemic.core.config import config_from_mapping
from itemic.decode.trie import Trie
from itemic.train.rl import judge as module
from itemic.train.rl.answers import AnswerTree, Question, Rollout
from itemic.train.rl.candidate_tree import candidate_logprobs
from itemic.train.rl.config import RlConfig
from itemic.train.rl.figures import RunningFigures
from itemic.train.rl.judge import Judge
from itemic.train.rl.policy_loss import JudgedBatch
from itemic.train.rl.reference import Reference
from itemic.train.rl.rewards.matches import rule
from itemic.train.rl.rewards.ranks import rank

CODES = np.array([[a, b] for a in range(3) for b in range(4)])
"""Twelve items; item i is leaf i."""


@pytest.fixture
def policy(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("qwen3", (4, 4), "plain")


@pytest.fixture
def tree(policy: Any) -> AnswerTree:
    return AnswerTree.of_sids(Trie.from_codes(CODES, [4, 4]), policy.sid_tokens)


def question(*targets: int, history: tuple[int, ...] = (1, 2), seen: tuple[int, ...] = ()) -> Question:
    return Question(task=0, prompt=[3, 4, 5], history=history, targets=targets, seen=seen)


def make_judge(policy: Any, changes: Mapping[str, Any], **settings: Any) -> tuple[Judge, RunningFigures]:
    config = config_from_mapping(RlConfig, {"rollout": {"group_size": 6}, "rewards": {"rule": 1.0}} | dict(changes))
    figures = RunningFigures()
    defaults: dict[str, Any] = {"rewards": {"rule": rule}, "reference": None, "excludes_history": False, "seed": 0}
    return Judge(policy, config, figures=figures, **defaults | settings), figures


def give(monkeypatch: pytest.MonkeyPatch, leaf: list[list[int]], is_added: list[list[bool]] | None = None) -> None:
    """Has every question answered in the same way."""

    def roll_out(policy: Any, questions: list[Question], *arguments: Any, **settings: Any) -> Rollout:
        there = torch.tensor(leaf)
        added = torch.zeros_like(there, dtype=torch.bool) if is_added is None else torch.tensor(is_added)
        logprob = -torch.arange(there.numel(), dtype=torch.float32).view(there.shape)
        logprob = logprob.masked_fill(there < 0, -torch.inf)
        return Rollout(leaf=there, logprob=logprob, weight=(there >= 0).float(), is_added=added)

    monkeypatch.setattr(module, "roll_out", roll_out)


def test_advantages_of_a_hand_made_case(policy: Any, tree: AnswerTree, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, [[0, 3, 5, -1], [0, 3, 5, 7]])
    changes = {"grpo": {"advantages": "none", "beta": 0.0}, "rewards": {"rule": 2.0, "rank": 0.0}}
    judge, figures = make_judge(policy, changes, rewards={"rule": rule, "rank": rank})
    (batch,) = judge.answer_and_judge([[question(3, 5), question(9)]], [tree], 0)
    expected = [[-4 / 3, 2 / 3, 2 / 3, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(batch.advantages, torch.tensor(expected))
    assert batch.leaf.tolist() == [[0, 3, 5, -1], [0, 3, 5, 7]]
    assert batch.weight.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.num_answer_tokens == 14
    assert batch.old_logprobs is batch.ref_logprobs is None
    found = figures.end_step()
    assert found["reward/rule"] == pytest.approx(2 / 7)
    assert found["reward"] == pytest.approx(4 / 7)
    assert (found["hit_share"], found["zero_variance"], found["distinct"]) == (0.5, 0.5, 1.0)
    assert "reward/rank" in found


def test_equal_histories_with_different_targets_are_judged_apart(policy: Any, tree: AnswerTree) -> None:
    """The reference looks a target up by the text of its prompt, so the last one with that prompt wins."""
    judge, _ = make_judge(policy, {"rollout": {"group_size": 12}, "grpo": {"advantages": "none", "beta": 0.0}})
    (batch,) = judge.answer_and_judge([[question(3), question(8), question(3, 8)]], [tree], 0)
    assert torch.equal(batch.leaf[0], batch.leaf[1]), "one prompt, one beam search"
    for row, targets in enumerate([{3}, {8}, {3, 8}]):
        best = batch.leaf[row][batch.advantages[row] == batch.advantages[row].max()]
        assert set(best.tolist()) == targets


def test_what_was_put_in_is_no_answer_of_the_policy(
    policy: Any, tree: AnswerTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, [[0, 1, 3], [0, 3, 1]], [[False, False, True], [False] * 3])
    judge, figures = make_judge(policy, {"grpo": {"advantages": "none", "beta": 0.0}})
    (batch,) = judge.answer_and_judge([[question(3), question(3)]], [tree], 0)
    torch.testing.assert_close(batch.advantages[0], torch.tensor([-1 / 3, -1 / 3, 2 / 3]))
    found = figures.end_step()
    assert found["hit_share"] == 0.5
    assert found["reward"] == found["reward/rule"] == pytest.approx(1 / 5)
    assert found["zero_variance"] == 0.0


def test_a_roll_out_adds_the_targets_that_were_not_found(policy: Any, tree: AnswerTree) -> None:
    questions = [question(target) for target in range(12)]
    for is_added in (False, True):
        judge, figures = make_judge(policy, {"rollout": {"group_size": 4, "add_ground_truth": is_added}})
        (batch,) = judge.answer_and_judge([questions], [tree], 0)
        has_target = (batch.leaf == torch.arange(12)[:, None]).any(dim=1)
        assert figures.end_step()["hit_share"] == pytest.approx(4 / 12)
        assert has_target.sum() == (12 if is_added else 4)


@pytest.mark.parametrize("excludes", [True, False])
def test_items_that_the_user_had_are_no_candidates(policy: Any, tree: AnswerTree, excludes: bool) -> None:
    judge, _ = make_judge(policy, {"rollout": {"group_size": 12}}, excludes_history=excludes)
    questions = [question(2), question(3, history=()), question(5, seen=(7, 8, 1, 2))]
    (batch,) = judge.answer_and_judge([questions], [tree], 0)
    had = [{1}, set(), {7, 8, 1, 2}]  # item 2 was had too, and is the first one's target
    for row, leaves in enumerate(batch.leaf.tolist()):
        assert {leaf for leaf in leaves if leaf >= 0} == set(range(12)) - (had[row] if excludes else set())


@pytest.mark.parametrize("negatives", ["policy", "uniform"])
def test_what_was_excluded_has_no_share_of_the_probability(policy: Any, tree: AnswerTree, negatives: str) -> None:
    """In the reference's log-probabilities and after a checkpoint too; drawn items leave nothing out."""
    for changes in ({"inner_epochs": 2}, {"objective": "dpo", "preference": {"negatives": negatives}}):
        judge, _ = make_judge(
            policy,
            changes | {"rollout": {"group_size": 9}},
            rewards={"rule": rule} if "inner_epochs" in changes else {},
            reference=Reference(policy),
            excludes_history=True,
        )
        parts = [[question(5, seen=(1, 2, 7)), question(9, seen=(0, 3, 4))]]
        batches = judge.answer_and_judge(parts, [tree], 0)
        (restored,) = judge.restore(parts, [tree], judge.state(batches))
        (batch,) = batches
        for rows in (batch.rows, restored.rows):
            logprobs, _ = candidate_logprobs(policy, rows, tree)
            for found in (logprobs, batch.ref_logprobs):
                probability = torch.where(batch.leaf >= 0, found.sum(dim=-1).exp(), 0.0)
                if "objective" not in changes or negatives == "policy":
                    torch.testing.assert_close(probability.sum(dim=1), torch.ones(2))
                else:
                    assert rows.allowed is None


@pytest.mark.parametrize("negatives", ["uniform", "policy"])
def test_a_target_is_preferred_to_what_is_none(policy: Any, tree: AnswerTree, negatives: str) -> None:
    changes = {"objective": "s-dpo", "preference": {"negatives": negatives, "num_negatives": 40}}
    judge, _ = make_judge(policy, changes | {"rollout": {"group_size": 12}}, rewards={}, reference=Reference(policy))
    targets = [(3,), (8,), (1, 3, 8, 10)]
    (batch,) = judge.answer_and_judge([[question(*each) for each in targets]], [tree], 0)
    assert batch.leaf.shape == (3, 1 + (40 if negatives == "uniform" else 12))
    assert batch.leaf[:, 0].tolist() == [3, 8, 1]
    for row, mine in enumerate(targets):
        rejected = {leaf for leaf in batch.leaf[row, 1:].tolist() if leaf >= 0}
        assert rejected == set(range(12)) - set(mine)
    assert torch.equal(batch.weight > 0, batch.leaf >= 0)
    assert torch.equal(batch.rows.is_token.any(dim=-1), batch.leaf >= 0)


def test_rejected_items_depend_on_the_seed_and_the_roll_out(policy: Any, tree: AnswerTree) -> None:
    changes = {"objective": "dpo", "preference": {"num_negatives": 6}}
    drawn = []
    for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0)):
        judge, _ = make_judge(policy, changes, rewards={}, reference=Reference(policy), seed=seed)
        parts = [[question(3), question(3)], [question(3)]]
        first, second = judge.answer_and_judge(parts, [tree, tree], number)
        drawn.append((first.leaf.tolist(), second.leaf.tolist()))
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] != drawn[3]
    assert drawn[0][0][0] != drawn[0][0][1]
    assert drawn[0][0][:1] != drawn[0][1]


def test_log_probabilities_are_of_who_answered_and_of_the_reference(policy: Any, tree: AnswerTree) -> None:
    reference = Reference(policy)
    with torch.no_grad():
        for parameter in reference.model.network.parameters():
            parameter.mul_(1.5)
    changes = {"inner_epochs": 2, "rollout": {"group_size": 5, "sampler": "top-k", "temperature": 2.0}}
    judge, _ = make_judge(policy, changes, reference=reference)
    (batch,) = judge.answer_and_judge([[question(3), question(8)]], [tree], 0)
    for model, found in ((policy, batch.old_logprobs), (reference.model, batch.ref_logprobs)):
        expected, _ = candidate_logprobs(model, batch.rows, tree, temperature=2.0)
        torch.testing.assert_close(found, expected.detach())
        assert found is not None
        assert not found.requires_grad
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    assert not torch.allclose(batch.old_logprobs, batch.ref_logprobs)


@pytest.mark.parametrize("changes", [{"inner_epochs": 2}, {"objective": "dpo"}, {"grpo": {"beta": 0.0}}])
def test_a_roll_out_survives_a_checkpoint(policy: Any, tree: AnswerTree, changes: dict[str, Any]) -> None:
    config = config_from_mapping(RlConfig, changes)
    reference = Reference(policy) if config.needs_reference else None
    judge, _ = make_judge(policy, changes, reference=reference)
    parts = [[question(3), question(8, 1)], [question(0)]]
    batches = judge.answer_and_judge(parts, [tree, tree], 5)
    restored = judge.restore(parts, [tree, tree], judge.state(batches))
    assert len(restored) == 2
    for before, after in zip(batches, restored, strict=True):
        for name in ("leaf", "task", "advantages", "weight", "old_logprobs", "ref_logprobs"):
            mine, other = getattr(before, name), getattr(after, name)
            assert (mine is other is None) or torch.equal(mine, other)
        assert torch.equal(before.rows.input_ids, after.rows.input_ids)
        assert torch.equal(before.rows.mask, after.rows.mask)


def test_draws_do_not_depend_on_how_questions_are_batched(policy: Any, tree: AnswerTree) -> None:
    questions = [question(target) for target in range(6)]
    leaves: list[Tensor] = []
    for cut in (1, 4, 6):
        judge, _ = make_judge(policy, {"rollout": {"group_size": 4, "sampler": "gumbel", "batch_size": cut}})
        parts = [part for part in (questions[:cut], questions[cut:]) if part]
        batches: list[JudgedBatch] = judge.answer_and_judge(parts, [tree] * len(parts), 3)
        leaves.append(torch.cat([batch.leaf for batch in batches]))
    assert torch.equal(leaves[0], leaves[1])
    assert torch.equal(leaves[0], leaves[2])
