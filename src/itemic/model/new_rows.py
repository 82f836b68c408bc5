"""First values for the vocabulary rows of new SID tokens: pure functions of the old rows.

Each takes one table of old rows (input embeddings or an untied head), the spelling and an ``rng``, and returns a row
for every token of ``spelling.tokens()`` in that order. Knows neither networks nor tokenizers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import DataError
from itemic.language.spelling import Spelling

__all__ = ["RowInit", "codebook_rows", "mean_rows", "text_rows"]

RowInit = Callable[[Tensor, Spelling, np.random.Generator], Tensor]
"""From the old rows (V, D), the spelling and an rng to the new rows (n, D)."""

_NOISE = 0.1
_CODEBOOK_SPREAD = 0.5


def mean_rows(table: Float[Tensor, "V D"], spelling: Spelling, rng: np.random.Generator) -> Float[Tensor, "n D"]:
    """Returns the mean of the old rows plus a tenth of their spread as Gaussian noise.

    At the mean a new token takes little probability from the old ones, whatever the hidden state (Hewitt 2021,
    "Initializing new word embeddings"); the noise tells the new tokens apart from the first step on.
    """
    noise = rng.standard_normal((len(spelling.tokens()), table.shape[1]), dtype=np.float32)
    return table.mean(dim=0) + _NOISE * table.std(dim=0, correction=0) * torch.from_numpy(noise).to(table)


def text_rows(
    table: Float[Tensor, "V D"],
    spelling: Spelling,
    rng: np.random.Generator,
    *,
    codes: Int[np.ndarray, "N L"],
    token_ids: Sequence[Sequence[int]],
) -> Float[Tensor, "n D"]:
    """Returns for each code the mean over its items of the mean old row of the item's text tokens.

    A code that no item with a text carries, and the wrapper tokens, get :func:`mean_rows`.

    Args:
        table: Old rows.
        spelling: The tokens that need rows.
        rng: For the rows without a text.
        codes: SID of every item.
        token_ids: Text of every item, its title say, in old tokens; empty for an item without a text.

    Raises:
        DataError: if codes and texts differ in number.
    """
    if len(codes) != len(token_ids):
        raise DataError(f"expected a text for each of {len(codes)} items, found {len(token_ids)}")
    rows = mean_rows(table, spelling, rng)
    with_text = np.array([len(ids) > 0 for ids in token_ids], dtype=bool)
    if not with_text.any():
        return rows
    # Summed on the CPU: CUDA adds in no fixed order, and the same seed must give the same rows.
    items = _bag_means(table, [ids for ids in token_ids if len(ids)]).cpu()
    first = 0
    for level, size in enumerate(spelling.codebook_sizes):
        code = torch.from_numpy(codes[with_text, level])
        sums = items.new_zeros(size, items.shape[1]).index_add_(0, code, items)
        counts = torch.bincount(code, minlength=size)
        used = counts.nonzero().squeeze(1)
        rows[first + used] = (sums[used] / counts[used, None]).to(rows)
        first += size
    return rows


def codebook_rows(
    table: Float[Tensor, "V D"],
    spelling: Spelling,
    rng: np.random.Generator,
    *,
    codebooks: Sequence[Float[np.ndarray, "_ d"]],
    spread: float = _CODEBOOK_SPREAD,
) -> Float[Tensor, "n D"]:
    """Returns the codebook vectors, centred a level, projected to D dimensions around the old rows' mean.

    row = mean + spread * std * c P / rms(c P) with one Gaussian P for all levels: by Johnson and Lindenstrauss codes
    that are near in the item space stay near, and a residual keeps its direction relative to the level above. The
    division is a level's own, because residuals shrink from level to level and vocabulary rows do not. Half the
    spread, because in a tied head rows of all of it draw probability from the words: on English text 768 such rows
    took 18% a token from SmolLM2-135M (97% at worst), rows of half of it 0.04%. Wrapper tokens get :func:`mean_rows`,
    and so do the numbers that ``collisions: suffix`` puts after the coded levels, which mean nothing.

    Args:
        table: Old rows.
        spelling: The tokens that need rows.
        rng: For the projection.
        codebooks: Centroids of each coded level, all of width d.
        spread: Of the old rows' spread; a vocabulary without words has none to draw from, and takes 1.

    Raises:
        DataError: if the codebooks are not of the spelling's first sizes.
    """
    sizes = tuple(len(codebook) for codebook in codebooks)
    if not sizes or sizes != spelling.codebook_sizes[: len(sizes)]:
        raise DataError(f"expected codebooks of sizes {spelling.codebook_sizes}, found {sizes}")
    rows = mean_rows(table, spelling, rng)
    mean, std = table.mean(dim=0), table.std(dim=0, correction=0)
    width = codebooks[0].shape[1]
    projection = rng.standard_normal((width, table.shape[1])) / np.sqrt(width)
    first = 0
    for codebook in codebooks:
        projected = (codebook - codebook.mean(axis=0)) @ projection
        rms = float(np.sqrt(np.mean(projected**2)))
        if rms > 0:
            rows[first : first + len(codebook)] = mean + spread * std * torch.from_numpy(projected / rms).to(table)
        first += len(codebook)
    return rows


def _bag_means(table: Float[Tensor, "V D"], bags: Sequence[Sequence[int]]) -> Float[Tensor, "m D"]:
    """Returns the mean of the rows of each bag; no bag is empty."""
    flat = torch.from_numpy(np.concatenate([np.asarray(bag, dtype=np.int64) for bag in bags])).to(table.device)
    lengths = torch.tensor([len(bag) for bag in bags], device=table.device)
    offsets = lengths.cumsum(0) - lengths
    return torch.nn.functional.embedding_bag(flat, table, offsets, mode="mean")
