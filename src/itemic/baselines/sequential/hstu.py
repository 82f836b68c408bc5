"""HSTU: attention without softmax, gated, in place of attention and feed-forward (Zhai et al., 2024).

Trained as ``sasrec`` is, on every position of windows with cross-entropy over the whole catalogue; the paper samples
its negatives, which a catalogue of this size does not need. Histories carry no times, so that the bias knows
distances alone and not, as the paper's, also the time between two items.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from itemic.baselines.sequential.config import WindowsConfig
from itemic.baselines.sequential.network import CausalNetwork
from itemic.baselines.sequential.recommender import SequentialRecommender

__all__ = ["HSTU", "HSTUConfig", "HstuNetwork", "pointwise_attention"]

_INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class HSTUConfig(WindowsConfig):
    """Network and training; the defaults of ``sasrec``."""

    kind: Literal["hstu"] = "hstu"


class HstuNetwork(CausalNetwork):
    """Reads a sequence of items; its state at each position scores every item as the next one.

    Deviations from the paper: distances as a learned bias a head alone, no absolute places, as in ``SasrecNetwork``
    and for its reason; the state normalised by its mean and variance and scored by the item table as it is, where
    the paper's code takes cosines.
    """

    def __init__(
        self, num_items: int, max_length: int, hidden_size: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        self.blocks = nn.ModuleList(_Block(max_length, hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.apply(_initialise)

    def forward(self, items: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Returns the state after each item."""
        state = self.dropout(self.items(items) * math.sqrt(self.items.embedding_dim))
        for block in self.blocks:
            state = block(state)
        normed: Tensor = self.norm(state)
        return normed

    def output(self) -> tuple[Float[Tensor, "N D"], None]:
        """Returns the item table: the output layer is tied to it."""
        return self.items.weight, None


def pointwise_attention(
    query: Float[Tensor, "B H T d"],
    key: Float[Tensor, "B H T d"],
    value: Float[Tensor, "B H T d"],
    bias: Float[Tensor, "H T T"],
    length: int,
) -> Float[Tensor, "B H T d"]:
    """Returns the pointwise aggregated attention of Zhai et al. (2024), eq. 2, of each position to it and its past.

    y_t = 1/n sum_{s <= t} silu(q_t . k_s + bias_ts) v_s

    Args:
        query: A row a position.
        key: As the query.
        value: As the query.
        bias: Added before the activation.
        length: The n that the sum is divided by, one number for all positions.
    """
    past = torch.ones(bias.shape[1:], dtype=torch.bool, device=bias.device).tril()
    weights = functional.silu(query @ key.transpose(2, 3) + bias) * past
    return weights @ value / length


class _Block(nn.Module):
    """X + f2(norm(attention(Q, K, V)) * U), with U, V, Q and K the SiLU of one layer over the normalised X."""

    def __init__(self, max_length: int, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.max_length = num_heads, max_length
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, max_length))
        self.input_norm = nn.LayerNorm(hidden_size)
        self.gate_value_query_key = nn.Linear(hidden_size, 4 * hidden_size)
        self.attended_norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, length, width = state.shape
        parts = functional.silu(self.gate_value_query_key(self.input_norm(state))).chunk(4, dim=2)
        gate, *heads = parts
        value, query, key = (
            part.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2) for part in heads
        )
        attended = pointwise_attention(query, key, value, self._bias(length), self.max_length)
        mixed = self.attended_norm(attended.transpose(1, 2).reshape(batch, length, width))
        added: Tensor = state + self.output(self.dropout(mixed * gate))
        return added

    def _bias(self, length: int) -> Float[Tensor, "H T T"]:
        """Returns what each position adds to its attention to each earlier one."""
        position = torch.arange(length, device=self.distance_bias.device)
        return self.distance_bias[:, (position[:, None] - position).clamp(min=0)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class HSTU(SequentialRecommender):
    """The recommender around an ``HstuNetwork``."""

    name = "HSTU"
    settings = HSTUConfig

    @classmethod
    def shape_of(cls, config: HSTUConfig, num_items: int) -> dict[str, Any]:
        """Returns the arguments of ``HstuNetwork``."""
        return {
            "num_items": num_items,
            "max_length": config.max_length,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "dropout": config.dropout,
        }

    @classmethod
    def make_network(cls, **shape: Any) -> HstuNetwork:
        """Returns an untrained network."""
        return HstuNetwork(**shape)
