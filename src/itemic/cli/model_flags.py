"""The flags of every command that asks a trained model, and what they say to ``load_trained``."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["MODELS", "PRECISIONS", "add_model_flags", "model_settings"]

MODELS = ("last", "sft", "rl")
"""Those of ``itemic.core.trained_model``."""
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
"""Those of ``itemic.model.precision``, which a command that only shows its help need not import."""


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds which run's model to ask, and how it is decoded."""
    parser.add_argument("--run", type=Path, required=True, help="run folder with a trained model")
    parser.add_argument(
        "--model",
        default="last",
        choices=MODELS,
        help="which of the run's models; last is the one after RL where there is one, sft the one before",
    )
    parser.add_argument("--num-beams", type=int, default=50, help="beam width; a longer list raises it to its length")
    parser.add_argument("--batch-size", type=int, default=16, help="histories decoded at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:<n>")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=PRECISIONS,
        help="number format of the layers; auto is float32 on a CPU and bfloat16 on CUDA",
    )
    parser.add_argument(
        "--allow-catalog-change", action="store_true", help="use the model with another catalog than it was trained on"
    )


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of ``load_trained`` beside the folder."""
    return {
        "model": arguments.model,
        "num_beams": arguments.num_beams,
        "batch_size": arguments.batch_size,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "allow_catalog_change": arguments.allow_catalog_change,
    }
