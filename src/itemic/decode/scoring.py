"""From hidden states to log-probabilities, over a node's children or over the whole vocabulary; knows no beams."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itemic.decode.policy import Policy

__all__ = ["VocabularyNormalizer", "legal_normalizer", "widen"]

_TILE_COLUMNS = 1024
"""Tokens scored at once on a CPU: a tile stays in the caches between product and sum, the head is read once and not
once a chunk of states, and the tiles are the same for any number of states, so that a model can pack each once. 640 to
2,048 columns are equally fast."""
_TILE_ELEMENTS = 1 << 26
"""Logits held at once elsewhere."""


def widen(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns the logits in at least float32, so that half-precision models are scored as exactly as they can be."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def legal_normalizer(
    child_logits: Float[Tensor, "*shape C"], is_child: Bool[Tensor, "*shape C"]
) -> Float[Tensor, "*shape"]:
    """Returns log sum exp of the logits of a node's children; every node has at least one."""
    return child_logits.masked_fill(~is_child, -torch.inf).logsumexp(dim=-1)


class VocabularyNormalizer:
    """Log sum exp over the whole vocabulary, tile by tile, so that no (states, V) matrix is ever made."""

    def __init__(self, policy: Policy) -> None:
        """Keeps the policy, which knows V."""
        self._policy = policy

    def __call__(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """Returns log sum exp of each state's logits."""
        num_states = max(1, hidden.shape[:-1].numel())
        width = _TILE_COLUMNS if hidden.device.type == "cpu" else max(_TILE_COLUMNS, _TILE_ELEMENTS // num_states)
        vocabulary_size = self._policy.vocabulary_size
        tiles = [slice(start, min(start + width, vocabulary_size)) for start in range(0, vocabulary_size, width)]
        partial = [_logsumexp_in_place(widen(self._policy.logits(hidden, tile))) for tile in tiles]
        return torch.stack(partial).logsumexp(dim=0)


def _logsumexp_in_place(logits: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
    """Returns log sum exp of finite logits, which are overwritten: 1.8 times faster than keeping them."""
    maximum = logits.amax(dim=-1, keepdim=True)
    return logits.sub_(maximum).exp_().sum(dim=-1).log_().add_(maximum[..., 0])
