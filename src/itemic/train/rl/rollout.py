"""Groups of candidate answers to questions, drawn from a policy under a tree of legal answers.

Each sampler is one function from prompts that were read to a group; ``roll_out`` batches and completes what they give.
Knows no reward, no loss and no task. The policy must be in evaluation mode; its weights and mode are left as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories
from itemic.decode.beam import search_prompts
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory, PromptBatch, check_numbers, check_prompts
from itemic.decode.stochastic import DistinctSamples, draw_distinct, draw_samples
from itemic.decode.walk import TreeWalker
from itemic.train.rl.answers import (
    AnswerTree,
    Question,
    Rollout,
    allowed_items,
    first_target,
    is_among,
    is_repeat,
    item_rows,
)

__all__ = ["RolloutConfig", "Sampler", "add_targets", "group_diversity", "roll_out"]

Sampler = Literal["beam", "dynamic", "gumbel", "top-k"]

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "beam": (),
    "dynamic": ("temperature", "top_k", "oversampling"),
    "gumbel": ("temperature",),
    "top-k": ("temperature", "top_k"),
}
"""Which of the settings that not all samplers have each of them honours."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How candidates are found; a setting that the sampler does not have must keep its default."""

    sampler: Sampler = "beam"
    """``beam``: the likeliest answers, as MiniOneRec. ``top-k``: independent draws, the paper's "common" sampling.
    ``dynamic``: more draws than are kept, those kept as unlike as can be. ``gumbel``: draws without replacement, with
    importance weights."""
    group_size: int = 16
    """Candidates for each question, G; 16 as in MiniOneRec."""
    temperature: float = 1.0
    """Divides the logits: more than 1 spreads the draws. Not for beams."""
    top_k: int = 50
    """Draws each code among this many likeliest open children, and those level with the last; 50 as in transformers'
    ``generate``. For ``top-k`` and ``dynamic``."""
    oversampling: float = 1.5
    """Draws for each candidate that is kept, at least 1; 1.5 as in MiniOneRec. For ``dynamic``."""
    add_ground_truth: bool = False
    """Whether a group without a target gets one in its last candidate's place."""
    batch_size: int = 16
    """Most questions in the cache at once; it changes cost, not candidates."""

    def __post_init__(self) -> None:
        if self.sampler not in _SETTINGS:
            raise ConfigError(f"sampler {self.sampler!r}: expected one of {', '.join(_SETTINGS)}")
        check_numbers(group_size=self.group_size, top_k=self.top_k, batch_size=self.batch_size)
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be a positive number, found {self.temperature}")
        if not 1 <= self.oversampling < math.inf:
            raise ConfigError(f"oversampling must be at least 1, found {self.oversampling}")
        for name in ("temperature", "top_k", "oversampling"):
            self._check_is_used(name)

    @property
    def num_draws(self) -> int:
        """Draws of dynamic sampling for each question."""
        return math.ceil(round(self.oversampling * self.group_size, 6))  # 1.1 * 10 is a little more than 11

    def _check_is_used(self, name: str) -> None:
        default = next(field.default for field in fields(self) if field.name == name)
        if name not in _SETTINGS[self.sampler] and getattr(self, name) != default:
            owners = ", ".join(sampler for sampler, settings in _SETTINGS.items() if name in settings)
            raise ConfigError(
                f"{name} {getattr(self, name)}: the sampler {self.sampler!r} has no such setting; leave it out, or "
                f"take one that has ({owners})"
            )


