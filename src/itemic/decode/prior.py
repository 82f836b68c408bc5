"""Beam search for a language model's log-probability plus a prior over items: a product of experts in the search.

    score(item) = weight * log p(item | prompt) + prior(item)

A node is kept by weight * log p(prefix) plus the highest prior of the allowed items below it. No item below can score
more, for log p only falls on the way down; so beams that cover a level are exact, and narrow ones look where both agree
instead of where the model alone would. A filter is a prior of -inf. Knows no origin of the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.decode.candidates import Candidates, top_places
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory, PromptBatch, check_numbers, check_prompts, check_scores
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker

__all__ = ["PriorResult", "best_below", "search_with_prior"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorResult:
    """The best items for each prompt, best first; rows end in item -1 with score -inf where there are fewer."""

    item: Int[Tensor, "B k"]
    """Item indices."""
    score: Float[Tensor, "B k"]
    """weight * log p + prior."""
    num_tied_beyond: Int[Tensor, "B"]
    """Number of items that were scored, are not listed and tie with the last."""


@torch.no_grad()
def search_with_prior(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    prior: Float[Tensor, "B N"],
    k: int,
    *,
    num_beams: int,
    weight: float = 1.0,
    normalize: Normalization = "legal",
    batch_size: int = 16,
    memory: PrefixMemory | None = None,
) -> PriorResult:
    """Returns the ``k`` items of the highest sums that a beam search reaches for each prompt.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a SID's first code follows.
        trie: The semantic IDs.
        prior: For each prompt and item of the catalogue a finite number, or -inf for an item that must not appear.
        k: Length of each list.
        num_beams: Nodes kept at each level; a list longer than that raises it to its own length.
        weight: Of the log-probabilities, above 0.
        normalize: ``legal`` or ``full``.
        batch_size: Most prompts in the cache at once.
        memory: What prompts begin with, kept from earlier calls of this model with these weights.

    Raises:
        ConfigError: if a number is not above 0 or the normalisation does not exist.
        DataError: if a prompt is empty or holds what is no token, or the prior has another shape, NaN or +inf.
        CatalogError: if the policy speaks other codebooks than the tree's.
        ArtifactError: if the model returns NaN.
    """
    check_numbers(k=k, num_beams=num_beams, batch_size=batch_size)
    if not weight > 0:
        raise ConfigError(f"the weight of log-probabilities must be above 0, found {weight}")
    check_prompts(prompts, policy.vocabulary_size)
    if prior.shape != (len(prompts), len(trie.slot_of_item)):
        expected = (len(prompts), len(trie.slot_of_item))
        raise DataError(f"expected a prior of shape {expected}, found {tuple(prior.shape)}")
    if prior.isnan().any() or (prior == torch.inf).any():
        raise DataError("a prior must be finite or -inf")
    walker = TreeWalker(policy, trie, normalize, memory)
    prior = prior.to(policy.device)

    def search(rows: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        return _search_prompts(walker, batch, prior[rows], k, max(k, num_beams), weight)

    score = prior.new_zeros(0, k)
    none = (score.long(), score, score[:, 0].long())
    item, score, num_tied_beyond = walker.read_in_batches(prompts, batch_size, search, none)
    return PriorResult(item=item, score=score, num_tied_beyond=num_tied_beyond)


def best_below(trie: Trie, prior: Float[Tensor, "B N"]) -> list[Float[Tensor, "B _"]]:
    """Returns for each depth 0..L and node of it the highest prior of the items below."""
    of_slot = prior[:, trie.item_of_slot.long()]
    best = []
    for depth in range(trie.num_levels + 1):
        first, last = trie.slots(depth, torch.arange(trie.num_nodes(depth), device=of_slot.device))
        node = torch.repeat_interleave((last - first).long())
        of_node = of_slot.new_full((len(of_slot), trie.num_nodes(depth)), -torch.inf)
        best.append(of_node.scatter_reduce_(1, node.expand_as(of_slot), of_slot, "amax"))
    return best


def _search_prompts(
    walker: TreeWalker, prompts: PromptBatch, prior: Float[Tensor, "B N"], k: int, num_beams: int, weight: float
) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"], Int[Tensor, "B"]]:
    trie, walk = walker.trie, walker.start(prompts)
    best = best_below(trie, prior)
    for depth in range(1, trie.num_levels + 1):
        candidates = walk.candidates()
        bound = best[depth].gather(1, candidates.node.flatten(1)).view(candidates.node.shape)
        is_open = (bound > -torch.inf) & (candidates.logprob > -torch.inf)
        candidates = replace(candidates, logprob=torch.where(is_open, candidates.logprob, -torch.inf))
        if depth == trie.num_levels:
            break
        reach = torch.where(is_open, weight * candidates.logprob + bound, -torch.inf)
        walk.take(candidates.at(top_places(reach.flatten(1), min(num_beams, trie.num_nodes(depth)))))
    return _best_items(trie, candidates, prior, k, weight)


def _best_items(
    trie: Trie, candidates: Candidates, prior: Float[Tensor, "B N"], k: int, weight: float
) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"], Int[Tensor, "B"]]:
    """Returns the best of all items on the leaves that were scored, and how many more tie with the last."""
    first, last = trie.slots(trie.num_levels, candidates.node.flatten(1))
    slot = first[..., None] + torch.arange(trie.max_items, device=first.device)
    item = trie.item_of_slot[slot.clamp(max=trie.num_items - 1).long()].long()
    logprob = candidates.logprob.flatten(1)[..., None].to(prior.dtype)
    check_scores(logprob.flatten(1))
    own = prior.gather(1, item.flatten(1)).view(item.shape)
    is_item = (slot < last[..., None]) & (logprob > -torch.inf) & (own > -torch.inf)
    score = torch.where(is_item, weight * logprob + own, -torch.inf).flatten(1)
    width = min(k, score.shape[1])
    top, place = score.topk(width, dim=1)
    listed = torch.where(top > -torch.inf, item.flatten(1).gather(1, place), -1)
    num_tied = (score == top[:, -1:]).sum(dim=1) - (top == top[:, -1:]).sum(dim=1)
    num_tied = torch.where((top[:, -1] > -torch.inf) & (width == k), num_tied, 0)
    padding = (0, k - width)
    return (
        torch.nn.functional.pad(listed, padding, value=-1),
        torch.nn.functional.pad(top, padding, value=-torch.inf),
        num_tied,
    )
