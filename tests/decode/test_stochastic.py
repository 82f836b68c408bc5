import math
from collections import Counter
from decimal import Decimal
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode.filters import ItemFilter
from itemic.decode.naive import score_catalog
from itemic.decode.stochastic import (
    DistinctSamples,
    _share_maximum,
    log_inclusion_probability,
    sample_with_replacement,
    sample_without_replacement,
)
from itemic.decode.trie import Trie

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9]]
UNEVEN = [(0, 0), (0, 1), (0, 2), (1, 3)]


def to_trie(sids, sizes) -> Trie:
    return Trie.from_codes(np.array(sids), sizes)


def small_tree(fake_policy):
    """A tree of six leaves and, for one prompt, their exact log-probabilities."""
    sizes = (3, 4)
    sids = [(0, 0), (0, 3), (1, 1), (2, 0), (2, 1), (2, 2)]
    policy = fake_policy(sizes, seed=4)
    policy.head = policy.head / 3  # milder, so that every leaf is drawn
    return policy, to_trie(sids, sizes), score_catalog(policy, PROMPTS[0], sids, "legal")


def share_error(share, num_draws):
    """Four standard errors of a relative frequency."""
    share = np.asarray(share)
    return 4 * np.sqrt(share * (1 - share) / num_draws) + 1e-9


@pytest.mark.parametrize("num_samples", [1, 2, 4])
def test_ordered_samples_have_the_plackett_luce_distribution(fake_policy, num_samples) -> None:
    policy, trie, logprob = small_tree(fake_policy)
    p, draws = np.exp(logprob), 20_000
    found = sample_without_replacement(policy, [PROMPTS[0]] * draws, trie, num_samples, seed=0, batch_size=5000)
    counts = Counter(map(tuple, found.leaf.tolist()))
    orders = list(permutations(range(6), num_samples))
    assert counts.keys() <= set(orders)
    left = [[1 - p[list(order[:place])].sum() for place in range(num_samples)] for order in orders]
    expected = draws * np.prod(p[np.array(orders)] / np.array(left), axis=1)
    assert expected.sum() == pytest.approx(draws)
    observed = np.array([counts[order] for order in orders])
    rare = expected < 5
    observed, expected = (np.append(each[~rare], each[rare].sum()) for each in (observed, expected))
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi2.sf(statistic, df=len(expected) - 1) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_inclusion_by_hand_on_a_uniform_tree(uniform_policy, dtype, monkeypatch) -> None:
    """In float32 too, which is all that some devices have."""
    monkeypatch.setattr("itemic.decode.stochastic.working_dtype", lambda device: dtype)
    # Leaves 0, 1, 2 have 1/6 each, leaf 3 has 1/2. Two without replacement hold leaf 3 with
    # 1/2 + 3 * 1/6 * (1/2) / (5/6) = 4/5, and each other leaf with (2 - 4/5) / 3 = 2/5.
    policy, trie, draws = uniform_policy((4, 4)), to_trie(UNEVEN, (4, 4)), 8000
    found = sample_without_replacement(policy, [[0]] * draws, trie, 2, seed=1, batch_size=4000)
    share = torch.bincount(found.leaf.flatten(), minlength=4).numpy() / draws
    expected = np.array([2 / 5, 2 / 5, 2 / 5, 4 / 5])
    assert (abs(share - expected) < share_error(expected, draws)).all()
    expected = [1 / 2 if leaf == 3 else 1 / 6 for leaf in found.leaf[0]]
    np.testing.assert_allclose(found.logprob[0].exp(), expected, rtol=1e-6)
    assert found.weights().dtype == dtype


def test_given_maxima_are_kept_at_any_magnitude() -> None:
    """As the formula in exact arithmetic where that works, and no overflow or cancellation where it does not."""
    perturbed = torch.tensor([[[-1000.0, 5.0, 5.0 - 1e-12, -30.0], [-2.0, -1.0, -torch.inf, -1.5]]]).double()
    for maximum in (torch.tensor([[40.0, -3.0]]), torch.tensor([[-700.0, 700.0]])):
        shared = _share_maximum(perturbed, maximum.double())
        torch.testing.assert_close(shared.amax(dim=-1), maximum.double(), rtol=0, atol=1e-12)
        assert not shared.isnan().any()
        assert shared[0, 1].argsort().tolist() == [2, 0, 3, 1]
    # -2 stands among numbers whose own maximum is -1, and that is to be -3.
    expected = -float((Decimal(3).exp() - Decimal(1).exp() + Decimal(2).exp()).ln())
    assert _share_maximum(perturbed, torch.tensor([[40.0, -3.0]]).double())[0, 1, 0].item() == pytest.approx(expected)


