"""The contestants of ``sid_quantizers.py``, each run in a process of its own: fits one, checks it, writes its figures.

A contestant is a loader: it imports what it needs and returns a ``fit`` of vectors and a seed, which returns how to
encode and how to decode. Settings are each project's own defaults or scripts, as noted.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from itemic.core.errors import ItemicError
from itemic.sid import QUANTIZERS, Quantizer, RQKMeans, RQKMeansConfig, resolve_unique
from itemic.sid.quality import collisions, level_use
from itemic.sid.quantizers.protocol import pieces


class UnavailableError(Exception):
    """A contestant that cannot run here, and why."""


@dataclass(frozen=True)
class Coder:
    """What a fit returns."""

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    quantizer: Quantizer | None = None
    codes_new_vectors: bool = True


Fit = Callable[[np.ndarray, int], Coder]
Sizes = tuple[int, ...]


def summing(codebooks: Any, encode: Callable[[np.ndarray], np.ndarray], *, codes_new_vectors: bool = True) -> Coder:
    """Returns a coder that decodes to the sum of one vector a level."""
    books = [np.asarray(codebook, dtype=np.float32) for codebook in codebooks]

    def decode(codes: np.ndarray) -> np.ndarray:
        total = books[0][codes[:, 0]].copy()
        for level, book in enumerate(books[1:], start=1):
            total += book[codes[:, level]]
        return total

    return Coder(encode, decode, codes_new_vectors=codes_new_vectors)


def itemic(make: Callable[[Sizes], Quantizer]) -> Callable[[argparse.Namespace], Fit]:
    def load(arguments: argparse.Namespace) -> Fit:
        def fit(x: np.ndarray, seed: int) -> Coder:
            quantizer = make(tuple(arguments.codebook_sizes)).fit(x, np.random.default_rng(seed))
            return Coder(quantizer.encode, quantizer.decode, quantizer)

        return fit

    return load


def faiss_residual(*, progressive: bool, beam: int) -> Callable[[argparse.Namespace], Fit]:
    """faiss.ResidualQuantizer: MiniOneRec's script is not progressive, with beam 1; faiss's default is, with beam 5."""

    def load(arguments: argparse.Namespace) -> Fit:
        import faiss

        bits = [int(size).bit_length() - 1 for size in arguments.codebook_sizes]
        if [1 << count for count in bits] != list(arguments.codebook_sizes):
            raise UnavailableError("codebook sizes must be powers of two")

        def fit(x: np.ndarray, seed: int) -> Coder:
            vector = faiss.UInt64Vector()
            for count in bits:
                vector.push_back(count)
            coder = faiss.ResidualQuantizer(x.shape[1], vector)
            coder.train_type = coder.Train_progressive_dim if progressive else coder.Train_default
            coder.max_beam_size = beam
            coder.cp.seed = seed + 1
            coder.train(x)

            def encode(x: np.ndarray) -> np.ndarray:
                packed = np.unpackbits(coder.compute_codes(x), axis=1, bitorder="little").astype(np.int64)
                ends = np.cumsum(bits)
                weights = 1 << np.arange(max(bits))
                levels = [packed[:, end - n : end] @ weights[:n] for n, end in zip(bits, ends, strict=True)]
                return np.stack(levels, axis=1)

            books = faiss.vector_to_array(coder.codebooks).reshape(-1, x.shape[1])
            offsets = faiss.vector_to_array(coder.codebook_offsets)
            return summing([books[a:b] for a, b in pairwise(offsets)], encode)

        return fit

    return load


def openonerec(arguments: argparse.Namespace) -> Fit:
    """OpenOneRec's ResKmeans class; its script calls it with ``**None`` and cannot run."""
    module = module_at(arguments.openonerec, "openonerec", "tokenizer/res_kmeans.py")
    import torch

    size = equal_size(arguments)

    def fit(x: np.ndarray, seed: int) -> Coder:
        settings = {"seed": seed + 1}
        model = module.ResKmeans(len(arguments.codebook_sizes), size, x.shape[1], extra_kmeans_config=settings)
        model.train_kmeans(torch.from_numpy(x), verbose=False)

        @torch.no_grad()
        def encode(x: np.ndarray) -> np.ndarray:
            parts = [model.encode(part) for part in torch.from_numpy(x).split(10_000)]
            return torch.cat(parts).numpy()

        return summing([centroids.detach().numpy() for centroids in model.centroids], encode)

    return fit


