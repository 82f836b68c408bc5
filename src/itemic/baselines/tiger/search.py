"""The way down the catalog's tree with TIGER: each history is read once, its beams share what was read."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.baselines.tiger.network import TigerNetwork
from itemic.decode.beam import close_beams
from itemic.decode.candidates import Nodes, find_candidates, top_places
from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization

__all__ = ["beam_search"]


def beam_search(
    network: TigerNetwork,
    codes: Int[Tensor, "B T L"],
    is_item: Bool[Tensor, "B T"],
    trie: Trie,
    num_beams: int,
    normalize: Normalization,
    allowed: ItemFilter | None = None,
) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"], Int[Tensor, "B"]]:
    """Returns the best leaves of the tree after each history, as the columns of a ``decode.BeamResult``.

    A leaf's score is Σ_l log p(code_l | history, codes before l). Each level keeps the ``num_beams`` best nodes that
    lead to an allowed item: exact where that covers all of them, and never short of items that are there.

    Args:
        network: In evaluation mode.
        codes: Semantic IDs of the history, oldest item first.
        is_item: False for padding, which goes to the left.
        trie: The semantic IDs, on the network's device.
        num_beams: Width W.
        normalize: ``legal``: p is over the codes that continue a semantic ID of the tree. ``full``: over all codes
            of the level.
        allowed: Items that each history may lead to, a filter made with ``trie``; all where None.
    """
    history = network.read(codes, is_item)
    logits, prefixes = network.begin(history)
    root = torch.zeros(len(codes), 1, dtype=torch.int64, device=codes.device)
    nodes = Nodes(root, torch.zeros_like(root, dtype=logits.dtype), num_items=root, parent=root)
    for depth in range(trie.num_levels):
        if depth:
            code = trie.codes[depth - 1][nodes.node].long()
            logits, prefixes = network.step(history, prefixes.continued_by(nodes.parent), code, depth - 1)
        normalizer = logits.logsumexp(dim=-1) if normalize == "full" else None
        candidates = find_candidates(trie, depth, nodes, logits, normalizer, allowed)
        width = min(num_beams, trie.num_nodes(depth + 1))
        nodes = candidates.at(top_places(candidates.logprob.flatten(1), width))
    return close_beams(candidates, nodes, num_beams)
