"""The collaborative stage: the training interactions become one vector an item, ``collaborative.safetensors``.

Only training sequences are read: no valid or test interaction changes a vector. Knows nothing of texts or codes.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float

from itemic.baselines.ease import EASE, EASEConfig
from itemic.baselines.interactions import TrainingLog, count_covisits
from itemic.baselines.sequential import SASRec, SASRecConfig
from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.run import Run, StageResult
from itemic.core.seeds import derive_rng
from itemic.sid.vectors import CollaborativeItems, write_collaborative

__all__ = [
    "CollaborativeConfig",
    "EaseVectorsConfig",
    "SasrecVectorsConfig",
    "SvdVectorsConfig",
    "collaborative",
    "item_vectors",
]


@dataclass(frozen=True, kw_only=True)
class _FactorConfig:
    """How an item-item matrix M = U S V' becomes vectors: the rows of U S ** singular_power."""

    num_dimensions: int = 64
    """Width C: largest singular values kept. 64 is our choice; SASRec's and implicit's usual width."""
    singular_power: float = 0.5
    """1 keeps the matrix's own inner products; the nearer to 0, the more equally long all directions. Default: Levy,
    Goldberg and Dagan (2015), who found it better than 1."""
    normalize: bool = True
    """Whether vectors are scaled to length 1: by the direction alone, items of different frequency are alike."""

    def __post_init__(self) -> None:
        if self.num_dimensions < 1 or self.singular_power <= 0:
            raise ConfigError(
                f"expected num_dimensions of at least 1 and a singular_power above 0, found {self.num_dimensions} and "
                f"{self.singular_power}"
            )


@dataclass(frozen=True, kw_only=True)
class SvdVectorsConfig(_FactorConfig):
    """Factors of the positive pointwise mutual information of co-visits: what word2vec factorises (Levy and Goldberg).

        ppmi_ij = max(0, log(m_ij M / (m_i q_j))),   q_j = M m_j ** smoothing / sum_k m_k ** smoothing

    with m_ij the co-visits of ``baselines.interactions``, in both directions alike, m_i their sums and M the sum of
    all; an item's co-visits with itself are left out.
    """

    kind: Literal["svd"] = "svd"
    max_distance: int = 5
    """Furthest steps apart at which two items of a sequence are a pair; that of Co-visit KNN."""
    smoothing: float = 0.75
    """Power of the context item's frequency: below 1 the rarest pairs weigh less (Levy, Goldberg and Dagan, 2015)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_distance < 1 or not 0 <= self.smoothing <= 1:
            raise ConfigError(
                f"expected max_distance of at least 1 and smoothing of 0 to 1, found {self.max_distance} and "
                f"{self.smoothing}"
            )


@dataclass(frozen=True, kw_only=True)
class EaseVectorsConfig(_FactorConfig):
    """Factors of EASE's item-item weights B; row i says what item i speaks for."""

    kind: Literal["ease"] = "ease"
    l2: float = EASEConfig.l2
    """Weight of the squared norm of B, in users; the baseline's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        EASEConfig(l2=self.l2)


@dataclass(frozen=True, kw_only=True)
class SasrecVectorsConfig:
    """The item table of a SASRec trained on the training sequences, all its epochs: valid chooses nothing here."""

    kind: Literal["sasrec"] = "sasrec"
    network: SASRecConfig = field(default_factory=SASRecConfig)
    """Network and training; ``hidden_size`` is the vectors' width."""
    normalize: bool = True
    """Whether vectors are scaled to length 1."""


CollaborativeConfig = Annotated[
    SvdVectorsConfig | EaseVectorsConfig | SasrecVectorsConfig, pydantic.Field(discriminator="kind")
]
"""What makes collaborative vectors; the key ``kind`` says which."""


def collaborative(config: CollaborativeConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Returns the stage's result after writing ``collaborative.safetensors``.

    Raises:
        ArtifactError: if the dataset is missing.
        ConfigError: if more dimensions are asked for than the items give.
        DataError: if the training interactions tell nothing of any item.
    """
    inputs = {"dataset": run.require("dataset", "prepare")}

    def work() -> dict[str, Any]:
        dataset = Dataset.load(inputs["dataset"])
        items = item_vectors(config, dataset, seed=seed)
        path = run.path("collaborative.safetensors")
        write_collaborative(path, items, dataset.items["item_id"].to_list(), config.kind)
        return {"num_items": len(items.seen), "num_seen": int(items.seen.sum()), "width": items.vectors.shape[1]}

    return run.stage(
        "collaborative",
        work,
        config=config_to_mapping(config),
        inputs=inputs,
        outputs=["collaborative.safetensors"],
        seed=seed,
        force=force,
    )


def item_vectors(config: CollaborativeConfig, dataset: Dataset, *, seed: int) -> CollaborativeItems:
    """Returns a vector an item from the training sequences; items they say nothing of are not seen and get zeros.

    Raises:
        ConfigError: if more dimensions are asked for than the items give.
        DataError: if the training interactions tell nothing of any item.
    """
    match config:
        case SvdVectorsConfig():
            x = _factors(_ppmi(TrainingLog.from_dataset(dataset), config), config, seed)
        case EaseVectorsConfig():
            x = _factors(EASE.fit(dataset, seed=seed, config=EASEConfig(l2=config.l2)).weights, config, seed)
        case SasrecVectorsConfig():
            train_only = replace(dataset, valid=dataset.valid.clear())
            network = SASRec.fit(train_only, seed=seed, config=config.network).network
            x = network.items.weight.detach().cpu().numpy().astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)
    seen = (TrainingLog.from_dataset(dataset).counts() > 0) & (lengths > 1e-9 * lengths.max())
    if config.normalize:
        x = x / np.where(seen, lengths, 1)[:, None]
    return CollaborativeItems(vectors=np.where(seen[:, None], x, 0).astype(np.float32), seen=seen)


def _ppmi(log: TrainingLog, config: SvdVectorsConfig) -> scipy.sparse.csr_array:
    pairs = count_covisits(log, config.max_distance, backward_weight=1.0).tocoo()
    source, target = pairs.coords
    different = source != target
    if not different.any():
        raise DataError("no training sequence holds two different items: there are no co-visits to factorise")
    source, target, covisits = source[different], target[different], pairs.data[different]
    totals = np.bincount(source, covisits, log.num_items)
    smoothed = np.where(totals > 0, totals, 1) ** config.smoothing * (totals > 0)
    information = np.log(covisits / totals[source] / (smoothed[target] / smoothed.sum()))
    positive = information > 0
    return scipy.sparse.csr_array(
        (information[positive], (source[positive], target[positive])), shape=(log.num_items, log.num_items)
    )


def _factors(
    matrix: scipy.sparse.csr_array | Float[np.ndarray, "N N"], config: _FactorConfig, seed: int
) -> Float[np.ndarray, "N C"]:
    """Returns U S ** power of the largest singular values, each column's largest entry positive."""
    num_items: int = matrix.shape[0]
    if config.num_dimensions >= num_items:
        raise ConfigError(f"num_dimensions {config.num_dimensions}: {num_items} items give at most {num_items - 1}")
    # ARPACK begins with a random vector of its own where it is given none.
    start = derive_rng(seed, "collaborative").uniform(0.5, 1.5, size=num_items)
    left, singular, _ = scipy.sparse.linalg.svds(matrix, k=config.num_dimensions, v0=start)
    order = np.argsort(-singular, kind="stable")
    left, singular = left[:, order], singular[order]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    scaled: np.ndarray = left * np.where(largest < 0, -1.0, 1.0) * singular**config.singular_power
    return scaled
