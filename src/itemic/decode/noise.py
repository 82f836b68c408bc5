"""Random numbers that depend on a seed and on what they are for, never on the batch or the order they are drawn in.

A generator's stream would give a prompt other noise in another batch. Here the number for (prompt row, depth, node) is
a hash of these and the seed, as in counter-based generators (Salmon et al. 2011); the mixing function is splitmix64's
(Steele, Lea & Flood 2014). Knows nothing of what the numbers serve.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["gumbel_noise", "hash_keys", "uniform_noise", "working_dtype"]

_WORD = 1 << 64
_INCREMENT, _FIRST, _SECOND = (
    value - _WORD if value >= _WORD // 2 else value
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_MANTISSA_BITS = {torch.float64: 52, torch.float32: 23}


def working_dtype(device: torch.device) -> torch.dtype:
    """Returns the number format for perturbed scores: float64, or float32 where the device has no other (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def hash_keys(seed: int, *names: Int[Tensor, "*#shape"] | int) -> Int[Tensor, "*shape"]:
    """Returns 64 well-mixed bits for each combination of names, which broadcast against each other.

    Args:
        seed: Any integer; its lowest 64 bits count.
        names: Whatever tells the draws apart, row, depth and node say; the order matters.
    """
    key = torch.tensor(_signed(seed))
    for name in names:
        name = torch.as_tensor(name).long()
        key = _mix(key.to(name.device) if key.ndim == 0 else key) + name * _INCREMENT
    return _mix(key)


def uniform_noise(keys: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float64) -> Float[Tensor, "*shape"]:
    """Returns numbers strictly between 0 and 1, one a key: odd multiples of 2^-53, or of 2^-24 in float32."""
    bits = _MANTISSA_BITS[dtype]
    return (_shift_right(keys, 64 - bits).to(dtype) + 0.5) * 2.0**-bits


def gumbel_noise(keys: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float64) -> Float[Tensor, "*shape"]:
    """Returns standard Gumbel numbers, -log(-log u), one a key."""
    return -(-uniform_noise(keys, dtype).log()).log()


def _mix(key: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    key = (key ^ _shift_right(key, 30)) * _FIRST
    key = (key ^ _shift_right(key, 27)) * _SECOND
    return key ^ _shift_right(key, 31)


def _shift_right(key: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shifts in zeros: torch's own shift of a signed number repeats the sign."""
    return (key >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value
