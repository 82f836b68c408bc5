import numpy as np
import pytest
import torch

from itemic.decode.noise import gumbel_noise, hash_keys, uniform_noise, working_dtype

MASK = (1 << 64) - 1


def mix(key: int) -> int:
    """splitmix64's finaliser in Python's integers."""
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
    return key ^ (key >> 31)


def expected_key(seed: int, *names: int) -> int:
    key = seed & MASK
    for name in names:
        key = (mix(key) + name * 0x9E3779B97F4A7C15) & MASK
    return mix(key)


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63 + 9, 2**70 + 3])
def test_keys_are_splitmix64_in_wrapping_integers(seed) -> None:
    rows, nodes = torch.tensor([[0], [7]]), torch.tensor([[0, 1, 5]])
    keys = hash_keys(seed, rows, 3, nodes)
    for i, row in enumerate((0, 7)):
        for j, node in enumerate((0, 1, 5)):
            assert int(keys[i, j]) & MASK == expected_key(seed, row, 3, node)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_and_gumbel_numbers_have_their_distribution_and_stay_inside(dtype) -> None:
    keys = hash_keys(3, torch.arange(100), torch.arange(1000)[:, None])
    u = uniform_noise(keys, dtype)
    assert u.dtype == dtype
    assert u.min() > 0
    assert u.max() < 1
    shares = np.histogram(u.numpy(), bins=20, range=(0, 1))[0] / u.numel()
    np.testing.assert_allclose(shares, 1 / 20, atol=4 * np.sqrt(0.05 * 0.95 / u.numel()))
    noise = gumbel_noise(keys, dtype)
    assert abs(noise.double().mean() - 0.5772156649) < 4 * np.pi / np.sqrt(6 * noise.numel())
    assert noise.double().var() == pytest.approx(np.pi**2 / 6, rel=0.03)
    # Neighbours in either name are unrelated.
    for shifted in (u[1:, :] * u[:-1, :], u[:, 1:] * u[:, :-1]):
        assert shifted.double().mean() == pytest.approx(0.25, abs=0.004)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_keys_give_finite_numbers(dtype) -> None:
    keys = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    u = uniform_noise(keys, dtype)
    assert u.min() > 0
    assert u.max() < 1
    assert gumbel_noise(keys, dtype).isfinite().all()


def test_only_devices_without_float64_work_in_float32() -> None:
    assert working_dtype(torch.device("cpu")) == working_dtype(torch.device("cuda")) == torch.float64
    assert working_dtype(torch.device("mps")) == torch.float32
