"""GRU4Rec: a gated recurrent unit reads the history (Hidasi et al., 2016), as in MiniOneRec's table of baselines."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from itemic.baselines.sequential.config import ExamplesConfig
from itemic.baselines.sequential.network import CausalNetwork
from itemic.baselines.sequential.recommender import SequentialRecommender

__all__ = ["GRU4Rec", "GRU4RecConfig", "Gru4recNetwork"]

_ITEM_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(ExamplesConfig):
    """Network and training; by default as the published row."""

    kind: Literal["gru4rec"] = "gru4rec"
    num_layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.0
    """Share of units left out of the item embeddings while training; the published row has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_layers")


class Gru4recNetwork(CausalNetwork):
    """Item embeddings, GRU layers as wide, and an output layer of its own.

    Deviations from the paper: examples of a history and its target rather than session-parallel batches, and losses
    without the other targets of a batch as negatives.
    """

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        nn.init.normal_(self.items.weight, std=_ITEM_STD)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = nn.GRU(hidden_size, hidden_size, num_layers, batch_first=True)
        self.scorer = nn.Linear(hidden_size, num_items)

    def forward(self, items: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Returns the last layer's state after each item."""
        states: Tensor = self.recurrent(self.dropout(self.items(items)))[0]
        return states

    def output(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
        """Returns the output layer."""
        return self.scorer.weight, self.scorer.bias


class GRU4Rec(SequentialRecommender):
    """The recommender around a ``Gru4recNetwork``."""

    name = "GRU4Rec"
    settings = GRU4RecConfig

    @classmethod
    def shape_of(cls, config: GRU4RecConfig, num_items: int) -> dict[str, Any]:
        """Returns the arguments of ``Gru4recNetwork``."""
        return {
            "num_items": num_items,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "dropout": config.dropout,
        }

    @classmethod
    def make_network(cls, **shape: Any) -> Gru4recNetwork:
        """Returns an untrained network."""
        return Gru4recNetwork(**shape)
