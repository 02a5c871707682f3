"""A run's record and what is saved for others name no person, machine, path or variable."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.runs import command, write_images

from fastinfogan import train
from fastinfogan.runs.folder import RunDir
from fastinfogan.sharing.card import save_run

PERSON, VARIABLE, FOLDER = "mallory_private", "token-of-mallory", "holiday-of-mallory"


def test_nothing_private_leaves_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    for name, value in {
        "USER": PERSON,
        "LOGNAME": PERSON,
        "HOSTNAME": "machine-of-mallory",
        "HF_TOKEN": VARIABLE,
        "WANDB_API_KEY": VARIABLE,
        "ACCELERATE_USE_CPU": "true",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / FOLDER).mkdir()
    images = write_images(tmp_path / FOLDER / "images.npz")
    run = tmp_path / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train.main(command(images, run, "--steps", "2")) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    saved = tmp_path / "saved"
    save_run(run, saved)
    files = [RunDir(run).environment, *(path for path in saved.iterdir() if path.is_file())]
    assert {path.name for path in files} >= {"environment.json", "README.md", "config.json"}
    private = [PERSON, VARIABLE, FOLDER, "mallory", str(tmp_path)]
    if len(platform.node()) > 4:
        private.append(platform.node())
    for path in files:
        content = path.read_bytes()
        assert [word for word in private if word.encode() in content] == [], path.name
