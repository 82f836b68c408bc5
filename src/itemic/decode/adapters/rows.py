"""The running batch of a serving engine: rows that come, move and go, each at its own place in a semantic ID.

An engine that batches continuously (vLLM) hands over the logits of whatever rows it has just now; this module knows
which of them must write a semantic ID and what may follow in each. Knows no engine: ``vllm`` is the adapter.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.decode.adapters.prefix import PrefixReader
from itemic.decode.filters import ItemFilter
from itemic.decode.scoring import legal_normalizer, widen
from itemic.decode.walk import Normalization

__all__ = ["ConstrainedRows", "RowRequest"]

log = logging.getLogger("itemic")

_KEY = "itemic"
_MODES = ("sid", "text_then_sid")


@dataclass(frozen=True, kw_only=True)
class RowRequest:
    """What one request wants, as it travels beside its sampling parameters."""

    is_text_first: bool = False
    """Whether free text comes first, until ``begins_after`` was written; otherwise the semantic ID begins at once."""
    begins_after: tuple[int, ...] = ()
    """Token ids that end the free text; the spelling's opening tokens where empty."""
    num_given: int = 0
    """How many codes of the semantic ID the prompt ends with: a beam's prefix."""
    normalize: Normalization = "legal"
    """What the scores that the row is left with are normalised over."""
    exclude: tuple[str | int, ...] = ()
    """Items that must not come out: ids as text, or item indices as integers."""
    allow: tuple[str | int, ...] | None = None
    """The only items that may come out; all where None."""

    def __post_init__(self) -> None:
        if self.num_given < 0 or (self.num_given and self.is_text_first):
            raise ConfigError(f"itemic_num_given {self.num_given}: expected at least 0, and 0 where text comes first")
        if self.begins_after and not self.is_text_first:
            raise ConfigError("itemic_begins_after: only for itemic = 'text_then_sid'")

    @classmethod
    def from_extra_args(cls, extra_args: Mapping[str, Any] | None) -> "RowRequest | None":
        """Returns the request that flat arguments describe, None where they ask for no semantic ID.

        The keys: ``itemic`` (``sid`` or ``text_then_sid``) and, each optional, ``itemic_begins_after``,
        ``itemic_num_given``, ``itemic_normalize``, ``itemic_exclude``, ``itemic_allow``. Other keys are not ours.

        Raises:
            ConfigError: if a key of ours or its value is not one of these.
        """
        ours = {key: value for key, value in (extra_args or {}).items() if key.startswith(_KEY)}
        if not ours:
            return None
        mode = ours.pop(_KEY, None)
        if mode not in _MODES:
            raise ConfigError(f"itemic: expected {' or '.join(_MODES)}, found {mode!r}")
        names = {f"{_KEY}_{name}": name for name in ("begins_after", "num_given", "normalize", "exclude", "allow")}
        unknown = sorted(set(ours) - set(names))
        if unknown:
            raise ConfigError(f"{unknown[0]}: no such argument; there are {', '.join(names)}")
        values = {names[key]: _READERS[names[key]](key, value) for key, value in ours.items()}
        return cls(is_text_first=mode == "text_then_sid", **values)


