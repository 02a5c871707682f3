"""The loss kernel against its roofline: `python profiling/kernel_roofline.py [--plot FILE.png]`.

Over batch sizes and widths, for a forward and backward of the information loss: the bytes that
the kernel and the product in backward move, the operations, and the least time that bytes and
launches allow,

    bound = max(2 launches, bytes / bandwidth)

On a GPU both are measured first (an empty kernel in a replayed CUDA graph; a copy within the
device's memory), and so is the loss: replayed graphs on cold inputs, median and range over n
rounds. Without a GPU the model alone is printed, at a bandwidth that --bandwidth names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
from gpu_cases import PAPER, WAYS, Targets, draw, forward_backward, own_weights  # noqa: E402
from gpu_timing import (  # noqa: E402
    BUFFERS,
    ROUNDS,
    Machine,
    Timing,
    capture,
    copy_bandwidth,
    launch_floor,
    replay_times,
)

from fastinfogan.latents import Categorical, LatentSpec  # noqa: E402

SPECS = {
    "mnist": PAPER["mnist"],  # D = 12
    "celeba": PAPER["celeba"],  # D = 100
    "64 × Cat16": LatentSpec(0, (Categorical(16),) * 64),  # D = 1024
    "Cat1000": LatentSpec(0, (Categorical(1000),)),
}
BATCHES = (128, 1024, 8192, 65536, 524288)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Arithmetic of a column of q, a special function (exp, log) counted as one: of a categorical the
# two passes of the softmax and its gradient; of a continuous code its square and its gradient.
OPERATIONS = {"categorical": 10, "fixed": 9}


class Cost(NamedTuple):
    """The bytes and operations that a forward and backward pass needs."""

    kernel: int  # bytes: q and targets in, dq out
    product: int  # bytes: dq in, the gradient out
    operations: int

    @property
    def bytes(self) -> int:
        return self.kernel + self.product


def cost(spec: LatentSpec, batch: int, dtype: torch.dtype) -> Cost:
    """Return the model. An fp16 q has its dq in fp32 until backward multiplies it."""
    size, stored = dtype.itemsize, 4 if dtype == torch.float16 else dtype.itemsize
    targets = 8 * spec.n_cat + 4 * spec.n_cont
    each = sum(
        code.q_dim * OPERATIONS["categorical" if isinstance(code, Categorical) else "fixed"]
        for code in spec.codes
    )
    return Cost(
        kernel=batch * (spec.q_dim * (size + stored) + targets),
        product=batch * spec.q_dim * (stored + size),
        operations=batch * (each + spec.q_dim),
    )


def measure(machine: Machine, spec: LatentSpec, batch: int, dtype: torch.dtype) -> Timing:
    """Return device µs of a forward and backward."""
    weights, one = own_weights(spec, machine.device), torch.ones((), device=machine.device)
    # as many buffers as BUFFERS, but where each alone is far larger than L2
    count = max(2, min(BUFFERS, 2**33 // cost(spec, batch, dtype).bytes))
    q, targets = draw(spec, batch, machine.device, dtype)
    calls = []
    for _ in range(count):
        copies = Targets(*(t.clone() for t in targets))
        own = q.detach().clone().requires_grad_()
        calls.append(forward_backward(WAYS["triton"], own, spec, copies, weights, one))
    return replay_times(machine, {"": capture(machine, calls)}, count)[""]


class Row(NamedTuple):
    """A line of the table."""

    name: str
    batch: int
    width: int
    cost: Cost
    bound_us: float | None
    measured: Timing | None


def model(
    batches: list[int], dtype: torch.dtype, gb_per_s: float | None, launch_us: float | None
) -> list[Row]:
    """Return all rows unmeasured. The bound needs a bandwidth; launches count if known."""
    rows = []
    for name, spec in SPECS.items():
        for batch in batches:
            need = cost(spec, batch, dtype)
            bound = None
            if gb_per_s is not None:
                bound = max(2 * (launch_us or 0.0), need.bytes / (gb_per_s * 1e3))
            rows.append(Row(name, batch, spec.q_dim, need, bound, None))
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows as text."""
    lines = [
        f"{'layout':12}{'B':>8}{'D':>6}{'kernel MB':>11}{'+ product':>11}{'MFLOP':>9}"
        f"{'FLOP/byte':>11}{'bound µs':>10}{'measured µs (min–max)':>26}{'of bound':>10}"
    ]
    for row in rows:
        need, bound = row.cost, "–" if row.bound_us is None else f"{row.bound_us:.2f}"
        measured = share = "–"
        t = row.measured
        if t is not None and t.median is not None:
            measured = f"{t.median:.2f} ({t.low:.2f}–{t.high:.2f})"
            share = f"{100 * (row.bound_us or 0) / t.median:.0f} %"
        lines.append(
            f"{row.name:12}{row.batch:8}{row.width:6}{need.kernel / 1e6:11.3f}"
            f"{need.product / 1e6:11.3f}{need.operations / 1e6:9.2f}"
            f"{need.operations / need.bytes:11.2f}{bound:>10}{measured:>26}{share:>10}"
        )
    return "\n".join(lines)


def plot(rows: list[Row], path: Path, title: str) -> None:
    """Time over bytes, on two logarithmic axes: the bound, and what was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    bounds = sorted((r.cost.bytes, r.bound_us) for r in rows if r.bound_us is not None)
    if bounds:
        axis.plot(*zip(*bounds, strict=True), color="black", label="bound")
    for name in SPECS:
        points = [
            (r.cost.bytes, r.measured.median)
            for r in rows
            if r.name == name and r.measured is not None and r.measured.median is not None
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=f"{name}, measured")
    axis.set(xscale="log", yscale="log", xlabel="bytes moved", ylabel="µs, forward + backward")
    axis.set_title(title)
    if bounds:
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The loss kernel against its roofline.")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of q")
    parser.add_argument("--bandwidth", type=float, help="GB/s of the model where there is no GPU")
    parser.add_argument("--plot", type=Path, help="where to draw it (.png)")
    options = parser.parse_args(args)
    dtype = DTYPES[options.dtype]
    if not torch.cuda.is_available():
        title = "model only: there is no GPU, and nothing was measured"
        print(title)
        if options.bandwidth:
            print(f"bound = bytes / {options.bandwidth:g} GB/s as given; launches come on top")
        else:
            print("bound = bytes / bandwidth: say --bandwidth GB/s for a number")
        rows = model(options.batches, dtype, options.bandwidth, None)
    else:
        machine = Machine(dry=False)
        copy, launch = copy_bandwidth(machine), launch_floor(machine)
        assert copy.median is not None
        title = (
            f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}: copy {copy.median:.0f} "
            f"GB/s, empty kernel {launch.median:.2f} µs, n = {ROUNDS}"
        )
        print(title)
        rows = model(options.batches, dtype, copy.median, launch.median)
        for i, row in enumerate(rows):
            try:
                timing = measure(machine, SPECS[row.name], row.batch, dtype)
            except torch.cuda.OutOfMemoryError:
                print(f"  {row.name}, B = {row.batch}: does not fit the memory", flush=True)
                continue
            rows[i] = row._replace(measured=timing)
            print(f"  {row.name}, B = {row.batch}: measured", flush=True)
    print(f"Forward and backward of the information loss, q in {options.dtype}")
    print(table(rows))
    if options.plot:
        plot(rows, options.plot, title)


if __name__ == "__main__":
    main()
