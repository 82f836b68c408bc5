"""Where written tokens stand in the trie: from rows of token ids to nodes, for engines that keep their own beams.

itemic's own searches go down the tree with their beams (``walk``) and never look a prefix up. Knows no engine and no
score.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from itemic.decode.trie import Trie, check_codebooks
from itemic.language.spelling import SidTokens

__all__ = ["PrefixReader", "Prefixes", "find_child"]


@dataclass(frozen=True, eq=False)
class Prefixes:
    """What R rows have written of a semantic ID."""

    num_written: Int[Tensor, "R"]
    """Tokens after the place where the semantic ID begins, whatever they are."""
    node: Int[Tensor, "R"]
    """Node at depth min(num_written, L); any node of the tree where the row is not legal."""
    is_legal: Bool[Tensor, "R"]
    """Whether the tokens are codes on a path of the tree, then the closing tokens, then anything."""


class PrefixReader:
    """A trie and the token ids that its codes are written in."""

    def __init__(self, trie: Trie, sid_tokens: SidTokens, device: torch.device | str | None = None) -> None:
        """Moves the tree to a device and prepares the way back from token ids to codes.

        Args:
            trie: The semantic IDs.
            sid_tokens: Token ids of every code and wrapper.
            device: Where token ids will lie; where the tree is if None.

        Raises:
            CatalogError: if the tokens are those of other codebooks than the tree's.
        """
        check_codebooks(sid_tokens, trie)
        self.device = trie.item_of_slot.device if device is None else torch.device(device)
        self.trie = trie.to(self.device)
        self.closing_ids = tuple(sid_tokens.closing_ids)
        self.level_ids = [torch.from_numpy(ids).to(self.device) for ids in sid_tokens.level_ids]
        self._num_tokens = 1 + max(int(ids.max()) for ids in sid_tokens.level_ids)
        self._code_of_token = [self._invert(ids) for ids in self.level_ids]

    def read(self, input_ids: Int[Tensor, "R T"], begin: Int[Tensor, "R"]) -> Prefixes:
        """Returns where each row stands.

        Args:
            input_ids: Whatever was read and written so far.
            begin: Column in which each row's semantic ID begins; T where nothing of it is written.
        """
        node, is_legal = torch.zeros_like(begin), torch.ones_like(begin, dtype=torch.bool)
        num_written = input_ids.shape[1] - begin
        for level in range(self.trie.num_levels):
            code = self._codes(level, _column(input_ids, begin + level))
            child, is_child = find_child(self.trie, level, node, code)
            is_written = num_written > level
            is_legal &= is_child | ~is_written
            node = torch.where(is_written & is_child, child, node)
        for place, token in enumerate(self.closing_ids, start=self.trie.num_levels):
            is_legal &= (_column(input_ids, begin + place) == token) | (num_written <= place)
        return Prefixes(num_written, node, is_legal)

    def children(self, depth: int, node: Int[Tensor, "R"]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the children of nodes at ``depth``, which of the columns really are, and their token ids."""
        child, is_child = self.trie.children(depth, node)
        return child, is_child, self.level_ids[depth][self.trie.codes[depth][child].long()]

    def _invert(self, ids: Int[Tensor, "K"]) -> Int[Tensor, "V"]:
        code = torch.full((self._num_tokens,), -1, dtype=torch.int32, device=self.device)
        code[ids] = torch.arange(len(ids), dtype=torch.int32, device=self.device)
        return code

    def _codes(self, level: int, token: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Returns the code that each token is at a level, -1 for a token that is none of its codes."""
        is_known = (token >= 0) & (token < self._num_tokens)
        return torch.where(is_known, self._code_of_token[level][token.clamp(0, self._num_tokens - 1)], -1)


def find_child(
    trie: Trie, depth: int, node: Int[Tensor, "R"], code: Int[Tensor, "R"]
) -> tuple[Int[Tensor, "R"], Bool[Tensor, "R"]]:
    """Returns the child of each node at ``depth`` that a code leads to, and whether there is one.

    A binary search among the node's own children, for all rows at once; where there is no such child, the node that
    is returned means nothing.
    """
    codes, last = trie.codes[depth], trie.child_start[depth][node + 1].long()
    low, high = trie.child_start[depth][node].long(), last
    for _ in range(trie.max_children[depth].bit_length()):
        middle = (low + high) // 2
        is_below = (middle < high) & (codes[middle.clamp(max=len(codes) - 1)] < code)
        low, high = torch.where(is_below, middle + 1, low), torch.where(is_below, high, middle)
    child = low.clamp(max=len(codes) - 1)
    return child, (low < last) & (codes[child] == code)


def _column(input_ids: Int[Tensor, "R T"], place: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
    """Returns the token at each row's place; any token beyond the end."""
    return input_ids.gather(1, place.clamp(max=input_ids.shape[1] - 1)[:, None])[:, 0]
