"""The prompt and its candidates as one packed sequence: prefixes once, and the policy's log-probabilities on it.

A row holds a question's prompt, then the distinct first codes of its candidates, then their distinct second codes, and
so on; the last code is only ever predicted, so it stays out. A mask lets a code see the prompt and its own ancestors,
as in decoding. So G candidates cost the prompt once and a few tokens each, instead of G prompts. Knows no reward and no
loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.decode.scoring import widen
from itemic.decode.trie import Trie
from itemic.train.rl.answers import AnswerTree

__all__ = ["CandidateTree", "TreePolicy", "candidate_logprobs", "pack_candidates"]


@runtime_checkable
class TreePolicy(Protocol):
    """What is asked of the model: hidden states under a mask, and some rows of its head."""

    def hidden(
        self, input_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B 1 T T"], position_ids: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Returns the states before the head, and something that is not used."""
        ...

    def logits(self, hidden: Float[Tensor, "*batch D"], token_ids: Int[Tensor, "n"]) -> Float[Tensor, "*batch n"]:
        """Returns the logits of ``token_ids``."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateTree:
    """B prompts with G candidates each, ready for the model; U_d distinct nodes a row at depth d."""

    input_ids: Int[Tensor, "B T"]
    """The prompt, filled up on the right to P tokens, then U_1 + ... + U_(L-1) codes."""
    position_ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B 1 T T"]
    """Which tokens (last axis) each token sees."""
    prompt_length: Int[Tensor, "B"]
    nodes: tuple[Int[Tensor, "B _"], ...]
    """For depth 0 to L - 1 the nodes whose children are scored; columns beyond a row's own repeat one of them."""
    parent: Int[Tensor, "B G L"]
    """Column in ``nodes[d]`` from which each candidate's code at level d follows."""
    child: Int[Tensor, "B G L"]
    """Node at depth d + 1 that each candidate goes to."""
    is_token: Bool[Tensor, "B G L"]
    """Which codes count: all of a candidate's, in a padded tree those up to its last choice; none of no candidate."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, filling included."""
        return self.input_ids.numel()


def pack_candidates(
    prompts: Sequence[Sequence[int]], leaf: Int[Tensor, "B G"], answers: AnswerTree, device: torch.device
) -> CandidateTree:
    """Returns the packed rows of some prompts and their candidates.

    Args:
        prompts: Token ids of B prompts, each ending where an answer's first code follows.
        leaf: Leaves of the answer tree, -1 for no candidate.
        answers: The tree, moved to ``device`` where it is elsewhere.
        device: Where the rows go.
    """
    trie, leaf = answers.trie.to(device), leaf.to(device)
    is_candidate = leaf >= 0
    # Whatever is no candidate follows one that is, so that it adds no node of its own.
    path = _ancestors(trie, torch.where(is_candidate, leaf, leaf.amax(dim=1, keepdim=True)).clamp(min=0))
    levels = [_distinct(nodes) for nodes in path[1:-1]]
    widths = torch.stack([level.num for level in levels]).amax(dim=1).tolist() if levels else []
    ids, is_token, length = _fill_up(prompts, device)
    P = ids.shape[1]
    codes = [
        torch.from_numpy(answers.level_ids[depth]).to(device)[trie.codes[depth][level.node[:, :width]].long()]
        for depth, (level, width) in enumerate(zip(levels, widths, strict=True))
    ]
    positions = [(length + depth)[:, None].expand(-1, width) for depth, width in enumerate(widths)]
    root = torch.zeros_like(path[0][:, :1])
    return CandidateTree(
        input_ids=torch.cat([ids, *codes], dim=1),
        position_ids=torch.cat([torch.arange(P, device=device).expand(len(ids), -1), *positions], dim=1),
        mask=_mask(is_token, levels, widths)[:, None],
        prompt_length=length,
        nodes=(root, *(level.node[:, :width] for level, width in zip(levels, widths, strict=True))),
        parent=torch.stack([torch.zeros_like(leaf), *(level.column for level in levels)], dim=-1),
        child=torch.stack(path[1:], dim=-1),
        is_token=is_candidate[..., None] & _counts(answers, path[:-1]),
    )


def candidate_logprobs(
    policy: TreePolicy, rows: CandidateTree, answers: AnswerTree, temperature: float = 1.0
) -> tuple[Float[Tensor, "B G L"], Float[Tensor, "B G L"]]:
    """Returns log p of each code of each candidate among the codes that continue an answer, and that choice's entropy.

    This is the constrained policy that the searches sample from, renormalised over legal children at each node:
    gradients flow through the log-probabilities, not through the entropies. What is no candidate has values without
    meaning.

    Args:
        policy: The model.
        rows: Prompts and candidates.
        answers: The tree they were packed with.
        temperature: Divides the logits.
    """
    hidden, _ = policy.hidden(rows.input_ids, rows.mask, rows.position_ids)
    trie = answers.trie.to(hidden.device)
    B, G, _ = rows.child.shape
    P = rows.input_ids.shape[1] - sum(nodes.shape[1] for nodes in rows.nodes[1:])
    at = hidden[torch.arange(B, device=hidden.device), rows.prompt_length - 1][:, None]
    column, logprobs, entropies = P, [], []
    for depth, nodes in enumerate(rows.nodes):
        if depth:
            at = hidden[:, column : column + nodes.shape[1]]
            column += nodes.shape[1]
        if trie.max_children[depth] == 1:
            forced = torch.zeros(B, G, dtype=widen(at).dtype, device=hidden.device)
            logprobs.append(forced)
            entropies.append(forced)
            continue
        level_ids = torch.from_numpy(answers.level_ids[depth]).to(hidden.device)
        logits = widen(policy.logits(at, level_ids)) / temperature
        logprob, entropy = _of_children(trie, depth, nodes, logits, rows.parent[..., depth], rows.child[..., depth])
        logprobs.append(logprob)
        entropies.append(entropy)
    return torch.stack(logprobs, dim=-1), torch.stack(entropies, dim=-1)


