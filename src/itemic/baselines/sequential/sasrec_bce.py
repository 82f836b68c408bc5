"""SASRec with one negative a positive (Kang and McAuley, 2018), as in MiniOneRec's table of baselines.

``sasrec`` is the stronger of the two: the same idea, every position a target, the whole catalogue in the loss.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itemic.baselines.sequential.config import ExamplesConfig
from itemic.baselines.sequential.network import CausalNetwork
from itemic.baselines.sequential.recommender import SequentialRecommender
from itemic.core.errors import ConfigError

__all__ = ["SASRecBCE", "SASRecBCEConfig", "SasrecBceNetwork"]

_ITEM_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class SASRecBCEConfig(ExamplesConfig):
    """Network and training; by default as the published row."""

    kind: Literal["sasrec-bce"] = "sasrec-bce"
    loss: Literal["bce"] = "bce"
    """Each target against one random other item."""
    num_layers: int = 1
    """Blocks; the paper has two."""
    num_heads: int = 1
    """Attention heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_layers", "num_heads")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")


class SasrecBceNetwork(CausalNetwork):
    """Embeddings of items and of places counted from the oldest item read, blocks, and an output layer of its own.

    Deviations from the paper, all those of the published row: no feed-forward dropout between its layers, the state
    normalised once more at the end, and an output layer that is not the item table.
    """

    def __init__(
        self, num_items: int, max_length: int, hidden_size: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        nn.init.normal_(self.items.weight, std=_ITEM_STD)
        self.places = nn.Embedding(max_length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.scorer = nn.Linear(hidden_size, num_items)

    def forward(self, items: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Returns the state after each item."""
        place = torch.arange(items.shape[1], device=items.device)
        state = self.dropout(self.items(items) + self.places(place))
        for block in self.blocks:
            state = block(state)
        normed: Tensor = self.norm(state)
        return normed

    def output(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
        """Returns the output layer."""
        return self.scorer.weight, self.scorer.bias


class _Block(nn.Module):
    """Attention whose queries alone are normalised and are added to what it finds, then two layers with ReLU."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm = nn.LayerNorm(hidden_size)
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.feed_norm = nn.LayerNorm(hidden_size)
        self.widen, self.narrow = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        query = self.query_norm(state)
        found = self.feed_norm(query + self._attend(query, state))
        fed: Tensor = self.output_norm(found + self.dropout(self.narrow(torch.relu(self.widen(found)))))
        return fed

    def _attend(self, query: Float[Tensor, "B T D"], state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        batch, length, width = state.shape
        shape = (batch, length, self.num_heads, width // self.num_heads)
        asked, known, told = (
            part.view(shape).transpose(1, 2) for part in (self.query(query), self.key(state), self.value(state))
        )
        later = torch.ones(length, length, dtype=torch.bool, device=state.device).triu(1)
        weights = (asked @ known.transpose(2, 3) / math.sqrt(shape[3])).masked_fill(later, -torch.inf).softmax(dim=3)
        mixed: Tensor = self.dropout(weights) @ told
        return mixed.transpose(1, 2).reshape(batch, length, width)


class SASRecBCE(SequentialRecommender):
    """The recommender around a ``SasrecBceNetwork``."""

    name = "SASRec (BCE)"
    settings = SASRecBCEConfig

    @classmethod
    def shape_of(cls, config: SASRecBCEConfig, num_items: int) -> dict[str, Any]:
        """Returns the arguments of ``SasrecBceNetwork``."""
        return {
            "num_items": num_items,
            "max_length": config.max_length,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "dropout": config.dropout,
        }

    @classmethod
    def make_network(cls, **shape: Any) -> SasrecBceNetwork:
        """Returns an untrained network."""
        return SasrecBceNetwork(**shape)
