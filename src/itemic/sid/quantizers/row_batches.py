"""Rows of item vectors as tensors: some of them, or all in random order, a batch at a time.

Knows nothing of what is computed with them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.sid.quantizers.protocol import pieces

__all__ = ["RowBatch", "read_batch", "shuffled_batches"]

_BLOCK_BYTES = 256 << 20
"""Of a mapped file's vectors that are in memory at once."""
_RUN_BYTES = 512 << 10
"""Of a mapped file that are read in one go; long enough for a disk, short enough that a block has some 500 places."""


class RowBatch(NamedTuple):
    """Some items and their vectors."""

    rows: np.ndarray
    """(B,) numbers of the items, rising."""
    vectors: np.ndarray
    """(B, D) as they are stored."""


def read_batch(x: Float[np.ndarray, "N D"], rows: slice | np.ndarray, device: torch.device) -> Float[Tensor, "B D"]:
    """Returns some rows as a float32 tensor of their own."""
    return torch.from_numpy(np.array(x[rows], dtype=np.float32)).to(device)


def shuffled_batches(x: Float[np.ndarray, "N D"], batch_size: int, generator: torch.Generator) -> Iterator[RowBatch]:
    """Yields every row once, in an order that ``generator`` alone decides; only the last batch may be short.

    Any order is equally likely, except for a mapped file of more than 256 MiB. There single rows all over the file
    would be read one by one, so runs of neighbouring rows (512 KiB) are shuffled, read into memory in blocks of
    256 MiB, and the rows of a block shuffled: a batch has items of one block only.
    """
    num_rows, row_bytes = len(x), max(1, x.shape[1] * x.itemsize)
    mapped = isinstance(x, np.memmap)
    num_in_block = max(1, _BLOCK_BYTES // row_bytes // batch_size) * batch_size if mapped else num_rows
    order = _random_order(num_rows, num_in_block, max(1, _RUN_BYTES // row_bytes), generator)
    for block in pieces(num_rows, num_in_block):
        held = np.sort(order[block])
        vectors = np.array(x[held]) if mapped else x
        for batch in pieces(len(held), batch_size):
            rows = np.sort(order[block][batch])
            yield RowBatch(rows, vectors[np.searchsorted(held, rows)] if mapped else x[rows])


def _random_order(
    num_rows: int, num_in_block: int, num_in_run: int, generator: torch.Generator
) -> Int[np.ndarray, "N"]:
    """Returns a permutation of the rows, each block of it made of whole runs of neighbours except at its ends."""
    if num_rows <= num_in_block:
        return torch.randperm(num_rows, generator=generator).numpy()
    runs = torch.randperm(-(-num_rows // num_in_run), generator=generator).numpy()
    order = (runs[:, None] * num_in_run + np.arange(num_in_run)).ravel()
    order = order[order < num_rows]
    for block in pieces(num_rows, num_in_block):
        held = order[block]
        order[block] = held[torch.randperm(len(held), generator=generator).numpy()]
    return order
