"""The recommender around a sequential network: fitting, ranking and its file; knows no network's inside."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sequential.config import ExamplesConfig, WindowsConfig
from itemic.baselines.sequential.network import SequentialNetwork
from itemic.baselines.sequential.training import plan_for_examples, plan_for_windows, train
from itemic.core.allocator import tune_allocator
from itemic.core.dataset import Dataset
from itemic.core.device import pick_device
from itemic.core.ranking import Histories
from itemic.core.seeds import derive_seed

__all__ = ["SequentialRecommender"]

S = TypeVar("S", bound="SequentialRecommender")


class SequentialRecommender(DenseRecommender):
    """Scores every item by the network's state after the last ``max_length`` items of the history.

    An empty history, which the network cannot read, is scored by the log of popularity. A subclass names its
    settings and makes its network.
    """

    settings: ClassVar[type[WindowsConfig | ExamplesConfig]]
    """Settings of the kind."""

    def __init__(
        self, network: SequentialNetwork, shape: Mapping[str, Any], counts: Int[np.ndarray, "N"], max_length: int
    ) -> None:
        super().__init__(len(counts))
        self.network = network
        self.shape = dict(shape)
        self.counts = counts
        self.max_length = max_length

    @classmethod
    @abstractmethod
    def shape_of(cls, config: Any, num_items: int) -> dict[str, Any]:
        """Returns what ``make_network`` takes, as JSON does."""

    @classmethod
    @abstractmethod
    def make_network(cls, **shape: Any) -> SequentialNetwork:
        """Returns an untrained network, drawn by torch's generator."""

    @classmethod
    def fit(cls: type[S], dataset: Dataset, *, seed: int, config: Any = None) -> S:
        """Returns the recommender with the weights of the epoch that was best on valid.

        Without valid examples the last epoch's weights are kept. Two fits with one seed on one machine and number of
        threads give the same weights; the caller's random state is left as it was.

        Args:
            dataset: What it learns from.
            seed: Of weights, dropout, batches and negatives.
            config: The kind's settings; None takes the defaults.

        Raises:
            DataError: if there are no training interactions.
        """
        config = cls.settings() if config is None else config
        device = pick_device(config.device)
        tune_allocator()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, config.kind))
            log = TrainingLog.from_dataset(dataset)
            shape = cls.shape_of(config, log.num_items)
            network = cls.make_network(**shape).to(device)
            model = cls(network, shape, log.counts(), config.max_length)
            if isinstance(config, WindowsConfig):
                plan = plan_for_windows(network, log, config, seed)
            else:
                plan = plan_for_examples(network, dataset, config, seed)
            train(model, network, dataset, plan, config, seed)
            return model

    @torch.inference_mode()
    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the network's logits for every item, as float64."""
        scores = np.tile(np.log((self.counts + 1.0) / (self.counts.sum() + self.num_items)), (len(histories), 1))
        rows = [row for row, history in enumerate(histories) if len(history)]
        if rows:
            state = self._states([histories[row] for row in rows])
            scores[rows] = self.network.logits(state).double().cpu().numpy()
        return scores

    @torch.no_grad()  # not inference_mode, whose tensors may not enter a loss that is differentiated
    def score_items(self, histories: Histories, items: Int[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Returns the network's logits for some items of each history, on the network's device.

        Args:
            histories: B histories, oldest item first, none of them empty.
            items: Item indices.
        """
        return self.network.item_logits(self._states(histories), items)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the network's weights and the counts, the network's shape and the length it reads."""
        weights = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        return {**weights, "counts": self.counts}, {"shape": self.shape, "max_length": self.max_length}

    @classmethod
    def restored(
        cls: type[S], arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> S:
        """Returns the recommender of what ``stored`` gave."""
        network = cls.make_network(**values["shape"])
        network.load_state_dict(
            {
                name.removeprefix("network."): torch.from_numpy(array)
                for name, array in arrays.items()
                if name.startswith("network.")
            }
        )
        network.to(pick_device(device)).eval()
        return cls(network, values["shape"], arrays["counts"], values["max_length"])

    def _states(self, histories: Histories) -> Float[Tensor, "n D"]:
        """Returns the network's state after the last item of each history."""
        self.network.eval()
        device = self.network.items.weight.device
        items, scored = _padded([history[-self.max_length :] for history in histories])
        return self.network.states(items.to(device), scored)


def _padded(histories: Histories) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Returns the histories, none of them empty, padded to the right, and where the last item of each is."""
    length = torch.tensor([len(history) for history in histories])[:, None]
    column = torch.arange(int(length.max()))
    items = torch.zeros(len(histories), len(column), dtype=torch.int64)
    items[column < length] = torch.tensor([int(item) for history in histories for item in history])
    return items, column == length - 1
