"""A long run in parts, each with saves, pictures and an evaluation: nothing grows."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.chaos import LIMIT, Undisturbed, campaign, context, tell

UPDATES = 200  # per part; 100 parts are 20,000 updates
GROWTH = 0.02  # of the memory in use, over the last half


def memory_in_use(process: psutil.Process) -> int:
    """Return the process's bytes in memory after glibc has handed back what is free.

    glibc keeps freed memory for the next part: 500 MB grow to 780 within 12 parts of 4 updates and
    stay there, while the memory in use stays at 459 MB from the first part on.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return process.memory_info().rss


def soak(data: Path, out: Path, parts: int, updates: int) -> None:
    """Train in parts in one process, and write what it holds after each."""
    import torch

    import fastinfogan

    torch.set_num_threads(1)
    process, held = psutil.Process(), []
    for part in range(parts):
        fastinfogan.fit(
            "mnist",
            data=f"npz:{data}",
            out=out,
            steps=(part + 1) * updates,
            image_size=8,
            batch_size=16,
            codes="cat3,uniform",
            noise=4,
            precision="fp32",
            log_every=max(updates // 4, 1),
            checkpoint_every=max(updates // 4, 1),
            sample_every=max(updates // 2, 1),
        )
        checkpoints = [p for p in (out / "checkpoints").rglob("*") if p.is_file()]
        held.append(
            {
                "memory": memory_in_use(process),
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "checkpoints": len(checkpoints),
                "hidden": len(list(out.rglob(".*"))),
                "metrics": (out / "metrics.jsonl").stat().st_size / (part + 1),
            }
        )
        (out / "held.json").write_text(json.dumps(held))


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="counts POSIX file handles")
@campaign(sample=6, full=100)
def test_memory_files_threads_and_the_folder_stay_as_they_are(
    whole: Undisturbed, tmp_path: Path, cases: int
) -> None:
    updates = UPDATES if cases > 10 else 4
    process = context().Process(target=soak, args=(whole.data, tmp_path, cases, updates))
    process.start()
    process.join(LIMIT * cases)
    assert process.exitcode == 0
    held: list[dict[str, Any]] = json.loads((tmp_path / "held.json").read_text())
    last = held[len(held) // 2 :]
    for name in ("files", "threads", "checkpoints", "hidden"):
        assert len({part[name] for part in last}) == 1, (name, [part[name] for part in held])
    memory = np.array([part["memory"] for part in last])
    growth = np.polyfit(np.arange(len(memory)), memory, 1)[0] * len(memory) / memory.mean()
    assert growth < GROWTH, [f"{part['memory'] / 1e6:.0f} MB" for part in held]
    assert last[-1]["metrics"] < 1.1 * last[0]["metrics"]  # bytes per part
    tell(cases, {"MB": int(memory[-1] / 1e6), "growth": f"{growth:.2%}", **last[-1]})
