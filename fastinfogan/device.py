"""Device, precision and threads of this machine, and a record of all three."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from .config import Precision
from .errors import UserError
from .training import openmp

# Variables that `accelerate launch` and torchrun set.
LAUNCHED = frozenset({"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"})
_BF16_ON_CPU = ("amx_bf16", "avx512_bf16", "bf16", "arm_bf16")
_AUTOCAST = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}  # Accelerate's names


def use_cpu() -> bool:
    """Return True if the CPU computes: no CUDA or ROCm, or ACCELERATE_USE_CPU says so."""
    requested = os.environ.get("ACCELERATE_USE_CPU", "").lower() in (
        "1",
        "true",
        "yes",
        "y",
        "on",
        "t",
    )
    return requested or not torch.cuda.is_available()


def choose_precision(requested: Precision, cpu: bool) -> tuple[str, str]:
    """Return the precision of the networks and the reason. Raises UserError for fp16 on a CPU."""
    if requested == "fp16" and cpu:
        raise UserError("--precision fp16 is for GPUs; use auto, bf16 or fp32 on a CPU")
    if requested != "auto":
        return requested, "as requested"
    native, name = _native_bf16(cpu)
    return ("bf16", f"{name} computes it natively") if native else ("fp32", f"no bf16 in {name}")


def _native_bf16(cpu: bool) -> tuple[bool, str]:
    if not cpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, torch.cuda.get_device_name()
    capabilities = _cpu_capabilities()
    native = [name for name in _BF16_ON_CPU if capabilities.get(name)]
    return bool(native), f"this CPU ({native[0]})" if native else "this CPU"


def _cpu_capabilities() -> Mapping[str, Any]:
    try:
        return torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # a torch that does not have it yet
        return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}


def accelerate_name(precision: str) -> str:
    """Return Accelerate's name of a precision."""
    return _AUTOCAST[precision]


def cpu_threads() -> int:
    """Return OMP_NUM_THREADS where the user set it, else this rank's share of the physical cores
    that affinity and container allow.
    """
    if threads := _omp_threads():
        return threads
    import joblib  # not in every GPU environment, where a benchmark asks for no threads

    allowed = joblib.cpu_count()
    physical = min(psutil.cpu_count(logical=False) or allowed, allowed)
    return max(physical // launched_number("LOCAL_WORLD_SIZE"), 1)


def launched_number(name: str) -> int:
    """Return a number that a launcher sets, at least 1; 1 where it is not set.

    Raises UserError for any other text.
    """
    text = os.environ.get(name, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name}={text} in the environment: expected a whole number from 1 on")
    return int(text)


def _omp_threads() -> int:
    """Return the user's OMP_NUM_THREADS, or 0. Launchers set it too, to 1, which is not the user's
    wish: then the launcher's own environment tells.
    """
    variables: Mapping[str, str] = os.environ
    if not LAUNCHED.isdisjoint(os.environ):
        try:
            variables = psutil.Process(os.getppid()).environ()
        except (psutil.Error, OSError):
            return 0
    text = variables.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # of nested levels
    return int(text) if text.isdecimal() and len(text) < 5 else 0


def environment(
    device: torch.device, precision: str, reason: str, world_size: int
) -> dict[str, Any]:
    """Return what a figure is quoted with: versions, device, precision, ranks, threads."""
    packages = {}
    for name in ("fastinfogan", "torch", "accelerate", "numpy", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = _cpu_capabilities().get("cpu_name") or platform.processor()
    return {
        "python": sys.version.split()[0],
        "packages": packages,
        "platform": platform.platform(),
        "device": device.type,
        "device_name": name or platform.machine(),
        "precision": precision,
        "precision_reason": reason,
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "openmp": openmp.settings(),
    }
