"""Adds the tokens of a spelling to a pretrained network and its tokenizer; leaves every old row as it is.

Knows no catalog: what the new rows begin as is a function from ``new_rows``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
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
    tokens = spelling.tokens()
    num_old = len(tokenizer)
    is_new = _add_tokens(tokenizer, tokens)
    new_ids = np.arange(num_old, len(tokenizer), dtype=np.int64)
    if len(new_ids) == 0:
        return new_ids
    spare = _resize(network, len(tokenizer), pad_to_multiple_of)
    modules = [embedding_of(network)] if is_tied(network) else [embedding_of(network), head_of(network)]
    for module in modules:
        old = module.weight.detach()[:num_old].float()
        rows = init(old, spelling, rng)
        if rows.shape != (len(tokens), old.shape[1]):
            raise ConfigError(f"new rows: expected shape {(len(tokens), old.shape[1])}, found {tuple(rows.shape)}")
        module.weight.data[new_ids] = rows[torch.from_numpy(is_new)].to(module.weight)
        module.weight.data[spare] = old.mean(dim=0).to(module.weight)
    bias = head_of(network).bias
    if bias is not None:
        bias.data[new_ids] = bias.data[spare] = bias.data[:num_old].mean()
    return new_ids


def _add_tokens(tokenizer: Any, tokens: Sequence[str]) -> Bool[np.ndarray, "n"]:
    """Adds the tokens that the tokenizer does not know, in order after its last one; returns which those were."""
    known, num_old = tokenizer.get_vocab(), len(tokenizer)
    is_new = np.array([token not in known for token in tokens], dtype=bool)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens if token not in known])
    assert len(tokenizer) == num_old + is_new.sum(), "each added token gets the id after the last one"
    return is_new


def _resize(network: Any, num_tokens: int, multiple: int) -> slice:
    """Makes room for the tokens in embedding, head and config; returns the rows that it added beyond them."""
    num_before = embedding_of(network).weight.shape[0]
    num_used = max(num_before, num_tokens)
    num_rows = -(-num_used // multiple) * multiple
    if num_rows != num_before:
        with torch.random.fork_rng(devices=[]):  # the values drawn here are all overwritten
            network.resize_token_embeddings(num_rows, mean_resizing=False)
    return slice(num_used, num_rows)
