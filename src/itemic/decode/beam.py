"""Beam search over the trie: of each level's candidates the W best go on. Knows no items' meaning and no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.decode.candidates import Candidates, Nodes, top_places
from itemic.decode.diversity import PrefixQuota, best_within_quota, close_over_quota
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import Policy
from itemic.decode.prefill import (
    PrefixMemory,
    PromptBatch,
    check_filter,
    check_numbers,
    check_prompts,
    check_scores,
)
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker

__all__ = ["BeamResult", "check_ending", "close_beams", "constrained_beam_search", "no_beams", "search_prompts"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamResult:
    """The best leaves for each prompt, best first.

    Where the tree or the filter holds fewer than W leaves, a row ends in leaf -1 with log-probability -inf.
    """

    leaf: Int[Tensor, "B W"]
    """Leaves of the trie."""
    logprob: Float[Tensor, "B W"]
    """Sum of the log-probabilities of a leaf's codes."""
    num_tied_beyond: Int[Tensor, "B"]
    """Number of allowed items on leaves that were scored, lie beyond the W listed ones and tie with the last."""


@torch.no_grad()
def constrained_beam_search(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_beams: int,
    normalize: Normalization = "legal",
    allowed: ItemFilter | None = None,
    *,
    batch_size: int = 16,
    memory: PrefixMemory | None = None,
    quota: PrefixQuota | None = None,
    ending: Sequence[int] = (),
) -> BeamResult:
    """Returns the leaves that a beam search of width ``num_beams`` reaches for each prompt.

    A leaf's score is Σ_l log p(code_l | prompt, codes before l), where p is the softmax over the codes that continue
    a semantic ID of the tree (``legal``) or over the whole vocabulary (``full``, the reference behaviour). There is
    no length normalisation. A filter closes nodes and leaves every score as it is, so that the list under a filter is
    the list without it minus what it forbids, wherever the beams cover the level. Each level keeps the best
    ``num_beams`` open nodes: exact where that covers all of them, and never short of items that are there.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a SID's first code follows (after the opening token, if it has one).
        trie: The semantic IDs; leaves of the result are its. It is copied to the model's device unless it lies there:
            for repeated calls pass ``trie.to(policy.device)``, and make filters with that.
        num_beams: Width W.
        normalize: ``legal`` or ``full``.
        allowed: Items that each prompt may lead to, a filter made with ``trie``; all where None.
        batch_size: Most prompts in the cache at once; prompts of like length are put together.
        memory: What prompts begin with, kept from earlier calls of this model with these weights; None shares within
            this call only.
        quota: At most so many items under one prefix. The list is then the unlimited one taken best first, each item
            unless its prefix is full, exactly where the beams cover the level, and as long as the quota allows.
        ending: Token ids that follow a semantic ID in every answer the model was trained on. ``full`` scores them and
            ranks the leaves that the beams reached by the whole answer, as the reference does, whose answers end in a
            line break and EOS; leaves beyond the beams are then no ties. ``legal`` gives them probability 1.

    Raises:
        ConfigError: if the width, batch size or normalisation does not exist, the quota's prefix is longer than a
            semantic ID, or the ending holds what is no token.
        DataError: if a prompt is empty or holds what is no token, or the filter is of another tree or another number
            of prompts.
        CatalogError: if the policy speaks other codebooks than the tree's.
        ArtifactError: if the model returns NaN.
    """
    check_numbers(num_beams=num_beams, batch_size=batch_size)
    if quota is not None and quota.num_levels > trie.num_levels:
        raise ConfigError(f"a quota for prefixes of {quota.num_levels} codes: semantic IDs have {trie.num_levels}")
    check_prompts(prompts, policy.vocabulary_size)
    check_filter(allowed, trie, len(prompts))
    check_ending(ending, policy)
    walker = TreeWalker(policy, trie, normalize, memory)

    def search(rows: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        chosen = None if allowed is None else allowed.select(rows)
        return search_prompts(walker, batch, num_beams, chosen, quota, ending)

    none = no_beams(num_beams, policy.device)
    leaf, logprob, num_tied_beyond = walker.read_in_batches(prompts, batch_size, search, none)
    return BeamResult(leaf=leaf, logprob=logprob, num_tied_beyond=num_tied_beyond)


def search_prompts(
    walker: TreeWalker,
    prompts: PromptBatch,
    num_beams: int,
    allowed: ItemFilter | None = None,
    quota: PrefixQuota | None = None,
    ending: Sequence[int] = (),
) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"], Int[Tensor, "B"]]:
    """Returns the best leaves of one batch that was read, as the columns of a ``BeamResult``."""
    walk, num_levels = walker.start(prompts, allowed), walker.trie.num_levels
    prefix = walk.nodes.node
    for depth in range(1, num_levels + 1):
        candidates = walk.candidates()
        width = min(num_beams, walker.trie.num_nodes(depth))
        if quota is None or depth <= quota.num_levels:
            nodes = _best(candidates, width)
            prefix = nodes.node
        elif depth < num_levels:
            nodes = best_within_quota(candidates, prefix, quota.max_items, width)
            prefix = prefix.gather(1, nodes.parent)
        else:
            candidates = close_over_quota(candidates, prefix, quota.max_items)
            nodes = _best(candidates, width)
        walk.take(nodes)
    leaf, logprob, num_tied_beyond = close_beams(candidates, walk.nodes, num_beams)
    if len(ending) and walker.vocabulary_normalizer is not None:
        of_ending = walk.ending_logprob(ending)
        of_ending = torch.nn.functional.pad(of_ending, (0, num_beams - of_ending.shape[1]))
        logprob, order = (logprob + of_ending).sort(dim=1, descending=True, stable=True)
        leaf, num_tied_beyond = leaf.gather(1, order), torch.zeros_like(num_tied_beyond)
    check_scores(logprob)
    return leaf, logprob, num_tied_beyond


def check_ending(ending: Sequence[int], policy: Policy) -> None:
    """Refuses an ending that the policy cannot write.

    Raises:
        ConfigError: naming the token.
    """
    for token in ending:
        if not 0 <= token < policy.vocabulary_size:
            raise ConfigError(
                f"ending {list(ending)}: the model has no token {token}, only 0..{policy.vocabulary_size - 1}"
            )


def close_beams(
    candidates: Candidates, beams: Nodes, num_beams: int
) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"], Int[Tensor, "B"]]:
    """Returns the columns of a ``BeamResult``.

    Args:
        candidates: The leaves that were scored.
        beams: Those of them that were taken, best first.
        num_beams: Width W; fewer beams are filled up.
    """
    missing = (0, num_beams - beams.node.shape[1])
    leaf = beams.node.masked_fill(beams.logprob == -torch.inf, -1)
    return (
        torch.nn.functional.pad(leaf, missing, value=-1),
        torch.nn.functional.pad(beams.logprob, missing, value=-torch.inf),
        _num_tied_beyond(candidates, beams),
    )


def no_beams(num_beams: int, device: torch.device) -> tuple[Int[Tensor, "0 W"], Float[Tensor, "0 W"], Int[Tensor, "0"]]:
    """Returns the columns of a ``BeamResult`` for no prompts."""
    logprob = torch.zeros(0, num_beams, device=device)
    return logprob.long(), logprob, logprob[:, 0].long()


def _best(candidates: Candidates, width: int) -> Nodes:
    return candidates.at(top_places(candidates.logprob.flatten(1), width))


def _num_tied_beyond(candidates: Candidates, beams: Nodes) -> Int[Tensor, "B"]:
    """Returns the number of items on candidates that tie with the last of ``beams`` and are not among them."""
    last = beams.logprob[:, -1:]
    num_tied = torch.where(candidates.logprob == last[..., None], candidates.num_items, 0).sum(dim=(1, 2))
    num_listed = torch.where(beams.logprob == last, beams.num_items, 0).sum(dim=1)
    return torch.where(last[:, 0] > -torch.inf, num_tied - num_listed, 0)