def minionerec(arguments: argparse.Namespace) -> Fit:
    """MiniOneRec's rqkmeans_constrained.py, of which one line is changed: as many jobs as threads, not 16."""
    module = module_at(arguments.minionerec, "minionerec", "rq/rqkmeans_constrained.py")
    from k_means_constrained import KMeansConstrained

    module.KMeansConstrained = lambda **options: KMeansConstrained(**{**options, "n_jobs": arguments.threads})

    def fit(x: np.ndarray, seed: int) -> Coder:
        sizes = list(arguments.codebook_sizes)
        codes, books, _ = module.residual_kmeans_constrained(x, sizes, len(sizes), max_iter=100, random_state=seed)
        # It has no encoder: the codes are the training labels.
        return summing(books, lambda x: codes.T, codes_new_vectors=False)

    return fit


def semantic_id_kmeans(arguments: argparse.Namespace) -> Fit:
    from semantic_id import RQKMeans as Peer

    def fit(x: np.ndarray, seed: int) -> Coder:
        sizes = list(arguments.codebook_sizes)
        model = Peer(n_levels=len(sizes), n_clusters=sizes, random_state=seed).fit(x, device="cpu")
        return Coder(lambda x: model.encode(x, device="cpu", batch_size=1 << 16), model.decode)

    return fit


def semantic_id_rqvae(arguments: argparse.Namespace) -> Fit:
    import torch
    from semantic_id import RQVAE

    def fit(x: np.ndarray, seed: int) -> Coder:
        torch.manual_seed(seed)
        np.random.seed(seed)
        model = RQVAE(in_dim=x.shape[1], num_emb_list=list(arguments.codebook_sizes)).fit(x)
        return Coder(model.encode, model.decode)

    return fit


def vector_quantize(dead_code_threshold: int) -> Callable[[argparse.Namespace], Fit]:
    """ResidualVQ as a plain quantizer of the vectors: k-means start, ten epochs of its moving averages."""

    def load(arguments: argparse.Namespace) -> Fit:
        import torch
        from vector_quantize_pytorch import ResidualVQ

        size = equal_size(arguments)

        @torch.no_grad()
        def fit(x: np.ndarray, seed: int) -> Coder:
            torch.manual_seed(seed)
            model = ResidualVQ(
                dim=x.shape[1],
                codebook_size=size,
                num_quantizers=len(arguments.codebook_sizes),
                kmeans_init=True,
                kmeans_iters=10,
                threshold_ema_dead_code=dead_code_threshold,
            )
            vectors = torch.from_numpy(x)
            for _ in range(10):
                for rows in torch.randperm(len(vectors)).split(4096):
                    if len(rows) >= size:
                        model(vectors[rows][None])
            model.eval()

            @torch.no_grad()
            def encode(x: np.ndarray) -> np.ndarray:
                return torch.cat([model(part[None])[1][0] for part in torch.from_numpy(x).split(1 << 14)]).numpy()

            return summing(model.codebooks.numpy(), encode)

        return fit

    return load


