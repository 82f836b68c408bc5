"""Seconds to equal collision rate and reconstruction error: itemic's RQ-VAE against MiniOneRec's script.

MiniOneRec's own model and trainer run for ``--epochs`` epochs on its published settings (whole catalogue a step, AdamW
1e-3, 50 epochs of warm-up, k-means start), without loader workers, which only slow it down here, and without writing
checkpoints. At every ``--measure-every`` epochs its collision rate and mean squared error per dimension are measured
with its own forward pass; measuring is not timed. Then itemic's RQ-VAE, with its compact layers unless others are
asked for, trains on the same vectors for its configured number of epochs; of its measurements, which are timed, the
first counts at which both figures are at or below the peer's last. Its rate falls over the whole training, so a
shorter one would not do: the time of the whole is given too.

    python benchmarks/rqvae_vs_minionerec.py --embeddings RUN/embeddings.safetensors --minionerec REPOSITORY
    python benchmarks/rqvae_vs_minionerec.py --embeddings RUN/embeddings.safetensors --minionerec REPOSITORY \
        --epochs 100 --measure-every 25

REPOSITORY is a clone of github.com/AkaliKong/MiniOneRec; only its folder rq is used.
"""

import argparse
import contextlib
import importlib
import io
import logging
import math
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from itemic.core.allocator import tune_allocator
from itemic.sid.quality.use import entropy
from itemic.sid.quantizers import rqvae_training
from itemic.sid.quantizers.rqvae import COMPACT_HIDDEN_SIZES, RQVAE, RQVAEConfig
from itemic.sid.quantizers.rqvae_progress import Progress

PEER_SETTINGS = ["--lr", "1e-3", "--batch_size", "20480", "--num_workers", "0", "--device", "cpu"]
PEER_SEED = 2024


def run_peer(folder: Path, x: np.ndarray, num_epochs: int, measure_every: int) -> list[tuple[float, Progress]]:
    """Returns training seconds so far and the figures, every ``measure_every`` epochs."""
    sys.path.insert(0, str(folder / "rq"))
    script, trainer_module = importlib.import_module("rqvae"), importlib.import_module("trainer")
    sys.argv = ["rqvae.py", *PEER_SETTINGS, "--epochs", str(num_epochs)]
    args = script.parse_args()
    trainer_module.ensure_dir = lambda path: None
    seed_peer()
    model = script.RQVAE(
        in_dim=x.shape[1],
        **{name: getattr(args, name) for name in ("num_emb_list", "e_dim", "layers", "bn", "loss_type", "beta")},
        **{name: getattr(args, name) for name in ("kmeans_init", "kmeans_iters", "sk_epsilons", "sk_iters")},
        dropout_prob=args.dropout_prob,
        quant_loss_weight=args.quant_loss_weight,
    )
    vectors = torch.from_numpy(x)
    loader = torch.utils.data.DataLoader(vectors, batch_size=args.batch_size, shuffle=True)
    trainer = trainer_module.Trainer(args, model, len(loader))
    seconds, history = 0.0, []
    for epoch in range(1, num_epochs + 1):
        begin = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            trainer._train_epoch(loader, epoch)
        seconds += time.perf_counter() - begin
        if epoch % measure_every == 0 or epoch == num_epochs:
            history.append((seconds, measure_peer(model, vectors, epoch)))
            print_row("MiniOneRec", *history[-1])
    return history


def seed_peer() -> None:
    random.seed(PEER_SEED)
    np.random.seed(PEER_SEED)
    torch.manual_seed(PEER_SEED)


@torch.no_grad()
def measure_peer(model: Any, x: torch.Tensor, epoch: int) -> Progress:
    model.eval()
    decoded, _, codes = model(x, use_sk=False)
    return Progress(
        epoch=epoch,
        mse=float((decoded - x).square().mean()),
        collision_rate=1 - len(codes.unique(dim=0)) / len(x),
        num_used=tuple(len(column.unique()) for column in codes.T),
        perplexity=tuple(math.exp(entropy(np.bincount(column.numpy()))) for column in codes.T),
    )


