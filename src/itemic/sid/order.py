"""Lexicographic order and runs of equal rows in a table of codes; knows nothing of items or codebooks."""

import numpy as np
from jaxtyping import Bool, Int

__all__ = ["lexicographic_order", "run_starts", "same_row_ids"]


def lexicographic_order(codes: Int[np.ndarray, "N L"]) -> Int[np.ndarray, "N"]:
    """Returns the rows in lexicographic order, first column first; equal rows keep their order."""
    if codes.shape[1] == 0:
        return np.arange(len(codes))
    return np.lexsort(codes.T[::-1])


def run_starts(sorted_codes: Int[np.ndarray, "N L"]) -> Bool[np.ndarray, "N"]:
    """Returns where a row differs from the one before it, in rows that are sorted; the first row always does."""
    starts = np.ones(len(sorted_codes), dtype=bool)
    starts[1:] = (sorted_codes[1:] != sorted_codes[:-1]).any(axis=1)
    return starts


def same_row_ids(codes: Int[np.ndarray, "N L"]) -> Int[np.ndarray, "N"]:
    """Returns for each row the number of its value: equal rows share it, values are numbered in sorted order."""
    order = lexicographic_order(codes)
    ids = np.empty(len(codes), dtype=np.int64)
    ids[order] = np.cumsum(run_starts(codes[order])) - 1
    return ids
