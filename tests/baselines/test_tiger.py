"""TIGER: learning a known rule, the search against brute force, filters, the choice of the epoch, seeds, files."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itemic.baselines import Materials
from itemic.baselines.stored import write_fitted
from itemic.baselines.tiger import TIGER, TIGERConfig, recommender
from itemic.baselines.tiger.network import TigerNetwork, TigerShape
from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.evaluate import EvaluateConfig, evaluate_recommender, evaluation_set
from itemic.sid import Catalog

NUM_ITEMS = 12
CODES = np.array([[item // 4, item % 2, item // 2 % 2] for item in range(NUM_ITEMS)])
SHARED_CODES = CODES[[0, 1, 2, 0, 4, 5, 6, 7, 8, 0, 10, 1]]
SMALL = {
    "hidden_size": 24,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "head_size": 8,
    "feed_forward_size": 48,
    "max_history": 5,
    "batch_size": 32,
    "device": "cpu",
}
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
item_sets = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=NUM_ITEMS)


@pytest.fixture
def materials(make_dataset):
    """Each item is followed by the next one, the last by the first."""
    dataset = make_dataset(
        [[(user + step) % NUM_ITEMS for step in range(4 + user % 9)] for user in range(40)], NUM_ITEMS
    )
    return Materials(dataset=dataset, catalog=Catalog(CODES, dataset.items["item_id"].to_list(), (3, 2, 2)))


def untrained(codes=CODES, active=None, **values) -> TIGER:
    torch.manual_seed(0)
    sizes = {name: SMALL[name] for name in SMALL if name not in ("batch_size", "device")}
    network = TigerNetwork(TigerShape(codebook_sizes=(3, 2, 2), **sizes), dropout=0.5)
    torch.nn.init.normal_(network.encoder_bias)
    torch.nn.init.normal_(network.decoder_bias)
    return TIGER(network, codes, np.ones(NUM_ITEMS, dtype=bool) if active is None else active, **values)


def brute_force(model: TIGER, history: list[int], codes, active, normalize: str) -> np.ndarray:
    """log p of every active item, each scored by itself from a history read anew; -inf for retired items."""
    scores = np.full(NUM_ITEMS, -np.inf)
    read = torch.from_numpy(codes[history])[None]
    for item in np.flatnonzero(active):
        with torch.inference_mode():
            logits = model.network(read, torch.ones(1, len(history), dtype=torch.bool), torch.from_numpy(codes[[item]]))
        scores[item] = 0
        for level, of_level in enumerate(logits):
            same_prefix = active & (codes[:, :level] == codes[item, :level]).all(axis=1)
            legal = np.unique(codes[same_prefix, level]) if normalize == "legal" else np.arange(of_level.shape[1])
            logprob = of_level[0].double()
            scores[item] += float(logprob[codes[item, level]] - logprob[torch.from_numpy(legal)].logsumexp(0))
    return scores


def test_a_rule_is_learned_to_the_letter(materials):
    shape = {**SMALL, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_history": 3}
    config = TIGERConfig(**shape, max_epochs=30, learning_rate=1e-2, dropout=0.0, patience=30)
    model = TIGER.fit(materials, seed=0, config=config)
    evaluation = EvaluateConfig(cutoffs=(1,), num_bootstrap=2)
    assert evaluate_recommender(model, materials.dataset, evaluation, seed=0).metrics["HR@1"]["value"] == 1


@pytest.mark.parametrize("codes", [CODES, SHARED_CODES], ids=["unique", "shared"])
@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_the_list_is_that_of_scoring_every_item_where_beams_cover_the_catalog(codes, normalize):
    active = np.arange(NUM_ITEMS) != 6
    model = untrained(codes, active, normalize=normalize)
    histories = [[0, 5, 11], [7], [], [1, 2, 3, 4, 6]]
    lists = model.recommend(histories, NUM_ITEMS)
    for row, history in enumerate(histories):
        expected = brute_force(model, history, codes, active, normalize)
        listed = lists.item_index[row, : NUM_ITEMS - 1]
        assert sorted(listed) == np.flatnonzero(active).tolist()
        np.testing.assert_allclose(lists.score[row, :-1], expected[listed], rtol=1e-4, atol=1e-5)
        assert (np.diff(lists.score[row, :-1]) <= 0).all()
        assert lists.item_index[row, -1] == -1
        if normalize == "legal":
            assert np.exp(lists.score[row, np.unique(codes[listed], axis=0, return_index=True)[1]]).sum() == (
                pytest.approx(1, abs=1e-4)
            )


def test_items_of_one_semantic_id_tie_and_a_cut_tie_is_counted():
    model = untrained(SHARED_CODES)
    whole = model.recommend([[0, 5]], NUM_ITEMS)
    place = {item: whole.item_index[0].tolist().index(item) for item in (0, 3, 9)}
    assert len({whole.score[0, at] for at in place.values()}) == 1
    assert list(place.values()) == [place[0], place[0] + 1, place[0] + 2]
    assert model.recommend([[0, 5]], place[0] + 1).num_tied_beyond.tolist() == [2]


def test_narrow_beams_keep_the_best_of_each_level():
    model = untrained(num_beams=1)
    wide = untrained()
    (first,) = model.recommend([[3, 4]], 1).item_index[0]
    whole = wide.recommend([[3, 4]], NUM_ITEMS)
    greedy = np.arange(NUM_ITEMS)
    for level in range(3):
        codes, mass = CODES[greedy, level], {}
        for code in set(codes.tolist()):
            below = np.isin(whole.item_index[0], greedy[codes == code])
            mass[code] = np.exp(whole.score[0, below]).sum()
        greedy = greedy[codes == max(mass, key=mass.__getitem__)]
    assert greedy.tolist() == [first]


@with_fixture
@given(excluded=item_sets, allowed=st.none() | item_sets, history=st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7))
def test_a_filter_takes_items_out_and_changes_no_score(excluded, allowed, history):
    model = untrained(SHARED_CODES)
    whole = model.recommend([history], NUM_ITEMS)
    candidates = set(range(NUM_ITEMS) if allowed is None else allowed) - set(excluded)
    lists = model.recommend([history], NUM_ITEMS, [excluded], None if allowed is None else [allowed])
    expected = [item for item in whole.item_index[0].tolist() if item in candidates]
    score = dict(zip(whole.item_index[0].tolist(), whole.score[0], strict=True))
    assert sorted(lists.item_index[0, : len(expected)].tolist()) == sorted(expected)
    np.testing.assert_allclose(lists.score[0, : len(expected)], [score[item] for item in expected], rtol=1e-5)


def test_a_long_history_counts_by_its_end_and_an_empty_one_is_answered():
    lists = untrained().recommend([[9, 9, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], []], NUM_ITEMS)
    np.testing.assert_array_equal(lists.score[0], lists.score[1])
    assert sorted(lists.item_index[2]) == list(range(NUM_ITEMS))


def test_the_valid_figure_is_the_one_of_the_evaluation(make_dataset):
    dataset = make_dataset(np.random.default_rng(0).integers(0, NUM_ITEMS, size=(25, 9)).tolist(), NUM_ITEMS)
    config = EvaluateConfig(split="valid", exclude_history=True, num_bootstrap=2)
    model = untrained()
    expected = evaluate_recommender(model, dataset, config, seed=0).metrics["NDCG@10"]["value"]
    assert recommender._valid_ndcg(model, evaluation_set(dataset, config, seed=0)) == pytest.approx(expected)


def test_training_stops_after_its_patience_and_keeps_the_best_epoch(materials, monkeypatch):
    figures = iter([0.1, 0.3, 0.2, 0.25, 0.1, 0.9])
    weights = []

    def watch(model, cases):
        assert not model.network.training
        weights.append(model.network.tokens.weight.detach().clone())
        return next(figures)

    monkeypatch.setattr(recommender, "_valid_ndcg", watch)
    model = TIGER.fit(materials, seed=0, config=TIGERConfig(**SMALL, max_epochs=9, patience=2))
    assert len(weights) == 4
    torch.testing.assert_close(model.network.tokens.weight.detach(), weights[1], rtol=0, atol=0)


def test_without_valid_examples_the_last_epoch_is_kept(materials, monkeypatch):
    monkeypatch.setattr(recommender, "_valid_ndcg", lambda *_: pytest.fail("there is no valid split"))
    dataset = materials.dataset
    empty = type(dataset)(**{**vars(dataset), "valid": dataset.valid.clear()})
    model = TIGER.fit(
        Materials(dataset=empty, catalog=materials.catalog), seed=0, config=TIGERConfig(**SMALL, max_epochs=2)
    )
    assert not model.network.training


def test_one_seed_gives_one_model_and_leaves_the_caller_s_random_state(materials):
    config = TIGERConfig(**SMALL, max_epochs=2)
    torch.manual_seed(5)
    models = [TIGER.fit(materials, seed=seed, config=config) for seed in (0, 0, 1)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    first, second, third = (model.network.tokens.weight for model in models)
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


def test_a_stored_model_is_the_same_model_and_needs_no_catalog(tmp_path):
    path, histories = tmp_path / "tiger.safetensors", [[1, 2, 3, 4, 5, 6], [], [3]]
    active = np.arange(NUM_ITEMS) != 6
    model = untrained(SHARED_CODES, active, num_beams=3, normalize="full")
    model.save(path, "ring")
    restored = TIGER.load(path, "ring", device="cpu")
    first, second = model.recommend(histories, 2), restored.recommend(histories, 2)
    np.testing.assert_array_equal(first.item_index, second.item_index)
    np.testing.assert_array_equal(first.score, second.score)
    assert restored.num_parameters == model.num_parameters
    with pytest.raises(ArtifactError, match="fitted to other data or with other settings"):
        TIGER.load(path, "line", device="cpu")
    with pytest.raises(ArtifactError, match="no such file"):
        TIGER.load(tmp_path / "nothing", device="cpu")


def test_a_file_of_another_kind_is_called_damaged(tmp_path):
    write_fitted(tmp_path / "row", {"counts": np.zeros(3)}, {}, "")
    with pytest.raises(ArtifactError, match="damaged"):
        TIGER.load(tmp_path / "row")


def test_what_cannot_be_fitted_is_refused(materials):
    dataset, catalog = materials.dataset, materials.catalog
    with pytest.raises(ConfigError, match="a baseline of kind tiger needs semantic IDs"):
        TIGER.fit(Materials(dataset=dataset), seed=0)
    with pytest.raises(ArtifactError, match="made for other items"):
        TIGER.fit(Materials(dataset=dataset, catalog=Catalog(CODES, [*"abcdefghijkl"], (3, 2, 2))), seed=0)
    empty = type(dataset)(**{**vars(dataset), "train": dataset.train.clear()})
    with pytest.raises(DataError, match="no training interactions"):
        TIGER.fit(Materials(dataset=empty, catalog=catalog), seed=0)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, found 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "expected a learning rate above 0"),
        ({"num_beams": 0}, "num_beams"),
    ],
)
def test_settings_without_meaning_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        TIGERConfig(**values)
