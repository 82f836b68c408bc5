"""Constrained decoding: Hugging Face ``generate`` with a dict of joined prefixes, against itemic's beam search.

Same network, prompts, catalogue and beams; the lists are compared before the times. The peer is the field's usual way:
``num_beams`` sequences a prompt and a ``prefix_allowed_tokens_fn`` that looks up what was generated so far, 8 prompts
a call. itemic gets all prompts of a turn in one call and cuts its own batches. Both sides take turns, so that a busy
machine slows both, and ratios are medians over turns of one process. The allocator belongs to the whole process, so
the tuned one is another command.

    python benchmarks/decode_vs_hf.py                           # small Qwen3 decoder, 49,712 tokens
    python benchmarks/decode_vs_hf.py --tuned-allocator
    python benchmarks/decode_vs_hf.py --smollm2                 # the packaged SmolLM2-135M
    python benchmarks/decode_vs_hf.py --prompts random          # prompts that share nothing
    python benchmarks/decode_vs_hf.py --device cuda --precision bfloat16
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro

from itemic.core.allocator import tune_allocator
from itemic.decode import BeamResult, Trie, constrained_beam_search
from itemic.language import Renderer, Spelling
from itemic.model import (
    DecoderConfig,
    Precision,
    SidModel,
    expand_vocabulary,
    load_backbone,
    make_decoder,
    make_sid_tokenizer,
)

SIZES = (256, 256, 256)
SMALL_VOCABULARY = 49_712
INSTRUCTION = (
    "You are given a task and its input. Read both with care and write the answer that fulfils the task, and nothing "
    "else.\n\n### Task:\nPredict the next item that this user will choose. Items are written as semantic IDs of three "
    "codes, from coarse to fine.\n\n### Input:\nThe user has chosen these items, oldest first: "
)
CLOSING = "\n\n### Answer:\n"
TIE = 1e-4
"""Score difference in nats below which float32 rounding may order two items either way."""
Lists = list[list[tuple[int, ...]]]
Search = Callable[[list[list[int]]], Any]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared."""

    smollm2: bool = False
    """SmolLM2-135M instead of the small decoder."""
    prompts: Literal["rendered", "random"] = "rendered"
    """``rendered``: one instruction, then 1 to 10 items of the catalogue, about 100 tokens as in MiniOneRec's data.
    ``random``: 60 to 140 tokens that share nothing."""
    num_prompts: int = 48
    """Number of prompts."""
    prompts_a_turn: int = 16
    """Prompts that a side decodes before it is the other's turn."""
    num_beams: tuple[int, ...] = (50, 16)
    """Beams on both sides; MiniOneRec evaluates with 50 and trains with 16."""
    num_items: int = 3686
    """Items; MiniOneRec's Industrial catalogue has as many."""
    hf_batch_size: int = 8
    """Prompts a call of the peer; 8 as MiniOneRec evaluates."""
    batch_size: int = 16
    """Most prompts in itemic's cache."""
    device: str = "cpu"
    """Where both sides compute."""
    precision: Precision = "float32"
    """Number format of itemic's layers; the peer's is float32 unless this is bfloat16 on CUDA, and then the same.
    Lists are held to be identical in float32 only."""
    compile: bool = False
    """Whether itemic's layers go through torch.compile."""
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
    if config.prompts == "random":
        prompts = make_prompts(model, config.num_prompts, rng)
    else:
        prompts = make_rendered_prompts(model, codes, config.num_prompts, rng)
    trie = Trie.from_codes(codes, SIZES)
    model.network.to(config.device)
    ours = copy.copy(model)
    ours.network = copy.deepcopy(model.network)
    precision = ours.prepare_for_inference(config.precision, compile=config.compile)
    if precision == "bfloat16" and ours.device.type == "cuda":
        # Weights only: positions rounded too would cost the peer exactness, and a network loaded in bfloat16 has none.
        for parameter in model.network.parameters():
            parameter.data = parameter.data.bfloat16()
    print_setting(config, model, trie, prompts, precision)
    print("| beams | search | prompts/s | ratio | CPU s/prompt | ratio | GFLOP/prompt | GFLOP/s | weights GB/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    notes = [compare(config, model, ours, codes, trie, prompts, num_beams) for num_beams in config.num_beams]
    print_limits(config, ours, precision)
    print("\n".join(f"- {note}" for note, _ in notes))
    if precision == "float32" and not all(equal for _, equal in notes):
        raise SystemExit("the lists differ by more than ties")


def compare(
    config: BenchmarkConfig,
    model: SidModel,
    ours: SidModel,
    codes: np.ndarray,
    trie: Trie,
    prompts: list[list[int]],
    num_beams: int,
) -> tuple[str, bool]:
    """Prints a table row for each side and returns what is to be said of the lists, and whether they are the same."""

    def itemic(normalize: Any) -> Search:
        return lambda batch: constrained_beam_search(
            ours, batch, trie, num_beams, normalize, batch_size=config.batch_size
        )

    sides = {
        "Hugging Face": HuggingFaceSearch(model, codes, num_beams, config.hf_batch_size),
        "itemic full": itemic("full"),
        "itemic legal": itemic("legal"),
    }
    turns = [prompts[at : at + config.prompts_a_turn] for at in range(0, len(prompts), config.prompts_a_turn)]
    work = {name: count_work(ours, sides[name], turns[0]) for name in ("itemic full", "itemic legal")}
    wall, cpu, results = take_turns(sides, turns, ours.device)
    for name in sides:
        print_row(num_beams, name, wall, cpu, [len(turn) for turn in turns], work.get(name))
    leaf_codes = leaf_tokens(ours, trie)
    lists = [listed for turn in results["Hugging Face"] for listed in turn]
    found = [row for result in results["itemic full"] for row in to_rows(result, leaf_codes)]
    kinds = [kind_of_difference(row, *own) for row, own in zip(lists, found, strict=True)]
    same, tied = kinds.count("same"), kinds.count("tied")
    note = f"{num_beams} beams, full: {same} of {len(lists)} lists identical to Hugging Face's, to the last item"
    note += f"; {tied} more but for the order of items less than {TIE:g} nats apart" if tied else ""
    return note, same + tied == len(lists)


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
    """Returns prompts of any tokens, 100 long on average, that share nothing."""
    lengths = rng.integers(60, 141, num_prompts)
    vocabulary_size = model.network.get_input_embeddings().weight.shape[0]
    return [rng.integers(3, vocabulary_size, length).tolist() for length in lengths]


def make_rendered_prompts(
    model: SidModel, codes: np.ndarray, num_prompts: int, rng: np.random.Generator
) -> list[list[int]]:
    """Returns prompts of one instruction and 1 to 10 items of the catalogue."""
    vocabulary_size = model.network.get_input_embeddings().weight.shape[0]
    if model.tokenizer.chat_template:
        encode = Renderer(model.tokenizer, model.spelling, codes, "chat").encode
        before, comma, after = encode(INSTRUCTION), encode(","), encode(CLOSING)
    else:
        # The small decoder has no words: as many tokens as SmolLM2 needs for the same text.
        before, comma, after = (rng.integers(3, vocabulary_size, count).tolist() for count in (75, 1, 6))
    sids = model.sid_tokens.encode(codes).tolist()
    histories = [rng.integers(0, len(codes), rng.integers(1, 11)) for _ in range(num_prompts)]
    return [
        [*before, *sids[history[0]], *(token for item in history[1:] for token in (*comma, *sids[item])), *after]
        for history in histories
    ]


class HuggingFaceSearch:
    """``generate`` constrained by a dict from the joined generated ids to the ids that may follow."""

    def __init__(self, model: SidModel, codes: np.ndarray, num_beams: int, batch_size: int = 8) -> None:
        self.model = model
        self.num_beams = num_beams
        self.batch_size = batch_size
        followers: dict[str, set[int]] = {}
        for sid in model.sid_tokens.encode(codes).tolist():
            for level, token in enumerate(sid):
                followers.setdefault("-".join(map(str, sid[:level])), set()).add(token)
        self.allowed = {prefix: sorted(tokens) for prefix, tokens in followers.items()}

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Lists:
        """Returns the token ids of each prompt's beams, best first."""
        batches = (prompts[at : at + self.batch_size] for at in range(0, len(prompts), self.batch_size))
        return [beams for batch in batches for beams in self.search(batch)]

    @torch.no_grad()
    def search(self, prompts: Sequence[Sequence[int]]) -> Lists:
        """Returns the token ids of one batch's beams, best first."""
        width = max(map(len, prompts))
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]

        def allowed_tokens(batch_id: int, ids: torch.Tensor) -> list[int]:
            # A beam that died (fewer children than beams) has no entry; it stays at -inf whatever is allowed.
            return self.allowed.get("-".join(map(str, ids[width:].tolist())), [0])

        sequences = self.model.network.generate(
            input_ids=torch.tensor(padded, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
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


def leaf_tokens(model: SidModel, trie: Trie) -> list[tuple[int, ...]]:
    """Returns the token ids of every leaf, in the trie's order."""
    nodes = torch.arange(trie.num_leaves)
    columns = []
    for depth in reversed(range(trie.num_levels)):
        columns.append(model.sid_tokens.level_ids[depth][trie.codes[depth][nodes]])
        nodes = torch.searchsorted(trie.child_start[depth].long(), nodes, right=True) - 1
    return list(map(tuple, np.stack(columns[::-1], axis=1).tolist()))


def to_rows(result: BeamResult, leaf_codes: list[tuple[int, ...]]) -> list[tuple[list[tuple[int, ...]], list[float]]]:
    """Returns for each prompt the token ids of its leaves and their scores, best first."""
    return [
        ([leaf_codes[leaf] for leaf in leaves if leaf >= 0], scores)
        for leaves, scores in zip(result.leaf.tolist(), result.logprob.tolist(), strict=True)
    ]


def kind_of_difference(
    peer: list[tuple[int, ...]], own: list[tuple[int, ...]], scores: list[float]
) -> Literal["same", "tied", "different"]:
    """Returns whether two lists are the same, or differ only in the order of items whose scores are all but equal."""
    if peer == own:
        return "same"
    if sorted(peer) != sorted(own):
        return "different"
    rank = {sid: place for place, sid in enumerate(own)}
    gap = max(abs(scores[place] - scores[rank[sid]]) for place, sid in enumerate(peer))
    return "tied" if gap < TIE else "different"


def take_turns(
    sides: dict[str, Search], turns: list[list[list[int]]], device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[Any]]]:
    """Returns each side's wall and processor seconds and its results, turn by turn."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in turns:
        for name, search in sides.items():
            begin = time.perf_counter(), time.process_time()
            results[name].append(search(turn))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            wall[name].append(time.perf_counter() - begin[0])
            cpu[name].append(time.process_time() - begin[1])
    return wall, cpu, results


@dataclass
class Work:
    """What a search asks of the model."""

    num_prompts: int
    flops: float = 0.0
    weight_bytes: float = 0.0


def count_work(model: SidModel, search: Search, prompts: list[list[int]]) -> Work:
    """Returns the work of one turn, from the shapes that the model is called with; also warms the search up.

    Products count two operations a multiplication: the layers' weights and the attention of every token, the head's
    rows of every state. Weights are read once a call, activations and caches are left out.
    """
    work = Work(len(prompts))
    layers = sum(weight.numel() for weight in layer_weights(model))
    config = model.network.config
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    hidden, logits = model.hidden, model.logits

    def counted_hidden(input_ids: torch.Tensor, mask: torch.Tensor, *args: Any, **options: Any) -> Any:
        work.flops += input_ids.numel() * (2 * layers + attention * mask.shape[-1])
        work.weight_bytes += sum(weight.numel() * weight.element_size() for weight in layer_weights(model))
        return hidden(input_ids, mask, *args, **options)

    def counted_logits(states: torch.Tensor, token_ids: torch.Tensor | None = None) -> torch.Tensor:
        result = logits(states, token_ids)
        work.flops += 2 * result.numel() * states.shape[-1]
        work.weight_bytes += 4 * result.shape[-1] * states.shape[-1]
        return result

    model.hidden, model.logits = counted_hidden, counted_logits  # type: ignore[method-assign]
    try:
        search(prompts)
    finally:
        del model.hidden, model.logits
    return work


def layer_weights(model: SidModel) -> list[torch.Tensor]:
    """Returns the matrices between embedding and head, whatever the format they were prepared in."""
    modules = [module for module in model.network.base_model.modules() if not isinstance(module, torch.nn.Embedding)]
    found = [getattr(module, "packed", getattr(module, "weight", None)) for module in modules]
    return [weight for weight in found if weight is not None and weight.dim() == 2]


def print_setting(
    config: BenchmarkConfig, model: SidModel, trie: Trie, prompts: list[list[int]], precision: str
) -> None:
    num_parameters = sum(weight.numel() for weight in model.network.parameters())
    tree = "/".join(str(trie.num_nodes(depth)) for depth in range(1, trie.num_levels + 1))
    allocator = "tuned" if config.tuned_allocator else "default"
    length = np.mean(list(map(len, prompts)))
    print(f"{type(model.network).__name__}, {num_parameters / 1e6:.1f}M parameters, tree {tree}, {model.device}")
    print(f"{len(prompts)} {config.prompts} prompts of {length:.0f} tokens, {config.prompts_a_turn} a turn")
    print(f"{torch.get_num_threads()} threads, {allocator} allocator, itemic in {precision}\n")


def print_row(
    num_beams: int,
    name: str,
    wall: dict[str, list[float]],
    cpu: dict[str, list[float]],
    sizes: list[int],
    work: Work | None,
) -> None:
    """Prints rates and ratios as medians over turns."""
    num_prompts, peer = np.array(sizes), "Hugging Face"
    columns = [f"{num_beams}", name]
    for seconds, figure in ((wall, num_prompts / wall[name]), (cpu, cpu[name] / num_prompts)):
        ratio = np.median(np.divide(seconds[peer], seconds[name]))
        columns += [f"{np.median(figure):.3g}", f"{ratio:.1f}x"]
    if work is None:
        columns += ["", "", ""]
    else:
        rate = np.median(num_prompts / wall[name]) / work.num_prompts
        columns += [f"{work.flops / work.num_prompts / 1e9:.2f}"]
        columns += [f"{work.flops * rate / 1e9:.0f}", f"{work.weight_bytes * rate / 1e9:.1f}"]
    print(f"| {' | '.join(columns)} |", flush=True)


def print_limits(config: BenchmarkConfig, model: SidModel, precision: str) -> None:
    """Prints what this machine reaches in a product of the model's largest layer and in a copy of a large array."""
    weight = max(layer_weights(model), key=torch.Tensor.numel)
    n, k = weight.shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = torch.ones(config.batch_size * max(config.num_beams), k, device=model.device, dtype=dtype)
    w = torch.ones(n, k, device=model.device, dtype=dtype)
    large = torch.ones(1 << (28 if model.device.type == "cuda" else 25), device=model.device)
    product = 2 * x.numel() * n / seconds_of(lambda: torch.nn.functional.linear(x, w), model.device)
    copied = 2 * large.numel() * large.element_size() / seconds_of(large.clone, model.device)
    shape = f"{x.shape[0]} x {k} x {n} product in {dtype}".replace("torch.", "")
    print(f"\nlimits of this machine: {product / 1e9:.0f} GFLOP/s ({shape}), {copied / 1e9:.0f} GB/s (copy)\n")


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Returns the least time of 20 runs."""
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
