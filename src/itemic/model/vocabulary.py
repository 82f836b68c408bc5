"""Adds the tokens of a spelling to a pretrained network and its tokenizer; leaves every old row as it is.

Knows no catalog: what the new rows begin as is a function from ``new_rows``.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import AddedToken

from itemic.core.errors import ConfigError
from itemic.language.spelling import Spelling
from itemic.model.new_rows import RowInit, mean_rows
from itemic.model.parts import embedding_of, head_of, is_tied

__all__ = ["expand_vocabulary"]


def expand_vocabulary(
    network: Any,
    tokenizer: Any,
    spelling: Spelling,
    init: RowInit = mean_rows,
    *,
    rng: np.random.Generator,
    pad_to_multiple_of: int = 1,
) -> Int[np.ndarray, "n"]:
    """Returns the ids of the tokens that were new; network and tokenizer then know every token of the spelling.

    Every code gets its token, used by an item or not, so that a catalog can grow without touching the model. Old
    tokens keep their ids, input rows and head rows, so their logits are unchanged. An untied head's rows are made by
    the same function from its own old rows. Rows that a checkpoint holds beyond its tokenizer's last token (Qwen) are
    taken first; the table never shrinks. Tokens that are known already are left alone.

    Args:
        network: A causal language model without adapters; changed in place.
        tokenizer: Its tokenizer; changed in place.
        spelling: The tokens to add.
        init: From the old rows to the new rows; with ``functools.partial`` for ``text_rows`` and ``codebook_rows``,
            whose texts must be tokenized before this call.
        rng: For the new rows.
        pad_to_multiple_of: The number of rows becomes a multiple of this (64 or 128 suit tensor cores); rows without
            a token hold the mean.

    Raises:
        ConfigError: if the multiple is below 1 or ``init`` returns rows of another shape.
    """
    if pad_to_multiple_of < 1:
        raise ConfigError(f"pad_to_multiple_of: expected at least 1, found {pad_to_multiple_of}")
    known = tokenizer.get_vocab()
    tokens = spelling.tokens()
    is_new = np.array([token not in known for token in tokens], dtype=bool)
    if not is_new.any():
        return np.empty(0, dtype=np.int64)
    num_old = len(tokenizer)
    added = [AddedToken(token, normalized=False) for token, new in zip(tokens, is_new, strict=True) if new]
    tokenizer.add_tokens(added)
    new_ids = np.arange(num_old, len(tokenizer), dtype=np.int64)
    assert len(new_ids) == len(added), "tokenizers give added tokens the ids after their last one"

    num_before = embedding_of(network).weight.shape[0]
    num_rows = -(-max(num_before, len(tokenizer)) // pad_to_multiple_of) * pad_to_multiple_of
    _resize(network, num_rows)
    spare = slice(max(num_before, len(tokenizer)), num_rows)
    modules = [embedding_of(network)] if is_tied(network) else [embedding_of(network), head_of(network)]
    for module in modules:
        old = module.weight.detach()[:num_old].float()
        rows = init(old, spelling, rng)
        if rows.shape != (len(tokens), old.shape[1]):
            raise ConfigError(f"new rows: expected shape {(len(tokens), old.shape[1])}, found {tuple(rows.shape)}")
        module.weight.data[new_ids] = rows[torch.from_numpy(is_new)].to(module.weight)
        module.weight.data[spare] = old.mean(dim=0).to(module.weight)
    bias = getattr(head_of(network), "bias", None)
    if bias is not None:
        bias.data[new_ids] = bias.data[spare] = bias.data[:num_old].mean()
    return new_ids


def _resize(network: Any, num_rows: int) -> None:
    """Resizes embedding, head and config; the values of added rows are overwritten afterwards."""
    if num_rows != embedding_of(network).weight.shape[0]:
        with torch.random.fork_rng(devices=[]):
            network.resize_token_embeddings(num_rows, mean_resizing=False)
