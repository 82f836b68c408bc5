"""One step down the tree: which children the live nodes have and what they score. Knows no model and no search.

A node's children are a range, so a table of them has as many columns as the widest node of the depth has children.
Where most of it is real, rows of the tree's arrays are copied whole (``padded_candidates``: shapes depend on the tree
only and nothing waits for the device). Where most would be filling, as below a few wide nodes among many narrow ones,
only the children that are there are scored (``ragged_candidates``: shapes depend on the nodes, which on a CPU costs
nothing to ask). Both return the same; ``find_candidates`` picks.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie

__all__ = ["Candidates", "Nodes", "find_candidates", "padded_candidates", "ragged_candidates", "top_places"]

_WORTH_PACKING = 8
"""Columns for each child from which packing pays on a CPU: scored alone a child costs six to eight times a column."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """W nodes of one depth for each prompt, in the order in which the search took them."""

    node: Int[Tensor, "B W"]
    logprob: Float[Tensor, "B W"]
    """Sum of the log-probabilities of a node's codes; -inf for a column that is no node at all."""
    num_items: Int[Tensor, "B W"]
    """Number of allowed items on a leaf; above the leaves 1 where any lies below."""
    parent: Int[Tensor, "B W"]
    """Column, one depth above, that a node continues."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The children of a depth's nodes, C columns for each node, in the order of the codes."""

    node: Int[Tensor, "B W C"]
    """Number of the child; some number of the depth in a column that is no child."""
    logprob: Float[Tensor, "B W C"]
    """Sum of the log-probabilities of a node's codes; -inf where it is no child or leads to no allowed item."""
    num_items: Int[Tensor, "B W C"]
    """Number of allowed items on a leaf; above the leaves 1 where any lies below, 0 where none does."""

    def at(self, place: Int[Tensor, "B V"]) -> Nodes:
        """Returns the candidates at places of the flattened W * C columns."""
        node, logprob, num_items = (
            column.flatten(1).gather(1, place) for column in (self.node, self.logprob, self.num_items)
        )
        return Nodes(node, logprob, num_items, parent=place // self.node.shape[-1])


def find_candidates(
    trie: Trie,
    depth: int,
    nodes: Nodes,
    logits: Float[Tensor, "B W K"],
    normalizer: Float[Tensor, "B W"] | None = None,
    allowed: ItemFilter | None = None,
) -> Candidates:
    """Returns the children of nodes with their scores.

    Args:
        trie: The tree.
        depth: Of the nodes.
        nodes: Where the search stands.
        logits: Of the level's codes after each node, in at least float32.
        normalizer: Log of what a code's exp(logit) is divided by; the sum over the node's children where None.
        allowed: Items that each prompt may lead to; all where None.
    """
    if logits.device.type == "cpu":
        num_children = int(trie.num_children(depth, nodes.node).sum(dim=1).max())
        if nodes.node.shape[1] * trie.max_children[depth] >= _WORTH_PACKING * num_children:
            return ragged_candidates(trie, depth, nodes, logits, normalizer, allowed)
    return padded_candidates(trie, depth, nodes, logits, normalizer, allowed)


def padded_candidates(
    trie: Trie,
    depth: int,
    nodes: Nodes,
    logits: Float[Tensor, "B W K"],
    normalizer: Float[Tensor, "B W"] | None = None,
    allowed: ItemFilter | None = None,
) -> Candidates:
    """Returns what ``find_candidates`` does, in as many columns as the depth's widest node has children.

    A row of columns is a window on the next depth's nodes. At their end it begins before the first child.
    """
    width = trie.max_children[depth]
    first, last = trie.child_range(depth, nodes.node)
    start = first.clamp(max=trie.num_nodes(depth + 1) - width)
    column = torch.arange(width, dtype=torch.int32, device=start.device)
    is_child = (column >= (first - start)[..., None]).logical_and_(column < (last - start)[..., None])
    code = trie.codes[depth].unfold(0, width, 1).index_select(0, start.flatten()).view(is_child.shape)
    logit = torch.where(is_child, logits.gather(-1, code.long()), -torch.inf)
    if normalizer is None:
        logprob = logit.log_softmax(dim=-1) + nodes.logprob[..., None]
    else:
        logprob = logit + (nodes.logprob - normalizer)[..., None]
    node = start.long()[..., None] + column
    num_items = _num_items(trie, depth + 1, node, allowed)
    if num_items is None:
        return Candidates(node, logprob, is_child.to(torch.int32))
    num_items = num_items * is_child
    return Candidates(node, torch.where(num_items > 0, logprob, -torch.inf), num_items)


def ragged_candidates(
    trie: Trie,
    depth: int,
    nodes: Nodes,
    logits: Float[Tensor, "B W K"],
    normalizer: Float[Tensor, "B W"] | None = None,
    allowed: ItemFilter | None = None,
) -> Candidates:
    """Returns what ``find_candidates`` does, by scoring only what is a child; it asks the device for sizes.

    The M places of a prompt hold the children of its first node, then those of the second, and so on; places beyond
    the last child repeat it.
    """
    B, W, K = logits.shape
    first, last = trie.child_range(depth, nodes.node)
    num_children = last - first
    width = _live_width(trie, depth, num_children)
    end = num_children.cumsum(dim=1)
    place = torch.arange(int(end[:, -1].max()), device=end.device).expand(B, -1)
    is_child = place < end[:, -1:]
    place = place.minimum(end[:, -1:] - 1)
    owner = torch.searchsorted(end, place, right=True)
    column = place - (end - num_children).gather(1, owner)
    node = first.long().gather(1, owner) + column
    code = trie.codes[depth].index_select(0, node.flatten()).view(node.shape)
    logit = logits.flatten(1).gather(1, owner * K + code)
    if normalizer is None:
        normalizer = _log_sum_exp(logit, owner, is_child, W)
    logprob = logit + (nodes.logprob - normalizer).gather(1, owner)
    num_items = _num_items(trie, depth + 1, node, allowed)
    if num_items is None:
        num_items = torch.ones_like(node, dtype=torch.int32)
    logprob = torch.where(num_items > 0, logprob, -torch.inf)
    target = owner * width + column
    return Candidates(
        node=node.new_zeros(B, W * width).scatter_(1, target, node).view(B, W, width),
        logprob=logprob.new_full((B, W * width), -torch.inf).scatter_(1, target, logprob).view(B, W, width),
        num_items=num_items.new_zeros(B, W * width).scatter_(1, target, num_items).view(B, W, width),
    )


def top_places(score: Float[Tensor, "B n"], width: int) -> Int[Tensor, "B k"]:
    """Returns the places of the k = min(width, n) best scores of each row, best first; of ties any.

    Columns are dealt into groups. The k best scores lie in the k groups with the best maxima, for each of these
    maxima is at least as good as whatever lies in another group; so two selections from about sqrt(n k) scores
    replace one from n.
    """
    num_columns = score.shape[1]
    width = min(width, num_columns)
    group_size = math.isqrt(num_columns // width) if width else 0
    if group_size < 4:
        return score.topk(width, dim=1).indices
    num_groups = num_columns // group_size
    grouped = score[:, : num_groups * group_size].view(-1, group_size, num_groups)
    group = grouped.amax(dim=1).topk(width, dim=1, sorted=False).indices
    member = num_groups * torch.arange(group_size, device=score.device)
    place = (member[:, None] + group[:, None]).flatten(1)
    left_over = torch.arange(num_groups * group_size, num_columns, device=score.device)
    place = torch.cat([place, left_over.expand(len(place), -1)], dim=1)
    return place.gather(1, score.gather(1, place).topk(width, dim=1).indices)


def _live_width(trie: Trie, depth: int, num_children: Int[Tensor, "B W"]) -> int:
    """Returns how many columns the nodes need.

    A search that holds every node of a depth may want as many of the next one's, be they closed: it gets them all.
    """
    if num_children.shape[1] >= trie.num_nodes(depth):
        return trie.max_children[depth]
    return int(num_children.max())


def _num_items(
    trie: Trie, depth: int, node: Int[Tensor, "B *shape"], allowed: ItemFilter | None
) -> Int[Tensor, "B *shape"] | None:
    """Returns the number of allowed items on leaves, and above them 1 for each node with any; None where all are 1."""
    if allowed is not None:
        return allowed.num_allowed(depth, node)
    if depth == trie.num_levels and trie.is_shared:
        return trie.num_items_below(depth, node)
    return None


def _log_sum_exp(
    logit: Float[Tensor, "B M"], owner: Int[Tensor, "B M"], is_child: Bool[Tensor, "B M"], num_nodes: int
) -> Float[Tensor, "B W"]:
    """Returns log sum exp of the logits that each node owns; every node owns at least one."""
    highest = logit.new_full((len(logit), num_nodes), -torch.inf).scatter_reduce_(1, owner, logit, "amax")
    share = (logit - highest.gather(1, owner)).exp() * is_child
    return highest + torch.zeros_like(highest).scatter_add_(1, owner, share).log()
