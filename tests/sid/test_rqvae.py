import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import write_arrays
from itemic.sid import QuantizerConfig, load_quantizer, make_quantizer
from itemic.sid.quality import reconstruction
from itemic.sid.quantizers import rqvae_training
from itemic.sid.quantizers.letter_terms import DiversityTerm
from itemic.sid.quantizers.rqvae import RQVAE, RQVAEConfig
from itemic.sid.quantizers.rqvae_network import Quantized
from itemic.sid.quantizers.rqvae_progress import measure
from itemic.sid.quantizers.stored import read_quantizer

SMALL = {
    "hidden_sizes": (32,),
    "latent_size": 4,
    "batch_size": 16,
    "epochs": 15,
    "learning_rate": 1e-2,
    "device": "cpu",
}


def clusters(num_items=160, num_clusters=8, width=6, noise=0.02, seed=3):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_clusters, width))
    labels = np.arange(num_items) % num_clusters
    return (centres[labels] + noise * rng.normal(size=(num_items, width))).astype(np.float32), labels


def fit(x, sizes=(8, 4), seed=0, start=None, collaborative=None, **settings):
    quantizer = RQVAE(sizes, RQVAEConfig(**{**SMALL, **settings}))
    return quantizer.fit(x, np.random.default_rng(seed), start=start, collaborative=collaborative)


def relative_error(quantizer, x):
    return reconstruction(quantizer.encode(x), x, quantizer)["relative"]


def test_clusters_get_a_code_each_and_are_decoded():
    x, labels = clusters()
    quantizer = fit(x, epochs=25)
    first = quantizer.encode(x)[:, 0]
    assert len({(code, label) for code, label in zip(first, labels, strict=True)}) == 8
    assert relative_error(quantizer, x) < 0.02


@pytest.mark.parametrize(
    "settings",
    [
        {"codebook_update": "average"},
        {"estimator": "rotation"},
        {"sinkhorn_epsilons": (0.05, 0.0)},
        {"schedule": "constant"},
        {"revive_after": 0},
        {"codebook_rate": 1.0},
        {"commitment_weight": 1.0},
    ],
    ids=str,
)
def test_every_option_changes_what_is_learned_and_still_learns(settings):
    x, _ = clusters()
    plain, other = fit(x), fit(x, **settings)
    assert other.history[-1].mse < 0.5 * other.history[0].mse
    assert not all(np.array_equal(*pair) for pair in zip(plain.codebooks, other.codebooks, strict=True))


def test_balanced_training_makes_use_of_codes_more_even():
    x = np.random.default_rng(0).standard_normal((128, 6)).astype(np.float32) ** 3
    settings = {"sizes": (16,), "revive_after": 0, "epochs": 15}
    plain = fit(x, **settings).history[-1].perplexity[0]
    assert fit(x, sinkhorn_epsilons=(0.05,), **settings).history[-1].perplexity[0] > plain


def test_dead_codes_come_back(monkeypatch):
    def start_on_one_code(network, x, rng):
        for codebook in network.codebooks:
            codebook.data.fill_(100.0)[0] = 0.0

    monkeypatch.setattr("itemic.sid.quantizers.rqvae.start_from_kmeans", start_on_one_code)
    x, _ = clusters()
    assert fit(x, revive_after=0, patience=0).history[-1].num_used[0] == 1
    assert min(fit(x, revive_after=1, patience=0).history[-1].num_used) > 2


def test_a_collapsed_level_is_named_with_its_remedy(monkeypatch, caplog):
    monkeypatch.setattr(
        "itemic.sid.quantizers.rqvae.start_from_kmeans", lambda network, x, rng: network.codebooks[1].data.fill_(9.0)
    )
    logging.getLogger("itemic").propagate = True
    with caplog.at_level(logging.WARNING, logger="itemic"):
        fit(clusters()[0], epochs=1, revive_after=0)
    assert "level 1 collapsed: all items have the same one of its 4 codes. Set revive_after" in caplog.text