def run_ours(x: np.ndarray, config: RQVAEConfig, seed: int) -> list[tuple[float, Progress]]:
    """Returns seconds since the start of ``fit`` and the figures, at every measurement of the trainer."""
    clocked: list[tuple[float, Progress]] = []
    measure, begin = rqvae_training.measure, time.perf_counter()

    def measure_and_clock(*args: Any) -> Progress:
        progress = measure(*args)
        clocked.append((time.perf_counter() - begin, progress))
        print_row("itemic", *clocked[-1])
        return progress

    rqvae_training.measure = measure_and_clock
    try:
        quantizer = RQVAE((256, 256, 256), config).fit(x, np.random.default_rng(seed))
    finally:
        rqvae_training.measure = measure
    check_ours(quantizer, x, clocked)
    return clocked


def check_ours(quantizer: RQVAE, x: np.ndarray, clocked: list[tuple[float, Progress]]) -> None:
    """Holds the trainer's figures against the public ``encode`` and ``decode``."""
    best = min((progress for _, progress in clocked), key=lambda progress: progress.mse)
    mse = float(np.square(quantizer.decode(quantizer.encode(x)) - x).mean())
    assert math.isclose(mse, best.mse, rel_tol=1e-3), (mse, best.mse)


def print_row(who: str, seconds: float, progress: Progress) -> None:
    print(f"{who:12s} epoch {progress.epoch:5d}  {seconds:8.1f} s  {progress}", flush=True)


def first_as_good(history: list[tuple[float, Progress]], goal: Progress) -> tuple[float, Progress] | None:
    for seconds, progress in history:
        if progress.mse <= goal.mse and progress.collision_rate <= goal.collision_rate:
            return seconds, progress
    return None


def compare(peer: list[tuple[float, Progress]], ours: list[tuple[float, Progress]]) -> None:
    peer_seconds, goal = peer[-1]
    print(f"\nMiniOneRec: {peer_seconds / goal.epoch:.2f} s an epoch, {peer_seconds:.1f} s for {goal}")
    seconds, last = ours[-1]
    print(f"itemic: {seconds / max(1, last.epoch):.2f} s an epoch, {seconds:.1f} s in all, ends at {last}")
    reached = first_as_good(ours, goal)
    if reached is None:
        print("itemic never reached both figures")
        return
    print(f"itemic is as good in both after {reached[0]:.1f} s (epoch {reached[1].epoch}: {reached[1]})")
    print(f"ratio: {peer_seconds / reached[0]:.1f}x to equal figures, {peer_seconds / seconds:.1f}x to its end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help="embeddings.safetensors of a run")
    parser.add_argument("--minionerec", type=Path, required=True, help="clone of AkaliKong/MiniOneRec")
    parser.add_argument("--epochs", type=int, default=1000, help="of MiniOneRec")
    parser.add_argument("--measure-every", type=int, default=100, help="epochs of MiniOneRec between measurements")
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=COMPACT_HIDDEN_SIZES, help="of itemic's encoder")
    parser.add_argument("--ours-epochs", type=int, default=RQVAEConfig().epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of itemic")
    args = parser.parse_args()
    logging.getLogger("itemic").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    tune_allocator()  # before either side begins
    x = load_file(args.embeddings)["embeddings"].astype(np.float32)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads, vectors {x.shape}")
    hidden_sizes = tuple(args.hidden_sizes)
    config = RQVAEConfig(epochs=args.ours_epochs, hidden_sizes=hidden_sizes, device="cpu")
    ours = run_ours(x, config, args.seed)
    peer = run_peer(args.minionerec, x, args.epochs, args.measure_every)
    compare(peer, ours)


if __name__ == "__main__":
    main()
