"""Packed rows against one example a row: the same loss and the same gradients."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from itemic.core.dataset import Dataset
from itemic.language.corpus import Corpus, example_groups
from itemic.language.packing import Group, TreeRow, pack_rows
from itemic.language.prompts import Renderer
from itemic.language.tasks import TASKS, ItemTexts
from itemic.model.sid_model import SidModel
from itemic.train.learner import NextTokenLoss, SftLearner, batch_tensors

CPU = torch.device("cpu")


def loss_and_gradients(
    model: SidModel, rows: Sequence[TreeRow], smoothing: float = 0.0
) -> tuple[float, dict[str, torch.Tensor]]:
    module = NextTokenLoss(model, num_tasks=1, label_smoothing=smoothing)
    module.zero_grad()
    loss = module(batch_tensors(rows, 0, CPU)).sum()
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def one_a_row(groups: Sequence[Group]) -> list[TreeRow]:
    return [row for group in groups for each in group.examples for row in pack_rows([Group([each], 0)], 512)]


def plain_loss(model: SidModel, groups: Sequence[Group]) -> float:
    """The network's own logits on each example alone, with no mask, packing or position of ours."""
    total = 0.0
    for group in groups:
        for example in group.examples:
            logits = model.network(input_ids=torch.from_numpy(example.tokens)[None]).logits[0].detach().log_softmax(-1)
            for place in np.flatnonzero(example.is_label):
                total -= float(logits[place - 1, example.tokens[place]])
    return total


@pytest.fixture
def groups(dataset: Dataset, renderer: Renderer) -> list[Group]:
    texts = ItemTexts.from_items(dataset.items)
    return example_groups(dataset.train, TASKS["next_item"], 0, texts, renderer)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_packed_rows_give_the_loss_and_gradients_of_single_examples(
    model: SidModel, groups: list[Group], smoothing: float
) -> None:
    tree_loss, tree_gradients = loss_and_gradients(model, pack_rows(groups, 64), smoothing)
    loss, gradients = loss_and_gradients(model, one_a_row(groups), smoothing)
    assert tree_loss == pytest.approx(loss, rel=1e-6)
    if not smoothing:
        assert tree_loss == pytest.approx(plain_loss(model, groups), rel=1e-5)
    assert tree_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(tree_gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


def test_a_continuation_gives_the_loss_of_its_positions_as_examples(
    model: SidModel, renderer: Renderer, groups: list[Group], dataset: Dataset
) -> None:
    sequences = dataset.train_sequences().values()
    continuations = [Group([renderer.continuation(sequence, 1)], 0) for sequence in sequences]
    loss, gradients = loss_and_gradients(model, pack_rows(continuations, 40))
    expected, expected_gradients = loss_and_gradients(model, one_a_row(groups))
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


def test_an_epoch_teaches_every_training_position_and_no_held_out_one(
    model: SidModel, renderer: Renderer, dataset: Dataset
) -> None:
    corpus = Corpus(dataset, renderer, {"next_item": 1.0}, max_history=3, stride=2)
    learner = SftLearner(model, corpus, row_tokens=32, rows_per_batch=2, seed=0, ranking=None)
    for epoch in (0, 1):
        batches = learner.micro_batches(epoch)
        num_labels = sum(sum(learner.label_counts(batch)) for batch in batches)
        assert num_labels == 3 * dataset.interactions.filter(split="train").height


def test_a_fractional_weight_shows_a_share_of_the_examples(
    renderer: Renderer, dataset: Dataset, model: SidModel
) -> None:
    full = Corpus(dataset, renderer, {"next_item": 2.0}, max_history=8, stride=4).epoch(np.random.default_rng(0))
    half = Corpus(dataset, renderer, {"next_item": 0.5}, max_history=8, stride=4).epoch(np.random.default_rng(0))
    assert len(full) == 2 * 24
    assert 4 <= len(half) <= 20


def test_the_same_epoch_is_packed_the_same_way_and_another_is_not(
    model: SidModel, renderer: Renderer, dataset: Dataset
) -> None:
    corpus = Corpus(dataset, renderer, {"next_item": 1.0}, max_history=3, stride=2)

    def tokens(epoch: int) -> list[list[int]]:
        learner = SftLearner(model, corpus, row_tokens=32, rows_per_batch=2, seed=0, ranking=None)
        return [np.concatenate(row.tokens).tolist() for batch in learner.micro_batches(epoch) for row in batch]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_validation_loss_is_the_mean_over_the_held_out_targets(
    model: SidModel, renderer: Renderer, dataset: Dataset
) -> None:
    corpus = Corpus(dataset, renderer, {"next_item": 1.0}, max_history=50, stride=25)
    learner = SftLearner(model, corpus, row_tokens=64, rows_per_batch=4, seed=0, ranking=None)
    groups = corpus.validation()
    with torch.no_grad():
        expected = plain_loss(model, groups) / (3 * dataset.valid.height)
        assert learner.validate()["valid_loss"] == pytest.approx(expected, rel=1e-5)
