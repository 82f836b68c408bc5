"""Several catalogues behind one model, against searching each by itself after its opening tokens."""

from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode import Trie, constrained_beam_search
from itemic.decode.domains import Domain, DomainForest, recommend_from_domains
from itemic.decode.naive import naive_beam_search, score_catalog
from itemic.decode.policy import Policy
from itemic.language import Spelling

Sid = tuple[int, ...]
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]


def at_hand(policy: Policy, level_ids: Sequence[np.ndarray]) -> Any:
    """Returns the fake with other tokens for its codes."""
    spelling = Spelling(style="plain", codebook_sizes=tuple(map(len, level_ids)))
    tokens = SimpleNamespace(spelling=spelling, level_ids=tuple(level_ids), opening_ids=(), closing_ids=())
    return SimpleNamespace(
        sid_tokens=tokens,
        device=policy.device,
        hidden=policy.hidden,
        logits=policy.logits,
        repeat_cache=policy.repeat_cache,
        vocabulary_size=policy.vocabulary_size,
    )


def opening_logprob(
    policy: Policy, prompt: Sequence[int], opening: tuple[int, ...], openings: list[tuple[int, ...]], normalize: str
) -> float:
    """Returns log p of a domain's opening tokens, each among those that lead to a domain or in the vocabulary."""
    score = 0.0
    for place, token in enumerate(opening):
        tokens = [*prompt, *opening[:place]]
        mask = torch.ones(1, 1, len(tokens), len(tokens), dtype=torch.bool).tril()
        hidden, _ = policy.hidden(torch.tensor([tokens]), mask, torch.arange(len(tokens))[None])
        logits = policy.logits(hidden)[0, -1].double()
        legal = sorted({other[place] for other in openings if other[:place] == opening[:place]})
        normalizer = (logits[legal] if normalize == "legal" else logits).logsumexp(dim=0)
        score += float(logits[token] - normalizer)
    return score


@st.composite
def domains_of_tokens(draw: st.DrawFn, num_tokens: int) -> list[dict[str, Any]]:
    """Arguments of domains whose codebooks share tokens by chance, with openings of one or two tokens."""
    num_domains, num_levels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    num_openings = draw(st.integers(1, 2))
    token = st.integers(0, num_tokens - 1)
    opening = st.tuples(*[token] * num_openings)
    openings = draw(st.lists(opening, min_size=num_domains, max_size=num_domains, unique=True))
    domains = []
    for number, ids in enumerate(openings):
        levels = [draw(st.lists(token, min_size=1, max_size=4, unique=True)) for _ in range(num_levels)]
        sid = st.tuples(*(st.integers(0, len(level) - 1) for level in levels))
        codes = np.array(draw(st.lists(sid, min_size=1, max_size=6, unique=True)))
        level_ids = tuple(np.array(level) for level in levels)
        domains.append({"name": f"domain {number}", "opening_ids": ids, "level_ids": level_ids, "codes": codes})
    return domains


@settings(max_examples=40)
@given(data=st.data())
def test_equals_scoring_every_item_of_every_domain(data: st.DataObject, fake_policy) -> None:
    """Score = log p(opening) + log p(item | prompt, opening), each domain scored on its own tokens, exhaustively."""
    policy = fake_policy((4, 5), seed=data.draw(st.integers(0, 9)))
    domains = [Domain(**options) for options in data.draw(domains_of_tokens(29))]
    normalize = data.draw(st.sampled_from(["legal", "full"]))
    names = [domain.name for domain in domains]
    choice = st.one_of(st.none(), st.lists(st.sampled_from(names), unique=True))
    asked = data.draw(st.lists(choice, min_size=3, max_size=3))
    forest = DomainForest(domains)
    num_items = sum(len(domain.codes) for domain in domains)
    lists = recommend_from_domains(policy, PROMPTS, forest, num_items, domains=asked, normalize=normalize)
    openings = [domain.opening_ids for domain in domains]
    for row, prompt in enumerate(PROMPTS):
        expected = {}
        for number, domain in enumerate(domains):
            if asked[row] is not None and domain.name not in asked[row]:
                continue
            sids = [tuple(codes) for codes in domain.codes.tolist()]
            own = at_hand(policy, domain.level_ids)
            scores = score_catalog(own, [*prompt, *domain.opening_ids], sids, normalize)
            first = opening_logprob(policy, prompt, domain.opening_ids, openings, normalize)
            expected |= {(number, item): first + score for item, score in enumerate(scores)}
        found = list(
            zip(*(column[row].tolist() for column in (lists.domain, lists.item_index, lists.score)), strict=True)
        )
        num_listed = len(expected)
        assert found[num_listed:] == [(-1, -1, -np.inf)] * (num_items - num_listed)
        assert {(number, item): score for number, item, score in found[:num_listed]} == pytest.approx(expected)
        assert (np.diff(lists.score[row, :num_listed]) <= 0).all()
        if normalize == "legal" and asked[row] is None:
            assert np.exp(lists.score[row]).sum() == pytest.approx(1)


