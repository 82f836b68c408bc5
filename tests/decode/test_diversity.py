import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommendations
from itemic.decode.beam import constrained_beam_search
from itemic.decode.diversity import (
    PrefixQuota,
    cosine_similarity,
    mmr_order,
    prefix_similarity,
    rerank_by_mmr,
)
from itemic.decode.filters import ItemFilter
from itemic.decode.naive import score_catalog
from itemic.decode.recommender import LanguageModelRecommender
from itemic.decode.trie import Trie

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9]]
EVERY_BEAM = 99


def prompt(history):
    return [7, *history]


def greedy(ordered, group_of, quota):
    """Best first, each item unless its group is full: what a quota means."""
    taken, count = [], {}
    for item in ordered:
        if count.get(group_of(item), 0) < quota:
            count[group_of(item)] = count.get(group_of(item), 0) + 1
            taken.append(item)
    return taken


@st.composite
def catalogs(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return sizes, draw(st.lists(sid, min_size=1, max_size=25))


@settings(max_examples=40)
@given(data=st.data())
def test_a_quota_is_greedy_where_the_beams_cover_the_tree(data, fake_policy, make_catalog) -> None:
    """Shared semantic IDs and filters included: items are counted, not leaves."""
    sizes, sids = data.draw(catalogs())
    quota = PrefixQuota(max_items=data.draw(st.integers(1, 4)), num_levels=data.draw(st.integers(1, len(sizes))))
    exclude = data.draw(st.lists(st.integers(0, len(sids) - 1)))
    catalog = make_catalog(sids, sizes, shares=True)
    policy = fake_policy(sizes, seed=data.draw(st.integers(0, 9)), catalog_version=catalog.version)
    recommender = LanguageModelRecommender(policy, catalog, prompt, num_beams=EVERY_BEAM, quota=quota)
    lists = recommender.recommend([[], [0]], 30, exclude=[exclude, exclude])
    for row, history in enumerate([[], [0]]):
        score = score_catalog(policy, prompt(history), sids, "legal")
        kept = [item for item in range(len(sids)) if item not in exclude]
        # Items of one leaf tie exactly, those of different leaves do not: compare by leaf.
        ordered = sorted(kept, key=lambda item: (-score[item], sids[item], item))
        expected = greedy(ordered, lambda item: sids[item][: quota.num_levels], quota.max_items)
        found = [item for item in lists.item_index[row].tolist() if item >= 0]
        assert [sids[item] for item in found] == [sids[item] for item in expected]
        np.testing.assert_allclose(lists.score[row, : len(found)], np.sort(score[expected])[::-1])
    assert (lists.num_tied_beyond == 0).all()


def slow_quota_search(score_prefix, sids, num_beams, quota):
    """The search in plain Python: two tiers above the leaves, a closed group at them."""
    num_levels = len(sids[0])
    beams = [()]
    for depth in range(1, num_levels + 1):
        children = sorted({sid[:depth] for sid in sids if sid[: depth - 1] in beams}, key=score_prefix, reverse=True)
        if depth <= quota.num_levels:
            beams = children[:num_beams]
            continue
        within = greedy(children, lambda sid: sid[: quota.num_levels], quota.max_items)
        beyond = [] if depth == num_levels else [child for child in children if child not in within]
        beams = [*within, *beyond][:num_beams]
    return sorted(beams, key=score_prefix, reverse=True)


@settings(max_examples=50)
@given(data=st.data())
def test_a_quota_search_equals_its_slow_twin(data, fake_policy) -> None:
    sizes, sids = data.draw(catalogs())
    sids = sorted(set(sids))
    quota = PrefixQuota(max_items=data.draw(st.integers(1, 4)), num_levels=data.draw(st.integers(1, len(sizes))))
    num_beams = data.draw(st.integers(1, 12))
    policy, trie = fake_policy(sizes, seed=data.draw(st.integers(0, 9))), Trie.from_codes(np.array(sids), sizes)
    result = constrained_beam_search(policy, PROMPTS, trie, num_beams, quota=quota)
    for row, tokens in enumerate(PROMPTS):
        share = dict(zip(sids, np.exp(score_catalog(policy, tokens, sids, "legal")), strict=True))
        mass = lambda prefix: sum(p for sid, p in share.items() if sid[: len(prefix)] == prefix)  # noqa: B023, E731
        expected = slow_quota_search(mass, sids, num_beams, quota)
        assert [sids[leaf] for leaf in result.leaf[row].tolist() if leaf >= 0] == expected
        # Never shorter than the quota and the beams force it to be.
        full = greedy(sids, lambda sid: sid[: quota.num_levels], quota.max_items)
        assert len(expected) == min(num_beams, len(full))


def test_a_quota_by_hand(uniform_policy) -> None:
    # Prefix 0 has three leaves of 1/6 each, prefix 1 one of 1/2.
    trie = Trie.from_codes(np.array([(0, 0), (0, 1), (0, 2), (1, 3)]), (4, 4))
    policy = uniform_policy((4, 4))
    one = constrained_beam_search(policy, [[0]], trie, 4, quota=PrefixQuota(max_items=1))
    assert one.leaf[0, 0] == 3
    assert one.leaf[0, 1] in (0, 1, 2)
    assert one.leaf[0, 2:].tolist() == [-1, -1]
    np.testing.assert_allclose(one.logprob[0].exp(), [1 / 2, 1 / 6, 0, 0])
    # What the quota rules out is no tie; what it would still admit is one.
    two = constrained_beam_search(policy, [[0]] * 2, trie, 2, quota=PrefixQuota(max_items=2))
    assert two.num_tied_beyond.tolist() == [1, 1]
    assert one.num_tied_beyond.tolist() == [0]
    allowed = ItemFilter.from_lists(trie, 1, allow=[[1, 2]])
    some = constrained_beam_search(policy, [[0]], trie, 4, allowed=allowed, quota=PrefixQuota(max_items=1))
    assert (some.leaf >= 0).sum() == 1
    assert some.leaf[0, 0] in (1, 2)


def test_a_quota_counts_items_of_shared_semantic_ids(uniform_policy, make_catalog) -> None:
    catalog = make_catalog([(0, 0), (0, 0), (0, 0), (0, 1), (1, 3)], (4, 4), shares=True)
    policy = uniform_policy((4, 4), catalog_version=catalog.version)
    for levels, expected in ((1, [[0], [0], [1]]), (2, [[0, 0], [0, 0], [0, 1], [1, 3]])):
        quota = PrefixQuota(max_items=2, num_levels=levels)
        lists = LanguageModelRecommender(policy, catalog, prompt, quota=quota).recommend([[]], 5)
        found = [item for item in lists.item_index[0].tolist() if item >= 0]
        assert found[0] == 4
        assert sorted(catalog.codes[found, :levels].tolist()) == expected


def test_bad_quotas_are_named(fake_policy) -> None:
    with pytest.raises(ConfigError, match="max_items must be at least 1, found 0"):
        PrefixQuota(max_items=0)
    with pytest.raises(ConfigError, match="num_levels must be at least 1, found 0"):
        PrefixQuota(max_items=1, num_levels=0)
    trie = Trie.from_codes(np.array([(0, 0)]), (2, 2))
    with pytest.raises(ConfigError, match="prefixes of 3 codes: semantic IDs have 2"):
        constrained_beam_search(fake_policy((2, 2)), [[1]], trie, 1, quota=PrefixQuota(max_items=1, num_levels=3))


def test_mmr_by_hand() -> None:
    relevance = np.array([[1.0, 0.9, 0.5, 0.4]])
    similarity = np.eye(4)[None].copy()
    similarity[0, 0, 1] = similarity[0, 1, 0] = 0.8
    similarity[0, 0, 2] = similarity[0, 2, 0] = 0.1
    # λ = 1/2: after 0 the others are worth .45 - .4, .25 - .05, .2 - 0; then 1 has .05 and 3 still .2.
    order = mmr_order(relevance, similarity, np.ones((1, 4), dtype=bool), 3, 0.5)
    assert order.tolist() == [[0, 2, 3]]
    everything = np.ones((1, 4), dtype=bool)
    assert mmr_order(relevance, similarity, everything, 6, 1.0).tolist() == [[0, 1, 2, 3, -1, -1]]
    assert mmr_order(relevance, similarity, np.array([[True, False, True, False]]), 3, 0.5).tolist() == [[0, 2, -1]]


def slow_mmr(relevance, similarity, k, trade_off):
    chosen, left = [], list(range(len(relevance)))
    while left and len(chosen) < k:
        closest = {i: max((similarity[i, j] for j in chosen), default=0.0) for i in left}
        best = max(left, key=lambda i: (trade_off * relevance[i] - (1 - trade_off) * closest[i], -i))
        chosen.append(best)
        left.remove(best)
    return chosen


@settings(max_examples=40)
@given(seed=st.integers(0, 999), k=st.integers(1, 12), trade_off=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_mmr_equals_the_definition(seed, k, trade_off) -> None:
    rng = np.random.default_rng(seed)
    relevance = -np.sort(-rng.random((3, 9)), axis=1)
    similarity = cosine_similarity(rng.normal(size=(3, 9, 4)))
    order = mmr_order(relevance, similarity, np.ones((3, 9), dtype=bool), k, trade_off)
    for row in range(3):
        expected = slow_mmr(relevance[row], similarity[row], k, trade_off)
        assert order[row].tolist() == [*expected, *[-1] * (k - len(expected))]


def test_similarities_by_hand() -> None:
    codes = np.array([[[1, 2, 3], [1, 2, 4], [1, 0, 3], [0, 2, 3]]])
    np.testing.assert_allclose(prefix_similarity(codes)[0, 0], [1, 2 / 3, 1 / 3, 0])
    vectors = np.array([[[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]]])
    np.testing.assert_allclose(cosine_similarity(vectors)[0, 0], [1, 24 / 25, 0])


def ranked(items, probabilities) -> Recommendations:
    with np.errstate(divide="ignore"):
        score = np.log(np.array(probabilities, dtype=np.float64))
    return Recommendations(item_index=np.array(items), score=score, num_tied_beyond=np.ones(len(items), dtype=np.int64))


def test_reranking_keeps_scores_and_ends_where_the_list_does() -> None:
    lists = ranked([[2, 0, 1], [1, -1, -1], [-1, -1, -1]], [[0.5, 0.4, 0.3], [0.25, 0, 0], [0, 0, 0]])
    codes = np.array([[0, 0], [1, 1], [0, 1]])
    # λ = 1/2: item 0 shares half of its codes with item 2, item 1 none: .4 - .25 is less than .3.
    again = rerank_by_mmr(lists, 2, 0.5, codes=codes)
    assert again.item_index.tolist() == [[2, 1], [1, -1], [-1, -1]]
    np.testing.assert_allclose(np.exp(again.score), [[0.5, 0.3], [0.25, 0], [0, 0]])
    assert again.num_tied_beyond.tolist() == [0, 0, 0]
    same = rerank_by_mmr(lists, 3, 1.0, vectors=np.eye(3))
    assert same.item_index.tolist() == lists.item_index.tolist()
    np.testing.assert_array_equal(same.score, lists.score)
    by_vector = rerank_by_mmr(lists, 2, 0.5, vectors=np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]], dtype=np.float32))
    assert by_vector.item_index[0].tolist() == [2, 0]


def test_bad_arguments_of_mmr_are_named() -> None:
    lists = ranked([[0, 1]], [[0.5, 0.4]])
    with pytest.raises(ConfigError, match=r"must lie between 0 and 1, found 1\.5"):
        rerank_by_mmr(lists, 1, 1.5, vectors=np.eye(2))
    with pytest.raises(ConfigError, match="codes or vectors"):
        rerank_by_mmr(lists, 1, 0.5)
    with pytest.raises(ConfigError, match="codes or vectors"):
        rerank_by_mmr(lists, 1, 0.5, codes=np.eye(2, dtype=np.int64), vectors=np.eye(2))
    with pytest.raises(DataError, match="k must be at least 1, found 0"):
        rerank_by_mmr(lists, 0, 0.5, vectors=np.eye(2))
