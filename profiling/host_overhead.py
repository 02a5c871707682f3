"""Host time of one call of the kernel, forward and backward, on this CPU.

`python profiling/host_overhead.py [--rounds 300] [--calls 20]`, no GPU needed: at InfoGAN's batch
sizes a kernel is done in a few microseconds and the host decides, so how the kernel is registered
with PyTorch is worth a measurement. Every row runs the real host code (argument checks, layout,
allocations, autograd) on CPU tensors of the MNIST experiment, fp32, B = 128; only the launch is
taken out:

- "launch, no autograd" up to "custom_op": the kernel object is replaced by one that does nothing;
- "+ Triton's Python": the real `JITFunction` runs (binding and specialising the arguments, the
  cache's key, the look-up), on a driver that ends where the C launcher would begin.

A GPU's host path has more parts, which are in no row: CUDA's caching allocator in the place of the
CPU's, the query of the current stream, the hand-over to autograd's device thread. It also has the C
launcher and the driver's launch.

Rows are interleaved and run on one thread. The table gives, in microseconds per call, the wall
time's median over the rounds and its range, and the median of the thread's CPU time. Other work on
the machine disturbs the CPU time less.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter is not what a launch costs
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import fastinfogan_kernels.launch  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
from fastinfogan_kernels import functional  # noqa: E402
from fastinfogan_kernels.launch import Call  # noqa: E402
from torch import Tensor  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from fastinfogan import losses  # noqa: E402
from fastinfogan.latents import Categorical, LatentSpec, Uniform  # noqa: E402
from fastinfogan.losses.triton import layout_of  # noqa: E402

launch: Any = fastinfogan_kernels.launch  # whose kernel is exchanged below
SPEC = LatentSpec(62, (Categorical(10), Uniform(), Uniform()))
LAYOUT = layout_of(SPEC)
RUNS = [number for run in LAYOUT.runs for number in (run.kind, run.width, run.n)]
SCHEMA = str(torch.ops.fastinfogan_kernels.head_loss.default._schema).partition("head_loss")[2]


class NoKernel:
    """A stand-in for the kernel: a launch does nothing."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class NoDriver:
    """A stand-in for Triton's driver: an H100 by its target, whose launcher does nothing.

    The kernel is compiled for it once, with Triton's own compiler, and never loaded.
    """

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448},
        load_binary=lambda *args: (object(), 0, 0, 0, 1024),
    )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        return lambda *args: None


class OverAnOp(functional._InfoLoss):
    """The Function, but calling the op that stands for the launcher under torch.compile."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, layout: Any, *args: Any) -> tuple[Tensor, Tensor]:
        total, per_code, dq, _, _ = torch.ops.fastinfogan_kernels.head_loss(q, RUNS, *args)
        ctx.save_for_backward(dq)
        functional._remember(ctx, q)
        ctx.mark_non_differentiable(per_code)
        return total, per_code


custom_op = torch.library.custom_op(
    "fastinfogan_profiling::head_loss", functional._op, mutates_args=(), schema=SCHEMA
)
custom_op.register_fake(functional._fake)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    functional._remember(ctx, inputs[0])


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (
        functional._gradient(ctx, 0, ctx.saved_tensors[0], upstream),
        *[None] * (len(Call._fields) - 1),
    )


custom_op.register_autograd(_backward, setup_context=_save)


def rows(batch: int) -> dict[str, tuple[bool, Callable[[], object]]]:
    """Name → (whether Triton's Python runs, one call forward and backward)."""
    latents = SPEC.sample(batch, seed=1)
    targets = latents.categorical, latents.continuous
    weights = torch.ones(len(SPEC.codes))
    arguments = *targets, weights
    q = torch.randn(batch, SPEC.q_dim, generator=torch.Generator().manual_seed(0))
    q.requires_grad_()
    call = Call(q, LAYOUT, *arguments)
    detached = call._replace(q=q.detach())

    def backward(total: Tensor) -> Tensor:
        return torch.autograd.grad(total, q)[0]

    def direct() -> Tensor:
        return backward(functional.info_loss(call)[0])

    def public() -> Tensor:
        # validate=False: on a GPU, which these tensors stand for, it is the default
        out = losses.info_loss(q, SPEC, *targets, weights, backend="triton", validate=False)
        return backward(out.total)

    return {
        "q.sum() and its backward": (False, lambda: backward(q.sum())),
        "launch, no autograd": (
            False,
            lambda: launch.launch(detached),
        ),
        "Function to the launcher (chosen)": (False, direct),
        "Function over a Library op": (
            False,
            lambda: backward(OverAnOp.apply(*call)[0]),
        ),
        "custom_op + register_autograd": (
            False,
            lambda: backward(custom_op(q, RUNS, *call[2:])[0]),
        ),
        "chosen, from fastinfogan.losses": (False, public),
        "chosen + Triton's Python": (True, direct),
        "losses + Triton's Python": (True, public),
    }


def measure(rounds: int, calls: int, batch: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) microseconds per call of each row, one pair per round."""
    real, nothing = launch.head_loss_kernel, NoKernel()
    triton.runtime.driver.set_active(NoDriver())
    launch.INTERPRETED = True  # lets CPU tensors through to the launcher
    table = rows(batch)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in table}
    gc.collect()
    gc.disable()
    for i in range(-2, rounds):  # two rounds of warm-up; the first compiles
        for name, (with_triton, call) in table.items():
            launch.head_loss_kernel = real if with_triton else nothing
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(calls):
                call()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if i >= 0:
                times[name].append((wall / calls * 1e6, cpu / calls * 1e6))
    gc.enable()
    launch.head_loss_kernel = real
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Host time of one forward and backward.")
    parser.add_argument("--rounds", type=int, default=300, help="rounds over all rows")
    parser.add_argument("--calls", type=int, default=20, help="calls of a row in a round")
    parser.add_argument("--batch", type=int, default=128, help="rows of q")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # unwritten outputs may hold any number
    print(
        f"Host time of one forward and backward, µs: n = {args.rounds} rounds of {args.calls} "
        f"calls, interleaved, one thread; B = {args.batch}\n"
        f"torch {torch.__version__}, triton {triton.__version__}, Python "
        f"{platform.python_version()}, {torch.cpu.get_capabilities().get('cpu_name')}, load "
        f"{os.getloadavg()[0]:.1f} at the start. No launch is made: see the script's head.\n"
    )
    print(f"{'':36}{'median':>8}{'min':>8}{'max':>8}{'CPU':>8}")
    for name, pairs in measure(args.rounds, args.calls, args.batch).items():
        wall, cpu = zip(*pairs, strict=True)
        numbers = statistics.median(wall), min(wall), max(wall), statistics.median(cpu)
        print(f"{name:36}" + "".join(f"{number:8.1f}" for number in numbers))


if __name__ == "__main__":
    main()
