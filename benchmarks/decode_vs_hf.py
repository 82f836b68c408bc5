"""Constrained decoding: Hugging Face ``generate`` with a dict of joined prefixes, against itemic's beam search.

Same network, prompts, catalogue and beams; the lists are compared before the times. The peer is the field's usual way:
``num_beams`` sequences a prompt and a ``prefix_allowed_tokens_fn`` that looks up what was generated so far. Both sides
take turns on the same few prompts, so that a busy machine slows both, and the ratios come from one process.

    python benchmarks/decode_vs_hf.py                 # small Qwen3 decoder, 49,712 tokens
    python benchmarks/decode_vs_hf.py --smollm2       # the packaged SmolLM2-135M
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro

from itemic.core.allocator import tune_allocator
from itemic.decode import Trie, constrained_beam_search
from itemic.language import Spelling
from itemic.model import (
    DecoderConfig,
    SidModel,
    expand_vocabulary,
    load_backbone,
    make_decoder,
    make_sid_tokenizer,
)

SIZES = (256, 256, 256)
SMALL_VOCABULARY = 49_712
Lists = list[list[tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared."""

    smollm2: bool = False
    """SmolLM2-135M instead of the small decoder."""
    num_prompts: int = 16
    """Number of prompts, of 60 to 140 tokens."""
    num_beams: int = 50
    """Beams on both sides; 50 as MiniOneRec evaluates."""
    num_items: int = 3686
    """Items; MiniOneRec's Industrial catalogue has as many."""
    batch_size: int = 8
    """Prompts a call on both sides; 8 as MiniOneRec evaluates."""
    num_threads: int = 0
    """Threads of torch, for both sides; 0 leaves its default."""
    tuned_allocator: bool = False
    """Whether glibc keeps large blocks, for both sides."""
    seed: int = 0
    """Seed of weights, prompts and catalogue."""


def main(config: BenchmarkConfig) -> None:
    if config.tuned_allocator:
        assert tune_allocator(), "this C library has no mallopt"
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    rng = np.random.default_rng(config.seed)
    model = make_smollm2(rng) if config.smollm2 else make_small(rng)
    codes = make_codes(config.num_items, rng)
    prompts = make_prompts(model, config.num_prompts, rng)
    trie = Trie.from_codes(codes, SIZES)
    sides: dict[str, Callable[[list[list[int]]], Lists]] = {
        "Hugging Face": HuggingFaceSearch(model, codes, config.num_beams),
        "itemic full": lambda batch: itemic_lists(model, batch, trie, config.num_beams, "full"),
        "itemic legal": lambda batch: itemic_lists(model, batch, trie, config.num_beams, "legal"),
    }
    for name in ("itemic full", "itemic legal"):
        sides[name](prompts[:1])
    seconds, lists = take_turns(sides, prompts, config.batch_size)
    print_result(config, model, trie, prompts, seconds, lists)


def make_small(rng: np.random.Generator) -> SidModel:
    """Returns a random Qwen3 of 17.4M parameters whose logits are spread as a trained one's are."""
    spelling = Spelling(style="plain", codebook_sizes=SIZES)
    tokenizer = make_sid_tokenizer(spelling)
    shape = DecoderConfig(hidden_size=256, num_layers=6, num_heads=4, intermediate_size=768)
    network = make_decoder(shape, SMALL_VOCABULARY, rng).eval()
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(6)
    return as_model(network, tokenizer, spelling)


def make_smollm2(rng: np.random.Generator) -> SidModel:
    """Returns SmolLM2-135M with a row of a random word for each new token, so that SIDs are as far apart as words."""
    spelling = Spelling(style="plain", codebook_sizes=SIZES)
    network, tokenizer = load_backbone("smollm2-135m")
    expand_vocabulary(network, tokenizer, spelling, _random_words, rng=rng)
    return as_model(network.eval(), tokenizer, spelling)


def _random_words(table: torch.Tensor, spelling: Spelling, rng: np.random.Generator) -> torch.Tensor:
    return table[torch.from_numpy(rng.choice(len(table), len(spelling.tokens()), replace=False))]


def as_model(network: Any, tokenizer: Any, spelling: Spelling) -> SidModel:
    return SidModel(network, tokenizer, spelling, prompt_mode="sid-only", prompt_version="", catalog_version="")


