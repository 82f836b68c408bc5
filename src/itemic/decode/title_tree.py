"""The titles of a catalogue as a tree of their tokens, decoded as semantic IDs are. Knows token ids only, no words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from itemic.core.errors import DataError
from itemic.decode.trie import Trie

__all__ = ["TitleTree", "make_title_tree"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TitleTree:
    """Titles cut where they are told apart from all others, filled up to one length."""

    trie: Trie
    """Its codes are ranks among the distinct tokens of a depth; equal titles share a leaf."""
    level_ids: tuple[Int[np.ndarray, "_"], ...]
    """For each level the token id of every code."""


def make_title_tree(token_ids: Sequence[Sequence[int]], end_id: int) -> TitleTree:
    """Returns the tree of titles.

    A title's path is its tokens up to the first one that no other title shares, or with ``end_id`` behind them where
    another title goes on; then ``end_id`` until all paths are as long as the longest. Σ log p of a path over the tree's
    children equals that of the whole title over the tree of whole titles.

    Args:
        token_ids: Token ids of item index 0 to N - 1's title, without ``end_id``; items with none are not in the tree.
        end_id: Token that ends an answer.

    Raises:
        DataError: if no item has a title, or a title holds ``end_id``.
    """
    lengths = np.array([len(tokens) for tokens in token_ids], dtype=np.int64)
    if not lengths.any():
        raise DataError(f"titles: none of the {len(lengths)} items has one; leave out the tasks that ask for titles")
    titles, title_of_item = _distinct(token_ids)
    level_ids, codes = [], []
    for column in _columns(titles, end_id):
        ids, code = np.unique(column, return_inverse=True)
        level_ids.append(ids)
        codes.append(code.astype(np.int32))
    codes_of_item = np.stack(codes, axis=1)[title_of_item]
    trie = Trie.from_codes(codes_of_item, [len(ids) for ids in level_ids], active=lengths > 0)
    return TitleTree(trie=trie, level_ids=tuple(level_ids))


def _distinct(token_ids: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], Int[np.ndarray, "N"]]:
    """Returns the distinct titles and for each item the number of its own; 0 for items without a title."""
    number: dict[tuple[int, ...], int] = {}
    of_item = [number.setdefault(tuple(tokens), len(number)) if len(tokens) else 0 for tokens in token_ids]
    return list(number), np.array(of_item, dtype=np.int64)


def _columns(titles: Sequence[Sequence[int]], end_id: int) -> Iterator[Int[np.ndarray, "n"]]:
    """Yields for each depth the token of every title, down to where all titles are told apart."""
    lengths = np.array([len(title) for title in titles], dtype=np.int64)
    starts = lengths.cumsum() - lengths
    flat = np.concatenate([np.asarray(title, dtype=np.int64) for title in titles])
    if (flat == end_id).any():
        holder = int(np.searchsorted(starts, (flat == end_id).argmax(), side="right")) - 1
        raise DataError(f"titles: {list(titles[holder])} holds the end-of-turn token {end_id}; clean the catalogue")
    prefix, open_titles, depth = np.zeros(len(titles), dtype=np.int64), np.arange(len(titles)), 0
    while depth == 0 or len(open_titles):
        column = np.full(len(titles), end_id, dtype=np.int64)
        goes_on = open_titles[depth < lengths[open_titles]]
        column[goes_on] = flat[starts[goes_on] + depth]
        yield column
        prefix, is_open = _refine(prefix, column[open_titles])
        prefix, open_titles, depth = prefix[is_open], open_titles[is_open], depth + 1


def _refine(
    prefix: Int[np.ndarray, "n"], token: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Returns the number of each title's prefix with one token more, and whether another title shares it."""
    keys = prefix * (int(token.max()) + 1) + token
    _, number, count = np.unique(keys, return_inverse=True, return_counts=True)
    return number, count[number] > 1
