"""Number formats to compute in once a model is trained: weights packed, rounded or quantized for inference.

Embedding and head stay in float32 everywhere, so scores never lose the digits that a ranking needs at the very end. On
a CPU only the linear layers between the two change; norms, residuals and attention keep float32. bfloat16 on CUDA, and
on a CPU under torch.compile, rounds every weight between the two and computes all of it in bfloat16; buffers, such as
the frequencies of rotary positions, are never rounded. A prepared network can neither be trained nor saved. Knows
nothing of prompts or searches.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itemic.core.errors import ConfigError
from itemic.model.parts import decoder_of, embedding_of, head_of

__all__ = [
    "Int8Linear",
    "PackedHead",
    "PackedLinear",
    "Precision",
    "PreparedLinear",
    "can_pack",
    "check_not_prepared",
    "prepare_network",
]

log = logging.getLogger("itemic")

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""``auto`` is float32 on a CPU and on MPS (exact) and bfloat16 on CUDA, where it is several times faster."""

_PROBE_ROWS = 256
_PROBE_ROUNDS = 5
_FASTER = 0.9
"""Share of float32's time below which another format counts as faster: less than that, its cost buys nothing."""
_LARGEST_INT8 = 127


class _ForInference(nn.Module):
    """A module that no network can be trained with."""

    def train(self, mode: bool = True) -> "_ForInference":
        """Refuses training mode.

        Raises:
            ConfigError: if that is asked for.
        """
        if mode:
            raise ConfigError("the network was prepared for inference and cannot be trained; load it again")
        super().train(mode)
        return self


class PreparedLinear(_ForInference):
    """A linear layer that only computes: from (*b, D) to (*b, n).

    Its forward is annotated plainly, since torch.compile cannot trace the checks of shapes that tests switch on.
    """


class _Mark(_ForInference):
    """Says of a network that it was prepared, whatever became of its layers; computes nothing and has no weights."""


class PackedLinear(PreparedLinear):
    """x W^T + b by oneDNN with weights laid out once as its kernels read them, in float32 or bfloat16.

    Without packing, every call lays the weights out anew. In bfloat16 (8 bits of mantissa) the input is rounded, the
    sum is kept in float32 by the kernel, and the output is rounded and widened again.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        """Packs the weights.

        Args:
            weight: (n, D), on a CPU.
            bias: (n,) or None.
            dtype: float32 or bfloat16.
        """
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output in the input's format."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, "none", [], "")
        return output.to(x.dtype)


class PackedHead:
    """A head's products with runs of its rows, each run packed when it is first asked for.

    What is packed is a second float32 copy of those rows beside the head, which other calls read as it is. Only sums
    over the whole vocabulary (``full``) ask for runs: they copy all of the head, 0.9 GB for 152,000 x 1,536.
    """

    def __init__(self, head: nn.Linear) -> None:
        """Packs nothing yet."""
        self._head = head
        self._runs: dict[tuple[int, int], PackedLinear] = {}

    def __call__(self, hidden: Float[Tensor, "*b D"], rows: slice) -> Float[Tensor, "*b n"]:
        """Returns the head's output for the rows from ``rows.start`` to before ``rows.stop``, in float32."""
        run = (rows.start, rows.stop)
        if run not in self._runs:
            bias = None if self._head.bias is None else self._head.bias[rows]
            self._runs[run] = PackedLinear(self._head.weight[rows], bias, torch.float32)
        output: Tensor = self._runs[run](hidden)
        return output


class Int8Linear(PreparedLinear):
    """x W^T + b with both rounded to eight bits and the products summed in int32.

    W is rounded row by row (symmetric, scale max|w| / 127), x token by token as it comes (dynamic, likewise), as in
    LLM.int8() (Dettmers et al. 2022) without its outlier columns. The sum is scaled back to float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Rounds the weights."""
        super().__init__()
        self.weight, self.scale = _to_int8(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output in float32."""
        rows, scale = _to_int8(x.flatten(0, -2))
        output = torch._int_mm(rows, self.weight.T).float().mul_(self.scale.T).mul_(scale)
        if self.bias is not None:
            output += self.bias
        return output.view(*x.shape[:-1], -1)


def prepare_network(network: Any, precision: Precision = "auto", *, compile: bool = False) -> str:
    """Returns the format that a network in evaluation mode now computes in; its linear layers are replaced in place.

    On a CPU float32 weights are packed where this torch can (equal within rounding); bfloat16 is taken only where a
    probe with the network's own shapes, a few milliseconds, finds it faster than float32, with a warning otherwise.
    On CUDA bfloat16 rounds the layers' weights and leaves embedding, head and all buffers in float32.

    Args:
        network: A ``*ForCausalLM`` with weights in float32.
        precision: What to compute in.
        compile: Whether ``torch.compile`` fuses the layers' operations, with dynamic shapes. It takes a C++ compiler
            on a CPU, and seconds to minutes at the first call.

    Raises:
        ConfigError: if the format does not exist, the device or the architecture cannot compute in it, the weights are
            not float32, or the network was prepared before.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"dtype {precision!r}: expected one of {', '.join(get_args(Precision))}")
    check_not_prepared(network)
    _check_float32(network)
    device = next(network.parameters()).device
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"dtype int8 on {device}: it is made for CPUs; take bfloat16")
    if device.type == "cpu":
        precision = _prepare_on_cpu(network, precision, may_pack=not compile)
    elif precision == "bfloat16":
        _round_layers(network)
    if compile:
        decoder = decoder_of(network)
        decoder.forward = torch.compile(decoder.forward, dynamic=True)
    network.add_module("prepared_for_inference", _Mark().eval())
    return precision


