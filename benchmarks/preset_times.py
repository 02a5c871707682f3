"""Time per update of every preset: `python benchmarks/preset_times.py --out FILE`.

Each preset makes a few updates of its own batch, in the precision and on the threads that `train`
takes, with the reading or drawing of its images and the metrics, and as many before --gan-start
where it has one. An update's arithmetic does not depend on what the images show, so a set that is
missing is replaced by noise of its shape, which the line says. The times mean something on an idle
machine only.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from accelerate.state import AcceleratorState

from fastinfogan import data, device, parallel
from fastinfogan.config import TrainConfig
from fastinfogan.data.specs import choose
from fastinfogan.errors import UserError
from fastinfogan.presets import PRESETS
from fastinfogan.training.metrics import Metrics
from fastinfogan.training.policy import DTYPES, Policy
from fastinfogan.training.step import Step


@dataclass(frozen=True)
class Config:
    """Time an update of every preset."""

    presets: tuple[str, ...] = tuple(PRESETS)
    """Names of presets."""
    updates: int = 5
    """Updates that are timed, after one that is not."""
    out: Path | None = None
    """File that gets a JSON line per preset."""


def images_of(config: TrainConfig) -> tuple[str, Any]:
    """Return the name of the set that is read, and its training images."""
    size, channels = config.data.image_size, config.data.channels
    name, _ = choose(config.data.data)
    with suppress(UserError):
        return name, data.open_set(name, size, channels)["train"].images
    shape = (10 * config.batch_size, size, size, channels)
    return "noise", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure(preset: str, config: TrainConfig, updates: int) -> dict[str, Any]:
    """Return one preset's line; times in seconds."""
    torch.set_num_threads(device.cpu_threads())
    precision, reason = device.choose_precision("auto", device.use_cpu())
    name = device.accelerate_name(precision)
    ranks = parallel.start(name, device.use_cpu())
    try:
        kind, images = images_of(config)
        step = Step(config, config.spec(), ranks, Policy(DTYPES[name], compile=False))
        metrics = Metrics(config.spec(), ranks)
        batches = data.batches(images, ranks.device, batch_size=config.batch_size, seed=config.seed)
        value_range = step.networks.generator.image_range
        problems = step.prepare(data.to_range(batches(0), value_range))
        assert not problems, problems
        alone = config.adversarial.gan_start  # updates without a generator: they cost less
        times: dict[int, list[float]] = {}
        for first in sorted({0, alone} if alone > updates else {alone}):
            for n in range(first, first + 1 + updates):
                start = time.perf_counter()
                metrics.add(n + 1, *step(n, data.to_range(batches(n), value_range)))
                if ranks.device.type == "cuda":
                    torch.cuda.synchronize()
                times.setdefault(first, []).append(time.perf_counter() - start)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    seconds = times[alone][1:]
    each = median(seconds)
    before = median(times.get(0, times[alone])[1:])
    total = alone * before + (config.steps - alone) * each
    return {
        "preset": preset,
        "data": kind,
        "batch": config.batch_size,
        "updates": config.steps,
        "seconds": [round(s, 4) for s in seconds],
        "images_per_second": round(config.batch_size / each, 1),
        "minutes": round(total / 60, 1),
        "environment": device.environment(ranks.device, precision, reason, 1),
    }


def main(config: Config) -> None:
    """Measure the presets one after another."""
    for preset in config.presets:
        line = measure(preset, PRESETS[preset], config.updates)
        if config.out is not None:
            with config.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        print(
            f"{preset}: {median(line['seconds']):.3f} s per update of {line['batch']}, "
            f"{line['minutes']:g} minutes for {line['updates']:,}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
