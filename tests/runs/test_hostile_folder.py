"""A run's folder in which somebody else has put pipes, devices, links and huge files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.runs import records

import fastinfogan
from fastinfogan import sample, save, track
from fastinfogan.errors import UserError
from fastinfogan.evaluation.features import load_features
from fastinfogan.training import metrics

SECONDS = 60  # in which no command here may still be waiting


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def hole(path: Path) -> None:
    """Make a file larger than the memory, which takes no space on the disk."""
    with path.open("wb") as file:
        file.truncate(2**36)


FILES = (
    "config.yaml",
    "metrics.jsonl",
    "eval.json",
    "environment.json",
    "tracking.json",
    "manifest.json",
    "model.safetensors",
    "training.safetensors",
)
KINDS = (pipe, device, hole)
REFUSED = {*(("config.yaml", kind) for kind in KINDS), ("metrics.jsonl", hole)}


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a copy of a run that may be spoiled; a command that waits is interrupted."""

    def late(*_: object) -> None:
        raise AssertionError(f"it waited for {SECONDS} seconds")

    copy = tmp_path / "run"
    shutil.copytree(small_run, copy)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield copy
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def spoil(run: Path, name: str, kind: Callable[[Path], None]) -> bool:
    """Put something else in place of a file. Returns whether it is one of a checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    of_checkpoint = (newest / name).is_file()
    path = (newest if of_checkpoint else run) / name
    path.unlink(missing_ok=True)
    kind(path)
    return of_checkpoint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_thing_in_place_of_a_file_of_a_run_is_refused_or_passed_over_at_once(
    run, name, kind, capsys, monkeypatch
):
    spoil(run, name, kind)
    monkeypatch.chdir(run.parent)
    with contextlib.suppress(UserError):
        fastinfogan.load(run)
    for command, args in (
        (sample.main, ["--rows", "1", "--ordered"]),
        (track.main, ["--with", "tensorboard"]),
    ):
        code = command([str(run), *args])
        errors = capsys.readouterr().err
        assert code in (0, 2), (code, errors)
        assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_run_goes_on_or_ends_in_one_line(run, small_run, name, kind):
    of_checkpoint = spoil(run, name, kind)
    try:
        fastinfogan.fit(
            "mnist",
            data=f"npz:{small_run.parent / 'images.npz'}",
            out=run,
            steps=4,
            image_size=8,
            batch_size=16,
            codes="cat3,bernoulli,uniform,gaussian2:learned",
            noise=4,
            threads=1,
            sample_every=0,
        )
    except UserError as error:
        line = str(error)
    else:
        line = ""
        assert records(run)[-1]["step"] == 4
    assert "\n" not in line
    # the only checkpoint, or a file that says what the run is
    assert bool(line) == (of_checkpoint or (name, kind) in REFUSED), line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_thing_in_place_of_a_saved_file_is_refused_at_once(run, tmp_path, name, kind):
    saved = tmp_path / "saved"
    assert save.main([str(run), str(saved)]) == 0
    fastinfogan.load(saved)
    (saved / name).unlink()
    kind(saved / name)
    with pytest.raises(UserError) as caught:
        fastinfogan.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [pipe, device])
@pytest.mark.parametrize("name", ["features.pt", "features.pt2"])
def test_a_thing_in_place_of_a_network_of_features_is_refused_at_once(tmp_path, name, kind):
    kind(tmp_path / name)
    with pytest.raises(UserError, match=r"^--features: cannot read .*: not a regular file$"):
        load_features(tmp_path / name, torch.device("cpu"))


def test_records_are_not_written_through_a_planted_link(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "metrics.jsonl"
    victim.write_text("mine")
    metrics.append(path, {"step": 1})
    metrics.append(path, {"step": 2})
    assert [r["step"] for r in metrics.read(path)] == [1, 2]
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
        metrics.append(path, {"step": 3})
    assert victim.read_text() == "mine"


def test_a_line_without_an_end_costs_the_other_records_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"step": 1})
    with path.open("ab") as file:
        file.write(b"[" * (3 * metrics.MAX_LINE + 5) + b"\n")
    metrics.append(path, {"step": 2})
    assert [r["step"] for r in metrics.read(path)] == [1, 2]
