import numpy as np
import pytest
import torch

from itemic.core.config import config_from_mapping
from itemic.core.errors import CatalogError, ConfigError
from itemic.sid.quality import reconstruction
from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqkmeans_plus import RQKMeansPlus, RQKMeansPlusConfig

SIZES = (8, 8)


def vectors(num_items=160, width=6):
    return np.random.default_rng(0).normal(loc=0.5, size=(num_items, width)).astype(np.float32)


def config(**settings):
    return RQKMeansPlusConfig(**{"hidden_sizes": (16,), "batch_size": 32, "epochs": 10, "device": "cpu", **settings})


def error(quantizer, x):
    return reconstruction(quantizer.encode(x), x, quantizer)["mse"]


@pytest.mark.parametrize("base", [RQKMeansConfig(num_iterations=5), BalancedRQKMeansConfig()], ids=lambda c: c.kind)
def test_before_training_it_is_residual_k_means(base):
    x = vectors()
    plus = RQKMeansPlus(SIZES, config(base=base))
    plain = plus.warm_start(x, np.random.default_rng(0), torch.Generator())
    assert plain.kind == base.kind
    codes = plus.encode(x)
    nearest = RQKMeans.encode(plain, x)
    np.testing.assert_array_equal(codes, nearest)
    np.testing.assert_allclose(plus.decode(codes), plain.decode(codes), atol=1e-5)
    np.testing.assert_allclose(plus.decode(codes[:, :1]), plain.decode(codes[:, :1]), atol=1e-5)


def test_training_lowers_the_error_of_residual_k_means():
    x = vectors()
    base = RQKMeansConfig(num_iterations=5)
    plain = RQKMeans(SIZES, base).fit(x, np.random.default_rng(0))
    plus = RQKMeansPlus(SIZES, config(base=base, learning_rate=5e-3, epochs=30, batch_size=16)).fit(
        x, np.random.default_rng(0)
    )
    assert error(plus, x) < 0.99 * error(plain, x)


def test_training_never_ends_worse_than_it_began():
    x = vectors()
    plus = RQKMeansPlus(SIZES, config(learning_rate=10.0, schedule="constant")).fit(x, np.random.default_rng(0))
    assert error(plus, x) <= plus.history[0].mse * (1 + 1e-5)
    assert plus.history[-1].mse > plus.history[0].mse


@pytest.mark.parametrize("base", [RQKMeansConfig(num_iterations=5), BalancedRQKMeansConfig()], ids=lambda c: c.kind)
def test_uneven_codebooks_learn_from_half_precision_in_a_mapped_file(tmp_path, base):
    x = vectors(num_items=200).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    plus, plain = (
        RQKMeansPlus((16, 64, 128), config(base=base, epochs=2)).fit(items, np.random.default_rng(0))
        for items in (mapped, x.astype(np.float32))
    )
    assert [codebook.shape for codebook in plus.codebooks] == [(16, 6), (64, 6), (128, 6)]
    np.testing.assert_array_equal(plus.encode(mapped), plain.encode(x.astype(np.float32)))
    assert error(plus, x.astype(np.float32)) <= plus.history[0].mse * (1 + 1e-4)


def test_a_start_is_gone_on_from():
    x = vectors()
    old = RQKMeansPlus(SIZES, config()).fit(x, np.random.default_rng(0))
    new = RQKMeansPlus(SIZES, config(epochs=2)).fit(x, np.random.default_rng(1), start=old)
    assert new.history[0].mse == pytest.approx(error(old, x), rel=1e-4)
    assert (new.encode(x) == old.encode(x)).mean() > 0.9
    with pytest.raises(CatalogError, match=r"cannot start from .* \(8, 8\): expected 'rqkmeans-plus' with \(8, 4\)"):
        RQKMeansPlus((8, 4), config()).fit(x, np.random.default_rng(1), start=old)


def test_a_recipe_chooses_what_it_starts_from():
    chosen = config_from_mapping(RQKMeansPlusConfig, {"base": {"kind": BalancedRQKMeans.kind}})
    assert isinstance(chosen.base, BalancedRQKMeansConfig)
    assert RQKMeansPlusConfig().base == RQKMeansConfig()
    with pytest.raises(ConfigError, match="hidden_sizes"):
        RQKMeansPlusConfig(hidden_sizes=(0,))
