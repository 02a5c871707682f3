"""Quality of a preset, seed by seed: `python benchmarks/quality.py mnist --seeds 0 1 2`.

Each seed is the command that users run, in a process of its own, with its start-up. When it has
finished, its eval.json, and the code accuracy of its early checkpoints on the test images, become
one line of --out. Run again, it goes on: a finished seed is left alone, an interrupted one resumes
from its last checkpoint; figures of another recipe are not filed under the same name. At the end it
prints all seeds, their median and range. Labels are read by the evaluation alone. Seconds mean
something on a quiet machine only; they are those of `python -m fastinfogan.train`, to which
`accelerate launch` adds its own start.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro

from fastinfogan import data
from fastinfogan.cli import parse
from fastinfogan.config import OPTIONS, TrainConfig
from fastinfogan.data import streaming as stream
from fastinfogan.evaluation.measure import MAX_REAL, read_q, score_codes, scored_code
from fastinfogan.runs import checkpoint
from fastinfogan.runs.folder import RunDir, networks_of
from fastinfogan.terms.warp import Warp, warp_text
from fastinfogan.training.metrics import read

LEVELS = (0.9, 0.95)  # code accuracies to time
LEVELS_WITHIN = 1000  # updates of which every checkpoint is looked at; later only each so many
FACTORS = ("slant", "stroke_width")
SHOWN = {
    "code_accuracy": "code accuracy",
    "nmi": "NMI",
    "frechet": "Fréchet",
    "obedience": "obedience",
    "slant": "slant ρ",
    "stroke_width": "width ρ",
    "factorvae": "FactorVAE",
    "mig": "MIG",
    "rotation_fit": "rotation R",
    "images_per_second": "images/s",
    "seconds": "seconds",
    "peak_mib": "peak MiB",
    **{f"seconds_to_{level}": f"s to {level}" for level in LEVELS},
}


@dataclass(frozen=True)
class Config:
    """Measure the quality of a preset."""

    preset: tyro.conf.Positional[str]
    """The preset."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds of the runs."""
    out: Path = Path("docs/quality.jsonl")
    """Where the figures are kept."""
    runs: Path = Path("runs/quality")
    """Where the runs are kept."""
    name: str = ""
    """What the figures are filed under; the preset and the options by default."""
    options: str = ""
    """More options for the command, as typed: --options="--step shared"."""
    checkpoint_every: int = 100
    """Updates between checkpoints, so between looks at the code's accuracy; they are dropped."""

    @property
    def filed(self) -> str:
        """Name of the set of runs."""
        return self.name or " ".join(filter(None, (self.preset, self.options)))


def recipe(config: Config) -> dict[str, Any]:
    """Return what makes a run's weights, except its seed, where it is not the default."""
    run, default = parse([config.preset, *config.options.split()]), TrainConfig()
    values = {}
    for name, option in OPTIONS.items():
        left_out = name == "seed" or name.startswith("invariance.warp.")  # the warp is a text here
        if left_out or (option.rule.may_change and name not in ("steps", "data")):
            continue
        value = option.get(run)
        if value != option.get(default):
            key = (option.rule.alias or name).replace("-", "_")  # as in records of version 0.1
            values[key] = warp_text(value) if isinstance(value, Warp) else value
    return values