def _read_ints(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(type(each) is int for each in value):
        raise ConfigError(f"{key}: expected a list of token ids, found {value!r}")
    return tuple(value)


def _read_items(key: str, value: Any) -> tuple[str | int, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(type(each) in (int, str) for each in value):
        raise ConfigError(f"{key}: expected a list of item ids (text) or item indices (integers), found {value!r}")
    return tuple(value)


def _read_int(key: str, value: Any) -> int:
    if type(value) is not int:
        raise ConfigError(f"{key}: expected an integer, found {value!r}")
    return value


def _read_normalization(key: str, value: Any) -> str:
    if value not in get_args(Normalization):
        raise ConfigError(f"{key} {value!r}: expected {' or '.join(get_args(Normalization))}")
    return str(value)


_READERS: dict[str, Any] = {
    "begins_after": _read_ints,
    "num_given": _read_int,
    "normalize": _read_normalization,
    "exclude": _read_items,
    "allow": _read_items,
}


@dataclass(eq=False)
class _Row:
    """One request in the batch."""

    wish: RowRequest
    output: Sequence[int]
    """Tokens written so far: the engine's own list, which grows."""
    given: tuple[int, ...]
    """Codes that the prompt ends with."""
    mark: tuple[int, ...]
    """Tokens after which the semantic ID begins; empty where it begins with the output."""
    forced: tuple[int, ...]
    """Opening tokens still to be written before the codes."""
    filter_key: tuple[bool, tuple[int, ...]] | None
    """Whether the items are the allowed ones, and the items; None where every item is allowed."""
    begin: int | None = None
    """Place in the output after the mark; None while it was not written."""
    num_searched: int = 0

    def find_begin(self) -> int | None:
        """Returns the place in the output after the mark, None if it is not there yet."""
        if self.begin is None:
            width = len(self.mark)
            for end in range(max(width, self.num_searched), len(self.output) + 1):
                if tuple(self.output[end - width : end]) == self.mark:
                    self.begin = end
                    break
            self.num_searched = len(self.output) + 1
        return self.begin


@dataclass(frozen=True, eq=False)
class _Writing:
    """One row within its semantic ID."""

    row: int
    """Row of the logits."""
    request: _Row
    written: list[int]
    """The codes, closing tokens and end tokens that it has."""


@dataclass(frozen=True, eq=False)
class _Standing:
    """The rows of one step, by what may follow in them."""

    forced: list[tuple[int, int]] = field(default_factory=list)
    """Row and the one token that may follow."""
    writing: dict[int, list[_Writing]] = field(default_factory=dict)
    """By depth in the tree, the rows that have so many codes; at depth L those that have all of them."""


class ConstrainedRows:
    """The rows of a running batch that must write a semantic ID; all others are left as they are.

    A row that nothing may follow (its filter allows no item, or its tokens left the tree) can only end: it gets the
    end token with score 0. It is never left unconstrained.
    """

    def __init__(self, reader: PrefixReader, opening_ids: Sequence[int], end_id: int, item_ids: Sequence[str]) -> None:
        """Begins with no row.

        Args:
            reader: The tree and its token ids, on the device of the logits.
            opening_ids: Tokens before a semantic ID's codes.
            end_id: The token that ends an answer.
            item_ids: The user's id of every item index.
        """
        self._reader = reader
        self._opening = tuple(opening_ids)
        self._end_id = end_id
        self._item_ids = item_ids
        self._rows: dict[int, _Row] = {}
        self._filters: dict[bool, tuple[dict[tuple[int, ...], int], ItemFilter]] = {}

    def __len__(self) -> int:
        """Returns the number of rows that are constrained."""
        return len(self._rows)

    def num_prompt_tokens(self, request: RowRequest) -> int:
        """Returns how many of a prompt's last tokens :meth:`add` looks at."""
        return len(self._opening) + request.num_given

    def add(self, index: int, request: RowRequest | None, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Puts a request in a row, whatever was there before.

        Args:
            index: Where: a row of the logits, or whatever names a request while it lives.
            request: What it wants; None for one that is not constrained.
            prompt: Its prompt, or the end of it.
            output: What it has written; the engine's own list, read anew at every step.
        """
        self.remove(index)
        if request is None:
            return
        if request.num_given > len(prompt):
            log.error(
                "itemic_num_given %d for a prompt of %d tokens: nothing can follow", request.num_given, len(prompt)
            )
            self._rows[index] = _Row(request, output, given=(), mark=(), forced=(), filter_key=(True, ()), begin=0)
            return
        mark = (request.begins_after or self._opening) if request.is_text_first else ()
        before = mark or tuple(prompt[: len(prompt) - request.num_given])
        is_open = before[len(before) - len(self._opening) :] == self._opening
        self._rows[index] = _Row(
            request,
            output,
            given=tuple(prompt[len(prompt) - request.num_given :]),
            mark=mark,
            forced=() if is_open else self._opening,
            filter_key=self._filter_key(request),
            begin=None if mark else 0,
        )
        if request.is_text_first and not mark:
            log.error("a request for text, then a semantic ID, names no begins_after, and the spelling has no opening")
            self._rows[index].filter_key = (True, ())

    def remove(self, index: int) -> None:
        """Empties a row."""
        self._rows.pop(index, None)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Moves a row's request to another row, whose own moves the other way (``swap``) or ends."""
        moved, met = self._rows.pop(source, None), self._rows.pop(target, None)
        if moved is not None:
            self._rows[target] = moved
        if swap and met is not None:
            self._rows[source] = met

    def constrain(self, logits: Float[Tensor, "R V"], row_of: Mapping[int, int] | None = None) -> None:
        """Overwrites the constrained rows: log-probabilities of the tokens that may follow, -inf for all others.

        A log-probability is over the tokens that continue a semantic ID of the tree, whatever the filter, or over the
        vocabulary, by the request's ``normalize``; a token that is the only one gets 0.

        Args:
            logits: Scores of the whole vocabulary.
            row_of: For each index that is in the batch just now its row of the logits; None where an index is its row.
        """
        standing = self._standing(row_of)
        for depth, rows in standing.writing.items():
            if depth < self._reader.trie.num_levels:
                self._open_children(logits, depth, rows)
            else:
                self._open_ending(logits, rows)
        if standing.forced:
            row, token = torch.tensor(standing.forced, device=logits.device).unbind(dim=1)
            _leave_one(logits, row, token)

    def _standing(self, row_of: Mapping[int, int] | None) -> _Standing:
        standing = _Standing()
        for index, request in self._rows.items():
            row = index if row_of is None else row_of.get(index)
            begin = request.find_begin()
            if row is None or begin is None:
                continue
            written = request.output[begin:]
            num_forced = len(request.forced)
            if len(written) < num_forced:
                standing.forced.append((row, request.forced[len(written)]))
                continue
            codes = [*request.given, *written[num_forced:]]
            depth = min(len(codes), self._reader.trie.num_levels)
            standing.writing.setdefault(depth, []).append(_Writing(row, request, codes))
        return standing

    def _open_children(self, logits: Float[Tensor, "R V"], depth: int, rows: list[_Writing]) -> None:
        """Leaves the children of rows that stand at ``depth``."""
        row, node, is_legal = self._nodes(rows, depth)
        child, is_child, token = self._reader.children(depth, torch.where(is_legal, node, 0))
        logit = widen(logits[row[:, None], token])
        normalizer = legal_normalizer(logit, is_child)
        is_full = [each.request.wish.normalize == "full" for each in rows]
        if any(is_full):
            full = torch.tensor(is_full, device=logits.device)
            normalizer[full] = widen(logits[row[full]]).logsumexp(dim=-1)
        score = logit - normalizer[:, None]
        is_open = is_legal[:, None] & self._is_allowed(rows, depth + 1, child) & (score > -torch.inf)
        logits.index_fill_(0, row, -torch.inf)
        # A column beyond a node's children repeats its first child, so that equal values are written twice.
        logits[row[:, None], token] = score.masked_fill(~is_open, -torch.inf).to(logits.dtype)
        logits[row, self._end_id] = torch.where(is_open.any(dim=1), -torch.inf, 0.0).to(logits.dtype)

    def _open_ending(self, logits: Float[Tensor, "R V"], rows: list[_Writing]) -> None:
        """Leaves the one token that follows complete codes."""
        num_levels, ending = self._reader.trie.num_levels, (*self._reader.closing_ids, self._end_id)
        place = [min(len(each.written) - num_levels, len(ending) - 1) for each in rows]
        row, _, is_legal = self._nodes(rows, num_levels)
        token = torch.tensor([ending[each] for each in place], device=logits.device)
        _leave_one(logits, row, torch.where(is_legal, token, self._end_id))

    def _nodes(self, rows: list[_Writing], depth: int) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Bool[Tensor, "n"]]:
        """Returns the rows of the logits, the nodes that their first codes lead to, and whether there is one."""
        table = torch.tensor([[each.row, *each.written[:depth]] for each in rows], device=self._reader.device)
        prefixes = self._reader.read(table, torch.ones_like(table[:, 0]))
        return table[:, 0], prefixes.node, prefixes.is_legal

    def _is_allowed(self, rows: list[_Writing], depth: int, node: Int[Tensor, "n C"]) -> Bool[Tensor, "n C"]:
        is_allowed = torch.ones_like(node, dtype=torch.bool)
        keys = [each.request.filter_key for each in rows]
        for are_allowed in (False, True):
            listed = [(place, key[1]) for place, key in enumerate(keys) if key is not None and key[0] == are_allowed]
            if listed:
                where = torch.tensor([place for place, _ in listed], device=node.device)
                chosen = self._filter(are_allowed, [items for _, items in listed])
                is_allowed[where] = chosen.num_allowed(depth, node[where]) > 0
        return is_allowed

    def _filter(self, are_allowed: bool, lists: list[tuple[int, ...]]) -> ItemFilter:
        """Returns the filter of some rows, made of distinct lists once and kept while no other list comes."""
        place_of, made = self._filters.get(are_allowed, ({}, None))
        if made is None or not place_of.keys() >= set(lists):
            keys = [row.filter_key for row in self._rows.values()]
            distinct = list(dict.fromkeys(key[1] for key in keys if key is not None and key[0] == are_allowed))
            exclude, allow = (None, distinct) if are_allowed else (distinct, None)
            made = ItemFilter.from_lists(self._reader.trie, len(distinct), exclude, allow)
            place_of = {items: place for place, items in enumerate(distinct)}
            self._filters[are_allowed] = (place_of, made)
        return made.select(torch.tensor([place_of[items] for items in lists], device=self._reader.device))

    def _filter_key(self, request: RowRequest) -> tuple[bool, tuple[int, ...]] | None:
        """Returns the request's items by index; ids that the catalogue does not hold are passed over."""
        excluded = self._indices(request.exclude)
        if request.allow is None:
            return (False, tuple(excluded)) if excluded else None
        return True, tuple(item for item in self._indices(request.allow) if item not in excluded)

    def _indices(self, items: Sequence[str | int]) -> dict[int, None]:
        found = (self._index_of_id.get(item, -1) if isinstance(item, str) else item for item in items)
        return {index: None for index in found if 0 <= index < len(self._item_ids)}

    @cached_property
    def _index_of_id(self) -> dict[str, int]:
        """Made when the first id comes: ten million ids take over a gigabyte."""
        return {item_id: index for index, item_id in enumerate(self._item_ids)}


def _leave_one(logits: Float[Tensor, "R V"], row: Int[Tensor, "n"], token: Int[Tensor, "n"]) -> None:
    logits.index_fill_(0, row, -torch.inf)
    logits[row, token] = 0.0
