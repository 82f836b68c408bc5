"""Validation by ranked lists while a model trains: constrained beam search over the whole catalog.

Knows nothing of losses, nor of what is done with the figures.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.decode.recommender import LanguageModelRecommender
from itemic.evaluate.evaluate import evaluate_recommender
from itemic.evaluate.metrics.labels import RANK_METRICS
from itemic.evaluate.protocol import EvaluateConfig
from itemic.language.prompts import Renderer
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog

__all__ = ["make_ranking"]


def make_ranking(
    dataset: Dataset,
    catalog: Catalog,
    model: SidModel,
    renderer: Renderer,
    *,
    max_history: int,
    max_examples: int,
    num_beams: int,
    cutoffs: Sequence[int],
    labels: Sequence[str],
    seed: int,
    exclude_history: bool | Literal["auto"] = "auto",
) -> Callable[[], dict[str, float]]:
    """Returns a function that ranks validation examples with the model as it is at that moment.

    It returns ``valid_ndcg@10`` for the label ``NDCG@10`` and so on, in the order of the labels. The examples are the
    same at every call.

    Args:
        dataset: Whose validation split is ranked.
        catalog: The candidates.
        model: In evaluation mode whenever the function is called.
        renderer: Writes its prompts.
        max_history: Most items of a prompt.
        max_examples: Examples ranked, drawn by the seed; 0 ranks all.
        num_beams: Beam width; a largest cut-off above it raises it to that.
        cutoffs: List lengths K, rising.
        labels: Figures to return, each of one of the cut-offs: ``NDCG@10``, ``HR@50``.
        seed: The run's seed.
        exclude_history: Whether items that the user has seen are no candidates; auto where the dataset has no repeats.

    Raises:
        ConfigError: if a label is no rank metric at one of the cut-offs.
    """
    known = [f"{name}@{cutoff}" for cutoff in cutoffs for name in RANK_METRICS]
    for label in labels:
        if label not in known:
            raise ConfigError(f"validation by {label}: expected one of {', '.join(known)}")
    protocol = EvaluateConfig(
        split="valid",
        cutoffs=tuple(cutoffs),
        num_bootstrap=1,
        max_examples=max_examples,
        exclude_history=exclude_history,
    )

    def rank() -> dict[str, float]:
        recommender = LanguageModelRecommender(
            model, catalog, lambda history: renderer.next_item_prompt(history[-max_history:]), num_beams=num_beams
        )
        metrics = evaluate_recommender(recommender, dataset, protocol, seed=seed).metrics
        figures = {f"valid_{label.lower()}": metrics[label]["value"] for label in labels}
        return {name: value for name, value in figures.items() if value is not None}

    return rank
