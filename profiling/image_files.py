"""Times of a folder of image files: `python profiling/image_files.py [--images 20000 --side 64]`.

Writes a folder of coloured PNG files in ten class folders, then times, in processes of their own:
`fastinfogan data check`, which decodes each file once; `fastinfogan train own` from its start to
the record of its first update, with the images read into memory first and with images that are read
while training. Each is run `--runs` times in turn. The files were written just before, so the
page cache has them: a disk's own time is not in the figures.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import PIL
import torch
import tyro
from PIL import Image

from fastinfogan import device

CLASSES = 10


@dataclass(frozen=True)
class FilesConfig:
    """Time `data check` and the start of a training on a folder of PNG files."""

    images: int = 20_000
    """Files in the folder."""
    side: int = 64
    """Side of the images, stored and trained on."""
    batch_size: int = 128
    """Images of an update."""
    runs: int = 3
    """Runs of each."""


def write(folder: Path, n: int, side: int) -> Path:
    """Write n images: soft spots of colour with some noise, which PNG packs as it packs photos."""
    draw = np.random.default_rng(0)
    for i in range(n):
        spots = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
        soft = np.asarray(spots.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = (soft + draw.integers(-4, 5, soft.shape)).clip(0, 255).astype(np.uint8)
        path = folder / "set" / f"class{i % CLASSES}" / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path)
    return folder / "set"


def check(files: Path) -> float:
    """Return the seconds of `fastinfogan data check`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "fastinfogan", "data", "check", f"folder:{files}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_update(files: Path, config: FilesConfig, stream: str) -> float:
    """Return the seconds from the start of a training to the record of its first update."""
    out = files.parent / "run"
    record = out / "metrics.jsonl"
    options = ["--data", f"folder:{files}", "--stream", stream, "--image-size", str(config.side)]
    options += ["--channels", "3", "--batch-size", str(config.batch_size), "--out", str(out)]
    options += ["--log-every", "1", "--steps", "100000"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastinfogan", "train", "own", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not record.exists() or not record.stat().st_size:
            if process.poll() is not None:
                raise RuntimeError(f"the trainer ended with {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(out, ignore_errors=True)


def main(config: FilesConfig) -> None:
    """Print a line for the machine and the folder, and one for each command."""
    facts = device.environment(torch.device("cpu"), "", "", 1)
    print(
        f"{facts['device_name']}, {device.cpu_threads()} cores, Python {platform.python_version()}"
    )
    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        files = write(Path(temporary), config.images, config.side)
        size = sum(path.stat().st_size for path in files.rglob("*.png"))
        side = config.side
        print(f"{config.images:,} PNG files of {side}x{side}, {size / 1e6:.0f} MB", flush=True)
        commands: dict[str, Callable[[], float]] = {
            "data check": lambda: check(files),
            "first update, read before": lambda: first_update(files, config, "never"),
            "first update, streamed": lambda: first_update(files, config, "always"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(config.runs):
            for name, run in commands.items():
                seconds[name].append(run())
    for name, values in seconds.items():
        low, high = min(values), max(values)
        print(f"{name}: {median(values):.2f} s ({low:.2f} to {high:.2f}, n = {len(values)})")


if __name__ == "__main__":
    main(tyro.cli(FilesConfig))
