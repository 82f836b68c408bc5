"""Next-item SFT: packed prefix trees with logits at the labels, against one padded example a target with full logits.

Both sides train the same network on the same token ids. First the loss and the gradients are compared, then an epoch
over the same users is timed: forward, backward, and an AdamW step every ``--targets-per-step`` targets.

    python benchmarks/sft_epoch.py --data FOLDER --model small            # 17M decoder with SmolLM2's vocabulary
    python benchmarks/sft_epoch.py --data FOLDER --model smollm2 --users 24
    python benchmarks/sft_epoch.py --data FOLDER --model sid-only         # decoder over SID tokens alone

FOLDER holds MiniOneRec's Industrial split as official_{train,valid,test}.csv.gz, items.jsonl.gz, interactions.csv.gz.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from itemic.core.allocator import tune_allocator
from itemic.core.config import config_from_mapping
from itemic.core.dataset import Dataset
from itemic.data.prepare import PrepareConfig, prepare_dataset
from itemic.language.corpus import example_groups
from itemic.language.packing import Group, pack_rows
from itemic.language.prompts import PROMPT_VERSION, Renderer, TokenExample
from itemic.language.spelling import Spelling
from itemic.language.tasks import TASKS, ItemTexts
from itemic.model.backbone import DecoderConfig, load_backbone, make_decoder, make_sid_tokenizer
from itemic.model.sid_model import SidModel
from itemic.model.vocabulary import expand_vocabulary
from itemic.train.learner import NextTokenLoss, batch_tensors

SIZES = (256, 256, 256)
CPU = torch.device("cpu")
SMALL = DecoderConfig(hidden_size=256, num_layers=6, num_heads=4, intermediate_size=768, dropout=0.0)


def read_industrial(folder: Path) -> Dataset:
    source = {
        "format": "examples",
        "items": str(folder / "items.jsonl.gz"),
        "train": str(folder / "official_train.csv.gz"),
        "valid": str(folder / "official_valid.csv.gz"),
        "test": str(folder / "official_test.csv.gz"),
        "example_columns": {"history": "history_item_ids", "target": "target_item_id"},
    }
    config = config_from_mapping(PrepareConfig, {"source": source, "split": "given", "max_history": 10})
    return prepare_dataset(config)[0]


def make_model(kind: str, dataset: Dataset) -> tuple[SidModel, Renderer]:
    spelling = Spelling.of("plain", SIZES)
    codes = np.array([spelling.read(sid)[0] for sid in dataset.items["sid"]])
    rng = np.random.default_rng(0)
    if kind == "sid-only":
        tokenizer = make_sid_tokenizer(spelling)
        network = make_decoder(SMALL, len(tokenizer), rng)
    else:
        network, tokenizer = load_backbone("smollm2-135m")
        expand_vocabulary(network, tokenizer, spelling, rng=rng)
        if kind == "small":
            network = make_decoder(SMALL, len(tokenizer), rng)
    mode = "sid-only" if kind == "sid-only" else "chat"
    model = SidModel(
        network, tokenizer, spelling, prompt_mode=mode, prompt_version=PROMPT_VERSION, catalog_version="benchmark"
    )
    return model, Renderer(tokenizer, spelling, codes, mode)


def sample_groups(dataset: Dataset, renderer: Renderer, num_users: int) -> list[Group]:
    users = dataset.train["user_id"].unique(maintain_order=True)
    chosen = users.sample(min(num_users, len(users)), seed=0, shuffle=True) if num_users else users
    train = dataset.train.filter(pl.col("user_id").is_in(chosen.implode()))
    return example_groups(train, TASKS["next_item"], 0, ItemTexts.from_items(dataset.items), renderer)


def padded_batches(groups: Sequence[Group], batch_size: int) -> list[dict[str, torch.Tensor]]:
    """One example a row in random order, padded to the longest of its batch: what a trainer does by default."""
    examples = [example for group in groups for example in group.examples]
    order = np.random.default_rng(0).permutation(len(examples))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [pad([examples[index] for index in batch]) for batch in batches]


def pad(examples: Sequence[TokenExample]) -> dict[str, torch.Tensor]:
    width = max(len(example.tokens) for example in examples)
    input_ids = torch.zeros(len(examples), width, dtype=torch.long)
    attention_mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens = torch.from_numpy(example.tokens)
        input_ids[row, :length], attention_mask[row, :length] = tokens, 1
        labels[row, :length] = torch.where(torch.from_numpy(example.is_label), tokens, -100)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def padded_loss(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Sum of the label losses through the network's own full-logits loss."""
    count = int((batch["labels"] != -100).sum())
    return network(**batch, use_cache=False).loss * count, count


