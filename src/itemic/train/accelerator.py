"""Device, number format, processes and trackers of a training through accelerate; knows no losses."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from itemic.core.device import pick_device
from itemic.core.errors import ConfigError, MissingDependencyError

__all__ = ["make_accelerator"]


def make_accelerator(device_name: str, mixed_precision: str, trackers: Sequence[str], tracker_folder: Path) -> Any:
    """Returns accelerate's Accelerator.

    Args:
        device_name: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        mixed_precision: ``no``, ``bf16``, or ``auto``, which is bf16 on CUDA.
        trackers: Names of those that the log goes to besides.
        tracker_folder: Where they write.

    Raises:
        ConfigError: if the device is not there or parameters would be sharded.
        MissingDependencyError: if a tracker is not installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise MissingDependencyError.for_extra(tracker, "track", f"trackers: {tracker}")
    device = pick_device(device_name)
    if mixed_precision == "auto":
        mixed_precision = "bf16" if device.type == "cuda" else "no"
    # accelerate keeps one state a process; a second training may want another precision or device.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=device.type == "cpu",
        log_with=list(trackers) or None,
        project_dir=str(tracker_folder),
    )
    if device.type != accelerator.device.type or device.index not in (None, accelerator.device.index):
        raise ConfigError(f"device {device_name}: accelerate chose {accelerator.device}; set CUDA_VISIBLE_DEVICES")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise ConfigError(
            f"{accelerator.distributed_type}: the loop runs in one process or data-parallel; sharded parameters are "
            "not supported"
        )
    return accelerator
