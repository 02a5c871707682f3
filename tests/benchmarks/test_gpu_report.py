"""The GPU report, walked on the CPU as a bare checkout without the optional libraries would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("triton")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_report.py"
ABSENT = ("tyro", "joblib", "sklearn", "scipy", "einops", "hypothesis")  # in some GPU environment
TIMES = {"replay_us", "wall_us", "copy_gb_per_s", "launch_floor_us", "images_per_s"}
TIMES |= {"product_tflop_per_s"}
COUNTS = {"peak_bytes", "launches", "share_of_bound", "share_of_copy_bandwidth", "l2_bytes"}
COUNTS |= {"utilisation"}


def report(
    folder: Path, sabotage: str = "", sections: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `gpu_report.py --dry-run` in another folder, where this project is not installed."""
    only = ["--only", *sections] if sections else []
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # importing one of them fails
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
{sabotage}
sys.argv = ["gpu_report.py", "--dry-run", "--out", {str(folder / "out")!r}, *{only!r}]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TRITON"))}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def fields(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return all (name, value) pairs of a JSON tree."""
    if isinstance(value, dict):
        return [(k, v) for k, v in value.items()] + [
            pair for k, v in value.items() for pair in fields(v, k)
        ]
    if isinstance(value, list):
        return [pair for item in value for pair in fields(item, name)]
    return []


