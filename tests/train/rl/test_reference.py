"""Reference policies: one stays, one follows by hand-worked shares, and nothing frozen is kept twice."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from itemic.core.errors import ArtifactError, ConfigError
from itemic.model import LoraConfig, SidModel
from itemic.train.checkpoint import Progress, load_checkpoint, load_learner_state, save_checkpoint
from itemic.train.parameters import TrainedPart, choose_parameters
from itemic.train.rl.reference import Reference, ReferenceConfig, SyncedReference, make_reference

SIZES = (4, 4, 4)
IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 15, (3, 6)))
MASK = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
POSITIONS = torch.arange(6).expand(3, 6)


@pytest.fixture(params=["all", "sid-rows", "lora"])
def part(request: pytest.FixtureRequest) -> TrainedPart:
    return request.param


@pytest.fixture(params=["qwen3", "gemma2"])
def plain(request: pytest.FixtureRequest, tiny_model: Callable[..., SidModel]) -> SidModel:
    return tiny_model(request.param, SIZES)


@pytest.fixture
def policy(plain: SidModel, part: TrainedPart) -> SidModel:
    choose_parameters(plain, part, LoraConfig(rank=2, dropout=0.1), seed=0)
    plain.network.train()
    return plain


def logits(model: SidModel) -> Tensor:
    return model.logits(model.hidden(IDS, MASK, POSITIONS)[0], torch.from_numpy(model.sid_tokens.all_ids))


def optimizer_of(model: SidModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW([each for each in model.network.parameters() if each.requires_grad], lr=0.05)


def step(model: SidModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    scores = logits(model)
    (scores * torch.randn_like(scores)).sum().backward()
    optimizer.step()


def trained(model: SidModel) -> dict[str, Tensor]:
    named = model.network.named_parameters()
    return {name: each.detach().clone() for name, each in named if each.requires_grad}


@torch.no_grad()
def quiet_logits(model: SidModel) -> Tensor:
    network, modes = model.network, {module: module.training for module in model.network.modules()}
    network.eval()
    found = logits(model)
    for module, mode in modes.items():
        module.training = mode
    return found


def test_stays_what_the_policy_was_to_the_bit(policy):
    before = copy.deepcopy(policy.network)
    reference = make_reference(policy, ReferenceConfig())
    expected = quiet_logits(policy)
    optimizer = optimizer_of(policy)
    for seed in range(3):
        reference.before_step()
        step(policy, optimizer, seed)
    found = logits(reference.model)
    assert not found.requires_grad
    assert torch.equal(found, expected)
    for name, parameter in reference.model.network.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)), name
        assert not parameter.requires_grad
    assert (quiet_logits(policy) - expected).abs().max() > 0.1
    assert not any(module.training for module in reference.model.network.modules())
    assert all(module.training for module in policy.network.modules())
    assert reference.state() == {}
    reference.restore({})


def test_keeps_only_what_trains_twice(policy, part):
    reference = Reference(policy)
    theirs = dict(reference.model.network.named_parameters())
    for name, parameter in policy.network.named_parameters():
        assert (theirs[name] is parameter) == (not parameter.requires_grad), name
    copied = sum(theirs[name].numel() for name in trained(policy))
    assert part == "all" or copied < 0.25 * sum(each.numel() for each in theirs.values())
    assert reference.model.tokenizer is policy.tokenizer


def test_fresh_adapters_make_it_the_plain_backbone(plain):
    ids = torch.from_numpy(plain.sid_tokens.all_ids)
    with torch.no_grad():
        hidden, _ = plain.hidden(IDS, MASK, POSITIONS)
        expected = plain.logits(hidden, ids)
        choose_parameters(plain, "lora", LoraConfig(rank=2), seed=0)
    reference = Reference(plain)
    optimizer = optimizer_of(plain)
    for seed in range(3):
        step(plain, optimizer, seed)
    found, _ = reference.model.hidden(IDS, MASK, POSITIONS)
    assert torch.equal(found, hidden)
    torch.testing.assert_close(reference.model.logits(found, ids), expected)


def test_does_not_touch_the_policys_gradients(policy):
    reference = Reference(policy)
    policy.network.eval()
    logits(policy).square().sum().backward()
    expected = {name: each.grad for name, each in policy.network.named_parameters() if each.requires_grad}
    policy.network.zero_grad(set_to_none=True)
    logits(reference.model)
    scores = logits(policy)
    logits(reference.model)
    scores.square().sum().backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(policy.network.get_parameter(name).grad, gradient)


def test_under_one_autocast_they_agree_at_first_and_the_policy_still_learns(policy):
    reference = Reference(policy)
    policy.network.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, ours = logits(reference.model), logits(policy)
    assert torch.equal(theirs, ours)
    ours.float().square().sum().backward()
    gradients = [each.grad for each in policy.network.parameters() if each.requires_grad]
    assert all(gradient is not None for gradient in gradients)


def follow(policy: SidModel, reference: SyncedReference, num_steps: int) -> None:
    optimizer = optimizer_of(policy)
    for seed in range(num_steps):
        reference.before_step()
        step(policy, optimizer, seed)


def test_follows_by_its_share_every_so_many_steps(policy):
    reference = make_reference(policy, ReferenceConfig(kind="synced", sync_every_steps=2, mixup=0.25))
    start = trained(policy)
    optimizer = optimizer_of(policy)
    seen = []
    for seed in range(5):
        reference.before_step()
        seen.append((trained(policy), {name: reference.model.network.get_parameter(name).clone() for name in start}))
        step(policy, optimizer, seed)
    for name, initial in start.items():
        first, second = (0.25 * seen[at][0][name] for at in (2, 4))
        expected = [initial, initial, 0.75 * initial + first, 0.75 * initial + first]
        expected.append(0.75 * expected[-1] + second)
        for at, value in enumerate(expected):
            torch.testing.assert_close(seen[at][1][name], value, msg=f"{name} before step {at}")


def test_a_mixup_of_one_is_the_policy_itself(policy):
    reference = SyncedReference(policy, every=3, mixup=1.0)
    follow(policy, reference, 3)
    reference.before_step()
    assert torch.equal(logits(reference.model), quiet_logits(policy))


def test_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path, policy):
    resumed = copy.copy(policy)
    resumed.network = copy.deepcopy(policy.network)
    optimizer, reference = optimizer_of(policy), SyncedReference(policy, every=2, mixup=0.6)
    for seed in range(6):
        if seed == 4:  # the checkpoint is of a step after which the reference follows
            state = {"other": torch.zeros(1), **reference.state()}
            save_checkpoint(tmp_path / "last", policy.network, optimizer, Progress("f", step=4), state)
        reference.before_step()
        step(policy, optimizer, seed)

    late = SyncedReference(resumed, every=2, mixup=0.6)
    optimizer = optimizer_of(resumed)
    assert load_checkpoint(tmp_path / "last", resumed.network, optimizer, "f") is not None
    late.restore(load_learner_state(tmp_path / "last"))
    for seed in range(4, 6):
        late.before_step()
        step(resumed, optimizer, seed)
    assert torch.equal(quiet_logits(resumed), quiet_logits(policy))
    assert late.state().keys() == reference.state().keys()
    for name, value in reference.state().items():
        assert torch.equal(late.state()[name], value), name


def test_a_state_of_another_model_is_refused(tiny_model):
    policy = tiny_model("qwen3", SIZES)
    reference = SyncedReference(policy, every=2, mixup=0.6)
    good = reference.state()
    first = next(name for name in good if name.startswith("reference.parameter."))
    bad: list[dict[str, Any]] = [
        {},
        {name: value for name, value in good.items() if name != first},
        {**good, "reference.parameter.more": torch.zeros(2)},
        {**good, first: torch.zeros(2)},
    ]
    for state in bad:
        with pytest.raises(ArtifactError, match="is not of this reference policy"):
            reference.restore(state)


@pytest.mark.parametrize("values", [{"sync_every_steps": 0}, {"mixup": 0.0}, {"mixup": 1.5}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        ReferenceConfig(**values)
