"""Small training runs for the end-to-end tests: 8×8 images, seconds each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

SMALL = ("--image-size", "8", "--batch-size", "16", "--codes", "cat3,uniform", "--noise", "4")
# One thread: the tests share the machine, and spinning threads would wait for each other.
COMMON = (*SMALL, "--threads", "1", "--sample-every", "0")


def write_images(path: Path, n: int = 120, size: int = 8, labels: bool = True) -> Path:
    """Return an .npz of three kinds of stripes, whose kind is the label."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, n)
    rows = np.arange(size)
    stripes = np.stack([np.sin(rows * (1 + k)) for k in range(3)])[kind]
    images = 127 + 100 * stripes[:, :, None] + rng.normal(0, 20, (n, size, size))
    arrays: dict[str, Any] = {"images": images.clip(0, 255).astype(np.uint8)}
    if labels:
        arrays["labels"] = kind
    np.savez(path, **arrays)
    return path


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data", f"npz:{data}", "--out", str(out), *COMMON, *more]


def launch(
    *args: str, env: dict[str, str] | None = None, new_session: bool = False
) -> subprocess.Popen[str]:
    """Start `python …` as a child whose output can be read."""
    return subprocess.Popen(
        [sys.executable, *args],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    )


def free_port() -> int:
    """Return a port that nothing listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def tensors(out: Path, step: int) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    result: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        result |= {f"{file.stem}/{k}": v for k, v in load_file(file).items()}
    assert result
    return result


def records(out: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl less its timings."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in parsed]


def assert_same_run(a: Path, b: Path, step: int) -> None:
    """Check that weights, moments, BatchNorm, EMA and metrics agree to the last bit."""
    first, second = tensors(a, step), tensors(b, step)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
    assert records(a) == records(b)
