"""Semantic IDs from Hugging Face ``generate``: a logits processor that leaves only what continues a real, allowed one.

For those who want transformers' own greedy search, beams or sampling; ``beam`` gives the same lists many times faster,
because it reads a prompt once and not once a beam. Knows no prompts and no items' meaning. The only module of this
package that imports transformers.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from itemic.core.errors import ConfigError, DataError
from itemic.decode.adapters.prefix import Prefixes, PrefixReader
from itemic.decode.filters import ItemFilter
from itemic.decode.prefill import check_filter
from itemic.decode.scoring import legal_normalizer, widen
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization
from itemic.language.spelling import SidTokens

__all__ = ["SidLogitsProcessor"]


class SidLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed by mypy
    """Constrains every row of ``generate`` to one semantic ID, its closing tokens and the end token.

    Scores of tokens that may not follow become -inf. What may follow depends on the row's own tokens alone: nothing
    is remembered from step to step, so one processor serves calls of any width, batch and number of beams, one after
    the other or at once.

    Where the semantic ID begins is ``prompt_length``, the width of the ids given to ``generate`` with their padding;
    or, without it, right after the row's last ``begins_after`` tokens, the spelling's opening tokens unless said
    otherwise. These must be tokens that no semantic ID contains and that end the prompt.

    A row that nothing may follow can only end: one whose tokens left the tree, a dead beam say, or whose request's
    filter allows no item, gets the end token with score 0 and everything else -inf. It is never left unconstrained.

    With ``full`` the scores of tokens that may follow stay as they are, as with ``prefix_allowed_tokens_fn`` and a
    table of prefixes. ``legal`` makes them log-probabilities among the tokens that continue a semantic ID of the tree,
    whatever the filter; a closing or end token then costs nothing. With ``length_penalty=0.0`` the beams of
    ``generate`` are those of :func:`itemic.decode.constrained_beam_search`, with ``full`` where ``max_new_tokens`` is
    the number of levels, or where the search is told the ``ending`` that ``generate`` writes and scores. Where a depth
    has fewer open nodes than beams, ``generate`` may fill its list with copies scored below -1e8 or with dead beams
    scored -inf.
    """

    def __init__(
        self,
        trie: Trie,
        sid_tokens: SidTokens,
        eos_token_id: int,
        *,
        prompt_length: int | None = None,
        begins_after: Sequence[int] | None = None,
        normalize: Normalization = "full",
        allowed: ItemFilter | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Moves the tree to the device; costs no more than the vocabulary is long.

        Args:
            trie: The semantic IDs.
            sid_tokens: Token ids of every code and wrapper.
            eos_token_id: The token that ends a sequence.
            prompt_length: Columns of the prompts, padding included; None where ``begins_after`` tells.
            begins_after: Tokens after which a semantic ID begins; the spelling's opening tokens where None.
            normalize: ``full`` or ``legal``.
            allowed: Items that each request may lead to; all where None. Its requests are those of the batch, each
                with as many rows as ``generate`` makes of it (beams, or returned sequences when sampling).
            device: Where the model's scores will lie; where the tree is if None.

        Raises:
            CatalogError: if the tokens are those of other codebooks than the tree's.
            ConfigError: if it cannot be told where a semantic ID begins, or the normalisation does not exist.
            DataError: if the filter is of another tree.
        """
        super().__init__()
        if normalize not in get_args(Normalization):
            raise ConfigError(f"normalize {normalize!r}: expected legal or full")
        check_filter(allowed, trie, 0 if allowed is None else len(allowed))
        self._reader = PrefixReader(trie, sid_tokens, device)
        self._begins_after = tuple(sid_tokens.opening_ids if begins_after is None else begins_after)
        self._prompt_length = prompt_length
        if prompt_length is None:
            _check_mark(self._begins_after, {*sid_tokens.closing_ids, eos_token_id}, sid_tokens)
        self._ending = (*sid_tokens.closing_ids, eos_token_id)
        self._normalize: Normalization = normalize
        self._allowed = None if allowed is None else allowed.move_to(self._reader.trie)

    def __call__(self, input_ids: Int[Tensor, "R T"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Returns the scores of the tokens that may follow, -inf for all others.

        Args:
            input_ids: Prompts and what was written after them.
            scores: Logits, or log-probabilities in a beam search.

        Raises:
            DataError: if a row is shorter than ``prompt_length`` or has no ``begins_after`` tokens, or the rows are
                not the same number for each request of the filter.
        """
        prefixes = self._reader.read(input_ids, self._begin(input_ids))
        processed = torch.full_like(scores, -torch.inf)
        is_stuck = ~prefixes.is_legal
        for depth in self._depths(input_ids.shape[1]):
            is_here = prefixes.is_legal & (prefixes.num_written == depth)
            is_stuck |= is_here & ~self._open_children(processed, scores, depth, prefixes.node, is_here)
        self._open_ending(processed, scores, prefixes)
        end = processed[:, self._ending[-1]]
        processed[:, self._ending[-1]] = end.masked_fill(is_stuck, 0)
        return processed

    def _depths(self, width: int) -> range:
        """Returns the depths above the leaves at which rows may stand: one where all begin in the same column."""
        num_levels = self._reader.trie.num_levels
        if self._prompt_length is None:
            return range(num_levels)
        num_written = width - self._prompt_length
        return range(min(num_written, num_levels), min(num_written + 1, num_levels))

    def _begin(self, input_ids: Int[Tensor, "R T"]) -> Int[Tensor, "R"]:
        """Returns the column in which each row's semantic ID begins."""
        num_rows, width = input_ids.shape
        if self._prompt_length is not None:
            if width < self._prompt_length:
                raise DataError(f"prompt_length is {self._prompt_length}, the rows are {width} tokens long")
            return input_ids.new_full((num_rows,), self._prompt_length)
        mark = self._begins_after
        places = max(0, width - len(mark) + 1)
        is_mark = torch.ones(num_rows, places, dtype=torch.bool, device=input_ids.device)
        for offset, token in enumerate(mark):
            is_mark &= input_ids[:, offset : offset + places] == token
        begin = torch.arange(len(mark), len(mark) + places, device=input_ids.device) * is_mark
        begin = torch.nn.functional.pad(begin, (1, 0)).amax(dim=1)
        if not begin.all():
            row = int((begin == 0).nonzero()[0, 0])
            raise DataError(
                f"row {row} has no tokens {list(mark)}, after which a semantic ID begins; end the prompts with them, "
                "or give prompt_length"
            )
        return begin

    def _open_children(
        self,
        processed: Float[Tensor, "R V"],
        scores: Float[Tensor, "R V"],
        depth: int,
        node: Int[Tensor, "R"],
        is_here: Bool[Tensor, "R"],
    ) -> Bool[Tensor, "R"]:
        """Writes the scores of the children of the rows that stand at ``depth``; returns which rows have any."""
        child, is_child, token = self._reader.children(depth, torch.where(is_here, node, 0))
        score = scores.gather(1, token)
        if self._normalize == "legal":
            score = widen(score)
            score = (score - legal_normalizer(score, is_child)[:, None]).to(scores.dtype)
        is_open = is_here[:, None] & self._is_allowed(depth + 1, child) & (score > -torch.inf)
        # A column beyond a node's children repeats its first child, token and all, so equal values are written twice.
        processed.scatter_(1, token, torch.where(is_open, score, processed.gather(1, token)))
        return is_open.any(dim=1)

    def _is_allowed(self, depth: int, node: Int[Tensor, "R C"]) -> Bool[Tensor, "R C"]:
        if self._allowed is None:
            return torch.ones_like(node, dtype=torch.bool)
        num_requests = len(self._allowed)
        if not num_requests or len(node) % num_requests:
            raise DataError(f"{len(node)} rows for the {num_requests} requests of the filter; expected a multiple")
        by_request = node.view(num_requests, -1, node.shape[1])
        return (self._allowed.num_allowed(depth, by_request) > 0).view(node.shape)

    def _open_ending(self, processed: Float[Tensor, "R V"], scores: Float[Tensor, "R V"], prefixes: Prefixes) -> None:
        """Writes the score of the one token that may follow in rows whose codes are complete."""
        num_after = prefixes.num_written - self._reader.trie.num_levels
        for place, token in enumerate(self._ending):
            is_last = place == len(self._ending) - 1
            is_here = prefixes.is_legal & ((num_after >= place) if is_last else (num_after == place))
            score = scores[:, token]
            if self._normalize == "legal":
                score = torch.zeros_like(score)
            # The only token there is stays possible, whatever another processor made of it.
            score = score.masked_fill(score == -torch.inf, 0)
            processed[:, token] = torch.where(is_here, score, processed[:, token])


def _check_mark(mark: tuple[int, ...], ending: set[int], sid_tokens: SidTokens) -> None:
    """Refuses marks that a written semantic ID could hold."""
    if not mark:
        raise ConfigError(
            f"the {sid_tokens.spelling.style} spelling has no opening tokens, so it cannot be told where a semantic ID "
            "begins: give prompt_length, or begins_after"
        )
    written = ending.union(*(ids.tolist() for ids in sid_tokens.level_ids)).intersection(mark)
    if written:
        raise ConfigError(f"begins_after {list(mark)}: a semantic ID and its end hold {sorted(written)} too")
