"""RL for the loop: which questions make a step, what is asked anew, what a checkpoint brings back."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from itemic.core.config import config_from_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.run import Run
from itemic.decode.trie import Trie
from itemic.language.prompts import Renderer
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.train.loop import Learner, train
from itemic.train.rl.config import RlConfig
from itemic.train.rl.figures import RunningFigures
from itemic.train.rl.judge import Judge
from itemic.train.rl.learner import QuestionBatch, RlLearner
from itemic.train.rl.policy_loss import JudgedBatch, PolicyLoss, objective_of
from itemic.train.rl.questions import QuestionBank, answer_trees
from itemic.train.rl.reference import make_reference
from itemic.train.rl.rewards.matches import rule

CPU = torch.device("cpu")
Make = Callable[..., RlLearner]

RIGHT = {"valid_ndcg@10": 0.5, "valid_hr@50": 0.8}


@pytest.fixture
def make(dataset: Dataset, catalog: Catalog, model: SidModel, renderer: Renderer) -> Make:
    """A learner of the ring; its ranking goes through given figures, the last one for ever."""

    def learner(changes: dict[str, Any], ranked: list[dict[str, float]] | None = None) -> RlLearner:
        base = {"questions_per_batch": 4, "rollout": {"group_size": 4}, "rewards": {"rule": 1.0}}
        config = config_from_mapping(RlConfig, base | changes)
        trees = answer_trees(Trie.from_catalog(catalog), dataset, renderer, config.tasks)
        bank = QuestionBank(dataset, renderer, config.tasks, trees, max_history=4)
        figures, reference = RunningFigures(), make_reference(model, config.reference)
        judge = Judge(
            model,
            config,
            rewards={"rule": rule},
            reference=reference if config.needs_reference else None,
            excludes_history=False,
            figures=figures,
            seed=1,
        )
        rankings = list(ranked or [RIGHT])
        return RlLearner(
            PolicyLoss(model, 1, objective_of(config), config.rollout.temperature, record=figures.add),
            bank,
            judge,
            config,
            figures=figures,
            reference=reference if config.needs_reference else None,
            ranking=lambda: rankings.pop(0) if len(rankings) > 1 else rankings[0],
            seed=1,
        )

    return learner


def steps(learner: RlLearner, epoch: int, size: int) -> Iterator[list[QuestionBatch]]:
    batches = learner.micro_batches(epoch)
    yield from (list(batches[start : start + size]) for start in range(0, len(batches), size))


def take(learner: RlLearner, batches: list[QuestionBatch]) -> None:
    learner.before_step(batches, CPU)
    for batch in batches:
        learner.module(learner.collate(batch, CPU)[0])
    learner.after_step()


def test_a_learner_is_what_the_loop_trains(make: Make) -> None:
    learner = make({})
    assert isinstance(learner, Learner)
    assert learner.task_names == ["next_item"]
    assert not learner.lower_is_better


def test_an_epoch_asks_every_question_once_in_each_inner_epoch(make: Make) -> None:
    learner = make({"steps_per_rollout": 3, "inner_epochs": 2, "training": {"accumulation_steps": 2}})
    batches = learner.micro_batches(0)
    assert learner.micro_batches(0) is batches, "cut once"
    assert len(batches) == 96 // 4 * 2
    for start in range(0, len(batches), 6):
        parts = batches[start : start + 6]
        assert len({batch.plan.number for batch in parts}) == 1
        assert sorted(batch.part for batch in parts) == list(range(6))
    asked = [row for batch in batches for row in batch.plan.parts[batch.part].row.tolist()]
    assert sorted(asked) == sorted(list(range(96)) * 2)
    assert [row for batch in learner.micro_batches(1) for row in batch.plan.parts[batch.part].row.tolist()] != asked
    assert learner.label_counts(batches[0]) == [4]


def test_a_step_never_mixes_roll_outs_and_what_fills_none_is_left_out(make: Make) -> None:
    learner = make({"questions_per_batch": 5, "steps_per_rollout": 3, "training": {"accumulation_steps": 3}})
    assert len(learner.micro_batches(0)) == 18  # of 20 batches; the next epoch leaves out others
    for step in steps(learner, 0, 3):
        assert len(step) == 3
        assert len({batch.plan.number for batch in step}) == 1


def test_an_epoch_smaller_than_a_roll_out_is_one(make: Make) -> None:
    learner = make({"questions_per_batch": 60, "training": {"accumulation_steps": 8}})
    assert [batch.plan.number for batch in learner.micro_batches(0)] == [0, 0]


@pytest.mark.parametrize("accumulation", [3, 4, 8])
def test_a_step_never_holds_a_question_twice_however_small_an_epoch_is(make: Make, accumulation: int) -> None:
    changes = {"questions_per_batch": 10, "steps_per_rollout": 4, "inner_epochs": 3}  # 10 micro-batches
    learner = make(changes | {"training": {"accumulation_steps": accumulation}})
    found = list(steps(learner, 0, accumulation))
    assert len(found) == 10 // accumulation * 3
    for step in found:
        assert len({batch.part for batch in step}) == accumulation
        assert len({batch.plan.number for batch in step}) == 1


def test_an_epoch_smaller_than_a_step_is_learned_from_once(make: Make) -> None:
    training = {"accumulation_steps": 4}
    assert len(make({"questions_per_batch": 40, "training": training}).micro_batches(0)) == 3
    with pytest.raises(ConfigError, match=r"3 micro-batches and a step takes 4.*lower training.accumulation_steps"):
        make({"questions_per_batch": 40, "inner_epochs": 2, "training": training}).micro_batches(0)


def test_an_epoch_without_a_question_names_the_weights(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"tasks \{'next_item': 0.001\}: epoch 0 draws no question"):
        make({"tasks": {"next_item": 0.001}}).micro_batches(0)


def test_no_two_roll_outs_have_one_number_whatever_an_epochs_length(make: Make) -> None:
    learner = make({"tasks": {"next_item": 0.6}, "training": {"accumulation_steps": 2}})
    plans = [batch.plan for epoch in range(30) for batch in learner.micro_batches(epoch)]
    lengths = {len(learner.micro_batches(epoch)) for epoch in range(30)}
    assert len(lengths) > 1, "fractional weights draw"
    assert len({plan.number for plan in plans}) == len({id(plan) for plan in plans})
    numbers = [plan.number for plan in plans]
    assert numbers == sorted(numbers)


def test_answers_are_given_once_a_roll_out_by_the_policy_before_it(make: Make, model: SidModel) -> None:
    learner = make({"steps_per_rollout": 2, "inner_epochs": 2, "training": {"accumulation_steps": 2}})
    asked: list[int] = []
    true = learner._judge.answer_and_judge
    learner._judge.answer_and_judge = lambda *given: (asked.append(given[-1]), true(*given))[1]  # type: ignore
    model.network.train()
    for step in list(steps(learner, 0, 2))[:6]:
        take(learner, step)
    assert asked == [0, 1]
    assert not model.network.training


def test_the_first_step_of_a_roll_out_has_ratio_one_and_later_ones_move(
    make: Make, tmp_path: Path, curve: Callable[..., Any]
) -> None:
    training = {"device": "cpu", "learning_rate": 0.05, "warmup": 0.0, "max_steps": 4, "log_every_steps": 1}
    learner = make(
        {
            "inner_epochs": 4,
            "questions_per_batch": 16,
            "rollout": {"group_size": 6},
            "grpo": {"beta": 0.0},
            "training": training | {"accumulation_steps": 1, "max_grad_norm": 0.0},
        }
    )
    run = train(
        learner,
        learner._config.training,
        folder=tmp_path / "ck",
        log_path=tmp_path / "rl" / "rl.jsonl",
        fingerprint="f",
        seed=0,
    )
    assert run.num_steps == 4
    lines = [line for line in curve(Run(tmp_path)) if "loss" in line]
    assert lines[0]["clip_fraction"] == 0.0
    assert abs(lines[0]["loss"]) < 1e-6, "advantages of a group sum to 0, and all ratios are 1"
    assert max(line["clip_fraction"] for line in lines[1:]) > 0.05
    assert "reward" in lines[0]
    assert "reward" not in lines[1], "no answers are given there"


@pytest.mark.parametrize("normalize", ["sequence", "token", "constant"])
def test_accumulation_takes_the_same_step(make: Make, model: SidModel, tmp_path: Path, normalize: str) -> None:
    start = {name: value.clone() for name, value in model.network.state_dict().items()}
    found = []
    for size, accumulation in ((96, 1), (24, 4)):
        model.network.load_state_dict(start)
        training = {"device": "cpu", "max_steps": 1, "accumulation_steps": accumulation, "log_every_steps": 1}
        learner = make(
            {"questions_per_batch": size, "grpo": {"normalize": normalize, "beta": 0.1}, "training": training}
        )
        step = next(steps(learner, 0, accumulation))
        learner.before_step(step, CPU)
        model.network.zero_grad()
        sums = [learner.module(learner.collate(batch, CPU)[0]) for batch in step]
        loss = torch.stack(sums).sum() / sum(sum(learner.label_counts(batch)) for batch in step)
        loss.backward()
        found.append([loss.detach(), *(weight.grad.clone() for weight in model.network.parameters())])
    for one, four in pairwise(found):
        for mine, theirs in zip(one, four, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_validation_is_ndcg_as_far_as_the_hit_rate_is_kept(make: Make) -> None:
    ranked = [RIGHT, {"valid_ndcg@10": 0.6, "valid_hr@50": 0.4}, {"valid_ndcg@10": 0.6, "valid_hr@50": 0.9}, {}]
    learner = make({"guards": {"min_valid_score": 0.65}}, ranked)
    first, narrowed, better, none = (learner.validate() for _ in range(4))
    assert next(iter(first.items())) == ("valid_score", 0.5)
    assert narrowed["valid_score"] == pytest.approx(0.6 * 0.4 / (0.98 * 0.8))
    assert better == {"valid_score": 0.6, "valid_ndcg@10": 0.6, "valid_hr@50": 0.9}
    assert none == {}
    assert "validation score fell from 0.5000 to 0.3061" in learner.reason_to_stop()


def test_a_learner_that_is_restored_goes_on_with_the_same_answers(make: Make, model: SidModel) -> None:
    changes = {
        "steps_per_rollout": 2,
        "rollout": {"sampler": "top-k", "group_size": 4},
        "reference": {"kind": "synced", "sync_every_steps": 1, "mixup": 0.5},
        "training": {"accumulation_steps": 2},
    }
    ranked = [RIGHT, {"valid_ndcg@10": 0.5, "valid_hr@50": 0.4}]
    learner = make(changes, ranked)
    learner.validate()
    first, second = list(steps(learner, 0, 2))[:2]
    take(learner, first)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.1)
    state = {name: value.clone() for name, value in learner.state().items()}
    again = make(changes, ranked[1:])
    again.restore(state)
    again._judge.answer_and_judge = None  # type: ignore[method-assign, assignment]
    for each in (learner, again):
        take(each, second)
    for mine, theirs in zip(learner._judged, again._judged, strict=True):
        for name in ("leaf", "advantages", "weight", "old_logprobs", "ref_logprobs"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    assert learner.pop_figures() == again.pop_figures()
    assert learner.validate() == again.validate()
    mine, theirs = learner.state(), again.state()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_asking_changes_nothing_and_figures_survive_a_checkpoint(make: Make) -> None:
    learner = make({"training": {"accumulation_steps": 2}})
    (first, *_) = steps(learner, 0, 2)
    take(learner, first)
    before, reason, after = learner.state(), learner.reason_to_stop(), learner.state()
    assert reason == ""
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = make({"training": {"accumulation_steps": 2}})
    again.restore(learner.state())
    figures = again.pop_figures()
    assert {"reward", "entropy", "kl", "distinct"} <= figures.keys()
    assert figures == learner.pop_figures()


@pytest.mark.parametrize("normalize", ["sequence", "token"])
def test_tokens_are_counted_only_where_the_loss_reads_them(
    make: Make, monkeypatch: pytest.MonkeyPatch, normalize: str
) -> None:
    def count(self: JudgedBatch) -> torch.Tensor:
        counted.append(1)
        return torch.tensor(0)

    counted: list[int] = []
    monkeypatch.setattr(JudgedBatch, "num_answer_tokens", property(count))
    learner = make({"grpo": {"normalize": normalize}, "training": {"accumulation_steps": 2}})
    (first, *_) = steps(learner, 0, 2)
    take(learner, first)
    assert len(counted) == (2 if normalize == "token" else 0)
    loss = learner.module(learner.collate(first[0], CPU)[0])
    assert loss.isfinite().all(), "a step without tokens divides by one"
