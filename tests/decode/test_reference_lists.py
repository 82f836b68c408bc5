"""``full`` against the reference's rule, re-implemented by tensors, and against transformers' own ``generate``."""

import numpy as np
import pytest
import torch
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.decode import Trie, constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.recommender import LanguageModelRecommender
from itemic.decode.think import ThinkConfig
from itemic.language import Spelling
from itemic.language.thoughts import ThoughtTokens
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer

SIZES = (6, 7, 8)
NUM_BEAMS = 12
ENDING = [0, 2]
"""A line break and EOS in the reference; here the padding token and EOS."""


def reference_lists(policy, prompt: list[int], answers: Tensor, num_beams: int) -> tuple[Tensor, Tensor]:
    """Returns the beams and scores of MiniOneRec's evaluation: Hugging Face's beam search with a prefix constraint.

    Every beam reads the whole prompt again. Of log-softmax over the whole vocabulary, tokens that continue no answer
    are set to -inf; the best 2W of W * V candidates are looked at, and the first W go on. Length penalty 0: a
    hypothesis ranks by the plain sum of its tokens, the ending's included.

    Args:
        policy: The model.
        prompt: Token ids.
        answers: Token ids of every legal answer with its ending (N, T).
        num_beams: Width W.
    """
    beams = torch.zeros(num_beams, 0, dtype=torch.long)
    score = torch.full((num_beams,), -torch.inf, dtype=torch.float64)
    score[0] = 0
    for step in range(answers.shape[1]):
        rows = torch.cat([torch.tensor(prompt).expand(num_beams, -1), beams], dim=1)
        size = rows.shape[1]
        mask = torch.ones(num_beams, 1, size, size, dtype=torch.bool).tril()
        hidden, _ = policy.hidden(rows, mask, torch.arange(size).expand_as(rows))
        logprob = policy.logits(hidden[:, -1]).double().log_softmax(dim=-1)
        continues = (beams[:, None] == answers[None, :, :step]).all(dim=-1)
        is_legal = torch.zeros_like(logprob).index_add_(1, answers[:, step], continues.double()) > 0
        candidates = score[:, None] + logprob.masked_fill(~is_legal, -torch.inf)
        best, place = candidates.flatten().topk(2 * num_beams)
        score, place = best[:num_beams], place[:num_beams]
        beam, token = place // logprob.shape[1], place % logprob.shape[1]
        beams = torch.cat([beams[beam], token[:, None]], dim=1)
    return beams, score


def to_answers(policy, sids: np.ndarray, ending: list[int]) -> Tensor:
    columns = [policy.sid_tokens.level_ids[level][sids[:, level]] for level in range(sids.shape[1])]
    return torch.from_numpy(np.column_stack([*columns, *(np.full(len(sids), token) for token in ending)]))


def random_sids(seed: int, count: int = 120) -> np.ndarray:
    """Distinct SIDs in sorted order, so that row i is leaf i."""
    return np.unique(np.random.default_rng(seed).integers(0, SIZES, (count, 3)), axis=0)


@torch.no_grad()
@pytest.mark.parametrize("num_ending", [0, 1, 2, 3])
@pytest.mark.parametrize("num_beams", [1, 12, 200])
def test_full_gives_the_references_lists(fake_policy, num_ending, num_beams) -> None:
    policy, sids = fake_policy(SIZES), random_sids(num_beams)
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6, 2]]
    ending = [7, 11, 2][:num_ending]
    trie = Trie.from_codes(sids, SIZES)
    found = constrained_beam_search(policy, prompts, trie, num_beams, "full", ending=ending)
    answers = to_answers(policy, sids, ending)
    for row, prompt in enumerate(prompts):
        beams, score = reference_lists(policy, prompt, answers, num_beams)
        alive = int((score > -torch.inf).sum())
        assert alive == min(num_beams, len(sids)) or num_beams < len(sids)
        assert answers[found.leaf[row, :alive]].equal(beams[:alive])
        torch.testing.assert_close(found.logprob[row, :alive], score[:alive])
        assert (found.leaf[row, alive:] == -1).all()


def test_legal_gives_the_ending_probability_one(fake_policy) -> None:
    policy, trie = fake_policy(SIZES), Trie.from_codes(random_sids(0), SIZES)
    plain = constrained_beam_search(policy, [[3, 1]], trie, 9, "legal")
    ended = constrained_beam_search(policy, [[3, 1]], trie, 9, "legal", ending=ENDING)
    assert ended.leaf.equal(plain.leaf)
    assert ended.logprob.equal(plain.logprob)


