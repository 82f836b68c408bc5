"""Many examples in few rows: shared prefixes once, each example blind to the others, nothing cut off.

The examples of a row become one prefix tree written in depth-first order. A token sees itself and its ancestors,
which one number a token says: ``subtree_end``, the column behind its last descendant. Separate examples
(block-diagonal), a continuation (one path) and a user's examples that branch after the history are all such trees, and
each gives the loss and gradients of its examples padded one a row. Knows nothing of prompts or models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import DataError
from itemic.language.prompts import TokenExample

_NUM_OPEN_ROWS = 32

__all__ = ["Group", "PackedRows", "TreeRow", "pack_rows", "rows_to_batch", "visible"]


@dataclass(frozen=True, eq=False)
class Group:
    """Examples that share a prefix and go into one row together: a user's histories, an item's texts."""

    examples: Sequence[TokenExample]
    task: int
    """Index of the task, for the loss of each task."""


@dataclass(frozen=True, eq=False)
class PackedRows:
    """R rows of T tokens and where the loss is taken.

    Logits are wanted at P positions only; M labels are read from them (two examples with one history share the
    position and differ in the token).
    """

    input_ids: Int[np.ndarray, "R T"]
    position_ids: Int[np.ndarray, "R T"]
    """Depth in the tree: the position the token has in its own example."""
    subtree_end: Int[np.ndarray, "R T"]
    """Column behind the token's last descendant; its own column plus one where it has none, and in padding."""
    position_row: Int[np.ndarray, "P"]
    position_column: Int[np.ndarray, "P"]
    label_position: Int[np.ndarray, "M"]
    """Index into the P positions."""
    label_token: Int[np.ndarray, "M"]
    label_task: Int[np.ndarray, "M"]
    label_weight: Float[np.ndarray, "M"] | None = None
    """What each label's loss counts; None where every one counts 1."""

    @property
    def num_labels(self) -> int:
        """Number of labels M."""
        return len(self.label_token)


def visible(subtree_end: Int[Tensor, "R T"]) -> Bool[Tensor, "R 1 T T"]:
    """Returns which tokens k (last axis) each token q may attend to, ``k <= q < subtree_end[k]``, for all heads."""
    columns = torch.arange(subtree_end.shape[1], device=subtree_end.device)
    query = columns[:, None]
    return ((columns <= query) & (query < subtree_end[:, None, :]))[:, None]


@dataclass(eq=False)
class TreeRow:
    """One row: a prefix tree in depth-first order, its t tokens in pieces, one an example."""

    tokens: list[np.ndarray]
    depths: list[np.ndarray]
    ends: Int[np.ndarray, "t"]
    """For each token the column behind its last descendant."""
    labels: list[tuple[np.ndarray, np.ndarray, int]]
    """For each example its label positions, label tokens and task."""
    weights: list[np.ndarray | None] = field(default_factory=list)
    """For each example the weights of its labels; None where each is 1."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens t."""
        return len(self.ends)

    @property
    def num_labels(self) -> int:
        """Number of labels of all its examples."""
        return sum(len(tokens) for _, tokens, _ in self.labels)


def pack_rows(groups: Iterable[Group], row_tokens: int) -> list[TreeRow]:
    """Returns rows of at most ``row_tokens`` tokens that hold every example of every group.

    A group goes into the fullest of a few open rows that has room for it, so shuffled groups give random rows that are
    nearly full; a group larger than a row is continued in others, at the price of its shared prefix once more.

    Raises:
        DataError: if a single example is longer than a row.
    """
    full: list[_OpenRow] = []
    is_open: list[_OpenRow] = []
    heads: dict[int, np.ndarray] = {}
    for group in groups:
        for part, size in _parts(group, row_tokens):
            first = part[0].tokens[:-1]
            shared = _common_prefix(heads.setdefault(group.task, first), first)
            fitting = [row for row in is_open if row.size_with(size, shared, group.task) <= row_tokens]
            if fitting:
                row = max(fitting, key=lambda each: each.size)
            else:
                row = _OpenRow()
                is_open.append(row)
                if len(is_open) > _NUM_OPEN_ROWS:
                    fullest = max(is_open[:-1], key=lambda each: each.size)
                    is_open.remove(fullest)
                    full.append(fullest)
            row.add(part, size, shared, group.task)
    return [_build_tree(row.examples) for row in [*full, *is_open]]


class _OpenRow:
    """A row that still takes parts; its size counts a prefix that parts of one task share once.

    What is shared is measured against the task's first example: two parts that agree with it over some tokens agree
    with each other over the fewer of them, so the size is never too small.
    """

    def __init__(self) -> None:
        self.examples: list[tuple[TokenExample, int]] = []
        self.size = 0
        self._shared: dict[int, int] = {}

    def size_with(self, size: int, shared: int, task: int) -> int:
        """Returns the row's size with a part of ``size`` tokens."""
        return self.size + size - min(shared, self._shared.get(task, 0))

    def add(self, part: Sequence[TokenExample], size: int, shared: int, task: int) -> None:
        """Takes a part in."""
        self.size = self.size_with(size, shared, task)
        self._shared[task] = max(shared, self._shared.get(task, 0))
        self.examples.extend((example, task) for example in part)