def make_codes(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Returns distinct codes in a tree like MiniOneRec's Industrial one: 48 first codes, codes unevenly used."""
    first, second = (rng.permutation(256)[:size] for size in (48, 256))
    shares = [1 / np.arange(1, size + 1) ** 0.7 for size in (48, 256)]
    codes = np.empty((0, 3), dtype=np.int64)
    while len(codes) < num_items:
        columns = [
            rng.choice(values, num_items, p=share / share.sum())
            for values, share in zip((first, second), shares, strict=True)
        ]
        codes = np.unique(np.vstack([codes, np.column_stack([*columns, rng.integers(0, 256, num_items)])]), axis=0)
    return rng.permutation(codes)[:num_items]


def make_prompts(model: SidModel, num_prompts: int, rng: np.random.Generator) -> list[list[int]]:
    """Returns prompts of any tokens, 100 long on average; only their length costs time."""
    lengths = rng.integers(60, 141, num_prompts)
    vocabulary_size = model.network.get_input_embeddings().weight.shape[0]
    return [rng.integers(3, vocabulary_size, length).tolist() for length in lengths]


class HuggingFaceSearch:
    """``generate`` constrained by a dict from the joined generated ids to the ids that may follow."""

    def __init__(self, model: SidModel, codes: np.ndarray, num_beams: int) -> None:
        self.model = model
        self.num_beams = num_beams
        followers: dict[str, set[int]] = {}
        for sid in model.sid_tokens.encode(codes).tolist():
            for level, token in enumerate(sid):
                followers.setdefault("-".join(map(str, sid[:level])), set()).add(token)
        self.allowed = {prefix: sorted(tokens) for prefix, tokens in followers.items()}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Sequence[int]]) -> Lists:
        """Returns the token ids of each prompt's beams, best first."""
        width = max(map(len, prompts))
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]

        def allowed_tokens(batch_id: int, ids: torch.Tensor) -> list[int]:
            # A beam that died (fewer children than beams) has no entry; it stays at -inf whatever is allowed.
            return self.allowed.get("-".join(map(str, ids[width:].tolist())), [0])

        sequences = self.model.network.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            num_beams=self.num_beams,
            num_return_sequences=self.num_beams,
            max_new_tokens=len(SIZES),
            length_penalty=0.0,
            do_sample=False,
            pad_token_id=0,
            prefix_allowed_tokens_fn=allowed_tokens,
        )
        beams = sequences[:, width:].view(len(prompts), self.num_beams, len(SIZES)).tolist()
        return [[tuple(beam) for beam in row] for row in beams]


def itemic_lists(model: SidModel, prompts: list[list[int]], trie: Trie, num_beams: int, normalize: Any) -> Lists:
    result = constrained_beam_search(model, prompts, trie, num_beams, normalize, batch_size=len(prompts))
    leaf_codes = leaf_tokens(model, trie)
    return [[leaf_codes[leaf] for leaf in row if leaf >= 0] for row in result.leaf.tolist()]


def leaf_tokens(model: SidModel, trie: Trie) -> list[tuple[int, ...]]:
    """Returns the token ids of every leaf, in the trie's order."""
    nodes = torch.arange(trie.num_leaves)
    columns = []
    for depth in reversed(range(trie.num_levels)):
        columns.append(model.sid_tokens.level_ids[depth][trie.codes[depth][nodes]])
        nodes = torch.searchsorted(trie.child_start[depth].long(), nodes, right=True) - 1
    return list(map(tuple, np.stack(columns[::-1], axis=1).tolist()))


def take_turns(
    sides: dict[str, Callable[[list[list[int]]], Lists]], prompts: list[list[int]], batch_size: int
) -> tuple[dict[str, tuple[float, float]], dict[str, Lists]]:
    """Returns each side's wall and processor seconds and its lists; the sides take turns batch by batch."""
    seconds = dict.fromkeys(sides, (0.0, 0.0))
    lists: dict[str, Lists] = {name: [] for name in sides}
    for start in range(0, len(prompts), batch_size):
        for name, search in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            lists[name] += search(prompts[start : start + batch_size])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name] = (seconds[name][0] + wall, seconds[name][1] + cpu)
    return seconds, lists


def print_result(
    config: BenchmarkConfig,
    model: SidModel,
    trie: Trie,
    prompts: list[list[int]],
    seconds: dict[str, tuple[float, float]],
    lists: dict[str, Lists],
) -> None:
    num_parameters = sum(weight.numel() for weight in model.network.parameters())
    tree = "/".join(str(trie.num_nodes(depth)) for depth in range(1, trie.num_levels + 1))
    same = sum(a == b for a, b in zip(lists["Hugging Face"], lists["itemic full"], strict=True))
    print(
        f"{type(model.network).__name__}, {num_parameters / 1e6:.1f}M parameters, tree {tree}, {config.num_beams} beams"
    )
    print(f"{len(prompts)} prompts of {np.mean(list(map(len, prompts))):.0f} tokens, {torch.get_num_threads()} threads")
    print(f"lists identical to Hugging Face's, to the last item: {same} of {len(prompts)} (full)\n")
    print("| search | prompts/s | ratio | CPU s/prompt | ratio |\n|---|---|---|---|---|")
    wall_peer, cpu_peer = seconds["Hugging Face"]
    for name, (wall, cpu) in seconds.items():
        rates = (
            f"{len(prompts) / wall:.2f} | {wall_peer / wall:.1f}x | {cpu / len(prompts):.3f} | {cpu_peer / cpu:.1f}x"
        )
        print(f"| {name} | {rates} |")
    if same < len(prompts):
        raise SystemExit("the lists differ")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