@dataclass(frozen=True, eq=False)
class _Distinct:
    """The distinct nodes of each row, in ascending order; what lies beyond ``num`` repeats the last one."""

    node: Int[Tensor, "B G"]
    column: Int[Tensor, "B G"]
    """Place of each candidate's node among them."""
    candidate: Int[Tensor, "B G"]
    """For each of them a candidate that goes through it."""
    num: Int[Tensor, "B"]


def _distinct(node: Int[Tensor, "B G"]) -> _Distinct:
    ordered, candidate = node.sort(dim=1, stable=True)
    is_next = torch.ones_like(ordered, dtype=torch.bool)
    is_next[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = is_next.cumsum(dim=1) - 1
    num = place[:, -1] + 1
    column = torch.empty_like(place).scatter_(1, candidate, place)
    last = candidate[:, -1:].expand_as(candidate)
    # Of candidates that share a node any may stand for it: their ancestors are the same.
    representative = last.clone().scatter_(1, place, candidate)
    return _Distinct(node.gather(1, representative), column, representative, num)


def _ancestors(trie: Trie, leaf: Int[Tensor, "B G"]) -> list[Int[Tensor, "B G"]]:
    """Returns the nodes at depth 0 to L on the way to each leaf."""
    path = [leaf]
    for depth in reversed(range(trie.num_levels)):
        start = trie.child_start[depth]
        path.append(torch.searchsorted(start, path[-1].to(start.dtype).contiguous(), right=True) - 1)
    return path[::-1]


def _counts(answers: AnswerTree, path: Sequence[Int[Tensor, "B G"]]) -> Bool[Tensor, "B G L"]:
    """Returns which codes are a choice or come before one; all of them in a tree that is not padded."""
    nodes = torch.stack(list(path), dim=-1)
    if not answers.is_padded:
        return torch.ones_like(nodes, dtype=torch.bool)
    trie = answers.trie.to(nodes.device)
    is_choice = torch.stack([trie.num_children(depth, nodes[..., depth]) > 1 for depth in range(len(path))], dim=-1)
    return is_choice.flip(-1).cummax(dim=-1).values.flip(-1)


def _fill_up(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"], Int[Tensor, "B"]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts])
    length = torch.tensor([len(prompt) for prompt in prompts])
    is_token = torch.arange(width) < length[:, None]
    return ids.to(device), is_token.to(device), length.to(device)


def _mask(is_token: Bool[Tensor, "B P"], levels: Sequence[_Distinct], widths: Sequence[int]) -> Bool[Tensor, "B T T"]:
    """Returns who sees whom: the prompt causally, a node the prompt, its ancestors and itself."""
    B, P = is_token.shape
    T = P + sum(widths)
    mask = torch.zeros(B, T, T, dtype=torch.bool, device=is_token.device)
    mask[:, :, :P] = is_token[:, None]
    mask[:, :P, :P] &= torch.ones(P, P, dtype=torch.bool, device=is_token.device).tril()
    row = P
    for depth, width in enumerate(widths):
        candidate = levels[depth].candidate[:, :width]
        column = P
        for above in range(depth + 1):
            ancestor = levels[above].column.gather(1, candidate)
            mask[:, row : row + width, column : column + widths[above]] = (
                torch.arange(widths[above], device=ancestor.device) == ancestor[..., None]
            )
            column += widths[above]
        row += width
    return mask


def _of_children(
    trie: Trie,
    depth: int,
    nodes: Int[Tensor, "B U"],
    logits: Float[Tensor, "B U K"],
    parent: Int[Tensor, "B G"],
    child: Int[Tensor, "B G"],
) -> tuple[Float[Tensor, "B G"], Float[Tensor, "B G"]]:
    """Returns log p of each candidate's child among its node's children, and the entropy of that choice."""
    width = trie.max_children[depth]
    first, last = trie.child_range(depth, nodes)
    start = first.clamp(max=trie.num_nodes(depth + 1) - width)
    window = torch.arange(width, dtype=torch.int32, device=start.device)
    is_child = (window >= (first - start)[..., None]) & (window < (last - start)[..., None])
    code = trie.codes[depth].unfold(0, width, 1).index_select(0, start.flatten()).view(is_child.shape)
    of_child = torch.where(is_child, logits.gather(-1, code.long()), -torch.inf).log_softmax(dim=-1)
    column = child - start.long().gather(1, parent)
    logprob = of_child.flatten(1).gather(1, parent * width + column)
    with torch.no_grad():
        entropy = -(of_child.exp() * of_child.masked_fill(~is_child, 0.0)).sum(dim=-1)
    return logprob, entropy.gather(1, parent)