def test_perturbed_leaves_are_independent_gumbels(fake_policy) -> None:
    """Taken whole, the tree's top-down noise is what flat Gumbel noise on exhaustive scores is."""
    policy, trie, logprob = small_tree(fake_policy)
    draws = 4000
    found = sample_without_replacement(policy, [PROMPTS[0]] * draws, trie, 6, seed=2, batch_size=2000)
    assert (found.leaf.sort(dim=1).values == torch.arange(6)).all()
    noise = torch.empty_like(found.perturbed).scatter_(1, found.leaf, found.perturbed) - torch.from_numpy(logprob)
    for quantile in (0.1, 0.5, 0.9):
        below = (noise < -math.log(-math.log(quantile))).double().mean(dim=0)
        assert (abs(below - quantile) < share_error(quantile, draws)).all()
    correlation = np.corrcoef(noise.numpy().T) - np.eye(6)
    assert abs(correlation).max() < 4.5 / math.sqrt(draws)


@st.composite
def catalogs(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return sizes, draw(st.lists(sid, min_size=1, max_size=25))


@settings(max_examples=60)
@given(data=st.data())
def test_a_sample_is_the_top_of_all_perturbed_leaves(data, fake_policy) -> None:
    """Beams lose nothing: the S first of everything, with the next one's value as the threshold."""
    sizes, sids = data.draw(catalogs())
    num_samples, seed = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 99))
    exclude = data.draw(st.one_of(st.none(), st.lists(st.integers(0, len(sids) - 1))))
    policy, trie = fake_policy(sizes, seed=data.draw(st.integers(0, 9))), to_trie(sids, sizes)
    allowed = None if exclude is None else ItemFilter.from_lists(trie, len(PROMPTS), [exclude] * len(PROMPTS))
    options = {"seed": seed, "temperature": data.draw(st.sampled_from([0.5, 1.0, 3.0])), "allowed": allowed}
    everything = sample_without_replacement(policy, PROMPTS, trie, 30, **options)
    some = sample_without_replacement(policy, PROMPTS, trie, num_samples, **options)
    assert some.leaf.tolist() == everything.leaf[:, :num_samples].tolist()
    torch.testing.assert_close(some.perturbed, everything.perturbed[:, :num_samples])
    torch.testing.assert_close(some.threshold, everything.perturbed[:, num_samples])
    kept = {sid for item, sid in enumerate(sids) if item not in (exclude or ())}
    open_leaves = {leaf for leaf, sid in enumerate(sorted(set(sids))) if sid in kept}
    for row in everything.leaf.tolist():
        listed = [leaf for leaf in row if leaf >= 0]
        assert len(listed) == len(set(listed))
        assert set(listed) == open_leaves
    if open_leaves:
        torch.testing.assert_close(everything.logprob.exp().sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert not any(column.isnan().any() for column in (some.logprob, some.perturbed, some.threshold, some.weights()))


@pytest.mark.parametrize("only", [None, [0, 2, 3, 5]])
def test_the_estimator_is_unbiased(fake_policy, only) -> None:
    policy, trie, logprob = small_tree(fake_policy)
    draws, value = 8000, torch.tensor([3.0, -1.0, 0.5, 7.0, 2.0, -4.0, 99.0], dtype=torch.float64)
    allowed = None if only is None else ItemFilter.from_lists(trie, draws, allow=[only] * draws)
    p = np.exp(logprob)
    if only is not None:
        # Renormalised at each node on its own: (0, 0) takes its parent's mass, (2, 1) goes to its siblings.
        root = np.array([p[:2].sum(), p[2], p[3:].sum()])
        root = root / root.sum()
        p = np.array([root[0], 0, root[1], root[2] * p[3] / (p[3] + p[5]), 0, root[2] * p[5] / (p[3] + p[5])])
    for num_samples in (1, 3):
        found = sample_without_replacement(
            policy, [PROMPTS[0]] * draws, trie, num_samples, seed=5, allowed=allowed, batch_size=4000
        )
        estimate = found.expectation(value[found.leaf])
        exact = float((p * value[:6].numpy()).sum())
        assert abs(estimate.mean() - exact) < 4 * estimate.std() / math.sqrt(draws)
        assert found.expectation(torch.ones_like(found.logprob)).mean() == pytest.approx(1, abs=0.08)
        normalized = found.expectation(torch.full_like(found.logprob, 2.5), normalize=True)
        torch.testing.assert_close(normalized, torch.full_like(normalized, 2.5))
    whole = sample_without_replacement(
        policy, [PROMPTS[0]], trie, 9, seed=0, allowed=allowed and allowed.select(torch.tensor([0]))
    )
    assert whole.threshold.isneginf().all()
    for normalize in (False, True):
        assert whole.expectation(value[whole.leaf], normalize=normalize).item() == pytest.approx(exact)


def test_inclusion_probabilities_are_stable_at_both_ends() -> None:
    phi = torch.tensor([-800.0, -60.0, -30.0, -29.9, -1.0, 0.0, 5.0, 800.0, -3.0], dtype=torch.float64)
    kappa = torch.tensor([*[0.0] * 8, -torch.inf], dtype=torch.float64)
    log_q = log_inclusion_probability(phi, kappa)
    torch.testing.assert_close(log_q[:4], phi[:4], rtol=1e-13, atol=1e-13)
    assert log_q[4].item() == pytest.approx(math.log(1 - math.exp(-math.exp(-1))))
    assert log_q[5].item() == pytest.approx(math.log(1 - math.exp(-1)))
    assert log_q[7:].tolist() == [0.0, 0.0]
    assert (log_q.diff()[:7] >= 0).all()


def test_noise_follows_the_row_and_the_seed_only(fake_policy) -> None:
    policy = fake_policy((5, 5))
    trie = to_trie(list(product(range(5), repeat=2)), (5, 5))
    prompts = PROMPTS * 3
    for draw in (sample_without_replacement, sample_with_replacement):
        whole = draw(policy, prompts, trie, 4, seed=7, batch_size=16)
        for batch_size in (1, 5):
            parts = draw(policy, prompts, trie, 4, seed=7, batch_size=batch_size)
            assert parts.leaf.tolist() == whole.leaf.tolist()
            torch.testing.assert_close(parts.logprob, whole.logprob)
        assert draw(policy, prompts[:5], trie, 4, seed=7).leaf.tolist() == whole.leaf[:5].tolist()
        assert draw(policy, prompts, trie, 4, seed=8).leaf.tolist() != whole.leaf.tolist()
        # Equal prompts in other rows get other draws.
        assert len({tuple(row) for row in whole.leaf[::4].tolist()}) > 1


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (2.0, None), (1.0, 1), (0.7, 2)])
def test_draws_with_replacement_have_the_exact_distribution(fake_policy, temperature, top_k) -> None:
    policy, trie, logprob = small_tree(fake_policy)
    p = np.exp(logprob)
    found = sample_with_replacement(
        policy, [PROMPTS[0]] * 40, trie, 250, seed=3, temperature=temperature, top_k=top_k, batch_size=40
    )
    leaf, draws = found.leaf.flatten().numpy(), 40 * 250

    def renormalize(share):
        share = np.asarray(share) ** (1 / temperature)
        if top_k is not None:
            share = np.where(share >= np.sort(share)[-min(top_k, len(share))], share, 0)
        return share / share.sum()

    groups = [[0, 1], [2], [3, 4, 5]]
    root = renormalize([p[group].sum() for group in groups])
    exact = np.concatenate([root[i] * renormalize(p[group]) for i, group in enumerate(groups)])
    share = np.bincount(leaf, minlength=6) / draws
    assert (abs(share - exact) <= share_error(exact, draws)).all()
    np.testing.assert_allclose(found.logprob.flatten().exp(), exact[leaf])


