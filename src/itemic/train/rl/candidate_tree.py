"""The prompt and its candidates as one packed sequence: prefixes once, and the policy's log-probabilities on it.

A row holds a question's prompt, then the distinct first codes of its candidates, then their distinct second codes, and
so on. Codes after which nothing is left to choose stay out: the last one, and any that a single answer begins with. A
mask lets a code see the prompt and its own ancestors, as in decoding. So G candidates cost the prompt once and a few
tokens each, instead of G prompts. Knows no reward and no loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.decode.filters import ItemFilter
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
    """For depth 0 to L - 1 the nodes whose children are scored, those with more than one answer below; columns beyond a
    row's own hold any node."""
    parent: Int[Tensor, "B G L"]
    """Column in ``nodes[d]`` from which each candidate's code at level d follows; any where its answer is settled."""
    child: Int[Tensor, "B G L"]
    """Node at depth d + 1 that each candidate goes to."""
    is_token: Bool[Tensor, "B G L"]
    """Which codes count: all of a candidate's, in a padded tree those up to its last choice; none of no candidate."""
    allowed: ItemFilter | None
    """Items that each row's answers may name; all where None."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, filling included."""
        return self.input_ids.numel()


def pack_candidates(
    prompts: Sequence[Sequence[int]],
    leaf: Int[Tensor, "B G"],
    answers: AnswerTree,
    device: torch.device,
    allowed: ItemFilter | None = None,
) -> CandidateTree:
    """Returns the packed rows of some prompts and their candidates.

    Args:
        prompts: Token ids of B prompts, each ending where an answer's first code follows.
        leaf: Leaves of the answer tree, -1 for no candidate.
        answers: The tree, moved to ``device`` where it is elsewhere.
        device: Where the rows go.
        allowed: Items that each question's answers could name when they were found, a filter made with the answer
            tree's trie; all where None.
    """
    answers, leaf = answers.to(device), leaf.to(device)
    trie = answers.trie
    is_candidate = leaf >= 0
    # Whatever is no candidate follows one that is, so that it adds no node of its own.
    path = trie.path(torch.where(is_candidate, leaf, leaf.amax(dim=1, keepdim=True)).clamp(min=0))
    is_open = _is_open(trie, path[:-1])
    levels = [_distinct(nodes, is_open[..., depth]) for depth, nodes in enumerate(path[1:-1], start=1)]
    widths = torch.stack([level.num for level in levels]).amax(dim=1).tolist() if levels else []
    ids, is_token, length = _fill_up(prompts, device)
    P = ids.shape[1]
    codes = [
        answers.token_ids[depth][trie.codes[depth][level.node[:, :width]].long()]
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
        is_token=is_candidate[..., None] & (is_open if answers.is_padded else torch.ones_like(is_open)),
        allowed=None if allowed is None else allowed.move_to(trie),
    )


def candidate_logprobs(
    policy: TreePolicy, rows: CandidateTree, answers: AnswerTree, temperature: float = 1.0
) -> tuple[Float[Tensor, "B G L"], Float[Tensor, "B G L"]]:
    """Returns log p of each code of each candidate among the codes that continue an answer, and that choice's entropy.

    This is the constrained policy that the searches sample from, renormalised at each node over the children that lead
    to an allowed answer: gradients flow through the log-probabilities, not through the entropies. A candidate's own
    codes are always open. What is no candidate has values without meaning.

    With draws among the likeliest ``top_k`` codes it is the whole policy all the same, and with beams under a filter
    not their scores, which stay those over all children: what learns is the policy that may answer, however it was
    searched.

    Args:
        policy: The model.
        rows: Prompts and candidates.
        answers: The tree they were packed with.
        temperature: Divides the logits.
    """
    hidden, _ = policy.hidden(rows.input_ids, rows.mask, rows.position_ids)
    answers = answers.to(hidden.device)
    B, G, _ = rows.child.shape
    P = rows.input_ids.shape[1] - sum(nodes.shape[1] for nodes in rows.nodes[1:])
    last_states = hidden[torch.arange(B, device=hidden.device), rows.prompt_length - 1]
    # From a depth on where nothing is scored, nothing is below it.
    token_ids, columns = answers.head_rows(sum(nodes.shape[1] > 0 for nodes in rows.nodes))
    states = torch.cat([last_states[:, None], hidden[:, P:]], dim=1)
    logits = widen(policy.logits(states, token_ids)) / temperature
    of_nodes = torch.split(logits, [nodes.shape[1] for nodes in rows.nodes], dim=1)
    settled = logits.new_zeros(B, G)
    logprobs, entropies = [settled] * len(rows.nodes), [settled] * len(rows.nodes)
    for depth, column_of_code in enumerate(columns):
        logprobs[depth], entropies[depth] = _of_children(answers.trie, rows, depth, of_nodes[depth], column_of_code)
    return torch.stack(logprobs, dim=-1), torch.stack(entropies, dim=-1)


