"""Profile of a training step: `python profiling/train_step.py [--step shared]`.

Prints how the step runs, its images/s, its share of what its products alone would reach
(`benchmarks/attainable.py`), and the operations that take the most time on this machine; writes a
trace for https://ui.perfetto.dev to --trace. Random images stand in for real ones: the operations
are the same.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
import tyro  # noqa: E402
from attainable import products_of  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from fastinfogan import data, device, parallel  # noqa: E402
from fastinfogan.config import Preset, StepMode, Switch  # noqa: E402
from fastinfogan.presets import PRESETS  # noqa: E402
from fastinfogan.training.metrics import Metrics  # noqa: E402
from fastinfogan.training.step import Step  # noqa: E402


@dataclass(frozen=True)
class ProfileConfig:
    """Profile the training step of a preset."""

    preset: Preset = "mnist-paper"
    """The preset."""
    step: StepMode = "alternating"
    """The step's mode."""
    compile: Switch = "auto"
    """As in `train`, as is whether it is captured."""
    batch_size: int = 128
    """Images an update."""
    updates: int = 10
    """Updates to profile; as many are timed without the profiler, in five rounds."""
    trace: Path | None = None
    """Where the trace goes (.json)."""
    rows: int = 25
    """Operations to list."""


def main(config: ProfileConfig) -> None:
    """Time, then profile."""
    train = PRESETS[config.preset].with_options(
        step=config.step,
        compile=config.compile,
        batch_size=config.batch_size,
    )
    precision, reason = device.choose_precision(train.precision, device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    torch.set_num_threads(device.cpu_threads())
    spec, cuda = train.spec(), ranks.device.type == "cuda"
    step, metrics = Step(train, spec, ranks), Metrics(spec, ranks)
    side, channels = train.data.image_size, train.data.channels
    images = torch.randint(256, (4096, side, side, channels), dtype=torch.uint8)
    batches = data.BatchSampler(images.to(ranks.device), batch_size=train.batch_size, seed=0)
    done = 0

    def real() -> torch.Tensor:
        return data.to_range(batches(done), step.networks.generator.image_range)

    def update() -> None:
        nonlocal done
        terms = step(done, real())
        done += 1
        metrics.add(done, *terms)

    for line in step.prepare(real()):
        print(line)
    print(
        f"{config.preset}, {config.step}, batch {train.batch_size}: {step.policy.name} "
        f"({step.policy.reason}), {precision} ({reason}), {ranks.device}, "
        f"{torch.get_num_threads()} threads"
    )
    eager = Step(train.with_options(compile="off", capture="off"), spec, ranks)
    first = real()
    products, _ = products_of(lambda: eager(0, first))
    if cuda:  # as one graph: the host's time is no product's
        from gpu_timing import Machine, capture

        products = capture(Machine(dry=False), [products])

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(config.updates):
            call()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / config.updates

    seconds(update), seconds(products)  # warm up
    times = [(seconds(update), seconds(products)) for _ in range(5)]  # in turns
    own, alone = (statistics.median(values) for values in zip(*times, strict=True))
    metrics.check_finite()
    print(
        f"{train.batch_size / own:,.0f} images/s, {alone / own:.0%} of what its products alone "
        f"attain; medians of 5 rounds of {config.updates} updates"
    )
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        seconds(update)
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=config.rows))
    if config.trace is not None:
        profiler.export_chrome_trace(str(config.trace))
        print(f"wrote {config.trace}")


if __name__ == "__main__":
    main(tyro.cli(ProfileConfig))
