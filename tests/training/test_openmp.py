"""OpenMP's threads wait briefly in the commands, unless the user has said otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import command, launch, write_images

from fastinfogan.training import openmp


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
    ids=["nothing", "a count", "a policy"],
)
def test_a_setting_of_the_user_is_kept(given, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(given))
    openmp.spin_briefly()
    assert openmp.settings().get("GOMP_SPINCOUNT") == expected


def test_openmp_can_be_set_up_before_torch_is_imported():
    modules = "fastinfogan.training.openmp, fastinfogan.__main__"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("-m", "fastinfogan.train"), ("-m", "fastinfogan", "train")])
def test_a_run_s_record_has_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    images = write_images(tmp_path / "images.npz")
    process = launch(*words, *command(images, tmp_path / "run", "--steps", "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    record = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert record["openmp"]["GOMP_SPINCOUNT"] == os.environ.get("GOMP_SPINCOUNT", "1000")
