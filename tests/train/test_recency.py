"""Newer targets favoured, sequences perturbed: what an epoch then teaches."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.language.augment import AugmentConfig
from itemic.language.corpus import Corpus
from itemic.language.packing import pack_rows
from itemic.language.prompts import Renderer
from itemic.language.recency import RecencyConfig, are_newest, sequence_ages
from itemic.model.sid_model import SidModel
from itemic.train.learner import NextTokenLoss, SftLearner, batch_tensors
from itemic.train.sft import SftConfig

TASKS = {"next_item": 1.0}


def without_times(dataset: Dataset) -> Dataset:
    return replace(dataset, train=dataset.train.with_columns(pl.lit(None, pl.Int64).alias("timestamp")))


def test_ages_are_shares_of_the_rows_and_weights_have_mean_one(dataset: Dataset) -> None:
    untimed = without_times(dataset)
    ages = sequence_ages(untimed, RecencyConfig(half_life=0.5, newest_share=0.25))
    sequences = untimed.train_sequences()
    assert [len(each.weight) for each in ages] == [len(items) for items in sequences.values()]
    weights = np.concatenate([each.weight for each in ages])
    assert weights.mean() == pytest.approx(1)
    # Each user has 4 of 96 rows, by user: the last row is 48 rows, a half-life, newer than that of the 12th user.
    assert ages[-1].weight[-1] / ages[11].weight[-1] == pytest.approx(2)
    assert ages[0].weight[0] == ages[0].weight[1], "what precedes the first row is as old as it"
    assert sum(int(each.is_new.sum()) for each in ages) == 24
    assert all(each.is_new[1:].all() and not each.is_new[0] for each in ages[-6:])


@pytest.mark.parametrize("half_life", [0.0, 0.1, 0.5])
def test_weights_of_the_newest_have_mean_one_over_the_newest(dataset: Dataset, half_life: float) -> None:
    ages = sequence_ages(without_times(dataset), RecencyConfig(half_life=half_life, newest_share=0.25, newest_epochs=1))
    weights = np.concatenate([each.newest_weight[each.is_new] for each in ages])
    assert len(weights) == 24
    assert weights.mean() == pytest.approx(1)
    if half_life:
        assert weights.max() / weights.min() == pytest.approx(2 ** (23 / 96 / half_life))
    else:
        assert all((each.newest_weight == 1).all() and (each.weight == 1).all() for each in ages)


def test_an_epoch_of_the_newest_keeps_the_loss_s_scale(dataset: Dataset, renderer: Renderer) -> None:
    recency = RecencyConfig(half_life=0.1, newest_share=0.25, newest_epochs=1)
    corpus = Corpus(without_times(dataset), renderer, TASKS, max_history=3, stride=3, recency=recency)
    examples = [group.examples[0] for group in corpus.epoch(np.random.default_rng(0), newest_only=True)]
    weights = [each.weight[each.is_label] for each in examples if each.weight is not None]
    assert len(weights) == len(examples)
    assert np.concatenate(weights).mean() == pytest.approx(1)


def test_times_decide_where_all_are_known() -> None:
    assert are_newest(pl.Series([5, 9, 1, 9]), 0.5).tolist() == [False, True, False, True]
    assert are_newest(pl.Series([5, 9, None, 1]), 0.5).tolist() == [False, False, True, True]


def test_by_default_epochs_are_what_they_were(dataset: Dataset, renderer: Renderer) -> None:
    plain = Corpus(dataset, renderer, TASKS, max_history=3, stride=2)
    idle = Corpus(dataset, renderer, TASKS, max_history=3, stride=2, augment=AugmentConfig(), recency=RecencyConfig())
    for each, other in zip(plain.epoch(np.random.default_rng(1)), idle.epoch(np.random.default_rng(1)), strict=True):
        assert np.array_equal(each.examples[0].tokens, other.examples[0].tokens)
        assert np.array_equal(each.examples[0].is_label, other.examples[0].is_label)
        assert other.examples[0].weight is None


def test_the_last_epochs_teach_the_newest_rows_alone(dataset: Dataset, renderer: Renderer, model: SidModel) -> None:
    recency = RecencyConfig(newest_share=0.25, newest_epochs=1)
    corpus = Corpus(without_times(dataset), renderer, TASKS, max_history=3, stride=2, recency=recency)
    learner = SftLearner(model, corpus, row_tokens=32, rows_per_batch=2, seed=0, newest_from=1)
    labels = [sum(sum(learner.label_counts(each)) for each in learner.micro_batches(epoch)) for epoch in (0, 1)]
    assert labels == [3 * 5 * 24, 3 * 24]


def test_weighted_rows_give_the_weighted_loss_of_single_examples(
    dataset: Dataset, renderer: Renderer, model: SidModel
) -> None:
    recency = RecencyConfig(half_life=0.25)
    corpus = Corpus(dataset, renderer, TASKS, max_history=3, stride=2, recency=recency)
    groups = corpus.epoch(np.random.default_rng(0))
    module = NextTokenLoss(model, num_tasks=1).train()
    loss = float(module(batch_tensors(pack_rows(groups, 64), 0, torch.device("cpu"))).sum().detach())
    expected = 0.0
    for group in groups:
        (example,) = group.examples
        assert example.weight is not None
        scores = model.network(input_ids=torch.from_numpy(example.tokens)[None]).logits[0].detach().log_softmax(-1)
        for place in np.flatnonzero(example.is_label):
            expected -= float(scores[place - 1, example.tokens[place]]) * float(example.weight[place])
    assert loss == pytest.approx(expected, rel=1e-5)
    plain = float(module.eval()(batch_tensors(pack_rows(groups, 64), 0, torch.device("cpu"))).sum().detach())
    assert plain != pytest.approx(loss, rel=1e-3), "validation weighs nothing"


def test_perturbed_epochs_follow_from_seed_and_epoch(dataset: Dataset, renderer: Renderer, model: SidModel) -> None:
    augment = AugmentConfig(drop_items=0.2, swap_items=0.2, crop=0.2)
    corpus = Corpus(dataset, renderer, TASKS, max_history=3, stride=2, augment=augment)

    def tokens(epoch: int) -> list[list[int]]:
        learner = SftLearner(model, corpus, row_tokens=32, rows_per_batch=2, seed=0)
        return [np.concatenate(row.tokens).tolist() for batch in learner.micro_batches(epoch) for row in batch]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@pytest.mark.parametrize(
    "changes",
    [
        {"words": 100, "augment": AugmentConfig(drop_items=0.1)},
        {"words": 100, "recency": RecencyConfig(half_life=0.1)},
        {"recency": RecencyConfig(newest_epochs=30)},
        {"backbone": "somewhere", "decoder_rows": "codebook"},
        {"label_smoothing": 1.0},
    ],
)
def test_what_cannot_be_honoured_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SftConfig(**changes)  # type: ignore[arg-type]
