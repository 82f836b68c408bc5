"""The mathematics under RQ-VAE: choice of codes, gradients past it, terms of the loss, updates of codebooks."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from itemic.sid.quantizers.codebook_updates import AveragedCodebooks, DeadCodes, GradientCodebooks, moving_averages
from itemic.sid.quantizers.letter_terms import CollaborativeTerm, DiversityTerm, draw_partners
from itemic.sid.quantizers.network_start import start_from_kmeans
from itemic.sid.quantizers.rqvae_losses import codebook_loss, collaborative_loss, commitment_loss, diversity_loss
from itemic.sid.quantizers.rqvae_network import MLP, Quantized, QuantizerNetwork, ResidualMLP
from itemic.sid.quantizers.vector_quantization import (
    nearest_codes,
    pairwise_distances,
    rotate_to,
    sinkhorn_codes,
    sinkhorn_plan,
    straight_through,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_codes_are_those_of_the_definition():
    x, codebook = normal(30, 4), normal(7, 4, seed=1)
    expected = (x[:, None] - codebook[None]).square().sum(dim=2)
    torch.testing.assert_close(pairwise_distances(x, codebook), expected)
    assert torch.equal(nearest_codes(x, codebook), expected.argmin(dim=1))


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([0.2, 0.5, 1.0]))
def test_a_plan_gives_every_vector_once_and_every_code_its_even_share(seed, epsilon):
    cost = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    plan = sinkhorn_plan(cost, epsilon, 200)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(dim=0), torch.full((4,), 3.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(12), atol=2e-2, rtol=0)


def test_a_plan_is_that_of_the_plain_alternation():
    cost = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = torch.exp(-cost / 0.1)
    for _ in range(7):
        plain = plain / plain.sum(dim=1, keepdim=True)
        plain = plain / plain.sum(dim=0, keepdim=True) * 6 / 3
    torch.testing.assert_close(sinkhorn_plan(cost, 0.1, 7), plain)


def test_a_small_epsilon_does_not_overflow():
    plan = sinkhorn_plan(normal(20, 5), 1e-4, 50)
    assert torch.isfinite(plan).all()


def test_balanced_codes_use_the_whole_codebook_where_nearest_codes_crowd():
    x = normal(64, 2) * 0.1
    codebook = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    assert len(nearest_codes(x, codebook).unique()) == 1
    counts = torch.bincount(sinkhorn_codes(x, codebook, 0.01, 500), minlength=4)
    assert counts.min() >= 12
    assert counts.max() <= 20


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z, quantized = normal(5, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    out = straight_through(z, quantized)
    torch.testing.assert_close(out, quantized)
    weights = normal(5, 3, seed=2)
    (out * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)
    assert quantized.grad is None


def test_rotation_agrees_with_the_explicit_matrix():
    z, quantized = normal(6, 4).double().requires_grad_(), normal(6, 4, seed=1).double()
    out = rotate_to(z, quantized)
    torch.testing.assert_close(out, quantized)
    weights = normal(6, 4, seed=2).double()
    (out * weights).sum().backward()
    for row in range(6):
        a, b = z[row].detach(), quantized[row]
        e, q = a / a.norm(), b / b.norm()
        r = (e + q) / (e + q).norm()
        rotation = torch.eye(4).double() - 2 * torch.outer(r, r) + 2 * torch.outer(q, e)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(4).double())
        torch.testing.assert_close(torch.linalg.det(rotation), torch.tensor(1.0).double())
        torch.testing.assert_close(rotation @ e, q)
        torch.testing.assert_close(z.grad[row], b.norm() / a.norm() * rotation.T @ weights[row])


def test_rotation_keeps_its_value_where_none_is_defined():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    quantized = torch.tensor([[1.0, 2.0], [-2.0, 0.0], [0.0, 0.0]])
    out = rotate_to(z, quantized)
    torch.testing.assert_close(out, quantized)
    out.sum().backward()
    assert torch.isfinite(z.grad).all()


def test_codebook_and_commitment_losses_by_hand():
    residuals = [torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    chosen = [torch.tensor([[0.0, 2.0], [3.0, 1.0]], requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    # Level 0: (1 + 0 + 0 + 9) / 4; level 1: 4 / 4.
    assert codebook_loss(residuals, chosen).item() == 10 / 4 + 1
    assert commitment_loss(residuals, chosen).item() == 10 / 4 + 1
    codebook_loss(residuals, chosen).backward()
    assert residuals[0].grad is None
    assert chosen[0].grad.tolist() == [[-1 / 2, 0], [0, -3 / 2]]
    commitment_loss(residuals, chosen).backward()
    assert residuals[0].grad.tolist() == [[1 / 2, 0], [0, 3 / 2]]


def test_collaborative_loss_by_hand():
    quantized = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    collaborative = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert collaborative_loss(quantized, collaborative).item() == pytest.approx(expected)


def test_items_without_collaborative_vector_are_left_out():
    quantized, collaborative = normal(4, 3), normal(4, 3, seed=1)
    with_unknown = torch.cat([collaborative[:2], torch.zeros(1, 3), collaborative[2:]])
    with_extra = torch.cat([quantized[:2], torch.ones(1, 3), quantized[2:]])
    torch.testing.assert_close(
        collaborative_loss(with_extra, with_unknown), collaborative_loss(quantized, collaborative)
    )
    assert collaborative_loss(quantized, torch.zeros(4, 3)).item() == 0


def test_diversity_loss_by_hand():
    codebook = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    # Code 0 with partner 1: −log( e² / (e² + e⁰) ), its product with itself left out.
    loss = diversity_loss(codebook, torch.tensor([0]), torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_moving_averages_by_hand():
    counts, sums = moving_averages(
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0], [4.0]]),
        torch.tensor([[3.0], [5.0], [7.0]]),
        torch.tensor([0, 0, 1]),
        0.5,
    )
    assert counts.tolist() == [3 / 2, 3 / 2]
    assert sums.tolist() == [[9 / 2], [11 / 2]]


def one_level(residuals, codebook):
    codes = nearest_codes(residuals, codebook)
    return Quantized(codes[:, None], [residuals], [codebook[codes]], codebook[codes])


def test_averaged_codebooks_settle_at_the_mean_of_their_items_and_unused_codes_stay():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [10.0], [100.0]]))
    update = AveragedCodebooks([codebook], 0.5)
    x = torch.tensor([[1.0], [2.0], [9.0], [12.0], [12.0]])
    for _ in range(30):
        quantized = one_level(x, codebook.detach())
        assert update.loss(quantized).item() == 0
        update.step(quantized)
    torch.testing.assert_close(codebook.detach(), torch.tensor([[1.5], [11.0], [100.0]]))
    assert not codebook.requires_grad


def test_a_placed_code_counts_as_one_item_there():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [10.0]]))
    update = AveragedCodebooks([codebook], 0.5)
    update.place(0, torch.tensor([1]), torch.tensor([[4.0]]))
    update.step(one_level(torch.tensor([[6.0]]), codebook.detach()))
    assert codebook.tolist() == [[0], [5]]


def test_gradient_codebooks_add_the_codebook_loss_and_move_by_no_step_of_their_own():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [10.0]]))
    update = GradientCodebooks([codebook])
    quantized = one_level(torch.tensor([[1.0], [8.0]]), codebook)
    assert update.loss(quantized).item() == 5 / 2
    update.step(quantized)
    assert codebook.tolist() == [[0], [10]]


def test_dead_codes_restart_at_badly_coded_residuals_only_after_their_patience():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [50.0], [60.0]]))
    update = GradientCodebooks([codebook])
    dead = DeadCodes([3], 2, torch.Generator().manual_seed(0))
    quantized = one_level(torch.tensor([[0.0], [0.0], [9.0]]), codebook)
    dead.observe(quantized.codes)
    assert dead.end_epoch(quantized, update) == 0
    dead.observe(quantized.codes)
    # One residual alone has an error, so one of the two dead codes restarts there.
    assert dead.end_epoch(quantized, update) == 1
    assert codebook.tolist() == [[0], [9], [60]]


def test_a_residual_too_long_for_single_precision_to_square_takes_a_dead_code():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [50.0]]))
    dead = DeadCodes([2], 1, torch.Generator().manual_seed(0))
    quantized = one_level(torch.tensor([[1e25], [2e25]]), codebook)._replace(codes=torch.tensor([[0], [0]]))
    dead.observe(quantized.codes)
    assert dead.end_epoch(quantized, GradientCodebooks([codebook])) == 1
    assert codebook[1].item() in (torch.tensor(1e25), torch.tensor(2e25))


def test_without_patience_no_code_restarts():
    codebook = torch.nn.Parameter(torch.tensor([[0.0], [50.0]]))
    dead = DeadCodes([2], 0, torch.Generator())
    quantized = one_level(torch.tensor([[3.0]]), codebook)
    for _ in range(3):
        dead.observe(quantized.codes)
        assert dead.end_epoch(quantized, GradientCodebooks([codebook])) == 0
    assert codebook.tolist() == [[0], [50]]


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_partners_are_other_codes_of_the_same_cluster(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 4, size=10)
    codes = rng.integers(0, 10, size=50)
    partners = draw_partners(clusters, codes, rng)
    alone = np.bincount(clusters, minlength=4)[clusters[codes]] == 1
    assert (partners[alone] == -1).all()
    assert (clusters[partners[~alone]] == clusters[codes[~alone]]).all()
    assert (partners[~alone] != codes[~alone]).all()


def test_every_other_code_of_the_cluster_can_be_partner():
    partners = draw_partners(np.array([0, 1, 0, 0]), np.zeros(200, dtype=np.int64), np.random.default_rng(0))
    assert set(partners.tolist()) == {2, 3}


def test_collaborative_term_reaches_latents_and_projection():
    term = CollaborativeTerm(np.eye(4, dtype=np.float32), 2, 0.5, torch.Generator().manual_seed(0))
    latents = normal(3, 2).requires_grad_()
    quantized = one_level(latents, normal(5, 2, seed=1))
    rows = np.array([3, 0, 2])
    loss = term.loss(rows, quantized)
    expected = 0.5 * collaborative_loss(term.projection(quantized.total), term.vectors[rows])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert latents.grad.abs().sum() > 0
    assert term.projection.weight.grad.abs().sum() > 0


def test_diversity_term_spreads_a_crowded_codebook():
    codebook = torch.nn.Parameter(normal(12, 4) * 0.1 + 1)
    term = DiversityTerm([codebook], 3, 1.0, np.random.default_rng(0))
    optimizer = torch.optim.Adam([codebook], lr=0.05)
    quantized = one_level(normal(40, 4), codebook.detach())
    before = torch.pdist(codebook.detach()).mean()
    for _ in range(20):
        term.begin_epoch()
        optimizer.zero_grad()
        term.loss(np.arange(40), quantized).backward()
        optimizer.step()
    assert torch.pdist(codebook.detach()).mean() > before


def test_networks_leave_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    MLP((3, 4, 2), torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_residual_network_begins_as_the_identity():
    x = normal(5, 3)
    torch.testing.assert_close(ResidualMLP((3, 8, 3), torch.Generator().manual_seed(0))(x), x)


def test_quantizing_sums_levels_and_passes_the_gradient_of_every_residual_to_the_latent():
    identity = torch.nn.Identity()
    network = QuantizerNetwork(1, identity, identity, (2, 2), 1)
    with torch.no_grad():
        network.codebooks[0].copy_(torch.tensor([[0.0], [10.0]]))
        network.codebooks[1].copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([[8.0]], requires_grad=True)
    quantized = network.quantize(z)
    assert quantized.codes.tolist() == [[1, 0]]
    assert [residual.item() for residual in quantized.residuals] == [8, -2]
    assert quantized.total.item() == 9
    commitment_loss(quantized.residuals, quantized.chosen).backward()
    # 2 (8 − 10) of level 0 and 2 (−2 + 1) of level 1.
    assert z.grad.item() == -4 - 2


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that is made under it."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_the_start_holds_no_table_of_all_vectors_against_all_codes(monkeypatch):
    num_items, num_codes, identity = 20000, 100, torch.nn.Identity()
    network = QuantizerNetwork(2, identity, identity, (num_codes, 2), 2)
    x = np.random.default_rng(0).normal(size=(num_items, 2)).astype(np.float32)
    monkeypatch.setattr(
        "itemic.sid.quantizers.network_start.kmeans", lambda residual, num, iterations, rng: residual[:num].copy()
    )
    tracemalloc.start()
    with LargestTensor() as largest:
        start_from_kmeans(network, x, np.random.default_rng(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * num_items * num_codes / 2
    assert largest.numel <= x.size
    np.testing.assert_array_equal(network.codebooks[0].detach(), x[:num_codes])
    # Level 1 begins with what level 0 leaves of the first vectors, which are its codes.
    np.testing.assert_array_equal(network.codebooks[1].detach(), np.zeros((2, 2)))


def test_the_start_draws_256_vectors_a_code_where_there_are_more():
    identity, drawn = torch.nn.Identity(), []
    network = QuantizerNetwork(1, identity, identity, (2,), 1)
    x = np.arange(1000, dtype=np.float32)[:, None]

    def remember(residual, num_codes, num_iterations, rng):
        drawn.extend(residual[:, 0].tolist())
        return residual[:num_codes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itemic.sid.quantizers.network_start.kmeans", remember)
        start_from_kmeans(network, x, np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == 512
    assert drawn == sorted(drawn)