def test_with_replacement_under_a_filter(fake_policy) -> None:
    policy, trie, _ = small_tree(fake_policy)
    allowed = ItemFilter.from_lists(trie, 3, allow=[[1, 4], [], [2]])
    found = sample_with_replacement(policy, [PROMPTS[0]] * 3, trie, 50, seed=3, allowed=allowed)
    assert set(found.leaf[0].tolist()) == {1, 4}
    assert found.leaf[1].tolist() == [-1] * 50
    assert found.logprob[1].isneginf().all()
    assert found.leaf[2].tolist() == [2] * 50
    assert (found.logprob[2] == 0).all()
    none = sample_without_replacement(policy, [PROMPTS[0]] * 3, trie, 3, seed=3, allowed=allowed)
    assert sorted(none.leaf[0].tolist()) == [-1, 1, 4]
    assert none.leaf[1:].tolist() == [[-1] * 3, [2, -1, -1]]
    assert none.weights(normalize=True)[1].tolist() == [0.0] * 3
    assert none.expectation(torch.full((3, 3), torch.nan)).tolist()[1] == 0.0


def test_no_prompts_and_bad_arguments(fake_policy) -> None:
    policy, trie = fake_policy((2, 2)), to_trie([(0, 0)], (2, 2))
    for draw in (sample_without_replacement, sample_with_replacement):
        assert draw(policy, [], trie, 3, seed=0).leaf.shape == (0, 3)
        with pytest.raises(DataError, match="prompt 1 is empty"):
            draw(policy, [[1], []], trie, 1, seed=0)
        with pytest.raises(ConfigError, match="num_samples must be at least 1, found 0"):
            draw(policy, [[1]], trie, 0, seed=0)
        for temperature in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ConfigError, match="temperature must be a positive number"):
                draw(policy, [[1]], trie, 1, seed=0, temperature=temperature)
        with pytest.raises(CatalogError, match="codebooks"):
            draw(policy, [[1]], to_trie([(0, 0)], (2, 3)), 1, seed=0)
    with pytest.raises(ConfigError, match="top_k must be at least 1, found 0"):
        sample_with_replacement(policy, [[1]], trie, 1, seed=0, top_k=0)
    assert isinstance(sample_without_replacement(policy, [], trie, 3, seed=0), DistinctSamples)
