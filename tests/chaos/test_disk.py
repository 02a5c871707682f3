"""Full disks: one line, the last good checkpoint intact, and nothing lost once there is space."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.chaos import (
    STEPS,
    WRITES,
    FullDisk,
    Undisturbed,
    campaign,
    each_case,
    finish,
    start,
    tell,
)
from helpers.runs import assert_same_run

from fastinfogan.runs import checkpoint

FAILURES = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "read-only": errno.EROFS}


def assert_one_line_or_the_end(run) -> int:
    code = run.wait()
    assert code in (0, 2), run.lines()
    if code:
        assert "cannot write" in run.error() or "MB free" in run.error()
    else:
        run.lines()
    return code


def assert_intact(out: Path) -> None:
    _, notes = checkpoint.load_newest(out / "checkpoints")
    assert notes == []


@campaign(sample=3, full=50)
def test_a_disk_that_fails_at_any_write_costs_one_line_and_no_checkpoint(
    whole: Undisturbed, tmp_path: Path, cases: int
) -> None:
    out, ends = tmp_path / "run", Counter[str]()
    for rng in each_case(cases):
        name = str(rng.choice(list(FAILURES)))
        fault = FullDisk(out, int(rng.integers(1, WRITES + 1)), FAILURES[name])
        code = assert_one_line_or_the_end(start(whole.data, out, faults=[fault]))
        ends[f"{name}, exit {code}"] += 1
        assert_intact(out)
        finish(whole.data, out)
        assert_same_run(whole.out, out, STEPS)
        shutil.rmtree(out)
    tell(cases, ends)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@campaign(sample=2, full=50)
def test_a_small_disk_costs_one_line_and_no_checkpoint(
    whole: Undisturbed, disk: Path, cases: int
) -> None:
    out, ends = disk / "run", Counter[str]()
    needed = sum(path.stat().st_size for path in whole.out.rglob("*") if path.is_file())
    for rng in each_case(cases):
        resize(disk, int(rng.uniform(0.05, 1.4) * needed))
        code = assert_one_line_or_the_end(start(whole.data, out))
        ends[f"exit {code}"] += 1
        assert_intact(out)
        resize(disk, 8 * needed)
        finish(whole.data, out)
        assert_same_run(whole.out, out, STEPS)
        shutil.rmtree(out)
    tell(cases, ends)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