@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_few_beams_are_the_naive_searchs(fake_policy, normalize) -> None:
    policy = fake_policy((4, 5))
    shared = tuple(policy.sid_tokens.level_ids)
    rng = np.random.default_rng(2)
    domains = [
        Domain(name=name, opening_ids=(opening,), level_ids=shared, codes=np.unique(codes, axis=0))
        for name, opening, codes in zip(
            ("video", "ad"), (20, 21), (rng.integers(0, (4, 5), (size, 2)) for size in (12, 6)), strict=True
        )
    ]
    forest = DomainForest(domains)
    speaking = forest.speak(policy)
    assert isinstance(speaking, Policy)
    sids = [
        (number, *codes) for number, domain in enumerate(domains) for codes in forest_codes(forest, domain).tolist()
    ]
    located = [(number, item) for number, domain in enumerate(domains) for item in range(len(domain.codes))]
    for num_beams in (1, 2, 5):
        lists = recommend_from_domains(policy, PROMPTS, forest, num_beams, num_beams=num_beams, normalize=normalize)
        for row, prompt in enumerate(PROMPTS):
            expected = naive_beam_search(speaking, prompt, sids, num_beams, normalize)
            found = list(zip(lists.domain[row].tolist(), lists.item_index[row].tolist(), strict=True))
            assert found == [located[sids.index(sid)] for sid, _ in expected]


def forest_codes(forest: DomainForest, domain: Domain) -> np.ndarray:
    unions = forest._sid_tokens.level_ids[1:]
    return np.stack(
        [
            np.searchsorted(union, ids[column])
            for union, ids, column in zip(unions, domain.level_ids, domain.codes.T, strict=True)
        ],
        axis=1,
    )


def test_one_domain_ranks_as_its_own_trie_does_after_its_opening(tiny_model) -> None:
    """A tiny Qwen3 and Gemma 2 with two catalogues in one token space, as OpenOneRec has them."""
    sizes = (8, 8, 8)
    rng = np.random.default_rng(0)
    catalogs = [np.unique(rng.integers(0, sizes, (size, 3)), axis=0) for size in (50, 20)]
    prompts = [[1, 4, 11, 20], [1], [1, 5, 12, 21] * 2]
    for kind in ("qwen3", "gemma2"):
        model = tiny_model(kind, sizes)
        opening = model.sid_tokens.opening_ids
        domains = [
            Domain(name=name, opening_ids=(mark, *opening), level_ids=model.sid_tokens.level_ids, codes=codes)
            for name, mark, codes in zip(("video", "product"), (0, 2), catalogs, strict=True)
        ]
        forest = DomainForest(domains)
        num_items = max(map(len, catalogs))
        together = recommend_from_domains(model, prompts, forest, 2 * num_items)
        np.testing.assert_allclose(np.exp(together.score).sum(axis=1), 1, rtol=0, atol=1e-4)
        for number, domain in enumerate(domains):
            num_items = len(domain.codes)
            lists = recommend_from_domains(model, prompts, forest, num_items, domains=[[domain.name]] * 3)
            trie = Trie.from_codes(domain.codes, sizes)
            read = [[*prompt, *domain.opening_ids] for prompt in prompts]
            alone = constrained_beam_search(model, read, trie, num_items)
            assert (lists.domain == number).all()
            assert lists.item_index.tolist() == alone.leaf.tolist()
            shift = lists.score - alone.logprob.numpy()
            np.testing.assert_allclose(shift, shift[:, :1].repeat(num_items, axis=1), rtol=0, atol=5e-5)


