"""The item vectors that are quantized: text embeddings alone, or joined to vectors from the log.

Knows nothing of codes, and of the log only the file ``collaborative.safetensors``, whoever made it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open

from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import map_array, text_hash, write_arrays
from itemic.sid.quantizers.protocol import pieces
from itemic.sid.ridge import fit_ridge, mean_and_scatter

__all__ = [
    "CollaborativeItems",
    "JointTransform",
    "JointVectors",
    "TextTransform",
    "TextVectors",
    "VectorTransform",
    "VectorsConfig",
    "fit_transform",
    "load_transform",
    "read_collaborative",
    "read_embeddings",
    "require_collaborative",
    "write_collaborative",
]


@dataclass(frozen=True, kw_only=True)
class TextVectors:
    """The text embeddings as they are."""

    kind: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class JointVectors:
    """Text embeddings beside collaborative vectors, each centred and brought to one size."""

    kind: Literal["joint"] = "joint"
    collaborative_weight: float = 0.5
    """Share w of the joint vectors' mean squared length that the collaborative part has; 0 is text alone, 1 the
    collaborative vectors alone. Default: both count the same."""
    text_dimensions: int = 0
    """Principal components kept of the text embeddings; 0 keeps them as they are."""

    def __post_init__(self) -> None:
        if not 0 <= self.collaborative_weight <= 1:
            raise ConfigError(f"collaborative_weight: expected 0 to 1, found {self.collaborative_weight}")
        if self.text_dimensions < 0:
            raise ConfigError(f"text_dimensions: expected 0 (all) or more, found {self.text_dimensions}")


VectorsConfig = Annotated[TextVectors | JointVectors, pydantic.Field(discriminator="kind")]
"""Which vectors are quantized; the key ``kind`` says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CollaborativeItems:
    """One vector an item from the training interactions."""

    vectors: Float[np.ndarray, "N C"]
    """float32; rows of items that are not seen hold zeros and mean nothing."""
    seen: Bool[np.ndarray, "N"]
    """Items that the training interactions say something of."""


@dataclass(frozen=True)
class TextTransform:
    """What is quantized is the text embedding itself."""

    def transform(
        self, text: Float[np.ndarray, "n D"], collaborative: CollaborativeItems | None = None
    ) -> Float[np.ndarray, "n D"]:
        """Returns ``text``, not copied; collaborative vectors are not looked at."""
        return text