@pytest.mark.slow
def test_a_dry_run_walks_every_section_and_gives_no_number(tmp_path):
    done = report(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    out = tmp_path / "out"
    result = json.loads((out / "report.json").read_text())
    assert result["dry_run"] is True
    assert result["failures"] == []
    assert result["elapsed_s"] is None

    assert {check["outcome"] for check in result["correctness"]} == {"passed", "skipped"}
    assert [check["check"] for check in result["launch_checks"]] == ["loss, launches"]
    passed = [c["check"] for c in result["correctness"] if c["outcome"] == "passed"]
    for what in ("loss, mnist, bfloat16", "loss, CUDA graph", "loss, class out of range",
                 "loss, determinism", "sampler, mnist, triton", "sampler, CUDA graph"):  # fmt: skip
        assert what in passed
    ways = ["eager loop", "eager, no sync", "reference", "compiled", "triton", "many rows"]
    assert [row["way"] for row in result["kernels"]][: len(ways)] == ways
    assert {row["way"] for row in result["sampler"]} == {"reference", "triton"}
    assert {(row["mode"], row["way"]) for row in result["step"]} == {
        *product(("alternating", "shared", "reused"), ("eager", "captured")),
        *product(("alternating", "shared"), ("compiled", "compiled and captured")),
        ("alternating", "PyTorch loss"),
        ("alternating", "PyTorch loss and sampler"),
    }
    assert all(row["note"] is None for row in result["step"])
    for row in result["step"]:
        if "captured" in row["way"]:
            assert f"step, {row['mode']}, {row['way']}, B = 8" in passed

    names = {name for name, _ in fields(result)}
    assert names >= TIMES | COUNTS
    for name, value in fields(result):
        if name in TIMES:
            assert value == {"median": None, "low": None, "high": None, "n": None}
        if name in COUNTS:
            assert value is None, f"{name} is {value} without a GPU"
        assert name == "elapsed_s" or not name.endswith(("_s", "_ms")) or name in TIMES

    table = (out / "report.txt").read_text()
    assert "DRY RUN" in table.splitlines()[0]
    assert table.rstrip() in done.stdout
    assert not any(line.split()[4] != "–" for line in table.splitlines() if " triton  " in line)
    with Image.open(out / "report.png") as picture:
        picture.load()
        assert min(picture.size) > 400


@pytest.mark.slow
def test_a_wrong_gradient_is_reported_and_fails_the_report_but_not_the_rest(tmp_path):
    done = report(
        tmp_path,
        f"""
sys.path[:0] = [{str(SCRIPT.parent.parent)!r}, {str(SCRIPT.parent.parent / "kernels")!r}]
import os
os.environ["TRITON_INTERPRET"] = "1"
from fastinfogan_kernels import functional
right = functional._product
functional._product = lambda *arguments, right=right: right(*arguments) * 1.01
""",
        ("correctness", "kernels"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    failed = {c["check"] for c in result["correctness"] if c["outcome"] == "FAILED"}
    assert "loss, mnist, float32" in failed
    assert not any(check.startswith("sampler") for check in failed)
    assert "FAILED loss, mnist, float32" in (tmp_path / "out" / "report.txt").read_text()
    assert result["failures"] == []
    assert result["kernels"]
    assert result["step"] == []


def test_the_tables_give_median_range_and_what_was_left_out(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from gpu_output import draw_plot, format_tables
    from gpu_timing import Timing

    timing = Timing(2.0, 1.5, 4.0, 30)  # made up, as all below
    row = {"layout": "mnist", "batch": 128, "dtype": "float32", "note": None, "wall_us": timing}
    row |= {"replay_us": timing, "peak_bytes": 3 * 2**20, "least_bytes": 1}
    row |= {"share_of_bound": 0.5, "share_of_copy_bandwidth": 0.01}
    row["launches"] = {"kernels": 2, "copies": 1, "fills": 0, "host": 7}
    waits = row | {"way": "eager loop", "note": "waits", "replay_us": Timing(*[None] * 4)}
    header = dict.fromkeys(("device", "driver", "torch", "triton", "cuda", "hip", "python", "date"))
    table = {
        "dry_run": False,
        "header": header
        | {"rounds": 30, "copy_gb_per_s": timing, "launch_floor_us": timing.rate(2.0)}
        | {"product_tflop_per_s": timing.rate(1000.0), "busy_percent_before": 37},
        "elapsed_s": 100,
        "failures": ["sampler, mnist: triton"],
        "skipped": ["step, B = 1024"],
        "correctness": [{"check": "a", "outcome": "FAILED", "detail": "error 1"}],
        "launch_checks": [{"check": "b", "outcome": "passed", "detail": ""}],
        "kernels": [waits, row | {"way": "triton"}],
        "sampler": [],
        "step": [
            row
            | {"mode": "shared", "way": "x", "images_per_s": timing.rate(8.0)}
            | {"utilisation": 0.125}
        ],
    }
    text = format_tables(table)
    for alone in (0, None):
        header = table["header"] | {"busy_percent_before": alone}  # type: ignore[operator]
        assert "NOT ALONE" not in format_tables(table | {"header": header})
    for part in (
        "2.0 (1.5–4.0)",
        "1.0 (0.5–1.3) µs",  # an amount over a time: the longest time is the lowest rate
        "4 (2–5)",
        "50 %",
        "the GPU was 37 % busy",
        "2 + 1 copies",
        "12.5 %",
        "500.0 (250.0–666.7) TFLOP/s",
        "3.00",
        "1 passed, 1 FAILED, 0 skipped",
        "FAILED a: error 1",
        "FAILED: sampler, mnist: triton",
        "Skipped for time: step, B = 1024",
    ):
        assert part in text, part
    assert "DRY" not in text
    draw_plot(table, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        picture.load()


def test_without_a_gpu_the_report_says_so_and_measures_nothing():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "--dry-run" in done.stderr
    assert "µs" not in done.stdout


@pytest.mark.slow
def test_a_failed_capture_is_reported_in_one_line_and_the_report_goes_on(tmp_path):
    done = report(
        tmp_path,
        f"""
sys.path[:0] = [{str(SCRIPT.parent)!r}]
import os
os.environ["TRITON_INTERPRET"] = "1"
import gpu_timing
def capture(self, work):
    raise RuntimeError("operation not permitted when stream is capturing\\nmore of it")
gpu_timing.PlainGraphs.capture = capture
""",
        ("step",),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    notes = {(row["mode"], row["way"]): row["note"] for row in result["step"]}
    reason = (
        "the update runs without a CUDA graph: operation not permitted when stream is capturing"
    )
    for (_, way), note in notes.items():
        assert note == (reason if "captured" in way else None)
    assert reason in (tmp_path / "out" / "report.txt").read_text()
    assert result["failures"] == []