@torch.no_grad()
def roll_out(
    policy: Policy,
    questions: Sequence[Question],
    tree: AnswerTree,
    config: RolloutConfig,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
    exclude: Histories | None = None,
    memory: PrefixMemory | None = None,
) -> Rollout:
    """Returns G candidate answers to each question, all of them leaves of the tree.

    What ``logprob`` says depends on the sampler. Beams: the ``legal`` score, Σ_l log p(code_l | prompt, codes before)
    over the tree's children, whatever is excluded. Draws: the log-probability under what was drawn from, so at the
    temperature, among the likeliest ``top_k`` and without what is excluded. A target that was put in has -inf: no
    sampler gave it; the update computes every candidate's own anyway.

    The update learns at the temperature and without what is excluded, but over all children that are left, not over
    the likeliest ``top_k`` of them: the cut is held to be a way of searching, not part of the policy, as is usual in
    reinforcement learning from top-k draws.

    Where fewer than G answers are legal, beams and draws without replacement end in leaf -1.

    Args:
        policy: The model, in evaluation mode.
        questions: What is asked. Targets serve ``exclude``, ``dynamic`` and ``add_ground_truth``.
        tree: The legal answers; for repeated calls with its trie on the policy's device.
        config: The sampler and its settings.
        seed: Of the draws: another one gives independent groups. Beams have none.
        rows: A number for each question that its draws depend on, beside the seed; its place where None. So what a
            question draws depends neither on the batch nor on the questions beside it.
        exclude: For each question item indices that it may not lead to, seen items say; a target is always open.
        memory: What prompts begin with, kept from earlier calls with the same weights; a new one where None.

    Raises:
        DataError: if a prompt is empty or holds what is no token; ``rows`` or ``exclude`` is not one a question; an
            excluded item is unknown; or, where targets are put in, a question has none in the tree.
        ArtifactError: if the model returns NaN.
    """
    prompts = [question.prompt for question in questions]
    check_prompts(prompts, policy.vocabulary_size)
    tree = tree.to(policy.device)
    walker = TreeWalker(policy, tree.trie, "legal", memory, level_ids=tree.token_ids)
    asked = _ask(questions, tree, rows, exclude)
    sample = _SAMPLERS[config.sampler]

    def search(places: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, ...]:
        return sample(walker, batch, asked.select(places), config, seed)

    none = torch.zeros(0, config.group_size, device=policy.device)
    columns = walker.read_in_batches(prompts, config.batch_size, search, (none.long(), none, none))
    leaf, logprob, weight = columns[0], columns[1].float(), columns[2].float()
    is_added = torch.zeros_like(leaf, dtype=torch.bool)
    rollout = Rollout(leaf=leaf, logprob=logprob, weight=weight, is_added=is_added, allowed=asked.allowed)
    return add_targets(rollout, asked.target_leaf) if config.add_ground_truth else rollout


def add_targets(rollout: Rollout, target_leaf: Int[Tensor, "B M"]) -> Rollout:
    """Returns the groups with each question's first target as the last candidate where no candidate is a target.

    It has log-probability -inf and weight 1; the weights of the group's others are scaled to sum to the rest.

    Args:
        rollout: What was sampled.
        target_leaf: Leaves of the targets; -1 for none.

    Raises:
        DataError: if a question has no target in the tree.
    """
    has_target = (target_leaf >= 0).any(dim=1)
    if not has_target.all():
        raise DataError(f"question {int((~has_target).nonzero()[0])}: none of its targets is in the tree of answers")
    is_hit = is_among(rollout.leaf, target_leaf).any(dim=1, keepdim=True)
    is_last = torch.arange(rollout.leaf.shape[1], device=rollout.leaf.device) == rollout.leaf.shape[1] - 1
    is_added = ~is_hit & is_last
    leaf = torch.where(is_added, first_target(target_leaf), rollout.leaf)
    others = rollout.weight.masked_fill(is_added, 0.0)
    rest = (leaf >= 0).sum(dim=1, keepdim=True) - 1
    scaled = others * rest / others.sum(dim=1, keepdim=True).clamp(min=torch.finfo(others.dtype).tiny)
    return replace(
        rollout,
        leaf=leaf,
        logprob=rollout.logprob.masked_fill(is_added, -torch.inf),
        weight=torch.where(is_hit, rollout.weight, scaled.masked_fill(is_added, 1.0)),
        is_added=is_added,
    )