def module_at(checkout: Path | None, option: str, path: str) -> ModuleType:
    """Returns a module of a checkout."""
    if checkout is None:
        raise UnavailableError(f"no --{option} PATH given")
    if not (checkout / path).exists():
        raise UnavailableError(f"no {path} under --{option}")
    spec = importlib.util.spec_from_file_location(option, checkout / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def equal_size(arguments: argparse.Namespace) -> int:
    """Returns the size of all codebooks of a contestant that has but one."""
    if len(set(arguments.codebook_sizes)) > 1:
        raise UnavailableError("all codebooks must have one size")
    return int(arguments.codebook_sizes[0])


ITEMIC: dict[str, Callable[[argparse.Namespace], Fit]] = {
    **{f"itemic {kind}": itemic(lambda sizes, kind=kind: QUANTIZERS[kind](sizes)) for kind in QUANTIZERS},  # type: ignore
    "itemic rqkmeans, 1 iteration": itemic(lambda sizes: RQKMeans(sizes, RQKMeansConfig(num_iterations=1))),
    "itemic rqkmeans, 10 iterations": itemic(lambda sizes: RQKMeans(sizes, RQKMeansConfig(num_iterations=10))),
    "itemic rqkmeans, 2 refinements": itemic(lambda sizes: RQKMeans(sizes, RQKMeansConfig(num_refinements=2))),
}
PEERS: dict[str, Callable[[argparse.Namespace], Fit]] = {
    "faiss RQ, beam 1": faiss_residual(progressive=False, beam=1),
    "faiss RQ, beam 5": faiss_residual(progressive=False, beam=5),
    "faiss RQ, progressive_dim, beam 1": faiss_residual(progressive=True, beam=1),
    "faiss RQ, progressive_dim, beam 5": faiss_residual(progressive=True, beam=5),
    "OpenOneRec res-kmeans": openonerec,
    "MiniOneRec constrained k-means": minionerec,
    "semantic-id RQKMeans": semantic_id_kmeans,
    "semantic-id RQVAE": semantic_id_rqvae,
    "vector-quantize-pytorch ResidualVQ": vector_quantize(0),
    "vector-quantize-pytorch ResidualVQ, dead codes replaced": vector_quantize(2),
}
OWN_METHOD = {
    "MiniOneRec constrained k-means": "a further code, on colliding items only",
    "semantic-id RQKMeans": "a suffix, on colliding items only",
    "semantic-id RQVAE": "a suffix, on colliding items only",
}
"""What peers do about collisions, where they do anything."""


def relative_error(x: np.ndarray, codes: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> float:
    """Returns Σ‖x − x̂‖² / Σ‖x − mean‖², in pieces and float64."""
    mean = x.mean(axis=0, dtype=np.float64)
    error = variance = 0.0
    for rows in pieces(len(x)):
        part = x[rows].astype(np.float64)
        error += float(np.square(part - np.asarray(decode(codes[rows]))).sum())
        variance += float(np.square(part - mean).sum())
    return error / variance


def held_out_error(fit: Fit, x: np.ndarray, seed: int) -> float:
    """Returns the error on a tenth of the vectors of a fit to the others: how well items are coded that come later."""
    is_new = np.random.default_rng(0).permutation(len(x)) < len(x) // 10
    coder = fit(x[~is_new], seed)
    return relative_error(x[is_new], np.asarray(coder.encode(x[is_new])).astype(np.int64), coder.decode)


def measure(fit: Fit, x: np.ndarray, sizes: Sizes, seed: int, *, held_out: bool) -> dict[str, Any]:
    """Returns the figures of one contestant."""
    original = x[:100].copy()
    # Else the peak would be that of the imports, or even of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    memory_before = memory_mib("VmRSS")
    started, cpu_started = time.perf_counter(), time.process_time()
    coder = fit(x, seed)
    fitted = time.perf_counter()
    codes = np.asarray(coder.encode(x)).astype(np.int64)
    encoded, cpu_encoded = time.perf_counter(), time.process_time()
    peak_mib = memory_mib("VmHWM") - memory_before
    assert codes.shape == (len(x), len(sizes)), f"codes of shape {codes.shape}"
    assert (codes >= 0).all(), "negative codes"
    assert (codes < np.array(sizes)).all(), f"codes reach {codes.max(axis=0)}"
    assert np.array_equal(x[:100], original), "it changed the vectors"
    figures = {
        "seconds": encoded - started,
        "fit_s": fitted - started,
        "encode_s": encoded - fitted,
        "cpu_s": cpu_encoded - cpu_started,
        "error": relative_error(x, codes, coder.decode),
        "collisions": collisions(codes)["rate"],
        "perplexity": [level_use(codes[:, level], size)["perplexity"] for level, size in enumerate(sizes)],
        "peak_mib": max(0.0, peak_mib),
    }
    if coder.quantizer is not None:
        started = time.perf_counter()
        unique = resolve_unique(codes, x, coder.quantizer)
        figures["unique_s"] = time.perf_counter() - started
        figures["collisions_after"] = collisions(unique)["rate"]
        figures["error_after"] = relative_error(x, unique, coder.decode)
    if held_out and coder.codes_new_vectors:
        figures["held_out_error"] = held_out_error(fit, x, seed)
    return figures


def memory_mib(key: str) -> float:
    """Returns what Linux says of this process: VmRSS, memory in use now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?")
    parser.add_argument("vectors", type=Path, nargs="?")
    parser.add_argument("result", type=Path, nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codebook-sizes", type=int, nargs="+", default=[256, 256, 256])
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--openonerec", type=Path)
    parser.add_argument("--minionerec", type=Path)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join([*ITEMIC, *PEERS]))
        return
    import torch

    torch.set_num_threads(arguments.threads)
    side = "itemic" if arguments.name in ITEMIC else "peer"
    result: dict[str, Any]
    try:
        fit = {**ITEMIC, **PEERS}[arguments.name](arguments)
        figures = measure(
            fit,
            np.load(arguments.vectors),
            tuple(arguments.codebook_sizes),
            arguments.seed,
            held_out=arguments.held_out,
        )
        result = {"side": side, "note": OWN_METHOD.get(arguments.name, "none"), **figures}
    except ModuleNotFoundError as error:
        result = {"status": f"not installed: {error.name}"}
    except UnavailableError as error:
        result = {"status": f"not run: {error}"}
    except ItemicError as error:
        result = {"status": f"refused: {error}"}
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
