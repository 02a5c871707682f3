"""The script that starts a run on several machines, with a stand-in for ssh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "ssh.sh"
SSH = """#!/bin/bash
shift  # -tt
machine=$1; shift
printf '%s ' "$@" > "$(dirname "$0")/$machine"
exit "${machine#*-}"
"""


def run(folder: Path, *machines: str) -> int:
    """Return the script's exit code on machines called NAME-CODE, whose ssh ends with CODE."""
    ssh = folder / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["bash", SCRIPT, *machines], env=env, check=False, timeout=60).returncode


def test_the_script_starts_the_same_run_on_every_machine_and_ends_with_0(tmp_path):
    assert run(tmp_path, "a-0", "b-0", "c-0") == 0
    lines = [(tmp_path / name).read_text() for name in ("a-0", "b-0", "c-0")]
    for rank, line in enumerate(lines):
        assert line.startswith("accelerate launch --multi_gpu --num_machines 3 --num_processes 24")
        assert f"--machine_rank {rank} --main_process_ip a-0 --main_process_port" in line
    assert len({line.replace(f"rank {rank} ", "") for rank, line in enumerate(lines)}) == 1


@pytest.mark.parametrize(
    ("machines", "code"),
    [
        (("a-1",), 1),
        (("a-0", "b-255"), 255),
        (("a-1", "b-0"), 1),
        (("a-2", "b-1"), 2),  # the first machine's, which has the run's folder
    ],
)
def test_the_script_ends_with_the_exit_code_of_the_first_machine_that_failed(
    machines, code, tmp_path
):
    assert run(tmp_path, *machines) == code
