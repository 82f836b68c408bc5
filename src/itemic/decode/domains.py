"""Several catalogues behind one model: each domain has its own opening tokens and its own semantic IDs.

The domains (video, product and ad, say) become one forest: a trie whose first levels are the domains' opening tokens
and whose items are those of all domains side by side. So a request may ask for one domain, for several, or leave the
choice to the model, and every search, filter and normalisation works on it as on any other trie. Knows no prompts and
no items' meaning.

Scores compare across domains because they are of one distribution: log p(domain | prompt) + log p(item | prompt,
domain). With ``legal`` normalisation the probabilities of all items of all domains sum to 1, whatever the filter. In a
list of one domain the first part is a constant: it moves every score of a prompt and no rank. Where domains differ in
how surely the model knows their items, the part of the domain decides more than the part of the item; ask for each
domain by itself where every one must be in the answer.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.core.ranking import Histories
from itemic.decode.beam import constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.item_sets import ItemSet
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory
from itemic.decode.recommender import list_items
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization
from itemic.language.spelling import SidTokens, Spelling
from itemic.sid.catalog import Catalog

__all__ = ["Domain", "DomainForest", "DomainPolicy", "DomainRecommendations", "recommend_from_domains"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """One catalogue and the tokens that its items are written in."""

    name: str
    """What requests call it."""
    opening_ids: tuple[int, ...]
    """Tokens that open an item of this domain and of no other; as many as the other domains'."""
    level_ids: tuple[Int[np.ndarray, "_"], ...]
    """For each level the token id of every code; domains may share tokens, all, some or none."""
    codes: Int[np.ndarray, "N L"]
    """Codes of the domain's item index 0 to N - 1, coarse first."""
    active: Bool[np.ndarray, "N"] | None = None
    """Items that can be recommended; all where None."""

    def __post_init__(self) -> None:
        if not self.opening_ids:
            raise ConfigError(f"domain {self.name!r} has no opening tokens; expected at least one")
        if self.codes.shape[1] != len(self.level_ids):
            raise CatalogError(
                f"domain {self.name!r}: items have {self.codes.shape[1]} codes, there are tokens for "
                f"{len(self.level_ids)} levels"
            )
        sizes = np.array([len(ids) for ids in self.level_ids])
        outside = ((self.codes < 0) | (self.codes >= sizes)).any(axis=1)
        if outside.any():
            item = int(outside.argmax())
            raise CatalogError(
                f"domain {self.name!r}: item index {item} has the codes {self.codes[item].tolist()}; the codebooks "
                f"have {sizes.tolist()}"
            )

    @classmethod
    def from_catalog(cls, name: str, catalog: Catalog, sid_tokens: SidTokens, opening_ids: Sequence[int]) -> "Domain":
        """Returns the domain of a catalog's active items.

        Args:
            name: What requests call it.
            catalog: The semantic IDs.
            sid_tokens: Token ids of every code; their own opening tokens are not used.
            opening_ids: The domain's opening tokens.
        """
        return cls(
            name=name,
            opening_ids=tuple(opening_ids),
            level_ids=sid_tokens.level_ids,
            codes=catalog.codes,
            active=catalog.active,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainRecommendations:
    """Ranked items of several domains for a batch of prompts; where a list has ended, -1, -1 and -inf."""

    domain: Int[np.ndarray, "B k"]
    """Position of each item's domain in ``DomainForest.names``."""
    item_index: Int[np.ndarray, "B k"]
    """Item index in that domain."""
    score: Float[np.ndarray, "B k"]
    """Log-probability of the domain's opening tokens and the item's codes."""
    num_tied_beyond: Int[np.ndarray, "B"]
    """How many further items that were scored share the last listed score."""
    num_allowed: Int[np.ndarray, "B"]
    """How many items of the domains asked for each request might have got. A list shorter than both this and ``k`` did
    not reach all that were allowed."""


class DomainForest:
    """Several domains as one trie; its item indices are the domains' own, side by side."""

    def __init__(self, domains: Sequence[Domain], device: torch.device | str = "cpu") -> None:
        """Builds the trie.

        Args:
            domains: The domains, in the order in which results number them.
            device: Where the tree is to lie; a search moves it to its model, once.

        Raises:
            ConfigError: if there is no domain or two have the same name, or the same or unequally many opening tokens.
            CatalogError: if domains have unequally many levels, or no item is active.
        """
        _check_domains(domains)
        self.names = tuple(domain.name for domain in domains)
        self._start = np.cumsum([0, *(len(domain.codes) for domain in domains)])
        tables = [
            [np.array([token]) for token in domain.opening_ids] + [ids.astype(np.int64) for ids in domain.level_ids]
            for domain in domains
        ]
        level_ids = tuple(np.unique(np.concatenate(column)) for column in zip(*tables, strict=True))
        codes = [_forest_codes(domain, table, level_ids) for domain, table in zip(domains, tables, strict=True)]
        active = [np.ones(len(d.codes), dtype=bool) if d.active is None else d.active for d in domains]
        sizes = tuple(map(len, level_ids))
        self.trie = Trie.from_codes(np.concatenate(codes), sizes, np.concatenate(active)).to(torch.device(device))
        self._sid_tokens = SidTokens(Spelling(style="plain", codebook_sizes=sizes), level_ids, (), ())
        self._sets: dict[frozenset[int], ItemSet] = {}
        self._elsewhere: dict[torch.device, DomainForest] = {}

    def to(self, device: torch.device) -> "DomainForest":
        """Returns the forest with its tree on a device: itself where it lies there, else a copy made once."""
        if self.trie.item_of_slot.device == device:
            return self
        if device not in self._elsewhere:
            moved = copy.copy(self)
            moved.trie = self.trie.to(device)
            moved._sets, moved._elsewhere = {}, {}
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    def speak(self, policy: Policy) -> "DomainPolicy":
        """Returns the policy with the forest's levels for its semantic IDs: the openings, then the codes."""
        return DomainPolicy(policy, self._sid_tokens)

    def item_index(self, name: str, items: Sequence[int]) -> list[int]:
        """Returns the forest's indices of a domain's items.

        Raises:
            ConfigError: if there is no such domain.
            DataError: if an item is not in it.
        """
        number = self._number(name)
        num_items = int(self._start[number + 1] - self._start[number])
        for item in items:
            if not 0 <= item < num_items:
                raise DataError(f"domain {name!r} has no item index {item}; it has 0..{num_items - 1}")
        return [int(self._start[number]) + item for item in items]

    def locate(
        self, item_index: Int[np.ndarray, "*shape"]
    ) -> tuple[Int[np.ndarray, "*shape"], Int[np.ndarray, "*shape"]]:
        """Returns the domain's number and the item's index in it for each of the forest's indices; -1 stays -1."""
        domain = np.searchsorted(self._start, item_index, side="right") - 1
        item = item_index - self._start[np.maximum(domain, 0)]
        return np.where(item_index < 0, -1, domain), np.where(item_index < 0, -1, item)

    def filter(
        self,
        domains: Sequence[Collection[str] | None],
        exclude: Histories | None = None,
        allow: Histories | None = None,
    ) -> ItemFilter:
        """Returns the filter that leaves each request the domains that it asks for.

        Args:
            domains: For each request the names of domains, None for all of them.
            exclude: For each request the forest's item indices that must not appear.
            allow: For each request the only ones that may.

        Raises:
            ConfigError: if there is no such domain, or a name stands for a collection of them.
            DataError: as ``ItemFilter.from_lists``.
        """
        within = [None if names is None else self._set(names) for names in domains]
        return ItemFilter.from_lists(self.trie, len(domains), exclude, allow, within)

    def _set(self, names: Collection[str]) -> ItemSet:
        """Returns the items of some domains; made once for each choice."""
        if isinstance(names, str):
            raise ConfigError(f"domains {names!r}: expected a collection of names for each prompt, [[{names!r}]] say")
        chosen = frozenset(map(self._number, names))
        if chosen not in self._sets:
            of_item = np.repeat(np.arange(len(self.names)), np.diff(self._start))
            self._sets[chosen] = ItemSet.from_mask(self.trie, np.isin(of_item, sorted(chosen)))
        return self._sets[chosen]

    def _number(self, name: str) -> int:
        if name not in self.names:
            raise ConfigError(f"no domain {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)


class DomainPolicy:
    """A policy whose semantic IDs begin with a domain's opening tokens."""

    def __init__(self, policy: Policy, sid_tokens: SidTokens) -> None:
        """Keeps both; the model is asked as it was."""
        self._policy = policy
        self.sid_tokens = sid_tokens
        self.hidden = policy.hidden
        self.logits = policy.logits
        self.repeat_cache = policy.repeat_cache

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return self._policy.device

    @property
    def vocabulary_size(self) -> int:
        """Number of logits after every token."""
        return self._policy.vocabulary_size


def recommend_from_domains(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    forest: DomainForest,
    k: int,
    *,
    domains: Sequence[Collection[str] | None] | None = None,
    exclude: Histories | None = None,
    allow: Histories | None = None,
    num_beams: int = 50,
    normalize: Normalization = "legal",
    batch_size: int = 16,
    memory: PrefixMemory | None = None,
) -> DomainRecommendations:
    """Returns the ``k`` best items of the domains that each request asks for.

    Domains share the beams: a level keeps the best ``num_beams`` prefixes of all that are asked for.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a domain's opening tokens follow.
        forest: The domains.
        k: Length of each list.
        domains: For each prompt the names of domains, None for all of them; None where all prompts take all.
        exclude: For each prompt the forest's item indices that must not appear.
        allow: For each prompt the only ones that may.
        num_beams: Beam width; a list longer than that raises it to its own length.
        normalize: ``legal`` or ``full``.
        batch_size: Most prompts in the cache at once.
        memory: What prompts begin with, kept from earlier calls.

    Raises:
        ConfigError: if there is no such domain, or as ``constrained_beam_search``.
        DataError: if ``k`` is less than 1, a prompt is empty, or a list or choice is not one a prompt.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, found {k}")
    if domains is not None and len(domains) != len(prompts):
        raise DataError(f"domains has {len(domains)} choices for {len(prompts)} prompts")
    forest = forest.to(policy.device)
    allowed = None
    if not all(choice is None for choice in (domains, exclude, allow)):
        allowed = forest.filter(domains or [None] * len(prompts), exclude, allow)
    beams = constrained_beam_search(
        forest.speak(policy),
        prompts,
        forest.trie,
        max(k, num_beams),
        normalize,
        allowed,
        batch_size=batch_size,
        memory=memory,
    )
    lists = list_items(forest.trie, beams, k, allowed)
    domain, item_index = forest.locate(lists.item_index)
    assert lists.num_allowed is not None, "a language model counts what is allowed"
    return DomainRecommendations(
        domain=domain,
        item_index=item_index,
        score=lists.score,
        num_tied_beyond=lists.num_tied_beyond,
        num_allowed=lists.num_allowed,
    )


def _check_domains(domains: Sequence[Domain]) -> None:
    if not domains:
        raise ConfigError("no domain; expected at least one")
    first = domains[0]
    for number, domain in enumerate(domains):
        for other in domains[:number]:
            if other.name == domain.name:
                raise ConfigError(f"two domains are called {domain.name!r}")
            if other.opening_ids == domain.opening_ids:
                raise ConfigError(
                    f"domains {other.name!r} and {domain.name!r} open with the same tokens {list(domain.opening_ids)}, "
                    "so that their items could not be told apart; give each its own, or search each by itself"
                )
        if len(domain.opening_ids) != len(first.opening_ids):
            raise ConfigError(
                f"domain {domain.name!r} opens with {len(domain.opening_ids)} tokens, {first.name!r} with "
                f"{len(first.opening_ids)}; expected equally many"
            )
        if len(domain.level_ids) != len(first.level_ids):
            raise CatalogError(
                f"domain {domain.name!r} has {len(domain.level_ids)} levels, {first.name!r} has "
                f"{len(first.level_ids)}; one search goes through equally many: search each by itself"
            )


def _forest_codes(
    domain: Domain, tables: Sequence[Int[np.ndarray, "_"]], level_ids: Sequence[Int[np.ndarray, "_"]]
) -> Int[np.ndarray, "N M"]:
    """Returns the domain's items as codes of the forest: places of their tokens among all domains' tokens."""
    num_items, num_openings = len(domain.codes), len(domain.opening_ids)
    opening = np.zeros((num_items, num_openings), dtype=np.int64)
    codes = np.concatenate([opening, domain.codes], axis=1)
    columns = [
        np.searchsorted(union, table[column]) for union, table, column in zip(level_ids, tables, codes.T, strict=True)
    ]
    return np.stack(columns, axis=1)