def group_diversity(leaf: Int[Tensor, "B G"]) -> Float[Tensor, "B"]:
    """Returns the share of distinct leaves among each group's candidates; 0 for a group without any.

    Args:
        leaf: Leaves of the candidates, -1 for none.
    """
    is_candidate = leaf >= 0
    num_distinct = (is_candidate & ~is_repeat(leaf)).sum(dim=1)
    return num_distinct / is_candidate.sum(dim=1).clamp(min=1)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What samplers want to know of B questions beside their prompts."""

    row: Int[Tensor, "B"]
    target_leaf: Int[Tensor, "B M"]
    """-1 for no target and for one that is not in the tree."""
    allowed: ItemFilter | None

    def select(self, places: Int[Tensor, "b"]) -> "_Asked":
        """Returns what is known of some of the questions."""
        allowed = None if self.allowed is None else self.allowed.select(places)
        return _Asked(self.row[places], self.target_leaf[places], allowed)


def _ask(
    questions: Sequence[Question], tree: AnswerTree, rows: Sequence[int] | None, exclude: Histories | None
) -> _Asked:
    """Returns the questions' numbers, targets and filter, on the tree's device."""
    if rows is None:
        rows = range(len(questions))
    for name, given in (("rows", rows), ("exclude", exclude)):
        if given is not None and len(given) != len(questions):
            raise DataError(f"{name} has {len(given)} entries; expected {len(questions)}, one for each question")
    allowed = None if exclude is None else allowed_items(questions, tree, exclude)
    device = tree.trie.item_of_slot.device
    target_leaf = tree.leaves(item_rows([question.targets for question in questions], device))
    return _Asked(torch.tensor(list(rows), dtype=torch.int64, device=device), target_leaf, allowed)


_Group = tuple[Tensor, Tensor, Tensor]
"""Leaves, log-probabilities and weights, (B, G) each."""


def _search_beams(walker: TreeWalker, batch: PromptBatch, asked: _Asked, config: RolloutConfig, seed: int) -> _Group:
    """Returns the leaves of a constrained beam search of width G, best first; it draws nothing."""
    leaf, logprob, _ = search_prompts(walker, batch, config.group_size, asked.allowed)
    return leaf, logprob, (leaf >= 0).to(logprob.dtype)


def _draw_common(walker: TreeWalker, batch: PromptBatch, asked: _Asked, config: RolloutConfig, seed: int) -> _Group:
    """Returns G independent draws, each code among the likeliest ``top_k``; an answer may come several times."""
    leaf, logprob = _draw(walker, batch, asked, config, seed, config.group_size)
    return leaf, logprob, (leaf >= 0).to(logprob.dtype)


def _draw_dynamically(
    walker: TreeWalker, batch: PromptBatch, asked: _Asked, config: RolloutConfig, seed: int
) -> _Group:
    """Returns G of ``num_draws`` independent draws, in the order drawn (MiniOneRec's dynamic sampling).

    Targets that were drawn are kept, then answers that were not drawn before, then repetitions, each in the order of
    drawing. So the distinct ones are a sample without replacement; taking the likeliest would be a beam search.
    """
    leaf, logprob = _draw(walker, batch, asked, config, seed, config.num_draws)
    is_target = is_among(leaf, asked.target_leaf)
    precedence = torch.where(is_repeat(leaf), 2, torch.where(is_target, 0, 1))
    kept = precedence.argsort(dim=1, stable=True)[:, : config.group_size].sort(dim=1).values
    leaf, logprob = leaf.gather(1, kept), logprob.gather(1, kept)
    return leaf, logprob, (leaf >= 0).to(logprob.dtype)


def _draw_distinct(walker: TreeWalker, batch: PromptBatch, asked: _Asked, config: RolloutConfig, seed: int) -> _Group:
    """Returns G draws without replacement, weighted so that a group's mean estimates the policy's expectation.

    A weight is p/q of Kool et al. 2019 (q: the probability that the leaf is in the sample), made to sum to the number
    of candidates: 1/G Σ_i weight_i value_i is their normalised estimate.
    """
    leaf, logprob, perturbed, threshold = draw_distinct(
        walker,
        batch,
        asked.row,
        config.group_size,
        seed=seed,
        temperature=config.temperature,
        allowed=asked.allowed,
    )
    samples = DistinctSamples(leaf=leaf, logprob=logprob, perturbed=perturbed, threshold=threshold)
    return leaf, logprob, samples.weights(normalize=True) * (leaf >= 0).sum(dim=1, keepdim=True)


_SAMPLERS: Mapping[str, Callable[[TreeWalker, PromptBatch, _Asked, RolloutConfig, int], _Group]] = {
    "beam": _search_beams,
    "dynamic": _draw_dynamically,
    "gumbel": _draw_distinct,
    "top-k": _draw_common,
}


def _draw(
    walker: TreeWalker, batch: PromptBatch, asked: _Asked, config: RolloutConfig, seed: int, num_draws: int
) -> tuple[Int[Tensor, "B S"], Float[Tensor, "B S"]]:
    return draw_samples(
        walker,
        batch,
        asked.row,
        num_draws,
        seed=seed,
        temperature=config.temperature,
        top_k=config.top_k,
        allowed=asked.allowed,
    )