def test_the_best_weights_of_all_measurements_are_kept():
    x, _ = clusters(noise=0.5)
    quantizer = fit(x, learning_rate=0.3, schedule="constant", evaluate_every=1, patience=0)
    errors = [progress.mse for progress in quantizer.history]
    assert len(errors) == 1 + SMALL["epochs"]
    assert reconstruction(quantizer.encode(x), x, quantizer)["mse"] == pytest.approx(min(errors), rel=1e-4)
    assert min(errors) < errors[-1]


def test_training_that_diverges_says_so_and_keeps_what_was_good(caplog):
    logging.getLogger("itemic").propagate = True
    x, _ = clusters()
    with caplog.at_level(logging.WARNING, logger="itemic"):
        quantizer = fit(x, learning_rate=1e30, evaluate_every=1)
    assert "training diverged in epoch" in caplog.text
    assert relative_error(quantizer, x) == pytest.approx(quantizer.history[0].mse * x.size / _deviation(x), rel=1e-3)


def test_a_loss_that_becomes_infinite_while_codes_are_dead_ends_the_training_too(monkeypatch, caplog):
    def start_on_one_code(network, x, rng):
        for codebook in network.codebooks:
            codebook.data.fill_(100.0)[0] = 0.0

    monkeypatch.setattr("itemic.sid.quantizers.rqvae.start_from_kmeans", start_on_one_code)
    logging.getLogger("itemic").propagate = True
    x, _ = clusters()
    # One batch an epoch: the first step makes latents whose squares overflow, and no code follows them.
    settings = {"learning_rate": 1e21, "codebook_rate": 1e-30, "warmup": 0.0, "schedule": "constant"}
    with caplog.at_level(logging.WARNING, logger="itemic"):
        quantizer = fit(x, hidden_sizes=(), batch_size=len(x), evaluate_every=15, **settings)
    assert "training diverged in epoch 2" in caplog.text
    assert len(quantizer.history) == 1


def _deviation(x):
    return np.square(x - x.mean(axis=0)).sum()


def test_training_ends_after_its_patience(monkeypatch):
    errors = {0: 1.0, 2: 0.9, 4: 0.95, 6: 0.8, 8: 0.8, 10: 0.9, 12: 1.1, 14: 0.1}

    def rising(network, x, epoch):
        return replace(measure(network, x, epoch), mse=errors[epoch])

    monkeypatch.setattr(rqvae_training, "measure", rising)
    quantizer = fit(clusters()[0], epochs=50, evaluate_every=2, patience=3)
    # Epoch 6 is the best; 8, 10 and 12 are no better.
    assert [progress.epoch for progress in quantizer.history] == [0, 2, 4, 6, 8, 10, 12]


def test_without_patience_training_goes_on_to_its_last_epoch(monkeypatch):
    monkeypatch.setattr(
        rqvae_training, "measure", lambda network, x, epoch: replace(measure(network, x, epoch), mse=1.0 + epoch)
    )
    assert fit(clusters()[0], epochs=7, evaluate_every=2, patience=0).history[-1].epoch == 7


