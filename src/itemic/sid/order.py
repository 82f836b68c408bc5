"""Lexicographic order and runs of equal rows in a table of codes; knows nothing of items or codebooks."""

import math

import numpy as np
from jaxtyping import Bool, Int

__all__ = ["lexicographic_order", "num_distinct_rows", "run_starts", "same_row_ids"]


def lexicographic_order(codes: Int[np.ndarray, "N L"]) -> Int[np.ndarray, "N"]:
    """Returns the rows in lexicographic order, first column first; equal rows keep their order.

    Wherever that fits into 64 bits, each row becomes one integer, its codes the digits of a mixed radix above the
    bits of its row number: plain integers sort several times faster, and the row numbers come out in order. Where
    only the codes fit, their integers are argsorted, still several times faster than column after column.
    """
    if codes.size == 0:
        return np.arange(len(codes))
    lowest = codes.min(axis=0).tolist()
    ranges = [highest - low + 1 for highest, low in zip(codes.max(axis=0).tolist(), lowest, strict=True)]
    row_bits = len(codes).bit_length()
    most = np.iinfo(np.int64).max
    if math.prod(ranges) > most:
        return np.lexsort(codes.T[::-1])
    keys = np.zeros(len(codes), dtype=np.int64)
    for column, low, size in zip(codes.T, lowest, ranges, strict=True):
        keys *= size
        keys += column
        keys -= low
    if math.prod(ranges) << row_bits > most:
        return keys.argsort(kind="stable")
    keys <<= row_bits
    keys |= np.arange(len(codes))
    keys.sort()
    keys &= (1 << row_bits) - 1
    return keys


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


def num_distinct_rows(codes: Int[np.ndarray, "N L"]) -> int:
    """Returns how many different rows there are."""
    return int(same_row_ids(codes).max()) + 1
