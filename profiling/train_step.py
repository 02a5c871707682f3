"""Where the time of a training step goes: `python profiling/train_step.py [--steps 10]`.

Prints the operations that take the most time on this machine, with images/s, and writes a trace
for chrome://tracing or https://ui.perfetto.dev to --trace. Random images stand in for real ones:
the operations are the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from fastinfogan import data, device, parallel
from fastinfogan.metrics import Metrics
from fastinfogan.presets import PRESETS
from fastinfogan.step import Step


@dataclass(frozen=True)
class ProfileConfig:
    """Profile the training step of a preset."""

    preset: str = "mnist"
    """The preset."""
    steps: int = 10
    """Updates to profile; as many are timed without the profiler."""
    trace: Path | None = None
    """Where the trace goes (.json)."""
    rows: int = 25
    """Operations to list."""


def main(config: ProfileConfig) -> None:
    """Time, then profile."""
    preset = PRESETS[config.preset]
    precision, reason = device.choose_precision(preset.precision, device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    torch.set_num_threads(device.cpu_threads())
    print(f"{ranks.device}, {torch.get_num_threads()} threads, {precision} ({reason})")
    spec = preset.spec()
    step, metrics = Step(preset, spec, ranks), Metrics(spec, ranks)
    side, channels = preset.image_size, preset.channels
    images = torch.randint(256, (4096, side, side, channels), dtype=torch.uint8)
    batches = data.BatchSampler(
        images.to(ranks.device), batch_size=preset.batch_size, seed=preset.seed
    )
    done = 0

    def update(count: int) -> None:
        nonlocal done
        for _ in range(count):
            real = data.to_range(batches(done), step.networks.generator.image_range)
            terms = step(done, real)
            done += 1
            metrics.add(done, *terms)
        metrics.check_finite()  # waits for the device

    update(3)
    start = time.perf_counter()
    update(config.steps)
    elapsed = time.perf_counter() - start
    rate = config.steps * preset.batch_size / elapsed
    print(f"{rate:,.0f} images/s over {config.steps} updates at batch {preset.batch_size}")
    activities = [ProfilerActivity.CPU]
    if ranks.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        update(config.steps)
    order = "self_cuda_time_total" if ranks.device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=config.rows))
    if config.trace is not None:
        profiler.export_chrome_trace(str(config.trace))
        print(f"wrote {config.trace}")


if __name__ == "__main__":
    main(tyro.cli(ProfileConfig))
