"""Generative recommendation: from an interaction log and a catalogue to recommendations.

Items become short semantic IDs, a language model learns to speak them, and constrained decoding returns only real,
allowed items. The names below are the public door; they load what they need when they are first used, because torch
and transformers take seconds to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itemic.core.progress import setup_logging as show_progress
    from itemic.inference import RecommendedItem, TrainedRun, load_trained
    from itemic.pipeline import run_recipe, run_stage
    from itemic.recipe import Recipe, load_recipe
    from itemic.user_table import TableSummary, recommend_table

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "RecommendedItem",
    "TableSummary",
    "TrainedRun",
    "load_recipe",
    "load_trained",
    "recommend_table",
    "run_recipe",
    "run_stage",
    "show_progress",
]

_HOMES = {
    "RecommendedItem": "itemic.inference",
    "Recipe": "itemic.recipe",
    "TableSummary": "itemic.user_table",
    "TrainedRun": "itemic.inference",
    "load_recipe": "itemic.recipe",
    "load_trained": "itemic.inference",
    "recommend_table": "itemic.user_table",
    "run_recipe": "itemic.pipeline",
    "run_stage": "itemic.pipeline",
    "show_progress": "itemic.core.progress",
}
_OTHER_NAMES = {"show_progress": "setup_logging"}


def __getattr__(name: str) -> Any:
    """Returns a public name from its home, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'itemic' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), _OTHER_NAMES.get(name, name))