@dataclass(frozen=True, eq=False)
class _Distinct:
    """The distinct open nodes of each row, in ascending order; what lies beyond ``num`` repeats the last one."""

    node: Int[Tensor, "B G"]
    column: Int[Tensor, "B G"]
    """Place of each candidate's node among them; any for a node that is settled."""
    candidate: Int[Tensor, "B G"]
    """For each of them a candidate that goes through it."""
    num: Int[Tensor, "B"]


def _distinct(node: Int[Tensor, "B G"], is_open: Bool[Tensor, "B G"]) -> _Distinct:
    # What is settled follows one that is open, so that it adds no node of its own.
    an_open_one = torch.where(is_open, node, -1).argmax(dim=1, keepdim=True)
    followed = torch.where(is_open, torch.arange(node.shape[1], device=node.device), an_open_one)
    node = node.gather(1, followed)
    ordered, candidate = node.sort(dim=1, stable=True)
    is_next = torch.ones_like(ordered, dtype=torch.bool)
    is_next[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = is_next.cumsum(dim=1) - 1
    num = (place[:, -1] + 1) * is_open.any(dim=1)
    column = torch.empty_like(place).scatter_(1, candidate, place)
    last = candidate[:, -1:].expand_as(candidate)
    # Of candidates that share a node any may stand for it: their ancestors are the same.
    representative = last.clone().scatter_(1, place, candidate)
    return _Distinct(node.gather(1, representative), column, followed.gather(1, representative), num)


def _is_open(trie: Trie, path: Sequence[Int[Tensor, "B G"]]) -> Bool[Tensor, "B G L"]:
    """Returns whether more than one answer begins as each node of a path does."""
    is_choice = torch.stack([trie.num_children(depth, nodes) > 1 for depth, nodes in enumerate(path)], dim=-1)
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
    trie: Trie, rows: CandidateTree, depth: int, logits: Float[Tensor, "B U n"], column_of_code: Int[Tensor, "K"]
) -> tuple[Float[Tensor, "B G"], Float[Tensor, "B G"]]:
    """Returns log p of each candidate's child among its node's children, and the entropy of that choice.

    Both are 0 where the child is not one of its node's: it is settled.
    """
    nodes, parent, child = rows.nodes[depth], rows.parent[..., depth], rows.child[..., depth]
    width = trie.max_children[depth]
    first, last = trie.child_range(depth, nodes)
    start = first.clamp(max=trie.num_nodes(depth + 1) - width)
    window = torch.arange(width, dtype=torch.int32, device=start.device)
    is_child = (window >= (first - start)[..., None]) & (window < (last - start)[..., None])
    place = parent * width + (child - start.long().gather(1, parent)).clamp(0, width - 1)
    is_own = (child >= first.gather(1, parent)) & (child < last.gather(1, parent))
    if rows.allowed is not None:
        leads_on = rows.allowed.num_allowed(depth + 1, start.long()[..., None] + window) > 0
        num_own = torch.zeros_like(is_child, dtype=torch.int32).flatten(1).scatter_add_(1, place, is_own.int())
        is_child &= leads_on | (num_own.view(is_child.shape) > 0)
    code = trie.codes[depth].unfold(0, width, 1).index_select(0, start.flatten()).view(is_child.shape)
    scores = logits.gather(-1, column_of_code[code.long()])
    of_child = torch.where(is_child, scores, -torch.inf).log_softmax(dim=-1)
    logprob = of_child.flatten(1).gather(1, place)
    with torch.no_grad():
        entropy = -(of_child.exp() * of_child.masked_fill(~is_child, 0.0)).sum(dim=-1)
    return torch.where(is_own, logprob, 0.0), torch.where(is_own, entropy.gather(1, parent), 0.0)
