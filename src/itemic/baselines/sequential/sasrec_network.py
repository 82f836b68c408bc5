"""The SASRec network: a causal transformer over item embeddings, tied to the output (Kang and McAuley, 2018).

Knows nothing of data, training or ranking.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from itemic.baselines.sequential.network import CausalNetwork

__all__ = ["SasrecNetwork"]

_INIT_STD = 0.02


class SasrecNetwork(CausalNetwork):
    """Reads a sequence of items; its state at each position scores every item as the next one.

    Deviations from the paper: positions enter as a learned bias a distance and head (as in T5), since a window starts
    somewhere in a user's past and the absolute position in it means nothing; and, common since the paper,
    normalisation before each part, GELU, and a feed-forward part four times as wide.
    """

    def __init__(
        self, num_items: int, max_length: int, hidden_size: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        blocks = (_Block(max_length, hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.apply(_initialise)

    def forward(self, items: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Returns the state after each item; padding goes to the right, where the causal mask hides it."""
        state = self.dropout(self.items(items) * math.sqrt(self.items.embedding_dim))
        for block in self.blocks:
            state = block(state)
        normed: Tensor = self.norm(state)
        return normed

    def output(self) -> tuple[Float[Tensor, "N D"], None]:
        """Returns the item table: the output layer is tied to it."""
        return self.items.weight, None


class _Block(nn.Module):
    """Attention and feed-forward, each on a normalised input and added to it."""

    def __init__(self, max_length: int, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, max_length))
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        state = state + self.dropout(self._attend(self.attention_norm(state)))
        added: Tensor = state + self.dropout(self.feed_forward(state))
        return added

    def _attend(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, length, width = state.shape
        heads = self.query_key_value(state).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        bias = self._bias(length).expand(batch, -1, -1, -1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed: Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, width))
        return mixed

    def _bias(self, length: int) -> Float[Tensor, "H T T"]:
        """Returns what each query position adds to its attention to each key position; -inf for later ones."""
        position = torch.arange(length, device=self.distance_bias.device)
        distance = position[:, None] - position
        return self.distance_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