@dataclass(frozen=True, kw_only=True, eq=False)
class JointTransform:
    """Maps text embeddings, and collaborative vectors where there are some, to joint vectors.

        t = sqrt(1 - w) (text - mean_t) [basis] / rms_t,   c = sqrt(w) (collaborative - mean_c) / rms_c,
        joint = [t, c]

    rms is the root of the mean squared length of the centred vectors (of the text's kept components, of the seen
    items' collaborative vectors), so the mean squared length of t is 1 - w and that of c is w. Of an item without a
    collaborative vector, collaborative - mean_c is what a ridge regression (``sid.ridge``) from its text says,
    (text - ridge_mean) prediction; zeros would put all such items on one spot. A part of weight 0 has no columns.
    """

    config: JointVectors
    """How it was fitted."""
    text_mean: Float[np.ndarray, "D"]
    """Mean text embedding, of all items."""
    text_scale: float
    """sqrt(1 - w) / rms_t."""
    text_basis: Float[np.ndarray, "D P"] | None
    """Principal directions as columns; None where the text stays as it is."""
    collaborative_mean: Float[np.ndarray, "C"]
    """Mean collaborative vector, of the seen items."""
    collaborative_scale: float
    """sqrt(w) / rms_c."""
    ridge_mean: Float[np.ndarray, "D"]
    """Mean text embedding, of the seen items."""
    prediction: Float[np.ndarray, "D C"]
    """Ridge coefficients."""

    def transform(
        self, text: Float[np.ndarray, "n D"], collaborative: CollaborativeItems | None = None
    ) -> Float[np.ndarray, "n J"]:
        """Returns the joint vectors, float32.

        Args:
            text: Text embeddings from the encoder that the transform was fitted with.
            collaborative: Vectors of the same items; None predicts all of them from the text, as for new items.

        Raises:
            CatalogError: if the widths or the numbers of items do not fit.
        """
        self._check(text, collaborative)
        joint = np.empty((len(text), sum(self._widths())), dtype=np.float32)
        for rows in pieces(len(text)):
            joint[rows] = self._joint(text, collaborative, rows)
        return joint

    def save(self, path: Path) -> None:
        """Writes the transform as safetensors."""
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        scales = {name: getattr(self, name) for name in _SCALES}
        write_arrays(path, arrays, {"settings": json.dumps({"config": config_to_mapping(self.config), **scales})})

    def _widths(self) -> tuple[int, int]:
        text_width = len(self.text_mean) if self.text_basis is None else self.text_basis.shape[1]
        weight = self.config.collaborative_weight
        return text_width * (weight < 1), len(self.collaborative_mean) * (weight > 0)

    def _joint(
        self, text: Float[np.ndarray, "n D"], collaborative: CollaborativeItems | None, rows: slice
    ) -> Float[np.ndarray, "b J"]:
        block = text[rows].astype(np.float32)
        parts = []
        if self.config.collaborative_weight < 1:
            centred = (block - self.text_mean) * self.text_scale
            parts.append(centred if self.text_basis is None else centred @ self.text_basis)
        if self.config.collaborative_weight > 0:
            offset = (block - self.ridge_mean) @ self.prediction
            if collaborative is not None:
                own = collaborative.vectors[rows].astype(np.float32) - self.collaborative_mean
                offset = np.where(collaborative.seen[rows, None], own, offset)
            parts.append(offset * self.collaborative_scale)
        return np.concatenate(parts, axis=1)

    def _check(self, text: Float[np.ndarray, "n D"], collaborative: CollaborativeItems | None) -> None:
        if text.shape[1] != len(self.text_mean):
            raise CatalogError(
                f"the joint vectors were made of text embeddings {len(self.text_mean)} wide, found {text.shape[1]}; "
                "use the same encoder"
            )
        expected = (len(text), len(self.collaborative_mean))
        if collaborative is not None and collaborative.vectors.shape != expected:
            raise CatalogError(f"collaborative vectors: expected {expected}, found {collaborative.vectors.shape}")


VectorTransform = TextTransform | JointTransform
"""What makes the vectors that are quantized."""

_SCALES = ("text_scale", "collaborative_scale")
_ARRAYS = ("text_mean", "text_basis", "collaborative_mean", "ridge_mean", "prediction")


def fit_transform(
    config: JointVectors, text: Float[np.ndarray, "N D"], collaborative: CollaborativeItems
) -> JointTransform:
    """Returns the transform for these items: means, sizes, principal components and the regression.

    Args:
        config: Weight and width.
        text: Text embeddings of all items.
        collaborative: Collaborative vectors of the same items.

    Raises:
        ConfigError: if more components are asked for than the text embeddings have.
        DataError: if fewer than two items have a collaborative vector, or all vectors of a part are equal.
    """
    _check_parts(config, text, collaborative)
    text_mean, scatter = mean_and_scatter(text, np.ones(len(text), dtype=bool))
    basis = _principal_directions(scatter, config.text_dimensions)
    text_square = np.trace(scatter if basis is None else basis.T @ scatter @ basis) / len(text)
    ridge = fit_ridge(text, collaborative.vectors, collaborative.seen)
    if min(text_square, ridge.output_square) <= 0:
        raise DataError("joint vectors: all text embeddings, or all collaborative vectors, are equal")
    weight = config.collaborative_weight
    return JointTransform(
        config=config,
        text_mean=text_mean.astype(np.float32),
        text_scale=float(np.sqrt((1 - weight) / text_square)),
        text_basis=None if basis is None else basis.astype(np.float32),
        collaborative_mean=ridge.output_mean.astype(np.float32),
        collaborative_scale=float(np.sqrt(weight / ridge.output_square)),
        ridge_mean=ridge.input_mean.astype(np.float32),
        prediction=ridge.coefficients.astype(np.float32),
    )


