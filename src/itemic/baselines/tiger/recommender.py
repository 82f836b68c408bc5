"""TIGER as a recommender: fitted to a dataset and a catalog, kept in one file, alone in what it needs to recommend."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from itemic.baselines.best_epoch import VALID_CUTOFF, valid_cases
from itemic.baselines.materials import Materials
from itemic.baselines.stored import read_fitted, write_fitted
from itemic.baselines.tiger.config import TIGERConfig
from itemic.baselines.tiger.network import TigerNetwork, TigerShape
from itemic.baselines.tiger.search import beam_search
from itemic.baselines.tiger.training import Examples, train
from itemic.core.allocator import tune_allocator
from itemic.core.device import pick_device
from itemic.core.errors import ArtifactError, DataError
from itemic.core.ranking import Histories, Recommendations, check_histories
from itemic.core.seeds import derive_rng, derive_seed
from itemic.decode.beam import BeamResult, no_beams
from itemic.decode.filters import ItemFilter
from itemic.decode.prefill import in_batches
from itemic.decode.recommender import list_items
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization
from itemic.evaluate.metrics.ndcg import ndcg
from itemic.evaluate.protocol import EvaluationSet
from itemic.evaluate.ranks import target_ranks

__all__ = ["TIGER"]

_BATCH = 128
"""Histories searched at once."""


class TIGER:
    """Ranks the catalog by the log-probability of each item's semantic ID after the semantic IDs of a history.

    Deviation from the paper: no token says who the user is, since a recommender is asked with histories alone; the
    paper hashes users into 2,000 such tokens. Only active items are listed, and items that share a semantic ID tie. An
    empty history is read as its end token alone, which no example of the train split shows. Items that no beam
    reached are not listed.
    """

    name = "TIGER"

    def __init__(
        self,
        network: TigerNetwork,
        codes: Int[np.ndarray, "N L"],
        active: Bool[np.ndarray, "N"],
        num_beams: int = 50,
        normalize: Normalization = "legal",
    ) -> None:
        """Builds the tree of the active items.

        Args:
            network: On its device.
            codes: Semantic ID of each item.
            active: Whether an item may be recommended.
            num_beams: Beam width; a list longer than that raises it to its own length.
            normalize: As in ``TIGERConfig``.

        Raises:
            CatalogError: if no item is active.
        """
        self.network = network.eval()
        self._codes = codes
        self._active = active
        self._num_beams = num_beams
        self._normalize: Normalization = normalize
        self._device = network.tokens.weight.device
        self._trie = Trie.from_codes(codes, network.shape.codebook_sizes, active).to(self._device)
        self._codes_there = torch.from_numpy(codes).to(self._device)

    @classmethod
    def fit(cls, materials: Materials, *, seed: int, config: TIGERConfig | None = None) -> "TIGER":
        """Returns the recommender with the weights of the epoch that was best on valid.

        Without valid examples the last epoch's weights are kept. Two fits with one seed on one machine and number of
        threads give the same weights; the caller's random state is left as it was.

        Args:
            materials: Dataset and catalog.
            seed: Of the weights, the batches and the valid subset.
            config: Settings.

        Raises:
            ArtifactError: if the catalog is of other items.
            CatalogError: if no item of the catalog is active.
            ConfigError: if there is no catalog.
            DataError: if there are no training examples.
        """
        config = config or TIGERConfig()
        catalog, dataset = materials.require_catalog(config.kind), materials.dataset
        catalog.check_fits(dataset.items["item_id"].to_list())
        examples = Examples.from_dataset(dataset, config.max_history)
        device = pick_device(config.device)
        tune_allocator()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "tiger"))
            network = TigerNetwork(_shape(config, catalog.codebook_sizes), config.dropout).to(device)
            codes, active = np.array(catalog.codes), np.array(catalog.active)
            model = cls(network, codes, active, config.num_beams, config.normalize)
            valid = valid_cases(dataset, config.max_valid_examples, seed)
            valid_ndcg = None if valid is None else lambda: _valid_ndcg(model, valid)
            train(network, examples, model._codes_there, config, derive_rng(seed, "tiger", "batches"), valid_ndcg)
        return model

    @property
    def num_items(self) -> int:
        """Number of items of the catalog, retired ones included."""
        return len(self._codes)

    @property
    def num_parameters(self) -> int:
        """Weights of the network."""
        return sum(weights.numel() for weights in self.network.parameters())

    @torch.inference_mode()
    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best items for each history; see ``core.ranking.Recommender``.

        A filter takes items out of the list and changes no score. Ties are counted among the items that were scored.

        Raises:
            DataError: if an item index is not in the catalogue, a filter has not one list a history, or k is below 1.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        check_histories(histories, self.num_items)
        allowed = None
        if exclude is not None or allow is not None:
            allowed = ItemFilter.from_lists(self._trie, len(histories), exclude, allow)
        width = max(k, self._num_beams)
        examples = Examples.from_histories(histories, self.network.shape.max_history)

        def run(rows: Int[Tensor, "b"]) -> tuple[Tensor, ...]:
            codes, is_item = examples.load(rows.numpy(), self._codes_there)
            chosen = None if allowed is None else allowed.select(rows.to(self._device))
            return beam_search(self.network, codes, is_item, self._trie, width, self._normalize, chosen)

        none = no_beams(width, self._device)
        leaf, logprob, num_tied_beyond = (
            in_batches(histories, _BATCH, run, device=self._device) if len(histories) else none
        )
        beams = BeamResult(leaf=leaf, logprob=logprob, num_tied_beyond=num_tied_beyond)
        return list_items(self._trie, beams, k, allowed)

    def save(self, path: Path, made_from: str = "") -> None:
        """Writes the recommender as safetensors, atomically: weights, shape and the catalog's codes.

        Args:
            path: The file.
            made_from: What it was fitted to and how, a hash say.
        """
        weights = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        values = {"shape": asdict(self.network.shape), "num_beams": self._num_beams, "normalize": self._normalize}
        write_fitted(path, {**weights, "codes": self._codes, "active": self._active}, values, made_from)

    @classmethod
    def load(cls, path: Path, made_from: str | None = None, *, device: str = "auto") -> "TIGER":
        """Returns the recommender in a file that ``save`` wrote.

        Args:
            path: The file.
            made_from: What it must be fitted to; None takes any.
            device: Where to compute.

        Raises:
            ArtifactError: if the file is missing, damaged or made from something else.
        """
        arrays, values = read_fitted(path, made_from)
        try:
            return cls._restored(arrays, values, pick_device(device))
        except (KeyError, RuntimeError, TypeError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); remove the file") from None

    @classmethod
    def _restored(cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], device: torch.device) -> "TIGER":
        shape = TigerShape(**{**values["shape"], "codebook_sizes": tuple(values["shape"]["codebook_sizes"])})
        network = TigerNetwork(shape, dropout=0.0)
        network.load_state_dict(
            {name.removeprefix("network."): torch.from_numpy(arrays[name]) for name in arrays if "network." in name}
        )
        return cls(network.to(device), arrays["codes"], arrays["active"], values["num_beams"], values["normalize"])


def _shape(config: TIGERConfig, codebook_sizes: tuple[int, ...]) -> TigerShape:
    return TigerShape(
        codebook_sizes=codebook_sizes,
        max_history=config.max_history,
        hidden_size=config.hidden_size,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        head_size=config.head_size,
        feed_forward_size=config.feed_forward_size,
    )


def _valid_ndcg(model: TIGER, cases: EvaluationSet) -> float:
    """Returns what the evaluation would give as NDCG@10, but for ties that the list's end cuts."""
    rows = np.arange(len(cases))
    lists = model.recommend(cases.histories(rows), VALID_CUTOFF, exclude=cases.excluded(rows))
    ranks = target_ranks(lists, cases.target)
    return float(ndcg(ranks.num_better, ranks.num_tied, VALID_CUTOFF).mean())