def test_an_ending_keeps_closed_leaves_closed(fake_policy) -> None:
    policy, sids = fake_policy(SIZES), random_sids(1)
    trie = Trie.from_codes(sids, SIZES)
    allowed = ItemFilter.from_lists(trie, 1, allow=[[4, 5, 6]])
    found = constrained_beam_search(policy, [[3, 1]], trie, 9, "full", allowed, ending=ENDING)
    assert sorted(found.leaf[0, :3].tolist()) == [4, 5, 6]
    assert (found.leaf[0, 3:] == -1).all()
    assert (found.logprob[0].diff()[:2] <= 0).all()
    assert found.num_tied_beyond.tolist() == [0]


def test_a_recommender_ranks_by_the_ending_with_and_without_a_thought(fake_policy, make_catalog) -> None:
    catalog = make_catalog(random_sids(4), SIZES)
    policy, trie = fake_policy(SIZES, catalog_version=catalog.version), Trie.from_catalog(catalog)

    def prompt(history):
        return [3, *history]

    recommender = LanguageModelRecommender(policy, catalog, prompt, num_beams=9, normalize="full", ending=ENDING)
    frame = ThoughtTokens(stop_ids=(4, 5), then_ids=(6,), never_ids=())
    thinking = recommender.after_thinking(prompt, frame, ThinkConfig(max_new_tokens=0, allows_sids=True))
    for asked, read in ((recommender, [3, 1]), (thinking, [3, 1, 4, 5, 6])):
        ended = constrained_beam_search(policy, [read], trie, 9, "full", ending=ENDING)
        plain = constrained_beam_search(policy, [read], trie, 9, "full")
        lists = asked.recommend([[1]], 9)
        assert lists.item_index[0].tolist() == ended.leaf[0].tolist() != plain.leaf[0].tolist()
        np.testing.assert_allclose(lists.score, ended.logprob)


def test_an_ending_of_unknown_tokens_is_refused(fake_policy, make_catalog) -> None:
    catalog = make_catalog(random_sids(4), SIZES)
    policy = fake_policy(SIZES, catalog_version=catalog.version)
    with pytest.raises(ConfigError, match=r"ending \[2, 41\]: the model has no token 41, only 0..40"):
        LanguageModelRecommender(policy, catalog, list, normalize="full", ending=[2, 41])
    with pytest.raises(ConfigError, match="no token -1"):
        constrained_beam_search(policy, [[3]], Trie.from_catalog(catalog), 9, "full", ending=[-1])


@pytest.fixture(scope="module")
def model() -> SidModel:
    spelling = Spelling(style="plain", codebook_sizes=SIZES)
    tokenizer = make_sid_tokenizer(spelling)
    shape = DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    network = make_decoder(shape, len(tokenizer), np.random.default_rng(0)).eval()
    with torch.no_grad():
        network.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
    return SidModel(network, tokenizer, spelling, prompt_mode="sid-only", prompt_version="1", catalog_version="")


@torch.no_grad()
@pytest.mark.parametrize("prepared", [False, True])
def test_full_gives_generates_lists(model, prepared) -> None:
    sids = random_sids(2)
    answers = to_answers(model, sids, ENDING)
    rng = np.random.default_rng(3)
    prompts = [[1, *rng.integers(3, 24, size).tolist()] for size in (9, 3, 6, 100)]
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]

    def followers(_row: int, ids: Tensor) -> list[int]:
        step = len(ids) - width
        return answers[(answers[:, :step] == ids[width:]).all(dim=1), step].unique().tolist() or [0]

    sequences = model.network.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        num_beams=NUM_BEAMS,
        num_return_sequences=NUM_BEAMS,
        max_new_tokens=answers.shape[1],
        length_penalty=0.0,
        do_sample=False,
        eos_token_id=ENDING[-1],
        pad_token_id=0,
        prefix_allowed_tokens_fn=followers,
    )
    if prepared:
        model.prepare_for_inference("float32")
    trie = Trie.from_codes(sids, SIZES)
    found = constrained_beam_search(model, prompts, trie, NUM_BEAMS, "full", ending=ENDING)
    expected = sequences[:, width:].view(len(prompts), NUM_BEAMS, -1)
    assert answers[found.leaf].equal(expected)
