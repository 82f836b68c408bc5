"""The loss of packed answers: what the first update is, how sums divide over micro-batches, preferences by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from itemic.core.config import config_from_mapping
from itemic.decode.trie import Trie
from itemic.train.rl.answers import AnswerTree, Question
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates
from itemic.train.rl.config import GrpoConfig, RlConfig
from itemic.train.rl.figures import RunningFigures
from itemic.train.rl.judge import Judge
from itemic.train.rl.policy_loss import JudgedBatch, PolicyLoss, grpo_loss, objective_of, preference_loss
from itemic.train.rl.preferences import dpo_loss, sdpo_loss
from itemic.train.rl.reference import Reference
from itemic.train.rl.rewards.matches import rule
from itemic.train.rl.titles import title_tree

TITLES = [[4, 5, 6, 7], [4, 5, 6, 8], [4, 9], [5], [6, 7, 8], [6, 7, 9], [7], [8, 4], [9, 9, 9, 9, 9]]


@pytest.fixture
def policy(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("qwen3", (4, 4, 4), "plain")


@pytest.fixture
def titles() -> AnswerTree:
    """Answers of one to four tokens."""
    return title_tree(TITLES, 3)


@pytest.fixture
def sids(policy: Any) -> AnswerTree:
    codes = np.array([[a, b, (a + b) % 4] for a in range(3) for b in range(3)])
    return AnswerTree.of_sids(Trie.from_codes(codes, [4, 4, 4]), policy.sid_tokens)


def questions(num: int) -> list[Question]:
    return [
        Question(task=index % 2, prompt=[3 + index, 4, 5 + index][: 1 + index % 3], targets=[index])
        for index in range(num)
    ]


def judge_of(policy: Any, changes: dict[str, Any], reference: Reference | None = None) -> tuple[Judge, RlConfig]:
    config = config_from_mapping(RlConfig, {"rollout": {"group_size": 6}, "rewards": {"rule": 1.0}} | changes)
    judge = Judge(
        policy,
        config,
        rewards={"rule": rule},
        reference=reference,
        excludes_history=False,
        figures=RunningFigures(),
        seed=0,
    )
    return judge, config


def loss_and_gradients(policy: Any, config: RlConfig, batches: list[JudgedBatch]) -> tuple[Tensor, list[Tensor]]:
    """The loss of one optimiser step, by task, and its gradients."""
    num_questions = sum(len(batch.task) for batch in batches)
    tokens = torch.stack([batch.num_answer_tokens for batch in batches]).sum() / num_questions
    module = PolicyLoss(policy, 2, objective_of(config), config.rollout.temperature, record=lambda figures: None)
    policy.network.zero_grad()
    total = torch.zeros(2)
    for batch in batches:
        sums = module(replace(batch, tokens_per_question=tokens)) / num_questions
        sums.sum().backward()
        total += sums.detach()
    return total, [parameter.grad.clone() for parameter in policy.network.parameters()]


@pytest.mark.parametrize("normalize", ["sequence", "token", "constant"])
@pytest.mark.parametrize("kind", ["titles", "sids"])
def test_a_step_is_the_same_in_one_micro_batch_and_in_two(
    policy: Any, request: pytest.FixtureRequest, kind: str, normalize: str
) -> None:
    tree = request.getfixturevalue(kind)
    reference = Reference(policy)
    with torch.no_grad():
        for parameter in reference.model.network.parameters():
            parameter.mul_(1.2)
    judge, config = judge_of(policy, {"grpo": {"normalize": normalize, "beta": 0.5}}, reference)
    asked = questions(8)
    found = []
    for size in (8, 4, 3):
        parts = [asked[start : start + size] for start in range(0, 8, size)]
        batches = judge.answer_and_judge(parts, [tree] * len(parts), 0)
        found.append(loss_and_gradients(policy, config, batches))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-4, atol=1e-6)
        for mine, theirs in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert found[0][0].abs().min() > 0


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_first_update_is_the_policy_gradient(policy: Any, titles: AnswerTree, ratio: str) -> None:
    changes = {"grpo": {"ratio": ratio, "beta": 0.0}, "rollout": {"sampler": "gumbel", "group_size": 6}}
    judge, config = judge_of(policy, changes)
    (batch,) = judge.answer_and_judge([questions(6)], [titles], 0)
    logprobs, _ = candidate_logprobs(policy, batch.rows, titles)
    loss, figures = grpo_loss(logprobs, batch, config.grpo)
    weight = batch.weight / batch.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(loss, -(weight * batch.advantages).sum(dim=1), rtol=1e-4, atol=1e-6)
    assert loss.abs().max() > 0.01, "importance weights leave something"
    assert figures["clip_fraction"] == 0
    assert "kl" not in figures
    mean = torch.where(batch.rows.is_token, logprobs, 0.0).sum(-1) / batch.rows.is_token.sum(-1).clamp(min=1)
    surrogate = -(weight * batch.advantages * mean).sum()
    parameters = list(policy.network.parameters())
    found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True)
    for mine, theirs in zip(found, torch.autograd.grad(surrogate, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_kept_log_probabilities_of_the_same_policy_change_nothing(policy: Any, titles: AnswerTree, ratio: str) -> None:
    judge, config = judge_of(policy, {"inner_epochs": 2, "grpo": {"ratio": ratio, "beta": 0.0}})
    (batch,) = judge.answer_and_judge([questions(6)], [titles], 0)
    assert batch.old_logprobs is not None
    given = loss_and_gradients(policy, config, [batch])
    none = loss_and_gradients(policy, config, [replace(batch, old_logprobs=None)])
    torch.testing.assert_close(given, none, rtol=1e-4, atol=1e-6)
    logprobs, _ = candidate_logprobs(policy, batch.rows, titles)
    assert grpo_loss(logprobs, batch, config.grpo)[1]["clip_fraction"] == 0


def hand_made(tree: AnswerTree, policy: Any, leaf: list[list[int]], advantages: list[list[float]]) -> JudgedBatch:
    leaves = torch.tensor(leaf)
    return JudgedBatch(
        rows=pack_candidates([[3, 4]] * len(leaf), leaves, tree, policy.device),
        answers=tree,
        leaf=leaves,
        task=torch.arange(len(leaf)) % 2,
        advantages=torch.tensor(advantages),
        weight=(leaves >= 0).float(),
        old_logprobs=None,
        ref_logprobs=None,
    )


def test_normalisations_of_answers_of_different_length(policy: Any, titles: AnswerTree) -> None:
    leaf = titles.leaves(torch.tensor([[0, 3, 2, -1]])).tolist()
    batch = hand_made(titles, policy, leaf, [[1.0, -0.5, 0.25, 0.0]])
    assert batch.rows.is_token.sum(-1).tolist() == [[4, 1, 2, 0]]
    logprobs = torch.zeros(batch.rows.is_token.shape)
    expected = {"sequence": -(1 - 0.5 + 0.25) / 3, "token": -(4 - 0.5 + 0.5) / 7}
    expected["constant"] = -(4 - 0.5 + 0.5) / (3 * logprobs.shape[-1])
    for normalize, value in expected.items():
        config = GrpoConfig(normalize=normalize, beta=0.0)  # type: ignore[arg-type]
        loss, _ = grpo_loss(logprobs, replace(batch, tokens_per_question=7.0), config)
        assert loss.item() == pytest.approx(value), normalize


def test_bounds_clip_and_the_reference_holds(policy: Any, sids: AnswerTree) -> None:
    batch = hand_made(sids, policy, [[0, 4]], [[1.0, -1.0]])
    old = torch.full((1, 2, 3), math.log(0.5))
    logprobs = torch.log(torch.tensor([[[0.5, 0.575, 0.7], [0.5, 0.45, 0.3]]])).requires_grad_()
    batch = replace(batch, old_logprobs=old)
    config = GrpoConfig(clip_low=0.2, clip_high=0.28, beta=0.0)
    loss, figures = grpo_loss(logprobs, batch, config)
    assert loss.item() == pytest.approx(-(1 + 1.15 + 1.28) / 6 + (1 + 0.9 + 0.8) / 6)
    assert figures["clip_fraction"].item() == pytest.approx(2 / 6)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0, :, 2].tolist() == [0, 0]
    assert (logprobs.grad[0, :, :2] != 0).all()
    wide, _ = grpo_loss(logprobs, batch, GrpoConfig(clip_low=1.0, clip_high=9.0, beta=0.0))
    assert wide.item() == pytest.approx(-(1 + 1.15 + 1.4) / 6 + (1 + 0.9 + 0.6) / 6)
    held, figures = grpo_loss(logprobs, replace(batch, ref_logprobs=old), GrpoConfig(clip_high=0.28, beta=2.0))
    ratios = [1, 0.5 / 0.575, 0.5 / 0.7, 1, 0.5 / 0.45, 0.5 / 0.3]
    kl = sum(ratio - math.log(ratio) - 1 for ratio in ratios) / 6
    assert figures["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert held.item() == pytest.approx(loss.item() + 2 * kl, rel=1e-4)


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss])
def test_preferences_by_hand(policy: Any, sids: AnswerTree, loss: Any) -> None:
    batch = hand_made(sids, policy, [[0, 4, 5], [1, -1, 2]], [[0.0] * 3] * 2)
    logprobs = torch.full((2, 3, 3), -1.0)
    logprobs[0, 0], logprobs[0, 1], logprobs[1, 1] = -0.5, -1.5, torch.nan
    batch = replace(batch, ref_logprobs=torch.full((2, 3, 3), -1.0))
    losses, figures = preference_loss(logprobs, batch, loss, 2.0)
    leads = [2 * 3 * -1.0, 2 * 3 * -0.5]  # of both rejected answers over the chosen one
    if loss is dpo_loss:
        first = sum(math.log1p(math.exp(lead)) for lead in leads) / 2
    else:
        first = math.log1p(sum(map(math.exp, leads)))
    assert losses.tolist() == pytest.approx([first, math.log(2)], rel=1e-4)
    assert figures["margin"].item() == pytest.approx(9 / 3)
    assert figures["accuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("objective", ["grpo", "dpo", "s-dpo"])
def test_losses_are_told_apart_by_task_and_figures_are_recorded(policy: Any, sids: AnswerTree, objective: str) -> None:
    seen: dict[str, Tensor] = {}
    config = config_from_mapping(RlConfig, {"objective": objective})
    module = PolicyLoss(policy, 3, objective_of(config), 1.0, record=seen.update)
    batch = hand_made(sids, policy, [[0, 4, 5], [1, -1, 2], [3, 7, 8]], [[1.0, 0.0, 0.0]] * 3)
    logprobs, entropy = candidate_logprobs(policy, batch.rows, sids)
    batch = replace(batch, ref_logprobs=logprobs.detach() - 0.1)
    sums = module(batch)
    losses, figures = objective_of(config)(logprobs, batch)
    torch.testing.assert_close(sums, torch.stack([losses[0] + losses[2], losses[1], torch.tensor(0.0)]))
    torch.testing.assert_close(seen["entropy"], entropy[batch.rows.is_token].mean())
    assert seen.keys() == {"entropy", *figures}
    assert not any(value.requires_grad for value in seen.values())
    assert dict(module.named_parameters()).keys() == {
        f"network.{name}" for name, _ in policy.network.named_parameters()
    }


def test_the_temperature_is_the_one_of_the_roll_out(policy: Any, sids: AnswerTree) -> None:
    seen: dict[str, Tensor] = {}
    config = config_from_mapping(RlConfig, {"grpo": {"beta": 0.0}})
    batch = hand_made(sids, policy, [[0, 4]], [[1.0, -1.0]])
    for temperature in (1.0, 5.0):
        PolicyLoss(policy, 2, objective_of(config), temperature, record=seen.update)(batch)
        _, entropy = candidate_logprobs(policy, batch.rows, sids, temperature)
        torch.testing.assert_close(seen["entropy"], entropy.mean())