def rows_to_batch(rows: Sequence[TreeRow], pad_token: int, multiple: int = 8) -> PackedRows:
    """Returns rows as arrays, padded to the longest one (rounded up to ``multiple``).

    Padding sees itself alone, is seen by nobody, and has position -1.
    """
    width = max(row.num_tokens for row in rows)
    width = -(-width // multiple) * multiple
    input_ids = np.full((len(rows), width), pad_token, dtype=np.int64)
    position_ids = np.full((len(rows), width), -1, dtype=np.int64)
    subtree_end = np.tile(np.arange(1, width + 1), (len(rows), 1))
    places, tokens, tasks = [], [], []
    for index, row in enumerate(rows):
        size = row.num_tokens
        input_ids[index, :size] = np.concatenate(row.tokens)
        position_ids[index, :size] = np.concatenate(row.depths)
        subtree_end[index, :size] = row.ends
        for columns, label_tokens, task in row.labels:
            places.append(index * width + columns)
            tokens.append(label_tokens)
            tasks.append(np.full(len(columns), task, dtype=np.int64))
    positions, label_position = np.unique(np.concatenate(places), return_inverse=True)
    return PackedRows(
        input_ids=input_ids,
        position_ids=position_ids,
        subtree_end=subtree_end,
        position_row=positions // width,
        position_column=positions % width,
        label_position=label_position.astype(np.int64),
        label_token=np.concatenate(tokens),
        label_task=np.concatenate(tasks),
        label_weight=_label_weights(rows),
    )


def _label_weights(rows: Sequence[TreeRow]) -> Float[np.ndarray, "M"] | None:
    if all(weight is None for row in rows for weight in row.weights):
        return None
    return np.concatenate(
        [
            np.ones(len(tokens), dtype=np.float32) if weight is None else weight
            for row in rows
            for (_, tokens, _), weight in zip(row.labels, row.weights, strict=True)
        ]
    )


def _parts(group: Group, row_tokens: int) -> Iterable[tuple[list[TokenExample], int]]:
    """Yields a group's examples, sorted so that prefixes meet, in parts whose tree fits into a row, with its size."""
    part: list[TokenExample] = []
    size = 0
    for example in _sorted(group.examples):
        length = len(example.tokens) - 1
        if length > row_tokens:
            raise DataError(
                f"an example has {length} tokens, but a row holds {row_tokens}: raise row_tokens, or shorten "
                "max_history or the texts"
            )
        added = length - (_common_prefix(part[-1].tokens[:-1], example.tokens[:-1]) if part else 0)
        if size + added > row_tokens:
            yield part, size
            part, size, added = [], 0, length
        part.append(example)
        size += added
    if part:
        yield part, size


def _build_tree(row: Sequence[tuple[TokenExample, int]]) -> TreeRow:
    """Returns the prefix tree of a row's examples; the last token of each is only ever a label, so it stays out."""
    order = sorted(range(len(row)), key=lambda index: _sort_key(row[index][0]))
    tree = TreeRow([], [], np.zeros(0, dtype=np.int64), [])
    path = np.zeros(0, dtype=np.int64)
    previous = np.zeros(0, dtype=np.int64)
    ends: list[tuple[np.ndarray, int]] = []
    size = 0
    for index in order:
        example, task = row[index]
        inside = example.tokens[:-1]
        shared = _common_prefix(previous, inside)
        ends.append((path[shared:], size))
        added = len(inside) - shared
        path = np.concatenate([path[:shared], np.arange(size, size + added)])
        tree.tokens.append(inside[shared:])
        tree.depths.append(np.arange(shared, len(inside)))
        size += added
        labels = np.flatnonzero(example.is_label)
        tree.labels.append((path[labels - 1], example.tokens[labels], task))
        tree.weights.append(None if example.weight is None else example.weight[labels])
        previous = inside
    ends.append((path, size))
    tree.ends = np.zeros(size, dtype=np.int64)
    for columns, end in ends:
        tree.ends[columns] = end
    return tree


def _sorted(examples: Sequence[TokenExample]) -> list[TokenExample]:
    return sorted(examples, key=_sort_key)


def _sort_key(example: TokenExample) -> bytes:
    """Returns bytes that sort like the token sequence, a prefix before what extends it."""
    return example.tokens[:-1].astype(">u4").tobytes()


def _common_prefix(a: Int[np.ndarray, "s"], b: Int[np.ndarray, "t"]) -> int:
    """Returns the number of leading tokens that two sequences share."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