def test_filters_speak_of_domains_and_items_at_once(fake_policy) -> None:
    policy = fake_policy((4, 5))
    codes = np.array(list(product(range(2), range(3))))
    domains = [
        Domain(name=name, opening_ids=(opening,), level_ids=tuple(policy.sid_tokens.level_ids), codes=codes)
        for name, opening in (("video", 20), ("ad", 21))
    ]
    forest = DomainForest(domains)
    exclude = [forest.item_index("video", [0, 1]), [], forest.item_index("ad", [5])]
    lists = recommend_from_domains(
        policy, PROMPTS, forest, 12, domains=[["video"], [], ["ad", "video"]], exclude=exclude
    )
    listed = [
        {pair for pair in zip(domain, item, strict=True) if pair[0] >= 0}
        for domain, item in zip(lists.domain.tolist(), lists.item_index.tolist(), strict=True)
    ]
    assert listed[0] == {(0, item) for item in (2, 3, 4, 5)}
    assert listed[1] == set()
    assert lists.num_allowed.tolist() == [4, 0, 11]
    assert listed[2] == {(0, item) for item in range(6)} | {(1, item) for item in range(5)}
    allow = [forest.item_index("ad", [2]) + forest.item_index("video", [4])]
    both = recommend_from_domains(policy, PROMPTS[:1], forest, 3, allow=allow)
    assert set(zip(both.domain[0].tolist(), both.item_index[0].tolist(), strict=True)) == {(0, 4), (1, 2), (-1, -1)}


def test_retired_items_are_never_listed(fake_policy, make_catalog) -> None:
    policy = fake_policy((2, 2))
    catalog = make_catalog([[0, 0], [0, 1], [1, 0]], (2, 2)).remove([1])
    domains = [Domain.from_catalog(name, catalog, policy.sid_tokens, [20 + row]) for row, name in enumerate("ab")]
    lists = recommend_from_domains(policy, [[1]], DomainForest(domains), 6)
    found = set(zip(lists.domain[0].tolist(), lists.item_index[0].tolist(), strict=True))
    assert found == {(0, 0), (0, 2), (1, 0), (1, 2), (-1, -1)}


def test_bad_arguments_are_named(fake_policy) -> None:
    policy = fake_policy((2, 2))
    levels = tuple(policy.sid_tokens.level_ids)

    def domain(**changes: Any) -> Domain:
        given = {"name": "video", "opening_ids": (20,), "level_ids": levels, "codes": np.array([[0, 1]])}
        return Domain(**{**given, **changes})

    other = {"name": "ad", "opening_ids": (21,)}
    for wrong, error, message in (
        ({"opening_ids": ()}, ConfigError, "domain 'video' has no opening tokens"),
        ({"codes": np.array([[0]])}, CatalogError, "items have 1 codes, there are tokens for 2 levels"),
        ({"codes": np.array([[0, 0], [0, 2]])}, CatalogError, r"item index 1 has the codes \[0, 2\]"),
    ):
        with pytest.raises(error, match=message):
            domain(**wrong)
    for domains, error, message in (
        ([], ConfigError, "no domain"),
        ([domain(), domain()], ConfigError, "two domains are called 'video'"),
        ([domain(), domain(name="ad")], ConfigError, r"open with the same tokens \[20\]"),
        ([domain(), domain(name="ad", opening_ids=(1, 2))], ConfigError, "'ad' opens with 2 tokens, 'video' with 1"),
        (
            [domain(), domain(**other, level_ids=levels[:1], codes=np.array([[0]]))],
            CatalogError,
            "'ad' has 1 levels, 'video' has 2; .* search each by itself",
        ),
    ):
        with pytest.raises(error, match=message):
            DomainForest(domains)
    forest = DomainForest([domain(), domain(**other)])
    with pytest.raises(ConfigError, match="no domain 'goods'; there are video, ad"):
        recommend_from_domains(policy, [[1]], forest, 1, domains=[["goods"]])
    with pytest.raises(ConfigError, match="domains 'video': expected a collection of names for each prompt"):
        recommend_from_domains(policy, [[1]], forest, 1, domains=["video"])
    with pytest.raises(DataError, match="domains has 1 choices for 2 prompts"):
        recommend_from_domains(policy, [[1], [2]], forest, 1, domains=[None])
    with pytest.raises(DataError, match=r"domain 'ad' has no item index 1; it has 0\.\.0"):
        forest.item_index("ad", [1])
    with pytest.raises(DataError, match="k must be at least 1, found 0"):
        recommend_from_domains(policy, [[1]], forest, 0)
