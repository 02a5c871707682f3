"""The examples run as they stand, in seconds, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_under_60_lines(example):
    assert len(example.read_text().splitlines()) < 60


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["own_networks", "notebook_fit"])
def test_an_example_runs(name, tmp_path):
    root = FOLDER.parent
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels"))),
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "checkpoints" / "step-00000020").is_dir()


@pytest.mark.slow
def test_the_lightning_example_trains_and_logs_nats_by_name(tmp_path):
    pytest.importorskip("lightning")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "lightning_module.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cluster: " in done.stdout + done.stderr
