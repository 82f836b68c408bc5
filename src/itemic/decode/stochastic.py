"""Random semantic IDs from the constrained policy, with and without replacement; knows no rewards and no items.

**What is sampled.** At each node a code is drawn in proportion to the policy's probabilities, at a temperature, among
the children that lead to at least one allowed item: p(sid) = Π_l p(code_l | prompt, codes before l, still open). So
the probabilities of all allowed semantic IDs sum to 1, whatever the filter. Without a filter and at temperature 1 this
is the ``legal`` score of the beam search. Under a filter it is *not* that distribution conditioned on the allowed
leaves: it multiplies what is renormalised at each node on its own, since how much of a subtree's mass is allowed cannot
be known before the subtree was scored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.decode.candidates import Candidates, top_places
from itemic.decode.filters import ItemFilter
from itemic.decode.noise import gumbel_noise, hash_keys, uniform_noise, working_dtype
from itemic.decode.policy import Policy
from itemic.decode.prefill import PromptBatch, check_filter, check_numbers, check_prompts, check_scores
from itemic.decode.trie import Trie
from itemic.decode.walk import TreeWalker

__all__ = [
    "DistinctSamples",
    "Samples",
    "draw_distinct",
    "draw_samples",
    "log_inclusion_probability",
    "sample_with_replacement",
    "sample_without_replacement",
]

_SMALL = -30.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Independent draws for each prompt, in the order drawn; leaf -1 with -inf where a prompt may get nothing."""

    leaf: Int[Tensor, "B S"]
    """Leaves of the trie."""
    logprob: Float[Tensor, "B S"]
    """Log-probability of a leaf under the distribution that was sampled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DistinctSamples(Samples):
    """Leaves drawn without replacement for each prompt, the largest perturbed log-probability first.

    Where fewer than S leaves are allowed, a row holds all of them and ends in leaf -1 with -inf.
    """

    perturbed: Float[Tensor, "B S"]
    """G_φ: log-probability plus independent Gumbel noise; the S largest of all allowed leaves were taken."""
    threshold: Float[Tensor, "B"]
    """κ: the (S + 1)-th largest perturbed log-probability, -inf where all allowed leaves were taken."""

    @property
    def log_inclusion(self) -> Float[Tensor, "B S"]:
        """Log q: of the probability that a leaf's perturbed log-probability exceeds the threshold; -inf for no leaf."""
        log_q = log_inclusion_probability(self.logprob, self.threshold[:, None])
        return log_q.masked_fill(self.leaf < 0, -torch.inf)

    def weights(self, *, normalize: bool = False) -> Float[Tensor, "B S"]:
        """Returns p(leaf) / q(leaf), importance weights (Kool et al. 2019); 0 for no leaf.

        Args:
            normalize: Whether to divide a row by its sum: a little bias for much less variance.
        """
        log_weight = (self.logprob - self.log_inclusion).masked_fill(self.leaf < 0, -torch.inf)
        if not normalize:
            return log_weight.exp()
        return log_weight.softmax(dim=1).nan_to_num(0.0)

    def expectation(self, values: Float[Tensor, "B S"], *, normalize: bool = False) -> Float[Tensor, "B"]:
        """Returns an estimate of Σ_leaf p(leaf) value(leaf) over all allowed leaves, for each prompt.

        It is unbiased without ``normalize``; with it, it is consistent in S, and exact for a constant value.

        Args:
            values: Value of each sampled leaf, a reward say; whatever stands at leaf -1 does not count.
            normalize: See :meth:`weights`.
        """
        counted = values.to(self.logprob.dtype).masked_fill(self.leaf < 0, 0.0)
        return (self.weights(normalize=normalize) * counted).sum(dim=1)