def test_measurements_are_those_of_the_public_methods():
    x, _ = clusters(noise=0.4)
    quantizer = fit(x)
    codes = quantizer.encode(x)
    progress = measure(quantizer._network, x, 0)
    assert progress.mse == pytest.approx(np.square(quantizer.decode(codes) - x).mean(), rel=1e-4)
    assert progress.collision_rate == pytest.approx(1 - len(np.unique(codes, axis=0)) / len(x))
    assert progress.num_used == tuple(len(np.unique(column)) for column in codes.T)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_number_formats_and_mapped_files_give_the_same_codes(tmp_path, dtype):
    x = clusters()[0].astype(np.float16)
    np.save(tmp_path / "x.npy", x.astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = fit(x.astype(np.float32), epochs=2)
    quantizer = fit(mapped, epochs=2)
    np.testing.assert_array_equal(quantizer.encode(mapped), expected.encode(x.astype(np.float32)))


def test_uneven_codebooks_learn_from_half_precision_in_a_mapped_file(tmp_path, monkeypatch):
    # Blocks of 64 rows: the file is larger than one.
    monkeypatch.setattr("itemic.sid.quantizers.row_batches._BLOCK_BYTES", 64 * 6 * 2)
    x = clusters(num_items=200, noise=0.3)[0].astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    quantizer = fit(np.load(tmp_path / "x.npy", mmap_mode="r"), sizes=(16, 64, 128), epochs=10)
    assert [codebook.shape for codebook in quantizer.codebooks] == [(16, 4), (64, 4), (128, 4)]
    codes = quantizer.encode(x)
    assert (codes.max(axis=0) < (16, 64, 128)).all()
    assert min(len(np.unique(column)) for column in codes.T) > 8
    assert relative_error(quantizer, x.astype(np.float32)) < 0.5
    quantizer.save(tmp_path / "quantizer.safetensors")
    np.testing.assert_array_equal(load_quantizer(tmp_path / "quantizer.safetensors").encode(x), codes)


def test_codebooks_cannot_be_written_to():
    quantizer = fit(clusters()[0], epochs=1)
    with pytest.raises(ValueError, match="read-only"):
        quantizer.codebooks[0][0] = 9.0


def test_long_inputs_are_coded_in_pieces_with_the_same_result(monkeypatch):
    x, _ = clusters(noise=0.3)
    quantizer = fit(x)
    codes, decoded = quantizer.encode(x), quantizer.decode(quantizer.encode(x))
    costs = quantizer.distances(x, codes[:, :1])

    def short_pieces(num_rows, rows_at_once=0, *, cells_a_row=1):
        return (slice(first, min(first + 7, num_rows)) for first in range(0, num_rows, 7))

    monkeypatch.setattr("itemic.sid.quantizers.neural.pieces", short_pieces)
    np.testing.assert_array_equal(quantizer.encode(x), codes)
    np.testing.assert_allclose(quantizer.decode(codes), decoded, atol=1e-5)
    np.testing.assert_allclose(quantizer.distances(x, codes[:, :1]), costs, atol=1e-4)


def test_global_random_state_plays_no_part():
    x, _ = clusters()
    first = fit(x, epochs=2)
    torch.manual_seed(99)
    np.random.seed(99)
    for codebook, again in zip(first.codebooks, fit(x, epochs=2).codebooks, strict=True):
        np.testing.assert_array_equal(codebook, again)


def test_a_start_is_gone_on_from_and_most_codes_stay():
    items, _ = clusters(num_items=180, noise=0.3)
    x, new_x = items[:160], items[20:]
    old = fit(x, epochs=30)
    codes = old.encode(x)
    new = fit(new_x, start=old, seed=1, epochs=5)
    assert new.history[0].mse < 1.5 * old.history[-1].mse
    assert (new.encode(x)[:, 0] == codes[:, 0]).mean() > 0.8
    np.testing.assert_array_equal(old.encode(x), codes)


def test_a_start_that_does_not_fit_is_refused():
    x, _ = clusters()
    old = fit(x, epochs=1)
    with pytest.raises(CatalogError, match=r"cannot start from .* \(8, 4\): expected 'rqvae' with \(8, 5\)"):
        fit(x, sizes=(8, 5), start=old)
    with pytest.raises(CatalogError, match="has no codebooks yet; fit it first"):
        fit(x, start=RQVAE((8, 4), RQVAEConfig(**SMALL)))
    with pytest.raises(CatalogError, match="not that of vectors 6 wide"):
        fit(x, hidden_sizes=(9,), start=old)
    with pytest.raises(CatalogError, match="not that of vectors 5 wide"):
        fit(x[:, :5], start=old)


def test_collaborative_vectors_draw_items_used_alike_together():
    liked = np.arange(128) % 4
    collaborative = np.eye(4, dtype=np.float32)[liked]
    # What is liked is a faint part of the vectors, which reconstruction alone leaves out.
    x = np.concatenate([np.random.default_rng(0).normal(size=(128, 4)), 0.4 * collaborative], axis=1)

    def agreement(**settings):
        first = fit(x.astype(np.float32), sizes=(4,), evaluate_every=15, **settings).encode(x)[:, 0]
        same = np.equal.outer(first, first)
        return (same & np.equal.outer(liked, liked)).sum() / same.sum()

    assert agreement(collaborative=collaborative, collaborative_weight=2.0) > agreement() + 0.1


def test_diversity_spreads_codes_that_start_crowded(monkeypatch):
    def start_crowded(network, x, rng):
        for codebook in network.codebooks:
            codebook.data.copy_(1 + 0.1 * torch.from_numpy(rng.normal(size=codebook.shape)))

    def diversity(codebook):
        codes = torch.arange(8).repeat(50)
        vectors = torch.from_numpy(codebook.copy())
        term = DiversityTerm([vectors], 2, 1.0, np.random.default_rng(0))
        term.begin_epoch()
        chosen = vectors[codes]
        return term.loss(codes.numpy(), Quantized(codes[:, None], [chosen], [chosen], chosen)).item()

    def mean_cosine(codebook):
        directions = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)
        return (np.square(directions.sum(axis=0)).sum() - 8) / (8 * 7)

    monkeypatch.setattr("itemic.sid.quantizers.rqvae.start_from_kmeans", start_crowded)
    settings = {"sizes": (8,), "diversity_clusters": 2, "evaluate_every": 15, "revive_after": 0}
    plain, other = (fit(clusters()[0], diversity_weight=weight, **settings).codebooks[0] for weight in (0.0, 10.0))
    assert diversity(other) < 0.7 * diversity(plain)
    assert mean_cosine(other) < mean_cosine(plain) - 0.1


