"""The settings of `accelerate launch` that a training here cannot follow."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from helpers.runs import command, launch, write_images

from fastinfogan.errors import UserError
from fastinfogan.training import launcher

PYTHON = "/usr/bin/python3"
WAYS = (
    [PYTHON, "/usr/bin/accelerate", "launch"],
    [PYTHON, "/usr/bin/accelerate-launch"],
    [PYTHON, "-m", "accelerate.commands.launch"],
    [PYTHON, "-m", "accelerate.commands.accelerate_cli", "launch"],
    [PYTHON, "/lib/accelerate/commands/launch.py"],
)
TRAIN = ["-m", "fastinfogan.train", "mnist"]


class Parent:
    """A process, as psutil describes it."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def cmdline(self) -> list[str]:
        if not self.words:
            raise psutil.AccessDenied
        return list(self.words)


@pytest.fixture
def parents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Set the command lines of this process's parents, the nearest first."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    default = str(tmp_path / "default_config.yaml")
    monkeypatch.setattr("accelerate.commands.config.default_config_file", default)

    def choose(*lines: list[str]) -> None:
        processes = [Parent(*line) for line in lines]
        monkeypatch.setattr(psutil.Process, "parents", lambda _: processes)

    return choose


@pytest.mark.parametrize("words", WAYS, ids=lambda words: words[-1].rpartition("/")[2])
@pytest.mark.parametrize(
    "option", ["--gradient_accumulation_steps", "--gradient-accumulation-steps"]
)
def test_accumulation_on_the_command_line_of_the_launcher_is_refused(words, option, parents):
    parents([*words, "--multi_gpu", option, "4", *TRAIN], ["bash"])
    with pytest.raises(UserError, match="asks for 4 gradient accumulation steps, expected 1"):
        launcher.refuse_what_would_be_ignored()


def test_the_launcher_is_found_behind_other_parents(parents):
    line = [*WAYS[0], "--gradient_accumulation_steps=2", "--no_python", "run.sh"]
    parents(["sh", "run.sh"], [], line)  # the second may not be read
    with pytest.raises(UserError, match="asks for 2 gradient accumulation steps"):
        launcher.refuse_what_would_be_ignored()


@pytest.mark.parametrize(
    "line",
    [
        [*WAYS[0], *TRAIN],
        [*WAYS[0], "--gradient_accumulation_steps", "1", *TRAIN],
        [*WAYS[0], "mine.py", "--gradient_accumulation_steps", "4"],
        [*WAYS[0], "--no-such-option", "--gradient_accumulation_steps", "4", *TRAIN],
        [PYTHON, "/usr/bin/accelerate", "config", "--gradient_accumulation_steps", "4"],
        ["torchrun", "--gradient_accumulation_steps", "4", *TRAIN],
        ["accelerate"],
    ],
)
def test_other_command_lines_of_parents_are_accepted(line, parents, capsys):
    parents(line)
    launcher.refuse_what_would_be_ignored()
    assert capsys.readouterr() == ("", "")


def test_without_accelerate_s_variable_no_parent_is_read(parents, monkeypatch):
    parents([*WAYS[0], "--gradient_accumulation_steps", "4", *TRAIN])
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    launcher.refuse_what_would_be_ignored()


FILE = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
num_processes: 1
deepspeed_config:
  gradient_accumulation_steps: 8
"""


def test_accumulation_in_the_launcher_s_configuration_file_is_refused(parents, tmp_path):
    (tmp_path / "mine.yaml").write_text(FILE)
    parents([*WAYS[0], "--config_file", str(tmp_path / "mine.yaml"), *TRAIN])
    with pytest.raises(UserError, match="asks for 8 gradient accumulation steps"):
        launcher.refuse_what_would_be_ignored()


def test_accumulation_in_the_launcher_s_default_configuration_file_is_refused(parents, tmp_path):
    (tmp_path / "default_config.yaml").write_text(FILE)
    parents([*WAYS[0], *TRAIN])
    with pytest.raises(UserError, match="asks for 8 gradient accumulation steps"):
        launcher.refuse_what_would_be_ignored()
    # as the launcher itself does, with an option that counts more than the file, and with --cpu
    for option in (["--gradient_accumulation_steps", "1"], ["--cpu"]):
        parents([*WAYS[0], *option, *TRAIN])
        launcher.refuse_what_would_be_ignored()


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "deepspeed_config: 3", "\0"])
def test_a_configuration_file_that_says_nothing_is_accepted(text, parents, tmp_path):
    (tmp_path / "default_config.yaml").write_text(text)
    parents([*WAYS[0], *TRAIN])
    launcher.refuse_what_would_be_ignored()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["command line", "file"])
def test_a_launch_with_accumulation_ends_with_one_line(place, tmp_path):
    data = write_images(tmp_path / "images.npz")
    (tmp_path / "mine.yaml").write_text(FILE)
    option = {
        "command line": ("--gradient_accumulation_steps", "8"),
        "file": ("--config_file", str(tmp_path / "mine.yaml")),
    }[place]
    words = ("-m", "accelerate.commands.launch", *option, "-m", "fastinfogan.train")
    process = launch(
        *words,
        *command(data, tmp_path / "run", "--steps", "2"),
        env={"ACCELERATE_USE_CPU": "true", "HF_HOME": str(tmp_path)},
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1  # the launcher's translation of 2
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "asks for 8 gradient accumulation steps, expected 1" in line
    assert not (tmp_path / "run").exists()
