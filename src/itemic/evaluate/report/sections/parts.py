"""Small records that several sections are made of; knows no artefact."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from itemic.core.page.formats import write_number
from itemic.core.page.page import Fact

__all__ = ["Fact", "Missing", "flatten", "log2_histogram", "write_plain"]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Stands in for a section whose artefact the run folder does not have."""

    artefact: str
    """Its name in the run folder."""
    stage: str
    """The stage that makes it."""
    command: str
    """What to type."""

    @classmethod
    def of(cls, artefact: str, stage: str) -> "Missing":
        """Returns the stand-in for ``artefact``, which ``itemic <stage>`` makes."""
        return cls(artefact=artefact, stage=stage, command=f"itemic {stage}")


def log2_histogram(values: Int[np.ndarray, "n"]) -> tuple[list[str], list[int]]:
    """Returns class names and counts over classes that double: 0, 1, 2, 3–4, 5–8, 9–16 ...

    Classes before the first and after the last one in use are left out.
    """
    if len(values) == 0:
        return [], []
    classes = np.where(values > 0, np.ceil(np.log2(np.maximum(values, 1))).astype(np.int64) + 1, 0)
    first, last = int(classes.min()), int(classes.max())
    counts = np.bincount(classes - first, minlength=last - first + 1)
    return [_class_name(number) for number in range(first, last + 1)], [int(count) for count in counts]


def _class_name(number: int) -> str:
    if number <= 2:
        return str(number)
    return f"{2 ** (number - 2) + 1}–{2 ** (number - 1)}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields a nested mapping's keys, joined by ``›``, and values as words; empty values are left out."""
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name} › ")
        elif value not in (None, "", [], ()):
            yield name, write_plain(value)


def write_plain(value: Any) -> str:
    """Returns a plain value as words: ``yes``, ``1,682``, ``256, 256, 256``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return write_number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(write_plain, value))
    return str(value)