def log_inclusion_probability(
    logprob: Float[Tensor, "*#shape"], threshold: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Returns log(1 - exp(-exp(φ - κ))): of the probability that φ plus a standard Gumbel number exceeds κ.

    Stable at both ends: φ - κ where that is very small (the probability is exp(φ - κ) then), 0 where κ is -inf.
    """
    distance = logprob - threshold
    rate = distance.exp()
    return torch.where(distance < _SMALL, distance - rate / 2, _log_one_minus_exp(-rate))


@torch.no_grad()
def sample_without_replacement(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_samples: int,
    *,
    seed: int,
    temperature: float = 1.0,
    allowed: ItemFilter | None = None,
    batch_size: int = 16,
) -> DistinctSamples:
    """Returns ``num_samples`` different leaves for each prompt, by stochastic beam search.

    Gumbel top-k (Kool, van Hoof & Welling 2019, arXiv 1903.06059): the leaves with the largest log-probability plus
    Gumbel noise are an ordered sample without replacement. The noise of a node is the largest of its leaves', drawn
    top-down given its parent's, so ``num_samples + 1`` beams find them exactly, and give the threshold too.

    The noise depends on the seed, the row of the prompt and the node, so neither ``batch_size`` nor the order inside
    changes it, and a smaller sample is the beginning of a larger one.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a SID's first code follows.
        trie: The semantic IDs; for repeated calls ``trie.to(policy.device)``.
        num_samples: Leaves S for each prompt.
        seed: Of the noise; another one gives an independent sample.
        temperature: Divides the logits; more than 1 spreads the sample.
        allowed: Items that each prompt may lead to, a filter made with ``trie``; see the module for what is
            sampled then.
        batch_size: Prompts in the cache at once.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if a prompt is empty, or the filter is of another tree or another number of prompts.
        CatalogError: if the policy speaks other codebooks than the tree's.
        ArtifactError: if the model returns NaN.
    """
    check_numbers(num_samples=num_samples, batch_size=batch_size)
    _check_temperature(temperature)

    def draw(
        walker: TreeWalker, batch: PromptBatch, rows: Int[Tensor, "b"], chosen: ItemFilter | None
    ) -> tuple[Tensor, ...]:
        return draw_distinct(walker, batch, rows, num_samples, seed=seed, temperature=temperature, allowed=chosen)

    none = torch.zeros(0, num_samples, dtype=working_dtype(policy.device), device=policy.device)
    columns = (none.long(), none, none, none[:, 0])
    leaf, logprob, perturbed, threshold = _run_batches(policy, prompts, trie, allowed, batch_size, draw, columns)
    return DistinctSamples(leaf=leaf, logprob=logprob, perturbed=perturbed, threshold=threshold)


@torch.no_grad()
def sample_with_replacement(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_samples: int,
    *,
    seed: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    allowed: ItemFilter | None = None,
    batch_size: int = 16,
) -> Samples:
    """Returns ``num_samples`` independent leaves for each prompt; one may come several times.

    Reproducible as :func:`sample_without_replacement` is. Every draw takes its own way down the tree. On CPUs, and in
    trees of eight or more levels, draws that stand on one node have it read once; elsewhere it is read for each.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a SID's first code follows.
        trie: The semantic IDs; for repeated calls ``trie.to(policy.device)``.
        num_samples: Draws S for each prompt.
        seed: Of the draws.
        temperature: Divides the logits.
        top_k: Draws each code among this many best open children (and those level with the last); None: among all.
        allowed: Items that each prompt may lead to, a filter made with ``trie``; see the module for what is
            sampled then.
        batch_size: Prompts in the cache at once.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if a prompt is empty, or the filter is of another tree or another number of prompts.
        CatalogError: if the policy speaks other codebooks than the tree's.
        ArtifactError: if the model returns NaN.
    """
    check_numbers(num_samples=num_samples, batch_size=batch_size, top_k=1 if top_k is None else top_k)
    _check_temperature(temperature)

    def draw(
        walker: TreeWalker, batch: PromptBatch, rows: Int[Tensor, "b"], chosen: ItemFilter | None
    ) -> tuple[Tensor, ...]:
        return draw_samples(
            walker, batch, rows, num_samples, seed=seed, temperature=temperature, top_k=top_k, allowed=chosen
        )

    none = torch.zeros(0, num_samples, dtype=working_dtype(policy.device), device=policy.device)
    leaf, logprob = _run_batches(policy, prompts, trie, allowed, batch_size, draw, (none.long(), none))
    return Samples(leaf=leaf, logprob=logprob)


def draw_distinct(
    walker: TreeWalker,
    prompts: PromptBatch,
    rows: Int[Tensor, "B"],
    num_samples: int,
    *,
    seed: int,
    temperature: float = 1.0,
    allowed: ItemFilter | None = None,
) -> tuple[Int[Tensor, "B S"], Float[Tensor, "B S"], Float[Tensor, "B S"], Float[Tensor, "B"]]:
    """Returns the columns of ``DistinctSamples`` for one batch that was read.

    Args:
        walker: The model and the tree.
        prompts: What the model has read.
        rows: Number of each prompt, which its noise depends on.
        num_samples: Leaves S for each prompt.
        seed: Of the noise.
        temperature: Divides the logits.
        allowed: Items that each prompt may lead to; all where None.
    """
    walk, trie, device = walker.start(prompts, allowed), walker.trie, prompts.hidden.device
    dtype = working_dtype(device)
    row = rows.to(device)[:, None]
    logprob = torch.zeros(len(rows), 1, dtype=dtype, device=device)
    perturbed = gumbel_noise(hash_keys(seed, row, 0), dtype)
    for depth in range(1, trie.num_levels + 1):
        candidates = walk.candidates()
        child = logprob[..., None] + _child_logprobs(candidates, dtype, temperature)
        noise = gumbel_noise(hash_keys(seed, row[..., None], depth, candidates.node), dtype)
        below = _share_maximum(child + noise, perturbed).masked_fill(child == -torch.inf, -torch.inf)
        width = min(num_samples + 1, trie.num_nodes(depth))
        place = top_places(below.flatten(1), width)
        perturbed, logprob = (each.flatten(1).gather(1, place) for each in (below, child))
        walk.take(candidates.at(place))
    check_scores(logprob)
    leaf = walk.nodes.node.masked_fill(logprob == -torch.inf, -1)
    missing = (0, num_samples + 1 - leaf.shape[1])
    leaf = torch.nn.functional.pad(leaf, missing, value=-1)[:, :-1]
    logprob, perturbed = (torch.nn.functional.pad(each, missing, value=-torch.inf) for each in (logprob, perturbed))
    return leaf, logprob[:, :-1], perturbed[:, :-1], perturbed[:, -1]


def draw_samples(
    walker: TreeWalker,
    prompts: PromptBatch,
    rows: Int[Tensor, "B"],
    num_samples: int,
    *,
    seed: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    allowed: ItemFilter | None = None,
) -> tuple[Int[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Returns the columns of ``Samples`` for one batch that was read.

    Args:
        walker: The model and the tree.
        prompts: What the model has read.
        rows: Number of each prompt, which its draws depend on.
        num_samples: Draws S for each prompt.
        seed: Of the draws.
        temperature: Divides the logits.
        top_k: Draws each code among this many best open children; None: among all.
        allowed: Items that each prompt may lead to; all where None.
    """
    walk, device = walker.start(prompts, allowed), prompts.hidden.device
    dtype = working_dtype(device)
    row, sample = rows.to(device)[:, None], torch.arange(num_samples, device=device)
    logprob = torch.zeros(len(rows), num_samples, dtype=dtype, device=device)
    for depth in range(1, walker.trie.num_levels + 1):
        candidates = walk.candidates()
        child = _child_logprobs(candidates, dtype, temperature, top_k)
        B, W, C = child.shape
        cumulative = child.exp().cumsum(dim=-1).expand(B, num_samples, C).contiguous()
        u = uniform_noise(hash_keys(seed, row, depth, sample), dtype)
        # The first column whose cumulative mass exceeds u times the whole: never one without mass of its own.
        column = torch.searchsorted(cumulative, (u * cumulative[..., -1])[..., None], right=True).clamp(max=C - 1)
        logprob = logprob + child.expand(B, num_samples, C).gather(-1, column)[..., 0]
        parent = sample if W > 1 else torch.zeros_like(sample)
        walk.take(candidates.at(parent * C + column[..., 0]))
    check_scores(logprob)
    return walk.nodes.node.masked_fill(logprob == -torch.inf, -1), logprob


def _child_logprobs(
    candidates: Candidates, dtype: torch.dtype, temperature: float, top_k: int | None = None
) -> Float[Tensor, "B W C"]:
    """Returns the log-probability of each child among its node's open ones; -inf for all others."""
    logprob = candidates.logprob.to(dtype)
    if top_k is not None and top_k < logprob.shape[-1]:
        least = logprob.topk(top_k, dim=-1).values[..., -1:]
        logprob = logprob.masked_fill(logprob < least, -torch.inf)
    # Where nothing is open, the softmax of nothing is no number.
    return (logprob / temperature).log_softmax(dim=-1).masked_fill(logprob == -torch.inf, -torch.inf)


def _share_maximum(perturbed: Float[Tensor, "B W C"], maximum: Float[Tensor, "B W"]) -> Float[Tensor, "B W C"]:
    """Returns Gumbel numbers given what their maximum is: G' = -log(exp(-T) - exp(-Z) + exp(-G)), Z their own maximum.

    Kool et al. 2019, in the form that neither overflows nor cancels. No number where nothing is open.
    """
    gap = perturbed - perturbed.amax(dim=-1, keepdim=True)
    v = maximum[..., None] - perturbed + _log_one_minus_exp(gap)
    return maximum[..., None] - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))


def _log_one_minus_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns log(1 - exp(x)) of what is not positive, by the formula that cancels nothing on either side of -log 2."""
    return torch.where(x > -math.log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


def _run_batches(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    allowed: ItemFilter | None,
    batch_size: int,
    draw: Callable[[TreeWalker, PromptBatch, Int[Tensor, "b"], ItemFilter | None], tuple[Tensor, ...]],
    none: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    check_prompts(prompts, policy.vocabulary_size)
    check_filter(allowed, trie, len(prompts))
    walker = TreeWalker(policy, trie, "legal")

    def run(rows: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, ...]:
        return draw(walker, batch, rows, None if allowed is None else allowed.select(rows))

    return walker.read_in_batches(prompts, batch_size, run, none)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature must be a positive number, found {temperature}")
