"""One update of GRPO: a prompt packed with the tree of its candidates, against the prompt repeated for each candidate.

An update is the reference's forward pass without gradient, the policy's forward and backward pass, and AdamW. The peer
does it as TRL, and with it MiniOneRec: B x G rows of prompt and codes, ``logits_to_keep``, and a log-softmax over the
whole vocabulary. That is another distribution than the one the candidates were found under, so it is also run with the
same legal codes as itemic, and log-probabilities and gradients are compared with that one before anything is timed.

Sides take turns in one process for each line of the table, so that a busy machine slows all of them; ratios are medians
over turns. Memory is the growth of the peak resident set over what it was before an update, weights and optimiser state
in place, each side in a process of its own.

    python benchmarks/grpo_step.py                                  # every line; an hour on two cores
    python benchmarks/grpo_step.py --models small --allocators tuned --candidates beams
"""

import ctypes
import functools
import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from decode_vs_hf import SIZES, as_model, make_codes, make_small, make_smollm2
from torch import Tensor

from itemic.core.allocator import tune_allocator
from itemic.decode import Trie
from itemic.language import Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer
from itemic.train.rl.answers import AnswerTree, Question
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates
from itemic.train.rl.config import GrpoConfig
from itemic.train.rl.policy_loss import JudgedBatch, grpo_loss
from itemic.train.rl.reference import ReferenceConfig, make_reference
from itemic.train.rl.rollout import RolloutConfig, roll_out

ModelName = Literal["small", "recipe", "smollm2"]
Candidates = Literal["beams", "random"]
Allocator = Literal["tuned", "default"]
Side = Literal["repeated", "repeated, legal", "packed"]
SIDES: tuple[Side, ...] = ("repeated", "repeated, legal", "packed")
CHECKED_SIDES: tuple[Side, ...] = ("packed", "repeated, legal")
PEAK_SIDES: tuple[Side, ...] = ("repeated", "packed")
CPU = torch.device("cpu")
MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared."""

    models: tuple[ModelName, ...] = ("small", "recipe", "smollm2")
    """``small``: a random Qwen3 of 17.4M parameters (6 layers, 256 wide, 49,712 tokens). ``recipe``: the decoder of
    recipes/industrial.yaml (3 layers, 128 wide, SID tokens alone). ``smollm2``: SmolLM2-135M with SID tokens."""
    candidates: tuple[Candidates, ...] = ("beams", "random")
    """``beams``: what the model's own beam search finds. ``random``: leaves drawn uniformly, which share less."""
    allocators: tuple[Allocator, ...] = ("tuned", "default")
    """Whether glibc keeps large blocks, for all sides."""
    num_prompts: int = 4
    """Prompts of an update, B."""
    num_smollm2_prompts: int = 2
    """The same for SmolLM2, of which the peer wants about 3 GiB a prompt."""
    group_size: int = 16
    """Candidates of a prompt, G; 16 as in MiniOneRec."""
    prompt_tokens: int = 100
    """Length of every prompt: nothing is padded on any side."""
    num_items: int = 3686
    """Items; MiniOneRec's Industrial catalogue has as many."""
    num_rounds: int = 7
    """Turns that are timed, after one that is not."""
    threads: int = 2
    """Threads of torch, for all sides."""
    seed: int = 0
    """Seed of weights, prompts, catalogue, advantages."""

    def prompts_of(self, model: ModelName) -> int:
        """Returns B for a model."""
        return self.num_smollm2_prompts if model == "smollm2" else self.num_prompts


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest differences between the packed side and the repeated one with legal codes."""

    logprob: float
    """Of a log-probability in float32, nats."""
    exact_logprob: float
    """The same with weights in float64; what a network casts to float32 itself, norms say, stays so."""
    rounding: float
    """Of the repeated side in float32 from itself in float64: what float32 is good for."""
    gradient: float
    """Of a parameter's gradient in float32, relative to its norm."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A line of the table of speeds; seconds of each side in each round, without and with AdamW."""

    without_adamw: dict[Side, list[float]]
    with_adamw: dict[Side, list[float]]
    num_parameters: int
    num_packed_tokens: int
    differences: Differences


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A policy, its reference, and prompts with their candidates."""

    model: SidModel
    reference: SidModel
    answers: AnswerTree
    prompts: list[list[int]]
    leaf: Tensor
    advantages: Tensor

    def step(self, side: Side) -> Tensor:
        """Returns the policy's log-probabilities (B, G, L); leaves the gradient of GRPO's loss in the network."""
        logprobs_of = self.logprobs_of(side)
        with torch.no_grad():
            reference = logprobs_of(self.reference)
        logprobs = logprobs_of(self.model)
        batch = JudgedBatch(
            rows=pack_candidates(self.prompts, self.leaf, self.answers, CPU),
            answers=self.answers,
            leaf=self.leaf,
            task=torch.zeros(len(self.prompts), dtype=torch.int64),
            advantages=self.advantages,
            weight=torch.ones_like(self.advantages),
            old_logprobs=None,
            ref_logprobs=reference,
        )
        loss, _ = grpo_loss(logprobs, batch, GrpoConfig(beta=0.04))
        loss.mean().backward()
        return logprobs.detach()

    def logprobs_of(self, side: Side) -> Callable[[SidModel], Tensor]:
        """Returns how a side gets a model's log-probabilities (B, G, L)."""
        return self._packed if side == "packed" else self._repeated(side)

    def _packed(self, model: SidModel) -> Tensor:
        rows = pack_candidates(self.prompts, self.leaf, self.answers, CPU)
        return candidate_logprobs(model, rows, self.answers)[0]

    def _repeated(self, side: Side) -> Callable[[SidModel], Tensor]:
        B, G = self.leaf.shape
        codes = leaf_tokens(self.answers)[self.leaf]
        prompts = torch.tensor(self.prompts).repeat_interleave(G, dim=0)
        input_ids = torch.cat([prompts, codes.flatten(0, 1)], dim=1)
        legal = self.legal if side == "repeated, legal" else None
        return lambda model: repeated_logprobs(model, input_ids, legal).view(B, G, -1)

    @functools.cached_property
    def legal(self) -> Tensor:
        """Which tokens of the vocabulary continue each candidate (B x G, L, V); looked up once, outside the timing."""
        return legal_tokens(self.answers, self.leaf.flatten(), self.model.vocabulary_size)