def train(config: Config, seed: int, folder: Path) -> dict[str, float | None]:
    """Run or resume the command. When it began, its seconds, its peak; None where it resumed."""
    fresh = not (folder / "config.yaml").exists()
    command = [sys.executable, "-m", "fastinfogan.train", config.preset, "--seed", str(seed)]
    command += ["--out", str(folder), "--keep", "1000", *config.options.split()]
    command += ["--checkpoint-every", str(config.checkpoint_every)]
    began = time.time()
    process = subprocess.Popen(command)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # the run has it too, and saves
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"seed {seed}: the run ended with {process.returncode}")
    if not fresh:  # this process saw a part of the run
        return {"began": None, "seconds": None, "peak_mib": None}
    return {
        "began": began,
        "seconds": time.time() - began,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def accuracies(run: RunDir) -> list[tuple[int, float, float]]:
    """Return (updates, code accuracy, time of writing) of the checkpoints that are looked at."""
    run_config = run.read_config()
    assert run_config is not None
    of = run_config.data
    reading: stream.Mode = "always" if data.can_stream(of.data) else "never"
    test = data.load(
        of.data, image_size=of.image_size, channels=of.channels, stream=reading, **of.reading()
    )["test"]
    if test.labels is None:
        return []
    rows = stream.evenly(len(test), MAX_REAL)
    labels = test.labels[rows].astype(np.int64)
    if scored_code(run_config.spec(), len(np.unique(labels))) is None:
        return []
    images = torch.from_numpy(test.images[rows])
    scored = []
    for path in reversed(checkpoint.list_newest_first(run.checkpoints)):
        step = checkpoint.step_of(path)
        if step > LEVELS_WITHIN and step % LEVELS_WITHIN:
            continue
        loaded = networks_of(run_config, checkpoint.load(path))
        q = read_q(loaded.discriminator, images, loaded.generator.image_range)
        scores = score_codes(q, loaded.spec, labels)
        scored.append((step, scores["code_accuracy"], path.stat().st_mtime))
    return scored


def measure(config: Config, seed: int) -> dict[str, Any]:
    """Return one seed's line."""
    folder = config.runs / config.filed.replace(" ", "_") / f"seed-{seed}"
    times = train(config, seed, folder)
    run = RunDir(folder)
    result = json.loads(run.evaluation.read_text())
    rates = [r["images_per_second"] for r in read(run.metrics) if r["images_per_second"]]
    record: dict[str, Any] = {
        "name": config.filed,
        "seed": seed,
        "recipe": recipe(config),
        "updates": result["step"],
        "threads": json.loads(run.environment.read_text())["threads"],
        "images_per_second": median(rates) if rates else None,
        "seconds": times["seconds"],
        "peak_mib": times["peak_mib"],
        "result": result,
    }
    curve = accuracies(run)
    record["accuracies"] = [(step, accuracy) for step, accuracy, _ in curve]
    for level in LEVELS:
        reached = [(step, wrote) for step, accuracy, wrote in curve if accuracy >= level]
        if reached:
            step, wrote = reached[0]
            record[f"updates_to_{level}"] = step
            if times["began"] is not None:  # the file's time, so a save is in it
                record[f"seconds_to_{level}"] = wrote - times["began"]
    for path in checkpoint.list_newest_first(run.checkpoints)[1:]:
        shutil.rmtree(path)
    return record


def value(record: dict[str, Any], key: str) -> float | None:
    """Return a figure of a record or of its evaluation; |ρ| of slant and width, a code for each."""
    result = record["result"]
    if key in FACTORS:
        return _correlations(result.get("factors") or {}).get(key)
    if key.startswith("factor "):
        factor = (result.get("factors") or {}).get(key.removeprefix("factor "), {})
        rho = factor.get("correlation")
        return None if rho is None else abs(float(rho))
    value = record.get(key, result.get(key, (result.get("disentanglement") or {}).get(key)))
    if value is None and key.startswith("seconds_to_"):
        # What was not reached counts as later than all that was; what was not timed not at all.
        reached = key.replace("seconds", "updates") in record or not record.get("accuracies")
        return None if reached else math.inf
    return None if value is None else float(value)


def _correlations(factors: dict[str, Any]) -> dict[str, float]:
    """Return |ρ| of each factor within categories, of distinct codes, by the best such choice."""
    # Lines of version 0.1 have the codes without a key of their own.
    factor_codes = [of.get("codes", of) for name in FACTORS if (of := factors.get(name))]
    if len(factor_codes) < len(FACTORS):
        return {}
    choices = itertools.permutations(factor_codes[0], len(FACTORS))
    rhos = [
        [abs(of[code]["within"] or 0.0) for of, code in zip(factor_codes, codes, strict=True)]
        for codes in choices
    ]
    return dict(zip(FACTORS, max(rhos, key=sum), strict=True)) if rhos else {}


def _factors(records: dict[int, dict[str, Any]]) -> dict[str, str]:
    """Return columns of the data's known factors, with their best codes."""
    names = [n for r in records.values() for n in r["result"].get("factors") or {}]
    return {f"factor {n}": f"{n} ρ" for n in dict.fromkeys(names) if n not in FACTORS}


def records_of(path: Path, name: str) -> dict[int, dict[str, Any]]:
    """Return the records filed under a name, by seed."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {r["seed"]: r for r in map(json.loads, lines) if r["name"] == name}


def table(records: dict[int, dict[str, Any]]) -> str:
    """Return every seed, then median and range, as Markdown."""
    shown_as = SHOWN | _factors(records)
    keys = [k for k in shown_as if any(value(r, k) is not None for r in records.values())]
    lines = [
        "| seed | " + " | ".join(shown_as[k] for k in keys) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]

    def format_number(number: float | None) -> str:
        if number is None:
            return "–"
        if math.isinf(number):
            return "not reached"
        return (
            f"{number:.0f}"
            if number >= 100
            else f"{number:.1f}"
            if number >= 2
            else f"{number:.4f}"
        )

    for seed in sorted(records):
        lines.append(
            f"| {seed} | " + " | ".join(format_number(value(records[seed], k)) for k in keys) + " |"
        )
    columns = [[value(r, k) for r in records.values()] for k in keys]
    full = [[v for v in column if v is not None] for column in columns]
    lines.append("| median | " + " | ".join(format_number(median(c)) for c in full) + " |")
    ranges = [f"{format_number(min(c))}–{format_number(max(c))}" for c in full]
    lines.append("| range | " + " | ".join(ranges) + " |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measure the seeds that are missing, then print all."""
    ours = recipe(config)
    for seed, record in records_of(config.out, config.filed).items():
        if record.get("recipe") != ours:
            raise SystemExit(
                f"{config.out} has seed {seed} of another recipe under {config.filed!r}: "
                f"expected {ours}, got {record.get('recipe')}; give --name"
            )
    for seed in config.seeds:
        if seed in records_of(config.out, config.filed):
            continue
        record = measure(config, seed)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with config.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(table(records_of(config.out, config.filed)), flush=True)
    print(table(records_of(config.out, config.filed)))


if __name__ == "__main__":
    main(tyro.cli(Config))
