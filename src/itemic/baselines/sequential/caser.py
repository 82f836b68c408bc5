"""Caser: convolutions over the last items as over an image (Tang and Wang, 2018), as in MiniOneRec's baselines."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from itemic.baselines.sequential.config import ExamplesConfig
from itemic.baselines.sequential.network import SequentialNetwork
from itemic.baselines.sequential.recommender import SequentialRecommender
from itemic.core.errors import ConfigError

__all__ = ["Caser", "CaserConfig", "CaserNetwork"]

_ITEM_STD = 0.01
_FILTER_BIAS = 0.1


@dataclass(frozen=True, kw_only=True)
class CaserConfig(ExamplesConfig):
    """Network and training; by default as the published row."""

    kind: Literal["caser"] = "caser"
    num_filters: int = 16
    """Horizontal filters of each height."""
    heights: tuple[int, ...] = (2, 3, 4)
    """Items under a horizontal filter."""
    num_vertical: int = 1
    """Vertical filters: weighted sums over the items read, alike for every dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_filters", "num_vertical")
        if not self.heights or min(self.heights) < 1 or max(self.heights) > self.max_length:
            raise ConfigError(f"heights {self.heights}: expected numbers from 1 to max_length {self.max_length}")


class CaserNetwork(SequentialNetwork):
    """The last T items as a T x D image: horizontal filters, the largest value of each; and vertical filters.

    Deviation from the paper: no embedding of the user, since a history may be anybody's.
    """

    def __init__(
        self,
        num_items: int,
        max_length: int,
        hidden_size: int,
        num_filters: int,
        heights: list[int],
        num_vertical: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.items = nn.Embedding(num_items, hidden_size)
        nn.init.normal_(self.items.weight, std=_ITEM_STD)
        self.horizontal = nn.ModuleList(nn.Conv2d(1, num_filters, (height, hidden_size)) for height in heights)
        self.vertical = nn.Conv2d(1, num_vertical, (max_length, 1))
        for filters in (*self.horizontal, self.vertical):
            nn.init.xavier_normal_(filters.weight)
            nn.init.constant_(filters.bias, _FILTER_BIAS)
        self.dropout = nn.Dropout(dropout)
        self.scorer = nn.Linear(num_filters * len(heights) + num_vertical * hidden_size, num_items)

    def states(self, items: Int[Tensor, "B T"], scored: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Returns the state after each row's one scored position.

        Args:
            items: Item indices, at most ``max_length`` a row.
            scored: One position a row; rows that lie behind it are zeros of the image.
        """
        assert bool((scored.sum(dim=1) == 1).all()), "Caser reads each row once"
        is_read = scored.int().flip(1).cumsum(dim=1).flip(1).bool().to(items.device)
        read = self.items(items) * is_read[:, :, None]
        image = functional.pad(read, (0, 0, 0, self.max_length - items.shape[1]))[:, None]
        across = [functional.relu(filters(image)).amax(dim=(2, 3)) for filters in self.horizontal]
        down = functional.relu(self.vertical(image)).flatten(1)
        state: Tensor = self.dropout(torch.cat([*across, down], dim=1))
        return state

    def output(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
        """Returns the output layer."""
        return self.scorer.weight, self.scorer.bias


class Caser(SequentialRecommender):
    """The recommender around a ``CaserNetwork``."""

    name = "Caser"
    settings = CaserConfig

    @classmethod
    def shape_of(cls, config: CaserConfig, num_items: int) -> dict[str, Any]:
        """Returns the arguments of ``CaserNetwork``."""
        return {
            "num_items": num_items,
            "max_length": config.max_length,
            "hidden_size": config.hidden_size,
            "num_filters": config.num_filters,
            "heights": list(config.heights),
            "num_vertical": config.num_vertical,
            "dropout": config.dropout,
        }

    @classmethod
    def make_network(cls, **shape: Any) -> CaserNetwork:
        """Returns an untrained network."""
        return CaserNetwork(**shape)
