"""Time to good codes, seed by seed: `python benchmarks/first_codes.py mnist --seeds 0 1 2`.

Each seed is the command that users run, in a process of its own, with `--watch-labels`. Its time is
that from the start of the process, imports included, to the first log whose code accuracy on test
images is at least --level. It includes the evaluation at each log. Labels are never used in
training. Then the run is ended, but for --whole. Seeds that do not reach the level count as later
than all that do. Seconds mean something on an idle machine only.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro

from fastinfogan.runs.folder import RunDir
from fastinfogan.training.metrics import read

POLL_S = 0.05  # between looks at a run's metrics


@dataclass(frozen=True)
class Config:
    """Time the way to good codes."""

    preset: tyro.conf.Positional[str] = "mnist"
    """The preset."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds of the runs."""
    level: float = 0.95
    """Code accuracy to reach."""
    log_every: int = 25
    """Updates between looks at the codes."""
    options: str = ""
    """More options for the command, as typed: --options="--gan-start 400 --threads 2"."""
    whole: bool = False
    """Go on to the end of each run, and report its evaluation too."""
    runs: Path | None = None
    """Folder where the runs are kept; by default each is removed after it was read."""
    out: Path | None = None
    """File that gets a JSON line per seed."""


def measure(config: Config, seed: int, folder: Path) -> dict[str, Any]:
    """Return one seed's figures. Raises SystemExit where the run fails."""
    command = [sys.executable, "-m", "fastinfogan.train", config.preset, "--seed", str(seed)]
    command += ["--out", str(folder), "--resume", "never", "--watch-labels"]
    command += ["--log-every", str(config.log_every), *config.options.split()]
    run, first = RunDir(folder), None
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while first is None and process.poll() is None:
            time.sleep(POLL_S)
            first = _first(read(run.metrics), config.level)
        seconds = time.perf_counter() - began
        if first is not None and not config.whole:
            process.terminate()  # the run saves, which is not timed
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
    ended = first is not None and not config.whole
    if process.returncode and not ended:
        raise SystemExit(f"seed {seed}: the run ended with {process.returncode}")
    records = read(run.metrics)
    first = first or _first(records, config.level)  # in the last log
    environment = json.loads(run.environment.read_text())
    rates = [r["images_per_second"] for r in records if r["images_per_second"]]
    return {
        "preset": config.preset,
        "options": config.options,
        "seed": seed,
        "level": config.level,
        "seconds": None if first is None else round(seconds, 2),
        "updates": None if first is None else first["step"],
        "best": max(r["code_accuracy"] for r in records),
        "images_per_second": median(rates) if rates else None,
        "evaluation": json.loads(run.evaluation.read_text()) if config.whole else None,
        "environment": environment,
    }


def _first(records: list[dict[str, Any]], level: float) -> dict[str, Any] | None:
    return next((r for r in records if r.get("code_accuracy", -1.0) >= level), None)


def machine(records: list[dict[str, Any]]) -> str:
    """Return the line that names the processor and the versions; one line per machine."""
    lines = []
    for e in (record["environment"] for record in records):
        packages = ", ".join(f"{name} {e['packages'][name]}" for name in ("fastinfogan", "torch"))
        lines.append(
            f"{e['device_name']}, {e['threads']} threads, {e['precision']}, Python {e['python']}, "
            f"{packages}"
        )
    return "\n".join(dict.fromkeys(lines))


def table(records: list[dict[str, Any]]) -> str:
    """Return every seed, then median and range, as Markdown."""
    level = f"{records[0]['level']:g}"
    lines = [
        f"| seed | s to {level} | updates to {level} | best seen | images/s |",
        "|---|---|---|---|---|",
    ]
    for r in sorted(records, key=lambda r: r["seed"]):
        reached = ("not reached", "–")
        if r["seconds"] is not None:
            reached = (f"{r['seconds']:.1f}", str(r["updates"]))
        rate = "–" if r["images_per_second"] is None else f"{r['images_per_second']:,.0f}"
        lines.append(f"| {r['seed']} | {' | '.join(reached)} | {r['best']:.4f} | {rate} |")
    times = sorted(math.inf if r["seconds"] is None else r["seconds"] for r in records)
    texts = ["not reached" if math.isinf(t) else f"{t:.1f}" for t in (median(times), *times)]
    n = sum(map(math.isfinite, times))
    lines += [
        "",
        f"{n} of {len(times)} seeds reached {level}: median {texts[0]} s, "
        f"range {texts[1]} to {texts[-1]} s",
    ]
    return "\n".join(lines)


def main(config: Config) -> None:
    """Run the seeds one after another, printing all so far after each."""
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in config.seeds:
            folder = (config.runs or Path(scratch)) / f"seed-{seed}"
            records.append(measure(config, seed, folder))
            if config.runs is None:
                shutil.rmtree(folder)
            if config.out is not None:
                config.out.parent.mkdir(parents=True, exist_ok=True)
                with config.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            print(f"{machine(records)}\n\n{table(records)}\n", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