def epoch(
    losses: Sequence[Callable[[], tuple[torch.Tensor, int]]], network: torch.nn.Module, targets_per_step: int
) -> float:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, fused=True)
    started, since_step = time.perf_counter(), 0
    for loss in losses:
        value, count = loss()
        (value / (3 * targets_per_step)).backward()
        since_step += count // 3
        if since_step >= targets_per_step:
            optimizer.step()
            optimizer.zero_grad()
            since_step = 0
    return time.perf_counter() - started


def gradients(losses: Sequence[Callable[[], tuple[torch.Tensor, int]]], network: torch.nn.Module) -> tuple[float, dict]:
    network.zero_grad()
    total = 0.0
    for loss in losses:
        value, _ = loss()
        value.backward()
        total += float(value.detach())
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    return total, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=["small", "smollm2", "sid-only"], default="small")
    parser.add_argument("--users", type=int, default=128, help="random users; 0 for the whole epoch")
    parser.add_argument("--batch-size", type=int, default=8, help="padded examples of a batch")
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1, help="packed rows of a batch")
    parser.add_argument("--targets-per-step", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--allocator", choices=["default", "tuned"], default="default", help="glibc's, on both sides")
    arguments = parser.parse_args()
    if arguments.allocator == "tuned":
        tune_allocator()
    dataset = read_industrial(arguments.data)
    model, renderer = make_model(arguments.model, dataset)
    network = model.network.train()
    groups = sample_groups(dataset, renderer, arguments.users)
    module = NextTokenLoss(model, num_tasks=1)
    rows = pack_rows(groups, arguments.row_tokens)
    batches = [rows[start : start + arguments.rows] for start in range(0, len(rows), arguments.rows)]

    def packed_loss(batch: list) -> tuple[torch.Tensor, int]:
        return module(batch_tensors(batch, 0, CPU)).sum(), sum(row.num_labels for row in batch)

    ours = [lambda batch=batch: packed_loss(batch) for batch in batches]
    padded = padded_batches(groups, arguments.batch_size)
    theirs = [lambda batch=batch: padded_loss(network, batch) for batch in padded]
    num_targets = sum(len(group.examples) for group in groups)
    print(f"model {arguments.model}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f}M parameters")
    print(f"users {len(groups)}, targets {num_targets} of {dataset.train.height}; allocator {arguments.allocator}")
    print(f"tokens: padded {sum(b['input_ids'].numel() for b in padded)}, packed {sum(r.num_tokens for r in rows)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")

    loss, found = gradients(ours, network)
    expected_loss, expected = gradients(theirs, network)
    worst = max(float((found[name] - grad).norm() / grad.norm().clamp(min=1e-12)) for name, grad in expected.items())
    print(f"loss {expected_loss / (3 * num_targets):.6f} / {loss / (3 * num_targets):.6f}, ", end="")
    print(f"largest relative gradient difference {worst:.1e}")
    assert abs(loss - expected_loss) < 1e-4 * expected_loss
    assert worst < 1e-3
    ratios = []
    for _ in range(arguments.repeats):
        padded_s = epoch(theirs, network, arguments.targets_per_step)
        packed_s = epoch(ours, network, arguments.targets_per_step)
        ratios.append(padded_s / packed_s)
        whole = dataset.train.height / num_targets
        print(f"padded {padded_s:.2f} s, packed {packed_s:.2f} s: {ratios[-1]:.1f}x", end="  ")
        print(f"(a whole epoch at this rate: {padded_s * whole / 60:.1f} min / {packed_s * whole / 60:.1f} min)")
    print(f"median ratio {np.median(ratios):.1f}x")


if __name__ == "__main__":
    main()