def load_transform(path: Path) -> VectorTransform:
    """Returns the transform in a catalog's ``vectors.safetensors``; that of text alone, which has no file, without one.

    Raises:
        ArtifactError: if the file is damaged.
    """
    if not path.exists():
        return TextTransform()
    try:
        with safe_open(path, framework="np") as stored:
            settings = json.loads(stored.metadata()["settings"])
            names = stored.keys()
            arrays: dict[str, Any] = {name: stored.get_tensor(name) for name in _ARRAYS if name in names}
        config = config_from_mapping(JointVectors, settings.pop("config"), source=str(path))
        return JointTransform(config=config, **{"text_basis": None, **settings, **arrays})
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); run itemic tokenize again") from None


def read_embeddings(path: Path, item_ids: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Returns the vectors of exactly these items, mapped into memory: rows are read from the file when they are used.

    Raises:
        ArtifactError: if the file is damaged or was made for other items.
    """
    _check_items(path, item_ids, "embed")
    x = map_array(path, "embeddings")
    if len(x) != len(item_ids):
        raise _foreign(path, "embed")
    return x


def read_collaborative(path: Path, item_ids: Sequence[str]) -> CollaborativeItems:
    """Returns the collaborative vectors of exactly these items.

    Raises:
        ArtifactError: if the file is damaged or was made for other items.
    """
    _check_items(path, item_ids, "collaborative")
    try:
        with safe_open(path, framework="np") as stored:
            items = CollaborativeItems(vectors=stored.get_tensor("vectors"), seen=stored.get_tensor("seen"))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error}); run itemic collaborative again") from None
    if not len(items.vectors) == len(items.seen) == len(item_ids):
        raise _foreign(path, "collaborative")
    return items


def require_collaborative(path: Path) -> Path:
    """Returns the path of ``collaborative.safetensors``, where it is needed.

    Raises:
        ArtifactError: if it is missing, naming the section and the stage that make it.
    """
    if not path.exists():
        raise ArtifactError(
            f"{path}: missing, but joint vectors and a quantizer with a collaborative_weight need it; add the section "
            "collaborative to the recipe ({kind: svd} say) and run itemic collaborative"
        )
    return path


def write_collaborative(path: Path, items: CollaborativeItems, item_ids: Sequence[str], made_by: str) -> None:
    """Writes ``collaborative.safetensors``: float32 ``vectors`` (N, C) and ``seen`` (N,), with the items' hash.

    Args:
        path: The file.
        items: What is written.
        item_ids: Whose vectors they are, in order.
        made_by: Kept in the metadata for readers, ``svd`` say.
    """
    arrays = {"vectors": items.vectors.astype(np.float32), "seen": items.seen}
    write_arrays(path, arrays, {"kind": made_by, "item_hash": text_hash(*item_ids)})


def _check_items(path: Path, item_ids: Sequence[str], stage: str) -> None:
    try:
        with safe_open(path, framework="np") as stored:
            made_for = (stored.metadata() or {}).get("item_hash")
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error}); run itemic {stage} again") from None
    if made_for != text_hash(*item_ids):
        raise _foreign(path, stage)


def _foreign(path: Path, stage: str) -> ArtifactError:
    return ArtifactError(f"{path}: made for other items than dataset/; run itemic {stage} again")


def _check_parts(config: JointVectors, text: Float[np.ndarray, "N D"], collaborative: CollaborativeItems) -> None:
    if config.text_dimensions > text.shape[1]:
        raise ConfigError(f"text_dimensions {config.text_dimensions}: the embeddings have {text.shape[1]}")
    num_seen = int(collaborative.seen.sum())
    if len(collaborative.vectors) != len(text) or num_seen < 2:
        raise DataError(
            f"joint vectors: expected one collaborative vector for each of {len(text)} items and at least two seen "
            f"items, found {len(collaborative.vectors)} and {num_seen}"
        )


def _principal_directions(scatter: Float[np.ndarray, "D D"], num_kept: int) -> Float[np.ndarray, "D P"] | None:
    """Returns the leading eigenvectors as columns, each with its largest entry positive; None for 0, all of them."""
    if num_kept == 0:
        return None
    directions = np.linalg.eigh(scatter)[1][:, ::-1][:, :num_kept]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(num_kept)]
    signed: np.ndarray = directions * np.sign(largest)
    return signed
