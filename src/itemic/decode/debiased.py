"""D3 (Bao et al. 2024, "Decoding Matters"): items by a beam search over the tree of their titles, debiased twice.

A long title must not win because its last tokens are certain: scores are sums of log-probabilities, divided by no
length, and a title counts only up to where it is told apart from all others; the paper's ghost tokens lie behind
that. And titles must not win by their words alone: at every step log α p_model is mixed with what a model without
text, SASRec say, gives the items below each token. Knows no prompt text and no baseline.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories, Recommendations, check_histories
from itemic.decode.beam import BeamResult, close_beams, no_beams
from itemic.decode.candidates import Candidates, Nodes, top_places
from itemic.decode.filters import ItemFilter
from itemic.decode.noise import working_dtype
from itemic.decode.policy import Policy
from itemic.decode.prefill import PromptBatch, check_prompts, check_scores
from itemic.decode.recommender import check_search_settings, list_items
from itemic.decode.title_tree import TitleTree
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker

__all__ = ["Assistant", "TitleTreeRecommender", "below_shares", "search_titles"]

Assistant = Callable[[Histories], Float[np.ndarray, "B N"]]
"""From histories to a finite score for every item, whose softmax is a probability."""


class TitleTreeRecommender:
    """Ranks the catalogue by the mixed log-probability of each item's title; see ``core.ranking.Recommender``.

    An item's score is α Σ_t log p_model(token_t) + (1 - α) Σ_t log p_assistant(token_t), where a token's probability by
    the assistant is the share of the items below it among those below its node (the paper's equation of the text-free
    assistant); those shares multiply to the item's own. Scores do not depend on filters. Items with one title tie.
    """

    def __init__(
        self,
        model: Policy,
        tree: TitleTree,
        prompt: Callable[[Sequence[int]], Sequence[int]],
        *,
        num_items: int,
        assistant: Assistant | None = None,
        model_weight: float = 1.0,
        num_beams: int = 50,
        normalize: Normalization = "legal",
        batch_size: int = 16,
        name: str = "D3",
    ) -> None:
        """Prepares the walk.

        Args:
            model: The language model, in evaluation mode.
            tree: Titles of the items that may be listed.
            prompt: From a history of item indices, oldest first, to the token ids after which a title begins.
            num_items: Size of the catalogue, items without a title included.
            assistant: Scores of a model without text; None decodes by the language model alone.
            model_weight: α, the language model's part, 0 to 1; without an assistant it is 1.
            num_beams: Beam width; a list longer than that raises it to its own length.
            normalize: ``legal``: the model's p is over the tokens that continue a title of the tree; ``full``: over
                the whole vocabulary.
            batch_size: Prompts decoded at once.
            name: Name in tables.

        Raises:
            ConfigError: if a setting cannot be honoured.
        """
        check_search_settings(num_beams, batch_size, normalize)
        if not 0 <= model_weight <= 1 or (assistant is None and model_weight != 1):
            raise ConfigError(f"model_weight {model_weight}: expected 0 to 1, and 1 without an assistant")
        self.name = name
        self._walker = TreeWalker(model, tree.trie, normalize, level_ids=tree.level_ids)
        self._prompt = prompt
        self._num_items = num_items
        self._assistant = assistant
        self._model_weight = model_weight
        self._num_beams = num_beams
        self._batch_size = batch_size

    @torch.no_grad()
    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best items for each history; items that no beam reached are not listed.

        Args:
            histories: B histories.
            k: Length of each list.
            exclude: For each history items that must not appear.
            allow: For each history the only items that may appear.

        Raises:
            DataError: if an item index is not in the catalogue or ``k`` is less than 1.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        check_histories(histories, self._num_items)
        walker, num_beams = self._walker, max(k, self._num_beams)
        allowed = None
        if exclude is not None or allow is not None:
            allowed = ItemFilter.from_lists(walker.trie, len(histories), exclude, allow)
        prompts = [self._prompt(history) for history in histories]
        check_prompts(prompts, walker.policy.vocabulary_size)

        def search(rows: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, ...]:
            chosen = None if allowed is None else allowed.select(rows)
            below = self._below([histories[row] for row in rows.tolist()])
            return search_titles(walker, batch, num_beams, below, self._model_weight, chosen)

        none = no_beams(num_beams, walker.policy.device)
        leaf, logprob, num_tied_beyond = walker.read_in_batches(prompts, self._batch_size, search, none)
        beams = BeamResult(leaf=leaf, logprob=logprob, num_tied_beyond=num_tied_beyond)
        return list_items(walker.trie, beams, k, allowed)

    def _below(self, histories: Histories) -> Float[Tensor, "B S"] | None:
        if self._assistant is None:
            return None
        scores = torch.from_numpy(np.asarray(self._assistant(histories), dtype=np.float64))
        if scores.shape != (len(histories), self._num_items) or not scores.isfinite().all():
            raise DataError(
                f"the assistant gave scores of shape {tuple(scores.shape)}, or some that are not finite; expected one "
                f"for each of {len(histories)} histories and {self._num_items} items"
            )
        return below_shares(self._walker.trie, scores.to(working_dtype(self._walker.policy.device)))


def below_shares(trie: Trie, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B S"]:
    """Returns the softmax of scores over the tree's items, summed up to each slot: 0 first, 1 last, S - 1 items.

    The probability of a node's items is the difference of two entries.
    """
    of_slot = scores.to(trie.item_of_slot.device)[:, trie.item_of_slot.long()].softmax(dim=1)
    return torch.nn.functional.pad(of_slot.cumsum(dim=1), (1, 0))


def search_titles(
    walker: TreeWalker,
    prompts: PromptBatch,
    num_beams: int,
    below: Float[Tensor, "B S"] | None = None,
    model_weight: float = 1.0,
    allowed: ItemFilter | None = None,
) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"], Int[Tensor, "B"]]:
    """Returns the best leaves of one batch by mixed scores, as the columns of a ``BeamResult``.

    The assistant's log-probabilities of a path's steps add up to that of its node, so that they need not be kept.

    Args:
        walker: The model and the tree.
        prompts: What the model has read.
        num_beams: Width W.
        below: Of :func:`below_shares`; None for no assistant.
        model_weight: α.
        allowed: Items that each prompt may lead to; all where None.
    """
    walk, trie = walker.start(prompts, allowed), walker.trie
    for depth in range(1, trie.num_levels + 1):
        candidates = walk.candidates()
        mixed = candidates
        if below is not None:
            score = model_weight * candidates.logprob + (1 - model_weight) * _log_share(trie, depth, candidates, below)
            is_open = candidates.logprob > -torch.inf
            mixed = Candidates(candidates.node, torch.where(is_open, score, -torch.inf), candidates.num_items)
        place = top_places(mixed.logprob.flatten(1), min(num_beams, trie.num_nodes(depth)))
        beams = mixed.at(place)
        walk.take(candidates.at(place))
    leaf, logprob, num_tied_beyond = close_beams(mixed, beams, num_beams)
    check_scores(logprob)
    return leaf, logprob, num_tied_beyond


def _log_share(trie: Trie, depth: int, nodes: Candidates | Nodes, below: Tensor) -> Tensor:
    """Returns log of the assistant's probability of the items below each node; never -inf."""
    node = nodes.node.flatten(1)
    first, last = trie.slots(depth, node)
    share = below.gather(1, last.long()) - below.gather(1, first.long())
    log_share = share.clamp(min=torch.finfo(share.dtype).eps).log()
    return log_share.view(nodes.node.shape)