def repeated_logprobs(model: SidModel, input_ids: Tensor, legal: Tensor | None) -> Tensor:
    """Returns log p of each row's last L tokens as TRL computes it, among ``legal`` tokens where these are given."""
    L = len(SIZES)
    attention_mask = torch.ones_like(input_ids)
    logits = model.network(
        input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=L + 1, use_cache=False
    ).logits[:, :-1]
    if legal is not None:
        logits = logits.masked_fill(~legal, -torch.inf)
    chosen = logits.gather(-1, input_ids[:, -L:, None]).squeeze(-1)
    # Row by row, TRL's way of keeping its peak down.
    return chosen - torch.stack([row.logsumexp(dim=-1) for row in logits])


def leaf_tokens(answers: AnswerTree) -> Tensor:
    """Returns the token ids of every leaf (N, L)."""
    nodes, columns = torch.arange(answers.trie.num_leaves), []
    for depth in reversed(range(answers.trie.num_levels)):
        columns.append(torch.from_numpy(answers.level_ids[depth])[answers.trie.codes[depth][nodes].long()])
        nodes = torch.searchsorted(answers.trie.child_start[depth].long(), nodes, right=True) - 1
    return torch.stack(columns[::-1], dim=1)


def legal_tokens(answers: AnswerTree, leaves: Tensor, vocabulary_size: int) -> Tensor:
    """Returns for each leaf and level which tokens the tree allows there (n, L, V), found by comparing all leaves."""
    tokens = leaf_tokens(answers)
    legal = torch.zeros(len(leaves), tokens.shape[1], vocabulary_size, dtype=torch.bool)
    for row, leaf in enumerate(leaves.tolist()):
        agrees = torch.ones(len(tokens), dtype=torch.bool)
        for level in range(tokens.shape[1]):
            legal[row, level, tokens[agrees, level]] = True
            agrees &= tokens[:, level] == tokens[leaf, level]
    return legal


