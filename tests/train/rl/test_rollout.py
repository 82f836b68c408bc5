"""Groups of candidates: what every sampler promises, and what each promises on its own."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError, DataError
from itemic.decode import Trie, constrained_beam_search
from itemic.decode.naive import score_catalog
from itemic.decode.prefill import PrefixMemory
from itemic.train.rl.answers import AnswerTree, Question, Rollout
from itemic.train.rl.rollout import RolloutConfig, add_targets, group_diversity, roll_out

SIZES = (4, 5, 6)
SAMPLERS = ["beam", "dynamic", "gumbel", "top-k"]
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 6, 4]]


def random_codes(num_items: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZES, (num_items, len(SIZES)))


def make_tree(policy, codes, sizes=SIZES) -> AnswerTree:
    return AnswerTree.of_sids(Trie.from_codes(np.asarray(codes), sizes), policy.sid_tokens)


def ask(prompts=PROMPTS, targets=None) -> list[Question]:
    targets = [[row] for row in range(len(prompts))] if targets is None else targets
    return [Question(task=0, prompt=prompt, targets=each) for prompt, each in zip(prompts, targets, strict=True)]


@pytest.fixture(scope="module")
def policy(fake_policy):
    return fake_policy(SIZES, seed=2)


@pytest.fixture(scope="module")
def tree(policy) -> AnswerTree:
    """Sixty items on shared semantic IDs."""
    return make_tree(policy, random_codes())


def equal(a: Rollout, b: Rollout) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("leaf", "logprob", "weight", "is_added"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_candidate_is_a_leaf_with_its_log_probability(policy, tree, sampler) -> None:
    config = RolloutConfig(sampler=sampler, group_size=8)
    rollout = roll_out(policy, ask(), tree, config, seed=3)
    assert rollout.leaf.shape == (5, 8)
    assert rollout.leaf.dtype == torch.int64
    assert rollout.logprob.dtype == rollout.weight.dtype == torch.float32
    assert ((rollout.leaf >= 0) & (rollout.leaf < tree.trie.num_leaves)).all()
    assert not rollout.is_added.any()
    torch.testing.assert_close(rollout.weight.sum(dim=1), torch.full((5,), 8.0))
    sids = sorted(set(map(tuple, random_codes().tolist())))
    for row, prompt in enumerate(PROMPTS):
        expected = score_catalog(policy, prompt, sids, "legal")
        np.testing.assert_allclose(rollout.logprob[row], expected[rollout.leaf[row]], rtol=1e-5)


def test_beams_are_those_of_the_constrained_search(policy, tree) -> None:
    rollout = roll_out(policy, ask(), tree, RolloutConfig(group_size=7, batch_size=2), seed=0)
    expected = constrained_beam_search(policy, PROMPTS, tree.trie, 7)
    assert torch.equal(rollout.leaf, expected.leaf)
    assert torch.equal(rollout.logprob, expected.logprob.float())
    assert (rollout.weight == 1).all()
    assert equal(rollout, roll_out(policy, ask(), tree, RolloutConfig(group_size=7), seed=1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_groups_depend_on_the_seed_and_the_row_alone(policy, tree, sampler) -> None:
    questions = ask()
    config = RolloutConfig(sampler=sampler, group_size=6)
    whole = roll_out(policy, questions, tree, config, seed=5)
    small = RolloutConfig(sampler=sampler, group_size=6, batch_size=2)
    assert equal(whole, roll_out(policy, questions, tree, small, seed=5, memory=PrefixMemory(policy)))
    chosen = [4, 1]
    part = roll_out(policy, [questions[row] for row in chosen], tree, config, seed=5, rows=chosen)
    assert torch.equal(part.leaf, whole.leaf[chosen])
    torch.testing.assert_close(part.logprob, whole.logprob[chosen])
    assert sampler == "beam" or not torch.equal(whole.leaf, roll_out(policy, questions, tree, config, seed=6).leaf)


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_what_is_excluded_is_never_answered(fake_policy, sampler, seed) -> None:
    rng = np.random.default_rng(seed)
    policy = fake_policy(SIZES, seed=seed)
    codes = random_codes(30, seed)
    tree = make_tree(policy, codes)
    exclude = [rng.permutation(30)[: rng.integers(0, 30)].tolist() for _ in PROMPTS]
    targets = [rng.permutation(30)[:2].tolist() for _ in PROMPTS]
    config = RolloutConfig(sampler=sampler, group_size=6)
    rollout = roll_out(policy, ask(targets=targets), tree, config, seed=seed, exclude=exclude)
    for row, closed in enumerate(exclude):
        is_open = np.isin(np.arange(30), [item for item in closed if item not in targets[row]], invert=True)
        legal = set(tree.leaves(torch.from_numpy(np.flatnonzero(is_open))).tolist())
        found = rollout.leaf[row][rollout.leaf[row] >= 0].tolist()
        assert set(found) <= legal
        if sampler in ("beam", "gumbel"):
            assert len(found) == len(set(found)) == min(6, len(legal))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_group_larger_than_the_tree_ends_without_candidates(policy, sampler) -> None:
    tree = make_tree(policy, [(0, 0, 0), (0, 0, 1), (3, 2, 1)])
    rollout = roll_out(policy, ask([[1, 2]]), tree, RolloutConfig(sampler=sampler, group_size=8), seed=0)
    if sampler in ("beam", "gumbel"):
        assert sorted(rollout.leaf[0, :3].tolist()) == [0, 1, 2]
        assert (rollout.leaf[0, 3:] == -1).all()
        assert (rollout.logprob[0, 3:] == -torch.inf).all()
        assert (rollout.weight[0, 3:] == 0).all()
        assert rollout.weight.sum().item() == pytest.approx(3)
    else:
        assert rollout.is_candidate.all()
        assert rollout.weight.sum() == 8
    assert rollout.logprob.masked_fill(~rollout.is_candidate, 0).isfinite().all()


def test_dynamic_sampling_keeps_targets_and_what_is_distinct(fake_policy) -> None:
    policy = fake_policy(SIZES, seed=2)
    policy.head = policy.head / 3  # milder, so that draws differ
    tree = make_tree(policy, random_codes(200, 1))
    prompts, group_size = [PROMPTS[0]] * 200, 6
    common = RolloutConfig(sampler="top-k", group_size=9, top_k=4)
    dynamic = RolloutConfig(sampler="dynamic", group_size=group_size, top_k=4)
    assert dynamic.num_draws == 9
    drawn = roll_out(policy, ask(prompts, [[0]] * 200), tree, common, seed=1)
    target = int(drawn.leaf.flatten().bincount().argsort()[-5])
    item = int(tree.trie.items(torch.tensor([target]))[0, 0])
    kept = roll_out(policy, ask(prompts, [[item]] * 200), tree, dynamic, seed=1)
    is_late = 0
    for draws, found in zip(drawn.leaf.tolist(), kept.leaf.tolist(), strict=True):
        distinct = list(dict.fromkeys(draws))
        assert len(set(found)) == min(group_size, len(distinct))
        assert (target in found) == (target in draws)
        is_late += target in distinct[group_size:]
        if target not in distinct[group_size:] and len(distinct) >= group_size:
            assert found == distinct[:group_size]
    assert is_late
    assert (group_diversity(kept.leaf) >= group_diversity(drawn.leaf)).all()


def test_dynamic_sampling_by_hand(monkeypatch, policy, tree) -> None:
    draws = torch.tensor([[4, 4, 7, 4, 9, 9, 2, 5], [4, 4, 4, 4, 4, 4, 4, 4]])
    score = -torch.arange(16.0).view(2, 8)
    monkeypatch.setattr("itemic.train.rl.rollout.draw_samples", lambda *args, **kwargs: (draws, score))
    first = tree.trie.items(torch.tensor([5]))[0, 0].item()
    config = RolloutConfig(sampler="dynamic", group_size=4, oversampling=2.0)
    found = roll_out(policy, ask([[1], [2]], [[first], [first]]), tree, config, seed=0)
    assert found.leaf.tolist() == [[4, 7, 9, 5], [4, 4, 4, 4]]
    assert found.logprob.tolist() == [[0, -2, -4, -7], [-8, -9, -10, -11]]


def test_common_sampling_follows_the_policy_among_the_likeliest(fake_policy) -> None:
    policy = fake_policy((6,), seed=1)
    policy.head = policy.head / 3
    tree = make_tree(policy, [(code,) for code in range(6)], (6,))
    p = np.exp(score_catalog(policy, PROMPTS[0], [(code,) for code in range(6)], "legal"))
    config = RolloutConfig(sampler="top-k", group_size=4000, top_k=3, temperature=2.0)
    rollout = roll_out(policy, ask(PROMPTS[:1]), tree, config, seed=0)
    likeliest = np.argsort(-p)[:3]
    expected = np.zeros(6)
    expected[likeliest] = np.sqrt(p[likeliest]) / np.sqrt(p[likeliest]).sum()
    share = np.bincount(rollout.leaf[0], minlength=6) / 4000
    assert (abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)).all()
    np.testing.assert_allclose(rollout.logprob[0].exp(), expected[rollout.leaf[0]], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_weighted_group_mean_is_the_expectation(fake_policy, temperature) -> None:
    """Without weights it is not: likely leaves are in nearly every sample, and count no more than the others there."""
    sids = [(code,) for code in range(8)]
    policy = fake_policy((8,), seed=4)
    policy.head = policy.head / 3
    logits = score_catalog(policy, PROMPTS[0], sids, "legal") / temperature
    p = np.exp(logits - np.logaddexp.reduce(logits))
    config = RolloutConfig(sampler="gumbel", group_size=6, temperature=temperature)
    draws = 3000
    rollout = roll_out(policy, ask([PROMPTS[0]] * draws, [[0]] * draws), make_tree(policy, sids, (8,)), config, seed=0)
    values = torch.tensor(p.argsort().argsort() ** 2.0)
    expected = float(p @ values.numpy())
    reward = values[rollout.leaf]
    weighted, plain = (rollout.weight * reward).mean(dim=1), reward.mean(dim=1)
    bias, error = float(weighted.mean() - expected), float(weighted.std()) / math.sqrt(draws)
    # Normalised weights have a bias of the order of 1/G; unweighted means miss by much more.
    assert abs(bias) < 4 * error + 0.05 * expected
    assert abs(float(plain.mean()) - expected) > 0.2 * expected
    np.testing.assert_allclose(rollout.weight.sum(dim=1), 6, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_missing_target_is_put_in_last(policy, tree, sampler) -> None:
    config = RolloutConfig(sampler=sampler, group_size=4)
    without = roll_out(policy, ask(), tree, config, seed=2)
    hit = tree.trie.items(without.leaf[0, :1])[0, 0].item()
    missing = next(item for item in range(60) if tree.leaves(torch.tensor(item)) not in without.leaf)
    questions = ask(targets=[[hit, missing], *[[missing, hit]] * 4])
    questions[1] = Question(task=0, prompt=PROMPTS[1], targets=[missing])
    added = roll_out(
        policy, questions, tree, RolloutConfig(sampler=sampler, group_size=4, add_ground_truth=True), seed=2
    )
    assert added.is_added[0].tolist() == [False] * 4
    assert added.is_added[1].tolist() == [False] * 3 + [True]
    assert added.leaf[1, -1] == tree.leaves(torch.tensor(missing))
    assert added.logprob[1, -1] == -torch.inf
    assert added.weight[1, -1] == 1
    torch.testing.assert_close(added.weight.sum(dim=1), torch.full((5,), 4.0))
    is_same = ~added.is_added
    assert torch.equal(added.leaf[is_same], without.leaf[is_same])
    assert torch.equal(added.weight[0], without.weight[0])


def test_weights_of_the_others_sum_to_the_rest_by_hand() -> None:
    rollout = Rollout(
        leaf=torch.tensor([[3, 5, 8], [3, 5, 8]]),
        logprob=torch.zeros(2, 3),
        weight=torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]]),
        is_added=torch.zeros(2, 3, dtype=torch.bool),
    )
    added = add_targets(rollout, torch.tensor([[-1, 7], [5, -1]]))
    assert added.leaf.tolist() == [[3, 5, 7], [3, 5, 8]]
    assert added.weight.tolist() == [[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]]
    single = add_targets(
        Rollout(
            leaf=rollout.leaf[:1, :1],
            logprob=rollout.logprob[:1, :1],
            weight=torch.ones(1, 1),
            is_added=rollout.is_added[:1, :1],
        ),
        torch.tensor([[7]]),
    )
    assert single.leaf.tolist() == [[7]]
    assert single.weight.tolist() == [[1.0]]


def test_a_target_on_a_shared_leaf_counts_as_found(policy) -> None:
    tree = make_tree(policy, [(0, 0, 0), (0, 0, 0), (1, 1, 1)])
    config = RolloutConfig(group_size=2, add_ground_truth=True)
    rollout = roll_out(policy, ask([[1]], [[1]]), tree, config, seed=0, exclude=[[0, 1]])
    assert sorted(rollout.leaf[0].tolist()) == [0, 1]
    assert not rollout.is_added.any()
    alone = roll_out(policy, ask([[1]], [[2]]), tree, config, seed=0, exclude=[[0, 1, 2]])
    assert alone.leaf.tolist() == [[1, -1]]


def test_a_deep_tree_of_other_tokens(tiny_model) -> None:
    """Titles say: twelve levels of any tokens, most nodes with one child, the same token at several levels."""
    model = tiny_model("qwen3", (16, 16, 16))
    rng = np.random.default_rng(1)
    vocabulary = model.vocabulary_size
    level_ids = tuple(rng.permutation(vocabulary)[: rng.integers(8, 20)] for _ in range(12))
    sizes = tuple(map(len, level_ids))
    codes = rng.integers(0, [3, 1, 3, 2, 1, 1, *[2] * 6], (40, 12))
    codes[:, 9:] = 0
    tree = AnswerTree(trie=Trie.from_codes(codes, sizes), level_ids=level_ids)
    questions = [Question(task=1, prompt=[1, 5, 9, row], targets=[row]) for row in range(5)]
    paths = np.unique(codes, axis=0)
    expected = [score_paths(model, question.prompt, paths, tree) for question in questions]
    for sampler in SAMPLERS:
        rollout = roll_out(model, questions, tree, RolloutConfig(sampler=sampler, group_size=40, batch_size=3), seed=0)
        for row in range(len(questions)):
            found = rollout.leaf[row][rollout.is_candidate[row]]
            assert len(found)
            np.testing.assert_allclose(rollout.logprob[row][: len(found)], expected[row][found], atol=2e-5)
            if sampler == "beam":
                assert found.sort().values.tolist() == list(range(len(paths)))[:40]


def score_paths(model, prompt, paths, tree: AnswerTree) -> np.ndarray:
    """Returns each path's legal log-probability, from one pass over the prompt and that path alone."""
    ids = np.stack([level[codes] for level, codes in zip(tree.level_ids, paths.T, strict=True)], axis=1)
    tokens = torch.from_numpy(np.concatenate([np.tile(prompt, (len(paths), 1)), ids], axis=1))
    size = tokens.shape[1]
    mask = torch.ones(len(paths), 1, size, size, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden, _ = model.hidden(tokens, mask, torch.arange(size).expand(len(paths), -1))
        logits = model.logits(hidden).numpy()
    score = np.zeros(len(paths))
    for row, path in enumerate(paths):
        for level, code in enumerate(path):
            siblings = np.unique(paths[(paths[:, :level] == path[:level]).all(axis=1), level])
            at = logits[row, len(prompt) - 1 + level][tree.level_ids[level]]
            score[row] += at[code] - np.logaddexp.reduce(at[siblings])
    return score


def test_no_questions_give_no_groups(policy, tree) -> None:
    rollout = roll_out(policy, [], tree, RolloutConfig(group_size=3), seed=0, exclude=[])
    assert rollout.leaf.shape == rollout.weight.shape == (0, 3)


def test_diversity_by_hand() -> None:
    leaf = torch.tensor([[1, 2, 3, 4], [7, 7, 7, 7], [5, 6, 5, -1], [-1, -1, -1, -1]])
    assert group_diversity(leaf).tolist() == [1.0, 0.25, float(torch.tensor(2 / 3)), 0.0]
    assert float(Fraction(2, 3)) == pytest.approx(group_diversity(leaf)[2].item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"sampler": "gumbel", "temperature": 0.0}, "temperature must be a positive number"),
        ({"sampler": "dynamic", "oversampling": 0.5}, "oversampling must be at least 1"),
        ({"temperature": 0.5}, "'beam' has no such setting"),
        ({"top_k": 10}, "dynamic, top-k"),
        ({"sampler": "gumbel", "top_k": 10}, "'gumbel' has no such setting"),
        ({"sampler": "top-k", "oversampling": 2.0}, "'top-k' has no such setting"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutConfig(**changes)


def test_oversampling_counts_draws_exactly() -> None:
    assert RolloutConfig(sampler="dynamic", group_size=10, oversampling=1.1).num_draws == 11
    assert RolloutConfig(sampler="dynamic", group_size=5).num_draws == 8


def test_questions_that_do_not_fit_are_refused(policy, tree) -> None:
    config = RolloutConfig(group_size=2)
    with pytest.raises(DataError, match="rows has 1 entries; expected 5"):
        roll_out(policy, ask(), tree, config, seed=0, rows=[1])
    with pytest.raises(DataError, match="exclude has 1 entries; expected 5"):
        roll_out(policy, ask(), tree, config, seed=0, exclude=[[1]])
    with pytest.raises(DataError, match="prompt 0 is empty"):
        roll_out(policy, ask([[]]), tree, config, seed=0)
    partial = AnswerTree.of_sids(Trie.from_codes(random_codes(), SIZES, np.arange(60) != 0), policy.sid_tokens)
    adding = RolloutConfig(group_size=2, add_ground_truth=True)
    with pytest.raises(DataError, match="question 0: none of its targets"):
        roll_out(policy, ask(), partial, adding, seed=0)
