"""The choice how the step runs: eager, compiled or captured, its dtype and memory format, and why.

The one place that decides it. What it chose is said at the start and kept in environment.json.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch._dynamo

from ..config import TrainConfig
from ..errors import UserError
from ..losses.triton import available
from ..parallel import Ranks
from ..terms.protocol import Term

# Images of a rank's run from which it is compiled. That takes 30 to 40 s, which on an H200 pays
# after 7 to 24 million images (docs/notes/performance.md); on slower GPUs it should be fewer.
COMPILE_FROM = 10_000_000
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # Accelerate's names


@dataclass(frozen=True)
class Policy:
    """The way in which updates run, and the reason."""

    dtype: torch.dtype = torch.float32  # of the products; parameters are trained in fp32
    memory_format: torch.memory_format = torch.channels_last
    compile: bool = False
    capture: bool = False
    fused_adam: bool = False  # Adam, cast and average by one kernel
    reason: str = ""

    @property
    def name(self) -> str:
        """The way in a word or two."""
        words = ["compiled"] * self.compile + ["captured"] * self.capture
        return " and ".join(words) or "eager"

    def record(self) -> dict[str, object]:
        """Return the entries for environment.json."""
        return {
            "compiled": self.compile,
            "captured": self.capture,
            "fused_adam": self.fused_adam,
            "memory_format": str(self.memory_format).removeprefix("torch."),
            "step_reason": self.reason,
        }

    def in_fp32(self) -> Policy:
        """Return the same policy in fp32, where the precision's numbers are wrong."""
        return replace(self, dtype=torch.float32)

    def without_compile(self, why: str) -> Policy:
        """Return the same policy without the compiler, which failed."""
        return replace(self, compile=False, reason=f"not compiled: {why}")

    def without_capture(self, why: str) -> Policy:
        """Return the same policy without a graph, whose capture failed."""
        return replace(self, capture=False, reason=f"not captured: {why}")


def choose(config: TrainConfig, ranks: Ranks, terms: Sequence[Term] = ()) -> Policy:
    """Return the policy for a device and loss terms.

    Raises UserError where the options ask for what the device or a term cannot do.
    """
    device, execution = ranks.device, config.execution
    nvidia = device.type == "cuda" and torch.version.hip is None
    if execution.capture == "on" and not nvidia:
        raise UserError(
            f"--capture on: CUDA graphs need an NVIDIA GPU, this run is on {device}; use --capture "
            "auto"
        )
    scaled = ranks.accelerator.scaler is not None
    if execution.compile == "on" and scaled:
        raise UserError("--compile on: fp16's loss scale is not compiled; use bf16 or fp32")
    if execution.fused_adam:
        _check_fused_adam(device, scaled)
    for term in terms:
        if scaled and not term.fp16:
            raise UserError(
                f"--{term.name}: fp16 is too narrow for its gradients; use bf16, fp32 or "
                f"--{term.name} 0"
            )
    has_compiler = device.type != "cuda" or importlib.util.find_spec("triton") is not None
    if execution.compile == "on" and not has_compiler:
        raise UserError("--compile on: triton is not installed; install it or use --compile off")
    traces = hasattr(torch._dynamo.config, "trace_autograd_ops")  # not in every torch
    long = config.steps * config.batch_size >= COMPILE_FROM
    auto_compile = device.type == "cuda" and long and has_compiler and traces and not scaled
    compiled = execution.compile == "on" or (execution.compile == "auto" and auto_compile)
    captured = nvidia and execution.capture != "off"
    if device.type == "cpu":
        reason = "on a CPU compiling gains nothing and takes half a minute"
    elif not has_compiler:
        reason = "triton is not installed"
    elif not long and execution.compile == "auto":
        reason = f"a run of under {COMPILE_FROM:,} images is not compiled"
    elif not nvidia:
        reason = "CUDA graphs are for NVIDIA GPUs"
    else:
        reason = "a GPU waits for the host otherwise"
    if "auto" not in (execution.compile, execution.capture) or (
        not nvidia and execution.compile != "auto"
    ):
        reason = "as requested"
    twice = [term.name for term in terms if term.differentiated_twice]
    if twice:
        for name in ("compile", "capture"):
            if getattr(execution, name) == "on":
                raise UserError(
                    f"--{name} on: the term {twice[0]} is differentiated twice, which cannot be "
                    f"compiled or captured; use --{name} auto or off"
                )
        compiled = captured = False
        reason = f"{twice[0]} is differentiated twice, which compilers do not do"
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return Policy(
        DTYPES[ranks.accelerator.mixed_precision],
        formats[execution.memory_format],
        compiled,
        captured,
        execution.fused_adam,
        reason,
    )


def _check_fused_adam(device: torch.device, scaled: bool) -> None:
    """Raise UserError where --fused-adam cannot run."""
    if device.type != "cuda":
        raise UserError(
            f"--fused-adam: its kernel runs on CUDA and ROCm GPUs, this run is on {device}; leave "
            "it out"
        )
    if scaled:
        raise UserError("--fused-adam: takes no part in fp16's loss scale; use bf16 or fp32")
    if not available():
        raise UserError("--fused-adam: triton is not installed; install it or leave it out")
