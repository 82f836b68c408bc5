"""A language model as a Recommender: histories in, ranked items out. Knows no prompt text, no data and no metric."""

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories, Recommendations, check_histories
from itemic.decode.beam import BeamResult, check_ending, constrained_beam_search
from itemic.decode.conditions import ItemSelector, Where
from itemic.decode.diversity import MarginalRelevance, PrefixQuota, rerank_by_mmr, within_quota
from itemic.decode.filters import ItemFilter
from itemic.decode.item_sets import ItemSet
from itemic.decode.policy import CatalogPolicy
from itemic.decode.prefill import PrefixMemory, check_numbers
from itemic.decode.prior import search_with_prior
from itemic.decode.think import ThinkConfig, Thoughts, think_then_recommend
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, check_normalization
from itemic.language.thoughts import ThoughtTokens
from itemic.sid.catalog import Catalog
from itemic.sid.lineage import check_trained_on

__all__ = ["LanguageModelRecommender", "check_search_settings", "list_items", "top_probabilities"]


class LanguageModelRecommender:
    """Ranks the catalog by the log-probability of each item's semantic ID after a history's prompt.

    Only active items are ever listed. Items that share a semantic ID share its score, so they tie. With ``legal``
    normalisation ``exp(score)`` is the model's probability of that semantic ID among all those in the catalog.
    """

    def __init__(
        self,
        model: CatalogPolicy,
        catalog: Catalog,
        prompt: Callable[[Sequence[int]], Sequence[int]],
        *,
        num_beams: int = 50,
        normalize: Normalization = "legal",
        batch_size: int = 16,
        name: str = "itemic",
        allow_catalog_change: bool = False,
        items: pl.DataFrame | None = None,
        quota: PrefixQuota | None = None,
        mmr: MarginalRelevance | None = None,
        trie_path: Path | None = None,
        ending: Sequence[int] = (),
    ) -> None:
        """Builds the catalog's tree.

        Args:
            model: The language model, in evaluation mode; its weights stay as they are while this recommender lives.
            catalog: The semantic IDs that it speaks.
            prompt: The renderer: from a history of item indices, oldest first, to the token ids of the prompt.
            num_beams: Beam width; 50 as in the reference. A list longer than that raises it to its own length.
            normalize: ``legal`` (the constrained policy) or ``full`` (the reference's scores).
            batch_size: Prompts decoded at once.
            name: Name in tables.
            allow_catalog_change: Whether another catalog than the model was trained on will do, one that grew or lost
                items since, say.
            items: The catalogue whose columns conditions name, row i is item_index i; without it there are none.
            quota: At most so many items of a list under one prefix; None sets no limit.
            mmr: Chooses a list's items from all that the beams reached, so that they are unlike each other. Scores
                need not fall along such a list, so it cannot be evaluated. None keeps lists by score.
            trie_path: File for the tree of a large catalog, so that the next start maps it instead of building it;
                None builds it.
            ending: Token ids that follow the codes in every answer that the model was trained on, by which ``full``
                ranks too, as the reference does (``constrained_beam_search``); for a checkpoint of the reference's
                kind, a line break and EOS. A model that itemic trains learns codes only, so it has none.

        Raises:
            ConfigError: if the ending holds what is no token of the model.
            CatalogError: if the catalog has no active item, is another one than the model's and that is not allowed,
                or has SIDs that the model cannot write.
        """
        check_search_settings(num_beams, batch_size, normalize)
        spelling = model.sid_tokens.spelling
        check_trained_on(
            catalog,
            model.catalog_version,
            spelling.codebook_sizes,
            spelling.style,
            allow_change=allow_catalog_change,
        )
        self.name = name
        self._model = model
        self._prompt = prompt
        trie = Trie.from_catalog(catalog) if trie_path is None else Trie.cached(trie_path, catalog)
        self._trie = trie.to(model.device)
        self._selector = None if items is None else ItemSelector(items, self._trie)
        self._num_items = catalog.num_items
        self._num_beams = num_beams
        self._normalize: Normalization = normalize
        self._batch_size = batch_size
        self._quota = quota
        self._mmr = mmr
        check_ending(ending, model)
        self._ending = tuple(ending)
        self._codes = catalog.codes
        self._memory = PrefixMemory(model)
        self._thinking: tuple[ThoughtTokens, ThinkConfig] | None = None

    def __repr__(self) -> str:
        return f"LanguageModelRecommender({self.name!r}, {self._num_beams} beams, {self._normalize}, {self._trie!r})"

    @property
    def model(self) -> CatalogPolicy:
        """The language model."""
        return self._model

    @property
    def trie(self) -> Trie:
        """The tree of the catalog's active items, on the model's device."""
        return self._trie

    @property
    def batch_size(self) -> int:
        """Prompts decoded at once; a call with a multiple of it wastes nothing."""
        return self._batch_size

    def recommend(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        *,
        where: Sequence[Where | None] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Recommendations:
        """Returns the ``k`` best items for each history; see ``core.ranking.Recommender``.

        Scores do not depend on ``exclude``, ``allow`` and ``where``: a filter takes items out of the list, no more.
        Items that no beam reached are not listed, so ties are counted among those that were scored.

        Args:
            histories: B histories.
            k: Length of each list.
            exclude: For each history items that must not appear.
            allow: For each history the only items that may appear.
            where: For each history a condition on the catalogue's columns or several, ``"stock > 0"`` say, that every
                item must fulfil; None for a history without one. Those that share a condition share the work.
            rows: For each history the number that the draws of its thought are made from, its place in a longer table
                say; its place in this call where None. Without thoughts nothing is drawn.

        Raises:
            DataError: if an item index is not in the catalog, ``k`` is less than 1, or there is not one condition a
                history.
            ConfigError: if a condition cannot be understood, or goes with no column or its type.
        """
        return self.recommend_with_thoughts(histories, k, exclude, allow, where=where, rows=rows)[0]

    def recommend_with_thoughts(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        *,
        where: Sequence[Where | None] | None = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Recommendations, Thoughts | None]:
        """Returns what ``recommend`` does and the thought before each list; None where the model does not think."""
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        check_histories(histories, self._num_items)
        allowed = self._filter(len(histories), exclude, allow, where)
        thoughts, beams = self._search([self._prompt(history) for history in histories], k, allowed, rows)
        if self._mmr is None:
            return list_items(self._trie, beams, k, allowed, self._quota), thoughts
        reached = list_items(self._trie, beams, max(k, self._num_beams), allowed, self._quota)
        codes = self._codes if self._mmr.vectors is None else None
        return rerank_by_mmr(reached, k, self._mmr.trade_off, codes=codes, vectors=self._mmr.vectors), thoughts

    def count_allowed(
        self,
        num_requests: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        where: Sequence[Where | None] | None = None,
    ) -> Int[np.ndarray, "B"]:
        """Returns how many items each request may get, whatever the model makes of them.

        Args:
            num_requests: Number of requests B.
            exclude: As for ``recommend``.
            allow: As for ``recommend``.
            where: As for ``recommend``.

        Raises:
            DataError: as ``recommend``.
            ConfigError: as ``recommend``.
        """
        return _num_allowed(self._trie, num_requests, self._filter(num_requests, exclude, allow, where))

    def allowed_items(
        self,
        num_requests: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        where: Sequence[Where | None] | None = None,
    ) -> Bool[np.ndarray, "B N"]:
        """Returns which items of the catalogue each request may get; retired items are none.

        Raises:
            DataError: as ``recommend``.
            ConfigError: as ``recommend``.
        """
        mask = np.zeros((num_requests, self._num_items), dtype=bool)
        slot = torch.arange(self._trie.num_items, device=self._trie.item_of_slot.device).expand(num_requests, -1)
        allowed = self._filter(num_requests, exclude, allow, where)
        mask[:, self._trie.item_of_slot.cpu().numpy()] = True if allowed is None else allowed.allows(slot).cpu().numpy()
        return mask

    def recommend_with_prior(
        self,
        histories: Histories,
        k: int,
        weight: float,
        prior: Float[np.ndarray, "B N"],
        allowed: Bool[np.ndarray, "B N"],
    ) -> Recommendations:
        """Returns the ``k`` items of the highest weight * log p(item) + prior; see ``decode.prior``.

        Args:
            histories: B histories.
            k: Length of each list.
            weight: Of the log-probabilities, above 0.
            prior: For each history and item.
            allowed: Items that may appear.

        Raises:
            DataError: if an item index is not in the catalog or ``k`` is less than 1.
            ConfigError: if the weight is not above 0.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        check_histories(histories, self._num_items)
        found = search_with_prior(
            self._model,
            [self._prompt(history) for history in histories],
            self._trie,
            torch.from_numpy(np.where(allowed, prior, -np.inf)),
            k,
            num_beams=self._num_beams,
            weight=weight,
            normalize=self._normalize,
            batch_size=self._batch_size,
            memory=self._memory,
        )
        return Recommendations(
            item_index=found.item.cpu().numpy(),
            score=found.score.double().cpu().numpy(),
            num_tied_beyond=found.num_tied_beyond.cpu().numpy(),
            num_allowed=allowed.sum(axis=1),
        )

    @torch.no_grad()
    def prompt_states(self, histories: Histories) -> Float[np.ndarray, "B D"]:
        """Returns the model's state after each history's prompt, from which the first code is predicted.

        Raises:
            DataError: if an item index is not in the catalog.
        """
        check_histories(histories, self._num_items)
        prompts = [self._prompt(history) for history in histories]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        states: dict[int, np.ndarray] = {}
        self._memory.learn(prompts)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            hidden = self._memory.read([prompts[row] for row in rows]).hidden.float().cpu().numpy()
            states.update(zip(rows, hidden, strict=True))
        return np.stack([states[row] for row in range(len(prompts))])

    def with_beams(self, num_beams: int) -> "LanguageModelRecommender":
        """Returns a recommender that searches with another beam width.

        Raises:
            ConfigError: if it is below 1.
        """
        check_numbers(num_beams=num_beams)
        other = copy.copy(self)
        other._num_beams = num_beams
        return other

    def after_thinking(
        self, prompt: Callable[[Sequence[int]], Sequence[int]], frame: ThoughtTokens, config: ThinkConfig | None = None
    ) -> "LanguageModelRecommender":
        """Returns a recommender that lets the same model think before each list.

        Args:
            prompt: From a history to the token ids of a prompt after which a thought's first token follows.
            frame: What ends a thought and leads over to a semantic ID.
            config: How thoughts are written.
        """
        thinking = copy.copy(self)
        thinking._prompt = prompt
        thinking._thinking = (frame, config or ThinkConfig())
        return thinking

    def at(self, moment: datetime) -> "LanguageModelRecommender":
        """Returns a recommender for which it is always ``moment`` (with a zone): conditions count back from it."""
        frozen = copy.copy(self)
        frozen._selector = None if self._selector is None else self._selector.at(moment)
        return frozen

    def with_items(self, items: pl.DataFrame) -> "LanguageModelRecommender":
        """Returns a recommender whose conditions read another table of the same items, in the same order.

        Raises:
            CatalogError: if the table has another number of items.
        """
        other = copy.copy(self)
        other._selector = ItemSelector(items, self._trie)
        return other

    def check_where(self, where: Where) -> None:
        """Checks that conditions can be asked for, and keeps the set of their items for the first request.

        Raises:
            ConfigError: if a condition cannot be understood, or goes with no column or its type.
            DataError: if most of a text column cannot be read as the number or date that it is compared with.
        """
        self._select(where)

    def _search(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        allowed: ItemFilter | None,
        rows: Sequence[int] | None,
    ) -> tuple[Thoughts | None, BeamResult]:
        asked = (self._model, prompts, self._trie, max(k, self._num_beams))
        options: dict[str, Any] = {"batch_size": self._batch_size, "memory": self._memory, "quota": self._quota}
        options["ending"] = self._ending
        if self._thinking is not None:
            thinking = (*self._thinking, self._normalize, allowed)
            return think_then_recommend(*asked, *thinking, rows=rows, **options)
        return None, constrained_beam_search(*asked, self._normalize, allowed, **options)

    def _filter(
        self,
        num_requests: int,
        exclude: Histories | None,
        allow: Histories | None,
        where: Sequence[Where | None] | None,
    ) -> ItemFilter | None:
        if exclude is None and allow is None and where is None:
            return None
        if isinstance(where, str):
            raise DataError(f"where is the one text {where!r}; expected a condition for each history")
        if where is not None and len(where) != num_requests:
            raise DataError(f"where has {len(where)} conditions for {num_requests} histories; expected one for each")
        within = None if where is None else [self._select(conditions) for conditions in where]
        return ItemFilter.from_lists(self._trie, num_requests, exclude, allow, within)

    def _select(self, conditions: Where | None) -> ItemSet | None:
        if conditions is None:
            return None
        if self._selector is None:
            raise ConfigError("this recommender was made without the catalogue's columns, so it knows no conditions")
        return self._selector.select(conditions)


def check_search_settings(num_beams: int, batch_size: int, normalize: Normalization) -> None:
    """Refuses settings that no search can honour.

    Args:
        num_beams: Should be at least 1.
        batch_size: Should be at least 1.
        normalize: Should be ``legal`` or ``full``.

    Raises:
        ConfigError: naming the first.
    """
    check_numbers(num_beams=num_beams, batch_size=batch_size)
    check_normalization(normalize)


def top_probabilities(recommendations: Recommendations) -> Float[np.ndarray, "B k"]:
    """Returns ``exp(score)``: each listed item's probability, and 0 where a list has ended.

    For a language model's list only. Items that share a semantic ID each get the probability of the whole ID.
    """
    probability: Float[np.ndarray, "B k"] = np.exp(recommendations.score)
    return probability


def list_items(
    trie: Trie, beams: BeamResult, k: int, allowed: ItemFilter | None, quota: PrefixQuota | None = None
) -> Recommendations:
    """Returns the first ``k`` allowed items on the leaves, in the leaves' order and by item index on one leaf."""
    first, last = trie.slots(trie.num_levels, beams.leaf.clamp(min=0))
    slot = first[..., None] + torch.arange(trie.max_items, dtype=torch.int32, device=first.device)
    is_item = (slot < last[..., None]) & (beams.leaf >= 0)[..., None]
    if allowed is not None:
        is_item &= allowed.allows(slot)
    if quota is not None and trie.max_items > 1:
        leaf = beams.leaf.clamp(min=0)[..., None].expand(slot.shape).flatten(1)
        is_item = within_quota(trie, leaf, is_item.flatten(1), quota).view(slot.shape)
    score = beams.logprob[..., None].expand(slot.shape).flatten(1)
    order = (~is_item.flatten(1)).to(torch.uint8).argsort(dim=1, stable=True)
    is_item, slot, score = (column.flatten(1).gather(1, order) for column in (is_item, slot, score))
    item = torch.where(is_item, trie.item_of_slot[slot.clamp(max=trie.num_items - 1).long()], -1)
    score = torch.where(is_item, score, -torch.inf)
    return Recommendations(
        item_index=item[:, :k].cpu().numpy().astype(np.int64),
        score=score[:, :k].cpu().numpy().astype(np.float64),
        num_tied_beyond=_num_tied_beyond(score, beams, k).cpu().numpy().astype(np.int64),
        num_allowed=_num_allowed(trie, len(score), allowed),
    )


def _num_allowed(trie: Trie, num_requests: int, allowed: ItemFilter | None) -> Int[np.ndarray, "B"]:
    if allowed is None:
        return np.full(num_requests, trie.num_items)
    return allowed.num_items.cpu().numpy()


def _num_tied_beyond(score: Float[Tensor, "B S"], beams: BeamResult, k: int) -> Tensor:
    """Returns how many scored items after the first ``k`` share the last one's score."""
    cut = score[:, k - 1]
    num_reached = (score[:, k:] == cut[:, None]).sum(dim=1)
    num_beyond = torch.where(beams.logprob[:, -1] == cut, beams.num_tied_beyond, 0)
    return torch.where(cut > -torch.inf, num_reached + num_beyond, 0)
