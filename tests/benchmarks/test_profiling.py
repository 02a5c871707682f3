"""The profiling scripts run where there is no GPU, and claim no more than they measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("triton")

FOLDER = Path(__file__).parents[2] / "profiling"


def run(script: str, *args: str, cwd: Path) -> str:
    """Return the script's output, from another folder."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_roofline_without_a_gpu_is_a_model_and_says_so(tmp_path):
    plot = tmp_path / "roofline.png"
    text = run("kernel_roofline.py", "--bandwidth", "1000", "--plot", str(plot), cwd=tmp_path)
    assert "nothing was measured" in text.splitlines()[0]
    # mnist, B = 65536, fp32: 12 columns in and out and one class and two floats of 8 and 4 bytes
    # in the kernel, 12 columns in and out in the product; 1 GB/s moves 1e-3 MB a microsecond
    row = next(line.split() for line in text.splitlines() if line.startswith("mnist    ") and
               line.split()[1] == "65536")  # fmt: skip
    kernel, product = 65536 * (96 + 8 + 8) / 1e6, 65536 * 96 / 1e6
    assert [float(x) for x in row[3:5]] == [round(kernel, 3), round(product, 3)]
    assert float(row[7]) == round(kernel + product, 2)
    assert row[8:] == ["–", "–"]
    with Image.open(plot) as picture:
        picture.load()
    assert "say --bandwidth" in run("kernel_roofline.py", cwd=tmp_path)


@pytest.mark.slow
def test_the_host_overhead_is_measured_on_any_machine(tmp_path):
    text = run("host_overhead.py", "--rounds", "3", "--calls", "2", cwd=tmp_path)
    assert "n = 3 rounds of 2 calls" in text
    lines = text.split("CPU\n")[1].splitlines()
    assert len(lines) == 8
    for line in lines:
        median, low, high, _ = (float(number) for number in line[36:].split())
        assert 0 < low <= median <= high


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["alternating", "shared"])
def test_the_training_step_is_timed_against_its_products_and_traced(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    tiny = ("--step", mode, "--batch-size", "4", "--updates", "1", "--compile", "off")
    text = run("train_step.py", *tiny, "--rows", "5", "--trace", "trace.json", cwd=tmp_path)
    assert f"mnist-paper, {mode}, batch 4: eager" in text
    assert re.search(r"[\d,]+ images/s, \d+% of what its products alone attain", text)
    operations = [line.split()[0] for line in text.splitlines() if line.strip().startswith("aten")]
    rows = [line for line in text.splitlines() if re.search(r"\d%.*\d%", line)]
    assert len(rows) == 5  # not all are ATen's: autograd's functions and oneDNN's are among them
    assert operations
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert set(operations) <= {event.get("name") for event in events}


@pytest.mark.slow
def test_the_times_of_a_folder_of_images_are_of_every_command_and_run(tmp_path):
    options = ("--images", "40", "--side", "32", "--batch-size", "8", "--runs", "1")
    text = run("image_files.py", *options, cwd=tmp_path)
    assert "40 PNG files of 32x32" in text
    lines = text.splitlines()[-3:]
    names = ("data check", "first update, read before", "first update, streamed")
    for line, name in zip(lines, names, strict=True):
        assert re.match(rf"{name}: \d+\.\d\d s \(.*n = 1\)", line)
    assert not list(tmp_path.iterdir())
