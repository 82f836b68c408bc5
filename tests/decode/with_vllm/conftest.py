"""Engines for the tests beside: vLLM's real interface where it is installed, a stand-in always, and tiny models.

The stand-in keeps the interface of vllm 0.32.0, ``vllm/v1/sample/logits_processor/interface.py``
and ``vllm/v1/worker/gpu/sample/logits_processor/interface.py``, and no more.
"""

import enum
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from itemic.decode import Trie
from itemic.language import Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer
from itemic.sid import Catalog

SIZES = (6, 5, 7)
NAME = "itemic.decode.adapters.vllm"


@dataclass(frozen=True)
class StandInUpdate:
    batch_size: int
    removed: Any
    added: Any
    moved: Any


class StandInDirection(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class StandInProcessor:
    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None


def stand_in_modules() -> dict[str, ModuleType]:
    from transformers import AutoTokenizer

    folders = ("", ".tokenizers", ".v1", ".v1.sample", ".v1.worker", ".v1.worker.gpu", ".v1.worker.gpu.sample")
    leaves = (".v1.sample.logits_processor", ".v1.worker.gpu.sample.logits_processor")
    modules = {f"vllm{name}": ModuleType(f"vllm{name}") for name in (*folders, *leaves)}
    interface, slots = (modules[f"vllm{name}"] for name in leaves)
    modules["vllm"].SamplingParams = SimpleNamespace
    modules["vllm.tokenizers"].cached_tokenizer_from_config = lambda config: AutoTokenizer.from_pretrained(
        config.tokenizer
    )
    interface.BatchUpdate = StandInUpdate
    interface.LogitsProcessor = StandInProcessor
    interface.MoveDirectionality = StandInDirection
    slots.LogitsContext = slots.LogitsProcRequestState = SimpleNamespace
    slots.LogitsProcessor = StandInProcessor
    return modules


@pytest.fixture(scope="module", params=["stand-in", "real"])
def vllm(request) -> Any:
    """itemic's adapter over one of the two interfaces."""
    modules = {}
    if request.param == "stand-in":
        modules = stand_in_modules()
    elif importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    hidden = {name: sys.modules.pop(name) for name in [*modules, NAME] if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield importlib.import_module(NAME)
    finally:
        for name in [*modules, NAME]:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


@dataclass
class World:
    """A tiny model on disk with its catalog."""

    model: SidModel
    catalog: Catalog
    trie: Trie
    config: Any

    @property
    def sids(self) -> set[tuple[int, ...]]:
        return set(map(tuple, self.catalog.codes.tolist()))

    @property
    def end(self) -> int:
        return self.model.tokenizer.eos_token_id

    def start(self, vllm: Any) -> Any:
        """Returns the processor of runner V1."""
        return vllm.SidLogitsProcessorV1(self.config, torch.device("cpu"), False)

    def check_answer(self, written: list[int], wish: dict[str, Any]) -> None:
        """Looks that what was written is one semantic ID of an item that the request may get."""
        tokens = self.model.sid_tokens
        assert written[0] == tokens.opening_ids[0]
        assert written[-2:] == [*tokens.closing_ids, self.end]
        sid = tuple(tokens.level_ids[level].tolist().index(token) for level, token in enumerate(written[1:-2]))
        item = self.catalog.item(sid)
        assert f"i{item}" not in wish.get("itemic_exclude", ())
        assert item not in wish.get("itemic_exclude", ())
        assert item in wish.get("itemic_allow", [item])


def make_world(folder: Any, style: str) -> World:
    spelling = Spelling(style=style, codebook_sizes=SIZES)
    tokenizer = make_sid_tokenizer(spelling)
    codes = np.unique(np.random.default_rng(3).integers(0, SIZES, (60, 3)), axis=0)
    codes = codes[np.random.default_rng(4).permutation(len(codes))]
    catalog = Catalog(codes, [f"i{row}" for row in range(len(codes))], SIZES, spelling=style)
    # vLLM's CPU attention wants heads of 32 at least.
    network = make_decoder(
        DecoderConfig(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64),
        len(tokenizer),
        np.random.default_rng(0),
    )
    with torch.no_grad():
        network.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
    facts = {"prompt_mode": "sid-only", "prompt_version": "1", "catalog_version": catalog.version}
    model = SidModel(network.eval(), tokenizer, spelling, **facts)
    model.save(folder / "model")
    catalog.save(folder / "catalog")
    path = str(folder / "model")
    model_config = SimpleNamespace(
        model=path,
        tokenizer=path,
        skip_tokenizer_init=False,
        runner_type="generate",
        tokenizer_mode="auto",
        tokenizer_revision=None,
        trust_remote_code=False,
        logits_processors=[f"{NAME}:SidLogitsProcessorV1"],
        logprobs_mode="processed_logits",
        max_logprobs=20,
    )
    config = SimpleNamespace(
        model_config=model_config,
        additional_config={"itemic_catalog": str(folder / "catalog"), "other": 1},
        speculative_config=None,
    )
    return World(model, catalog, Trie.from_catalog(catalog), config)


@pytest.fixture(scope="session")
def wrapped(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("wrapped"), "wrapped")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("plain"), "plain")


@pytest.fixture(scope="session")
def served(wrapped) -> Any:
    """A running engine; it takes about a minute to start."""
    vllm = pytest.importorskip("vllm")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setenv("TORCHDYNAMO_DISABLE", "1")
    name = "V2" if torch.cuda.is_available() else "V1"
    yield vllm.LLM(
        wrapped.config.model_config.model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        logits_processors=[f"{NAME}:SidLogitsProcessor{name}"],
        additional_config={"itemic_catalog": wrapped.config.additional_config["itemic_catalog"]},
        logprobs_mode="processed_logits",
    )
    patch.undo()