def main(config: BenchmarkConfig) -> None:
    print(f"torch {torch.__version__}, {config.threads} threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"G = {config.group_size}, prompts of {config.prompt_tokens} tokens, medians of {config.num_rounds} rounds\n")
    lines = [
        (model, candidates, allocator)
        for model in config.models
        for allocator in config.allocators
        for candidates in config.candidates
    ]
    print(
        "| model | B | candidates | allocator | tokens repeated / packed | repeated | repeated, legal | packed | ratio "
        "| ratio, legal | with AdamW | log-probs (rounding) | in float64 | gradients |"
    )
    print(f"{'|---' * 14}|")
    for line in lines:
        print_speed(config, *line, in_own_process(measure_speed, config, *line))
    print("\n| model | B | candidates | allocator | repeated | packed | share |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        print_memory(config, *line, *(in_own_process(measure_memory, config, *line, side) for side in PEAK_SIDES))


def in_own_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what ``measure`` returns in a fresh interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def measure_speed(config: BenchmarkConfig, model: ModelName, candidates: Candidates, allocator: Allocator) -> Speed:
    """Returns the differences between the sides, then their times turn by turn."""
    case = make_case(config, model, candidates, allocator)
    differences = check(case)
    optimizer = make_optimizer(case)
    without: dict[Side, list[float]] = {side: [] for side in SIDES}
    full: dict[Side, list[float]] = {side: [] for side in SIDES}
    for turn in range(config.num_rounds + 1):
        for side in SIDES:
            seconds, total = timed_update(case, optimizer, side)
            if turn:
                without[side].append(seconds)
                full[side].append(total)
    return Speed(
        without_adamw=without,
        with_adamw=full,
        num_parameters=sum(parameter.numel() for parameter in case.model.network.parameters()),
        num_packed_tokens=pack_candidates(case.prompts, case.leaf, case.answers, CPU).num_tokens,
        differences=differences,
    )


def measure_memory(
    config: BenchmarkConfig, model: ModelName, candidates: Candidates, allocator: Allocator, side: Side
) -> int:
    """Returns by how many bytes the peak of two updates exceeds what is resident before them."""
    case = make_case(config, model, candidates, allocator)
    optimizer = make_optimizer(case)
    # A small update first: optimiser state, kernels and threads are not what the sides differ in.
    small = replace(case, prompts=[[5] * 4], leaf=case.leaf[:1, :1], advantages=case.advantages[:1, :1])
    timed_update(small, optimizer, side)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    for _ in range(2):
        timed_update(case, optimizer, side)
    return resident_bytes("VmHWM") - before


def resident_bytes(name: str) -> int:
    """Returns the process's resident set (``VmRSS``) or its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def make_case(config: BenchmarkConfig, name: ModelName, candidates: Candidates, allocator: Allocator) -> Case:
    """Returns the same case in every process, whose threads and allocator it sets."""
    if allocator == "tuned":
        assert tune_allocator(), "this C library has no mallopt"
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    model = MODELS[name](rng)
    reference = make_reference(model, ReferenceConfig()).model
    with torch.no_grad():  # apart from the policy, so that the KL term has a gradient
        for parameter in reference.network.parameters():
            parameter.mul_(1.01)
    B, G = config.prompts_of(name), config.group_size
    answers = AnswerTree.of_sids(Trie.from_codes(make_codes(config.num_items, rng), SIZES), model.sid_tokens)
    prompts = rng.integers(3, model.vocabulary_size, (B, config.prompt_tokens)).tolist()
    leaf = torch.from_numpy(np.stack([rng.choice(answers.trie.num_leaves, G, replace=False) for _ in range(B)]))
    if candidates == "beams":
        questions = [Question(task=0, prompt=prompt, targets=[0]) for prompt in prompts]
        leaf = roll_out(model, questions, answers, RolloutConfig(group_size=G), seed=0).leaf
    advantages = torch.from_numpy(rng.standard_normal((B, G))).float()
    return Case(model=model, reference=reference, answers=answers, prompts=prompts, leaf=leaf, advantages=advantages)


def make_recipe(rng: np.random.Generator) -> SidModel:
    """Returns a random decoder of the shape in recipes/industrial.yaml, its logits spread as a trained one's are."""
    spelling = Spelling(style="plain", codebook_sizes=SIZES)
    tokenizer = make_sid_tokenizer(spelling)
    network = make_decoder(DecoderConfig(num_layers=3, dropout=0.0), len(tokenizer), rng).eval()
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(6)
    return as_model(network, tokenizer, spelling)


MODELS: dict[ModelName, Callable[[np.random.Generator], SidModel]] = {
    "small": make_small,
    "recipe": make_recipe,
    "smollm2": make_smollm2,
}


def make_optimizer(case: Case) -> torch.optim.Optimizer:
    """Returns AdamW at a rate of 0: all its work, and the same weights in every round."""
    return torch.optim.AdamW(case.model.network.parameters(), lr=0.0, fused=True)


def timed_update(case: Case, optimizer: torch.optim.Optimizer, side: Side) -> tuple[float, float]:
    """Returns the seconds of one update without AdamW, and with it."""
    begin = time.perf_counter()
    case.step(side)
    without = time.perf_counter() - begin
    optimizer.step()
    optimizer.zero_grad()
    return without, time.perf_counter() - begin


def check(case: Case) -> Differences:
    """Returns how far the packed side is from the repeated one with legal codes.

    Raises:
        SystemExit: if log-probabilities differ by more than 1e-5 in float64, or in float32 by more than that and twice
            the peer's own rounding; or gradients by more than 1e-4 of their norm.
    """
    found, gradients = {}, {}
    for side in CHECKED_SIDES:
        found[side] = case.step(side)
        gradients[side] = [parameter.grad for parameter in case.model.network.parameters()]
        case.model.network.zero_grad()
    packed, repeated = (found[side] for side in CHECKED_SIDES)
    pairs = zip(*(gradients[side] for side in CHECKED_SIDES), strict=True)
    exact, expected = exact_logprobs(case)
    differences = Differences(
        logprob=float((packed - repeated).abs().max()),
        exact_logprob=float((exact - expected).abs().max()),
        rounding=float((repeated - expected).abs().max()),
        gradient=max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs),
    )
    is_equal = differences.exact_logprob < 1e-5 and differences.logprob < max(1e-5, 2 * differences.rounding)
    if not is_equal or not differences.gradient < 1e-4:
        raise SystemExit(f"the sides differ: {differences}")
    return differences


@torch.no_grad()
def exact_logprobs(case: Case) -> tuple[Tensor, Tensor]:
    """Returns the packed and the repeated log-probabilities in float64; the weights are as before afterwards."""
    case.model.network.double()
    packed, repeated = (case.logprobs_of(side)(case.model) for side in CHECKED_SIDES)
    case.model.network.float()
    return packed, repeated


def print_speed(
    config: BenchmarkConfig, model: ModelName, candidates: Candidates, allocator: Allocator, speed: Speed
) -> None:
    """Prints a line: medians of seconds, and of the ratios of each round."""

    def ratio(seconds: dict[Side, list[float]], side: Side) -> str:
        return f"{np.median(np.divide(seconds[side], seconds['packed'])):.1f}x"

    without, num_prompts = speed.without_adamw, config.prompts_of(model)
    repeated_tokens = num_prompts * config.group_size * (config.prompt_tokens + len(SIZES))
    columns = [f"{model}, {speed.num_parameters / 1e6:.1f}M", num_prompts, candidates, allocator]
    columns += [f"{repeated_tokens} / {speed.num_packed_tokens}"]
    columns += [f"{np.median(without[side]):.3g} s" for side in SIDES]
    columns += [f"**{ratio(without, 'repeated')}**", ratio(without, "repeated, legal")]
    columns += [ratio(speed.with_adamw, "repeated")]
    found = speed.differences
    columns += [f"{found.logprob:.1e} ({found.rounding:.1e})", f"{found.exact_logprob:.0e}", f"{found.gradient:.0e}"]
    print(f"| {' | '.join(map(str, columns))} |", flush=True)


def print_memory(
    config: BenchmarkConfig, model: ModelName, candidates: Candidates, allocator: Allocator, repeated: int, packed: int
) -> None:
    """Prints a line of the table of memory."""
    columns = [model, config.prompts_of(model), candidates, allocator]
    columns += [f"{each / MEBIBYTE:.0f} MiB" for each in (repeated, packed)]
    print(f"| {' | '.join(map(str, columns))} | {packed / repeated:.1%} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig, description=__doc__.splitlines()[0]))
