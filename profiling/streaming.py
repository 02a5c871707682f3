"""Costs of streaming as a set grows: `python profiling/streaming.py [--gigabytes 1 5 20]`.

For each size a sparse .npy of black 28x28 images and a process of its own, in which blocks of
training updates alternate between the streamed file and black images that lie in memory. Prints the
anonymous resident memory of that process and of its workers (RssAnon of /proc/PID/status: what the
kernel cannot give back by dropping pages of the file), and images/s of both. A sparse file has no
blocks to read: what a disk adds is not in the figures. The same for a folder of PNG files, MNIST's
digits, which must be decoded. Then: the time to read MNIST, and from the
start of `python -m fastinfogan.train` to its first update's record. Linux.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
import tyro
from PIL import Image

from fastinfogan import data, device, parallel
from fastinfogan.data.streaming import Streamed
from fastinfogan.data.workers import Stream
from fastinfogan.presets import PRESETS
from fastinfogan.training.step import Step

SIDE = 28
RESIDENT = 60_000  # images


@dataclass(frozen=True)
class StreamingConfig:
    """Measure memory and speed of streamed training."""

    gigabytes: tuple[float, ...] = (1, 5, 20)
    """Sizes of the files."""
    folder: int = 20_000
    """Images in the folder; 0: none."""
    blocks: int = 8
    """Blocks of updates, streamed and resident each."""
    updates: int = 8
    """Updates in a block."""
    workers: int = 1
    """Processes that read ahead; 0 reads in the trainer."""
    starts: int = 3
    """Starts of the trainer to time, for MNIST and for the largest file each; 0: none."""
    file: Path | None = None
    """(For the processes of this script: measure this file.)"""


def sparse(path: Path, n: int) -> Path:
    """Return a .npy of n black images that takes no space on the disk."""
    with path.open("wb") as file:
        shape = {"descr": "|u1", "fortran_order": False, "shape": (n, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.truncate(file.tell() + n * SIDE * SIDE)
    return path


def pngs(folder: Path, n: int) -> Path:
    """Return a folder of n of MNIST's digits, each a file."""
    digits = data.load("mnist", image_size=SIDE, channels=1)["train"].images
    rows = np.arange(n) % len(digits)
    out = folder / "digits"
    out.mkdir()
    for i, row in enumerate(rows):
        Image.fromarray(np.asarray(digits[row : row + 1])[0, ..., 0]).save(out / f"{i:06}.png")
    return out


def anonymous() -> list[float]:
    """Return RssAnon of this process and of each of its children, in MiB."""
    here = psutil.Process()
    sizes = []
    for process in (here, *here.children(recursive=True)):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("RssAnon"))
        sizes.append(int(kilobytes) / 1024)
    return sizes


def measure(config: StreamingConfig, path: Path) -> dict[str, object]:
    """Return memory in MiB and images/s of each block, in a process of its own."""
    preset = PRESETS["mnist-paper"]
    precision, _ = device.choose_precision(preset.precision, device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    torch.set_num_threads(device.cpu_threads())
    step = Step(preset, preset.spec(), ranks)
    spec = f"{'folder' if path.is_dir() else 'npy'}:{path}"
    images = data.load(spec, image_size=SIDE, channels=1, stream="always")["train"].images
    assert isinstance(images, Streamed)
    order = data.Order(len(images), batch_size=preset.batch_size, seed=0)
    streamed = Stream(images, order.indices, ranks.device, config.workers)
    black = np.zeros((RESIDENT, SIDE, SIDE, 1), np.uint8)
    resident = data.batches(black, ranks.device, batch_size=preset.batch_size, seed=0)
    kinds = {"streamed": streamed, "resident": resident}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    done = dict.fromkeys(kinds, 0)
    for block in range(config.blocks + 1):
        for kind in sorted(kinds, reverse=block % 2 == 0):  # each goes first as often
            start = time.perf_counter()
            for _ in range(config.updates):
                real = data.to_range(kinds[kind](done[kind]), step.networks.generator.image_range)
                step(done[kind], real)
                done[kind] += 1
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - start
            if block:  # the first warms up
                rates[kind].append(config.updates * preset.batch_size / elapsed)
    return {"memory": anonymous(), **rates}


def start_up(spec: str, folder: Path) -> float:
    """Return seconds from the start of the trainer to the record of its first update."""
    out = folder / "run"
    options = ("--data", spec, "--out", str(out), "--log-every", "1", "--steps", "100000")
    record = out / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastinfogan.train", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not record.exists() or not record.stat().st_size:
        if process.poll() is not None:
            raise RuntimeError(f"the trainer ended with {process.returncode}")
        time.sleep(0.01)
    elapsed = time.perf_counter() - start
    process.kill()
    process.wait()
    for file in sorted(out.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    return elapsed


def main(config: StreamingConfig) -> None:
    """Print a row per size, then the start-up times."""
    if config.file is not None:
        print(json.dumps(measure(config, config.file)))
        return
    facts = device.environment(torch.device("cpu"), "", "", 1)
    memory = psutil.virtual_memory().total / 2**30
    print(f"{facts['device_name']}, {device.cpu_threads()} cores, {memory:.0f} GiB of memory")
    print(f"torch {torch.__version__}, numpy {np.__version__}, Python {facts['python']}")
    print(f"n = {config.blocks} blocks of {config.updates} updates each, {config.workers} workers")
    print("   GB     images  RssAnon MiB: trainer  workers   images/s: streamed  resident  ratio")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "x.npy"
        sets = [(f"{size:g}", int(size * 1e9) // SIDE**2) for size in config.gigabytes]
        sets += [("PNGs", config.folder)] if config.folder else []
        for label, n in sets:
            files = pngs(folder, n) if label == "PNGs" else sparse(path, n)
            row = _in_child(replace(config, file=files))
            anon, streamed, resident = row["memory"], row["streamed"], row["resident"]
            fast, slow = median(streamed), median(resident)
            ratios = median(a / b for a, b in zip(streamed, resident, strict=True))
            print(f"{label:>5} {n:10,} {anon[0]:21.0f} {sum(anon[1:]):8.0f} "
                  f"{fast:20.0f} {slow:9.0f}  {ratios:.3f}", flush=True)  # fmt: skip
        if not config.starts:
            return
        reads = []
        for _ in range(config.starts):
            start = time.perf_counter()
            data.load("mnist", image_size=SIDE, channels=1)
            reads.append(time.perf_counter() - start)
        print(f"MNIST is read in {_range(reads)} s")
        for spec in ("mnist", f"npy:{path}"):
            label = "MNIST" if spec == "mnist" else f"the file of {config.gigabytes[-1]:g} GB"
            seconds = [start_up(spec, folder) for _ in range(config.starts)]
            print(f"first update's record with {label}: {_range(seconds)} s after the start")


def _in_child(config: StreamingConfig) -> dict[str, list[float]]:
    options = [f"--{name}={getattr(config, name)}" for name in ("blocks", "updates", "workers")]
    done = subprocess.run(
        [sys.executable, __file__, *options, f"--file={config.file}"],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def _range(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)})"


if __name__ == "__main__":
    main(tyro.cli(StreamingConfig))
