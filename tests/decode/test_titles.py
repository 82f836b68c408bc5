"""Recommenders that answer with titles: BIGRec's grounding against brute force, D3's scores against sums by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError, DataError
from itemic.decode import GroundedTitleRecommender, Policy, TitleTreeRecommender, make_title_tree
from itemic.decode.grounding import grounded_scores, last_states

END = 3
TITLES = [[5, 6], [5, 6, 7], [8], [], [5, 9, 4, 4, 6], [8]]
SCORES = np.array([0.3, -1.0, 2.0, 0.5, 0.7, -0.2])


@pytest.fixture
def policy(fake_policy: Callable[..., Any]) -> Any:
    return fake_policy([4, 4])


def prompt(history: Sequence[int]) -> list[int]:
    return [1, 2, *(10 + item for item in history)]


def states(policy: Policy, tokens: Sequence[int]) -> torch.Tensor:
    n = len(tokens)
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    return policy.hidden(torch.tensor([tokens]), mask, torch.arange(n)[None])[0][0, -1]


def by_hand(policy: Policy, history: Sequence[int], weight: float) -> dict[int, float]:
    """Walks every title down to its end, token by token, over the tokens by which some title goes on."""
    whole = {item: [*title, END] for item, title in enumerate(TITLES) if title}
    total = sum(np.exp(SCORES[item]) for item in whole)
    scores = {}
    for item, title in whole.items():
        of_model = of_assistant = 0.0
        for depth, token in enumerate(title):
            beside = [other for other, path in whole.items() if path[:depth] == title[:depth]]
            below = [other for other in beside if whole[other][depth] == token]
            choices = sorted({whole[other][depth] for other in beside})
            logits = policy.logits(states(policy, [*prompt(history), *title[:depth]]))
            of_model += float(logits[choices].log_softmax(0)[choices.index(token)])
            share = sum(np.exp(SCORES[other]) for other in below) / sum(np.exp(SCORES[other]) for other in beside)
            of_assistant += float(np.log(share))
        probability = sum(np.exp(SCORES[other]) for other in whole if whole[other] == title) / total
        assert of_assistant == pytest.approx(np.log(probability))
        scores[item] = weight * of_model + (1 - weight) * of_assistant
    return scores


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_debiased_scores_are_the_sums_by_hand(policy: Any, weight: float) -> None:
    assistant = (lambda histories: np.tile(SCORES, (len(histories), 1))) if weight < 1 else None
    recommender = TitleTreeRecommender(
        policy, make_title_tree(TITLES, END), prompt, num_items=6, assistant=assistant, model_weight=weight, num_beams=5
    )
    histories = [[0], [], [4, 2, 1]]
    lists = recommender.recommend(histories, 6)
    for row, history in enumerate(histories):
        expected = by_hand(policy, history, weight)
        found = dict(zip(lists.item_index[row, :5].tolist(), lists.score[row, :5].tolist(), strict=True))
        assert found == pytest.approx(expected)
        assert list(lists.score[row]) == sorted(lists.score[row], reverse=True)
        assert found[2] == found[5], "one title, one score"
    assert lists.item_index[:, 5].tolist() == [-1] * 3, "an item without a title is never listed"
    filtered = recommender.recommend(histories, 6, exclude=[[2], [0], []], allow=[[2, 4], [0, 1, 3], [5]])
    assert [[item for item in row if item >= 0] for row in filtered.item_index.tolist()] == [[4], [1], [5]]
    assert filtered.score[0, 0] == pytest.approx(by_hand(policy, [0], weight)[4]), "a filter changes no score"


def test_bad_mixtures_are_refused(policy: Any) -> None:
    tree = make_title_tree(TITLES, END)
    with pytest.raises(ConfigError, match=r"model_weight 0\.5: expected 0 to 1, and 1 without an assistant"):
        TitleTreeRecommender(policy, tree, prompt, num_items=6, model_weight=0.5)
    recommender = TitleTreeRecommender(
        policy, tree, prompt, num_items=6, model_weight=0.5, assistant=lambda histories: np.full((1, 6), np.nan)
    )
    with pytest.raises(DataError, match="not finite"):
        recommender.recommend([[0]], 2)
    with pytest.raises(DataError, match="k must be at least 1"):
        recommender.recommend([[0]], 0)


def write_by_hand(policy: Any, history: Sequence[int], most: int) -> list[int]:
    sids = [token for ids in policy.sid_tokens.level_ids for token in ids.tolist()]
    written: list[int] = []
    while len(written) < most:
        logits = policy.logits(states(policy, [*prompt(history), *written]))
        logits[sids] = -torch.inf
        token = int(logits.argmax())
        if token == END:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_grounding_is_the_distance_to_every_title(policy: Any, power: float) -> None:
    counts = np.array([3, 9, 1, 100, 0, 4])
    recommender = GroundedTitleRecommender(
        policy,
        TITLES,
        prompt,
        start_id=0,
        end_id=END,
        popularity=counts,
        popularity_power=power,
        max_new_tokens=4,
        batch_size=2,
    )
    histories = [[0], [4, 2, 1], [], [5]]
    written = [write_by_hand(policy, history, 4) for history in histories]
    assert recommender.write(histories) == written
    lists = recommender.recommend(histories, 6)
    for row, text in enumerate(written):
        near = np.array([float((states(policy, [0, *text]) - states(policy, [0, *title])).norm()) for title in TITLES])
        expected = -near
        if power:
            popular = counts / 100
            expected = -(near - near.min()) / (near.max() - near.min()) / (1 + popular) ** power
        order = sorted((item for item in range(6) if TITLES[item]), key=lambda item: (-expected[item], item))
        assert lists.item_index[row].tolist() == [*order, -1]
        np.testing.assert_allclose(lists.score[row, :5], expected[order], atol=1e-6)
    only = recommender.recommend(histories, 2, exclude=[[2]] * 4, allow=[[2, 5, 3]] * 4)
    assert only.item_index.tolist() == [[5, -1]] * 4
    assert recommender.recommend([], 3).item_index.shape == (0, 3)


def test_popularity_draws_nearer_only_where_asked() -> None:
    distances, counts = np.array([[1.0, 2.0, 3.0]]), np.array([0, 0, 8])
    np.testing.assert_array_equal(grounded_scores(distances, None, 0.0), -distances)
    np.testing.assert_allclose(grounded_scores(distances, counts, 2.0), [[0, -1 / 2, -1 / 4]])


def test_states_do_not_depend_on_the_batch(policy: Any) -> None:
    texts = [[1], [4, 5, 6], [2, 2], [7, 8, 9, 1]]
    for size in (1, 3):
        found = last_states(policy, texts, size)
        for row, text in enumerate(texts):
            torch.testing.assert_close(found[row], states(policy, text))


def test_nothing_to_ground_in_is_refused(policy: Any) -> None:
    with pytest.raises(DataError, match="none of the 2 items has one"):
        GroundedTitleRecommender(policy, [[], []], prompt, start_id=0, end_id=END)
    with pytest.raises(ConfigError, match=r"popularity_power 1\.0"):
        GroundedTitleRecommender(policy, TITLES, prompt, start_id=0, end_id=END, popularity_power=1.0)