def check_not_prepared(network: Any) -> None:
    """Refuses a network that ``prepare_network`` returned.

    Raises:
        ConfigError: saying that its weights may not be what they were.
    """
    if any(isinstance(module, _ForInference) for module in network.modules()):
        raise ConfigError("the network was prepared for inference: its weights may be packed or rounded; load it again")


def _check_float32(network: Any) -> None:
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            found = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(f"{name} is {found}, expected float32; load the network in float32 and choose a dtype")


def _check_all_linear(network: Any, precision: Precision) -> None:
    """Refuses a format that would pass over some matrices of the layers and still be called by its name."""
    embedding, linears = embedding_of(network), {module for *_, module in _linears(network)}
    for module in decoder_of(network).modules():
        weights = [] if isinstance(module, nn.Embedding) else list(module.parameters(recurse=False))
        if module is not embedding and module not in linears and any(weight.ndim > 1 for weight in weights):
            raise ConfigError(
                f"dtype {precision}: {type(network).__name__} has layers of type {type(module).__name__}, and only "
                "plain linear ones can be prepared in it on a CPU; take float32"
            )


def _prepare_on_cpu(network: Any, precision: Precision, may_pack: bool) -> Precision:
    """Returns the format taken. Packed weights are opaque to torch.compile, so that bfloat16 then rounds the layers."""
    if precision != "float32":
        _check_all_linear(network, precision)
    if precision == "bfloat16" and not _is_faster_in_bfloat16(network):
        log.warning("bfloat16 is no faster than float32 on this CPU; computing in float32")
        precision = "float32"
    if precision == "int8":
        _replace_linears(network, Int8Linear)
        return precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if may_pack and can_pack(dtype):
        _replace_linears(network, lambda linear: PackedLinear(linear.weight, linear.bias, dtype))
    elif precision == "bfloat16":
        _round_layers(network)
    return precision


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Returns whether this torch has oneDNN's packed product, which is no public operator, and it is right."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Linear(32, 48)
    x = torch.linspace(-1, 1, 5 * 32).view(5, 32)
    with torch.no_grad():
        try:
            found = PackedLinear(linear.weight, linear.bias, dtype)(x)
        except (AttributeError, RuntimeError):
            log.info("this torch has no packed linear layers in %s; plain ones are used", dtype)
            return False
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        return bool(torch.allclose(found, linear(x), rtol=0, atol=tolerance))


def _is_faster_in_bfloat16(network: Any) -> bool:
    """Returns whether the largest layer's product is faster in bfloat16, by the best of a few rounds of each."""
    if not can_pack(torch.bfloat16):
        return False
    linear = max((module for *_, module in _linears(network)), key=lambda module: module.weight.numel())
    x = torch.ones(_PROBE_ROWS, linear.in_features)
    formats = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(dtype)]
    layers = {dtype: PackedLinear(linear.weight, linear.bias, dtype) for dtype in formats}
    best = dict.fromkeys(layers, float("inf"))
    with torch.no_grad():
        for _ in range(_PROBE_ROUNDS):
            for dtype, layer in layers.items():
                begin = time.perf_counter()
                layer(x)
                best[dtype] = min(best[dtype], time.perf_counter() - begin)
    return best[torch.bfloat16] < _FASTER * best.get(torch.float32, float("inf"))


def _round_layers(network: Any) -> None:
    """Rounds the weights of all but embedding and head to bfloat16; what leaves the embedding is rounded to meet them.

    Buffers stay: rotary frequencies rounded by up to 0.4 % turn by another radian a thousand tokens on.
    """
    embedding = embedding_of(network)
    kept = {id(parameter) for module in (embedding, head_of(network)) for parameter in module.parameters()}
    for parameter in decoder_of(network).parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(torch.bfloat16)
    embedding.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))


def _linears(network: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yields the parent, name and module of every linear layer below the head."""
    for parent in decoder_of(network).modules():
        for name, module in parent.named_children():
            if type(module) is nn.Linear:
                yield parent, name, module


def _replace_linears(network: Any, make: Callable[[nn.Linear], nn.Module]) -> None:
    for parent, name, module in list(_linears(network)):
        setattr(parent, name, make(module))


def _to_int8(rows: Float[Tensor, "n D"]) -> tuple[Tensor, Tensor]:
    """Returns rows in int8 and the scale of each, by which they are multiplied to get them back."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(rows.dtype).tiny) / _LARGEST_INT8
    return (rows / scale).round_().to(torch.int8), scale
