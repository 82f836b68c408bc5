"""Ranking while a model trains: the figures are those of the evaluation, of the model as it is at that moment."""

import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.decode.recommender import LanguageModelRecommender
from itemic.evaluate.evaluate import evaluate_recommender
from itemic.evaluate.protocol import EvaluateConfig
from itemic.train.validation import make_ranking

OPTIONS = {"max_history": 3, "max_examples": 8, "num_beams": 12, "cutoffs": (3, 10), "seed": 0}
LABELS = ("NDCG@10", "HR@10", "HR@3")


def test_figures_are_the_evaluations_and_follow_the_model(dataset, catalog, model, renderer):
    model.network.eval()
    rank = make_ranking(dataset, catalog, model, renderer, labels=LABELS, **OPTIONS)
    seen = []
    for _ in range(2):
        figures = rank()
        assert list(figures) == ["valid_ndcg@10", "valid_hr@10", "valid_hr@3"]
        recommender = LanguageModelRecommender(
            model, catalog, lambda history: renderer.next_item_prompt(history[-3:]), num_beams=12
        )
        protocol = EvaluateConfig(split="valid", cutoffs=(3, 10), max_examples=8, num_bootstrap=2)
        metrics = evaluate_recommender(recommender, dataset, protocol, seed=0).metrics
        assert figures == {f"valid_{label.lower()}": metrics[label]["value"] for label in LABELS}
        seen.append(figures)
        with torch.no_grad():
            model.network.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(1))
    assert seen[0] != seen[1]


def test_a_figure_that_is_not_taken_is_refused(dataset, catalog, model, renderer):
    with pytest.raises(ConfigError, match=r"validation by HR@50: expected one of HR@3, Recall@3"):
        make_ranking(dataset, catalog, model, renderer, labels=["HR@50"], **OPTIONS)
