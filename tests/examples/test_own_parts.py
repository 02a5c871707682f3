"""The examples of a term and an objective of one's own run as scripts and by their paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("name", "line"), [("own_term", "6 dark 0."), ("own_objective", "6 D ")])
def test_an_example_of_own_parts_runs(name, line, tmp_path):
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert line in done.stdout
