"""Code accuracy of the textbook loop: `python benchmarks/textbook_accuracy.py --seeds 0 1 2`.

Each seed trains `textbook.py` on MNIST and reads the code of all test images at intervals, in eval
mode. A line of --out per seed has the updates, the accuracy and the seconds of training by then;
reading is not timed. A seed that --out has is left alone. `docs/pictures.py accuracy` draws the
lines. Seconds mean something on an idle machine only.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from textbook import CLASSES, CONTINUOUS, NOISE, Textbook

from fastinfogan import data
from fastinfogan.evaluation.measure import score_codes
from fastinfogan.latents import Categorical, LatentSpec, Uniform

SPEC = LatentSpec(
    noise=NOISE, codes=(Categorical(CLASSES), *(Uniform() for _ in range(CONTINUOUS)))
)
BATCH = 128
READ_AT_ONCE = 1000


@dataclass(frozen=True)
class Config:
    """Measure the code accuracy of the textbook loop."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs."""
    steps: int = 5000
    """Updates per run."""
    every: int = 100
    """Updates between readings."""
    out: Path = Path("docs/textbook.jsonl")
    """File of the figures, one line per seed."""


def accuracy(loop: Textbook, images: torch.Tensor, labels: np.ndarray) -> float:
    """Return the code accuracy on images [N, 1, 28, 28] in [0, 1]."""
    network = loop.discriminator.eval()
    with torch.no_grad():
        outputs = [network(part.to(loop.device)) for part in images.split(READ_AT_ONCE)]
    network.train()
    q = torch.cat([torch.cat((logits, means), 1) for _, logits, means in outputs])
    return float(score_codes(q, SPEC, labels)["code_accuracy"])


def measure(seed: int, config: Config) -> dict[str, Any]:
    """Return one seed's line."""
    sets = data.load("mnist", image_size=28, channels=1)
    test, train = sets["test"], sets["train"]
    assert test.labels is not None
    images = data.to_range(torch.from_numpy(np.asarray(test.images)), (0.0, 1.0))
    labels = test.labels.astype(np.int64)
    loop = Textbook(np.asarray(train.images)[..., 0], BATCH, seed)
    accuracies: list[tuple[int, float, float]] = []
    seconds = 0.0
    for step in range(1, config.steps + 1):
        start = time.perf_counter()
        loop()
        seconds += time.perf_counter() - start
        if step % config.every == 0 or step == config.steps:
            accuracies.append((step, accuracy(loop, images, labels), seconds))
            print(f"seed {seed}, update {step}: {accuracies[-1][1]:.4f}", flush=True)
    return {
        "name": "textbook",
        "seed": seed,
        "updates": config.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": seconds,
        "accuracies": accuracies,
    }


def main(config: Config) -> None:
    """Measure the seeds that --out does not have."""
    lines = config.out.read_text().splitlines() if config.out.is_file() else []
    done = {json.loads(line)["seed"] for line in lines}
    for seed in config.seeds:
        if seed not in done:
            record = measure(seed, config)
            with config.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