def test_collaborative_vectors_and_their_weight_come_together():
    x, _ = clusters()
    vectors = np.ones((160, 3), dtype=np.float32)
    with pytest.raises(ConfigError, match=r"collaborative_weight 0.5 needs collaborative vectors: pass fit\("):
        fit(x, collaborative_weight=0.5)
    with pytest.raises(ConfigError, match="collaborative_weight is 0, which leaves them unused"):
        fit(x, collaborative=vectors)
    with pytest.raises(ConfigError, match="3 collaborative vectors, expected one for each of 160 items"):
        RQVAE((8, 4), RQVAEConfig(collaborative_weight=0.5))._check_collaborative(160, vectors[:3])
    vectors[5, 1] = np.inf
    with pytest.raises(DataError, match="collaborative vector of item row 5 holds NaN"):
        fit(x, collaborative=vectors, collaborative_weight=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"patience": -1}, "patience -1: expected 0 or more"),
        ({"learning_rate": 0.0}, r"learning_rate 0.0: expected more than 0"),
        ({"warmup": 1.0}, r"warmup 1.0, average_decay 0.95: expected each in \[0, 1\)"),
        ({"sinkhorn_epsilons": (-1.0,)}, "expected 0 or more of each level"),
        ({"hidden_sizes": (0,)}, r"hidden_sizes \(0,\), latent_size 32"),
        ({"latent_size": 0}, "latent_size 0"),
        ({"diversity_weight": -1.0}, "diversity_weight -1.0: expected 0 or more of each"),
        ({"diversity_weight": 0.1, "codebook_update": "average"}, "moving averages follow no gradient"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RQVAEConfig(**settings)


def test_a_level_without_its_epsilon_is_refused():
    with pytest.raises(ConfigError, match="expected one for each of 3 levels, or none, found 1"):
        RQVAE((4, 4, 4), RQVAEConfig(sinkhorn_epsilons=(0.1,)))


def test_a_recipe_makes_one():
    config = config_from_mapping(RQVAEConfig, {"kind": "rqvae", "hidden_sizes": [16], "codebook_update": "average"})
    assert isinstance(make_quantizer(config, (4, 4)), RQVAE)
    assert RQVAEConfig in QuantizerConfig.__args__[0].__args__


def test_a_file_without_some_weights_is_refused(tmp_path):
    quantizer = fit(clusters()[0], epochs=1)
    path = tmp_path / "quantizer.safetensors"
    quantizer.save(path)
    arrays = read_quantizer(path, "rqvae").arrays
    del arrays["codebooks.1"]
    rqvae_file = {"kind": "rqvae", "settings": _settings_of(path)}
    write_arrays(path, arrays, rqvae_file)
    with pytest.raises(ArtifactError, match=r'damaged quantizer: .*\s.*"codebooks.1"'):
        load_quantizer(path)


def _settings_of(path):
    from safetensors import safe_open

    with safe_open(path, framework="np") as stored:
        return stored.metadata()["settings"]
