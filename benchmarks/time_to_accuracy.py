"""How soon the code sorts digits: `python benchmarks/time_to_accuracy.py`.

Trains MNIST in each mode from each seed, looks at the code's accuracy on the 10,000 test images
every so many updates, and appends a line to --out: mode, seed, updates, seconds of training (the
looks are not counted), accuracy. Run again, it goes on with what is missing. At the end it prints,
for each accuracy asked for, the updates and seconds to it. Labels are read here alone: the training
never sees them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro

from fastinfogan import data, device, parallel
from fastinfogan.config import StepMode
from fastinfogan.evaluate import score_codes
from fastinfogan.presets import PRESETS
from fastinfogan.step import Step


@dataclass(frozen=True)
class Config:
    """Measure the time to a code accuracy."""

    modes: tuple[StepMode, ...] = ("alternating", "shared")
    """The step's modes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    steps: int = 5000
    """Updates of a run."""
    every: int = 250
    """Updates between looks."""
    threads: int = 0
    """CPU threads; 0: the physical cores. Seconds of runs side by side mean nothing."""
    targets: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Accuracies to reach."""
    out: Path = Path("time-to-accuracy.jsonl")
    """Where the figures are kept."""


def run(config: Config, ranks: parallel.Ranks, mode: StepMode, seed: int) -> None:
    """Train one run and keep what it reached."""
    preset = dataclasses.replace(PRESETS["mnist-paper"], seed=seed, step=mode, steps=config.steps)
    spec = preset.spec()
    splits = data.load("mnist", image_size=28, channels=1)
    test = splits["test"]
    assert test.labels is not None
    images, labels = torch.from_numpy(test.images), test.labels.astype(np.int64)
    train = torch.from_numpy(splits["train"].images).to(ranks.device)
    batches = data.BatchSampler(train, batch_size=preset.batch_size, seed=seed)
    step = Step(preset, spec, ranks)
    discriminator = step.networks.discriminator.eval()
    image_range = step.networks.generator.image_range
    seconds, since = 0.0, time.perf_counter()
    for n in range(config.steps):
        step(n, data.to_range(batches(n), image_range))
        if (n + 1) % config.every:
            continue
        seconds += time.perf_counter() - since
        scores = score_codes(discriminator, spec, images.to(ranks.device), image_range, labels)
        record = {"mode": mode, "seed": seed, "updates": n + 1, "seconds": round(seconds, 1)}
        record["accuracy"] = scores["code_accuracy"]
        with config.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)
        since = time.perf_counter()


def read(path: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The records of each run."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        record = json.loads(line)
        runs.setdefault((record["mode"], record["seed"]), []).append(record)
    return runs


def table(config: Config) -> str:
    """Updates and seconds to each target: of each seed, and the median."""
    runs, lines = read(config.out), []
    for target in config.targets:
        for mode in config.modes:
            reached, told = [], []
            for seed in config.seeds:
                good = [r for r in runs.get((mode, seed), []) if r["accuracy"] >= target]
                reached.append(good[0]["updates"] if good else math.inf)
                told.append(f"{good[0]['updates']} ({good[0]['seconds']} s)" if good else "never")
            middle = median(reached)
            most = f"{middle:g} updates" if middle < math.inf else "never"
            lines.append(f"{target}  {mode:<12} seeds {', '.join(told)}; median {most}")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Run what is missing, then print the table."""
    precision, _ = device.choose_precision("auto", device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    torch.set_num_threads(config.threads or device.cpu_threads())
    for seed in config.seeds:
        for mode in config.modes:
            done = read(config.out).get((mode, seed), [])
            if not any(r["updates"] >= config.steps - config.steps % config.every for r in done):
                if done:  # begin again: a run leaves no checkpoint
                    kept = [
                        r for key, rs in read(config.out).items() for r in rs if key != (mode, seed)
                    ]
                    config.out.write_text("".join(json.dumps(r) + "\n" for r in kept))
                run(config, ranks, mode, seed)
    print(table(config))


if __name__ == "__main__":
    main(tyro.cli(Config))
