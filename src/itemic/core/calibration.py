"""A mapping from the probability a model states to how often it is right, and its file; knows not how it was fitted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from itemic.core.errors import ArtifactError
from itemic.core.files import read_json, write_json

__all__ = ["Calibration"]

_REMEDY = "run itemic calibrate again, or remove the file to be shown the model's own probabilities"


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A rising curve through knots, straight between them over the logarithm of the stated probability."""

    stated: Float[np.ndarray, "n"]
    """Probabilities that the model states at the knots, rising, above 0."""
    actual: Float[np.ndarray, "n"]
    """Share of items with such a probability that were right, never falling."""
    made_for: Mapping[str, str] = field(default_factory=dict)
    """What it was fitted with, the hash of the model and the catalog's version: it fits nothing else."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the fit was like, for people."""

    def apply(self, probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Returns the share right at each stated probability; 0 stays 0, and beyond the knots the curve is level."""
        is_listed = probability > 0
        stated = np.log(np.where(is_listed, probability, 1.0))
        actual: Float[np.ndarray, "*shape"] = np.interp(stated, np.log(self.stated), self.actual)
        return np.where(is_listed, actual, 0.0)

    def save(self, path: Path) -> None:
        """Writes the curve as JSON, atomically."""
        knots = {"stated": self.stated.tolist(), "actual": self.actual.tolist()}
        write_json(path, {"made_for": dict(self.made_for), **knots, "figures": dict(self.figures)})

    @classmethod
    def load(cls, path: Path, made_for: Mapping[str, str]) -> "Calibration":
        """Returns the curve that :meth:`save` wrote.

        Args:
            path: The file.
            made_for: What it must have been fitted with.

        Raises:
            ArtifactError: if the file is missing or damaged, or was fitted with something else.
        """
        content = read_json(path)
        try:
            stated, actual = (np.array(content[name], dtype=np.float64) for name in ("stated", "actual"))
            found, figures = dict(content["made_for"]), dict(content["figures"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: missing or damaged entry {error}; {_REMEDY}") from None
        if not _is_curve(stated, actual):
            raise ArtifactError(f"{path}: stated and actual are no rising curve of probabilities; {_REMEDY}")
        for name, value in made_for.items():
            if found.get(name) != value:
                raise ArtifactError(
                    f"{path}: fitted with {name} {str(found.get(name))[:12]!r}, this run has {value[:12]!r}; {_REMEDY}"
                )
        return cls(stated=stated, actual=actual, made_for=found, figures=figures)


def _is_curve(stated: np.ndarray, actual: np.ndarray) -> bool:
    if stated.ndim != 1 or stated.shape != actual.shape or not len(stated):
        return False
    in_range = (stated > 0).all() and (stated <= 1).all() and (actual >= 0).all() and (actual <= 1).all()
    return bool(in_range and (np.diff(stated) > 0).all() and (np.diff(actual) >= 0).all())
