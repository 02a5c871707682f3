"""Trackers show what metrics.jsonl holds, go on after a resume, and never end a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from helpers.runs import command, write_images
from PIL import Image

from fastinfogan import track, train
from fastinfogan.errors import UserError
from fastinfogan.training import tracking
from fastinfogan.training.tracking import Tracking, flatten, parse_trackers


def record(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "images_per_second": None,
        "d_loss": loss,
        "nll": {"digit": 2.0},
        "partial": True,
    }


def events(folder: Path) -> Any:
    """Return TensorBoard's own reader over a folder of event files."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_record_becomes_scalars_without_none_or_flags():
    assert flatten(record(3, 1.5)) == {"d_loss": 1.5, "nll/digit": 2.0}


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"expected some of tensorboard, wandb, .*, got 'comet'"):
        parse_trackers("tensorboard,comet")


def test_a_missing_package_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fastinfogan\[wandb\]'"):
        parse_trackers("wandb")


def test_a_file_that_is_no_picture_costs_a_line_and_starts_no_program(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    samples = run / "samples"
    shutil.rmtree(samples)
    samples.mkdir()
    Image.new("L", (4, 4)).save(samples / "step-00000001-c1.png")
    (samples / "step-00000002-c1.png").write_text("no picture")
    (samples / "step-00000003-c1.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    os.mkfifo(samples / "step-00000004-c1.png")
    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert track.main([str(run), "--with", "tensorboard"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("passed over") == printed.err.count("\n") == 3
    assert "pictures: 1;" in printed.out
    assert not started.exists()


def test_tensorboard_reads_back_scalars_pictures_and_options(tmp_path: Path):
    pytest.importorskip("tensorboard")
    run = Tracking(
        ["tensorboard"], tmp_path, config={"steps": 20, "data": {"size": 8}, "out": None}
    )
    for step in (10, 20):
        run.log(record(step, step / 10))
    run.log_pictures(20, {"samples/digit": Image.new("RGB", (6, 4), "red")})
    run.close()
    seen = events(tmp_path / "tensorboard")
    assert sorted(seen.Tags()["scalars"]) == ["d_loss", "nll/digit"]
    assert [(e.step, e.value) for e in seen.Scalars("d_loss")] == [(10, 1.0), (20, 2.0)]
    (picture,) = seen.Images("samples/digit")
    assert (picture.step, picture.width, picture.height) == (20, 6, 4)
    (text,) = seen.Tensors("config/text_summary")
    assert b"steps: 20" in text.tensor_proto.string_val[0]
    assert b"data.size: 8" in text.tensor_proto.string_val[0]
    assert b"out" not in text.tensor_proto.string_val[0]


def test_a_resumed_run_continues_the_curve_from_its_checkpoint(tmp_path: Path):
    pytest.importorskip("tensorboard")
    first = Tracking(["tensorboard"], tmp_path)
    for step in (10, 20, 30):  # the checkpoint is of update 20
        first.log(record(step, 1.0))
    first.close()
    second = Tracking(["tensorboard"], tmp_path, start=20)
    for step in (30, 40):
        second.log(record(step, 2.0))
    second.close()
    curve = [(e.step, e.value) for e in events(tmp_path / "tensorboard").Scalars("d_loss")]
    assert curve == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_a_tracker_that_fails_is_switched_off_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("tensorboard")
    lines: list[str] = []
    run = Tracking(["tensorboard"], tmp_path, warn=lines.append)
    assert run.names == ["tensorboard"]

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", fail)
    run.log(record(10, 1.0))
    run.log(record(20, 1.0))
    run.close()
    assert lines == ["--track tensorboard: switched off after an error: no route to host"]


def test_wandb_keeps_its_run_in_the_folder_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines: list[str] = []
    for start in (0, 10):
        run = Tracking(["wandb"], tmp_path, config={"steps": 20}, start=start, warn=lines.append)
        run.log(record(start + 10, 1.0))
        run.log_pictures(start + 10, {"samples/digit": Image.new("RGB", (6, 4))})
        run.close()
    wandb.teardown()  # its service is a process, which other tests would count
    assert lines == []
    known = json.loads((tmp_path / tracking.STATE).read_text())["wandb"]
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) >= 1
    assert all(folder.name.endswith(f"-{known}") for folder in folders)


def test_the_command_sends_a_finished_run(small_run: Path, tmp_path: Path, capsys):
    pytest.importorskip("tensorboard")
    copy = tmp_path / "run"
    shutil.copytree(small_run, copy)
    for _ in range(2):  # a second time replaces the first
        assert track.main([str(copy), "--with", "tensorboard"]) == 0
    assert "sent records: 1, pictures: " in capsys.readouterr().out
    seen = events(copy / "tensorboard")
    (loss,) = seen.Scalars("d_loss")
    written = json.loads((copy / "metrics.jsonl").read_text())
    assert loss.step == 2
    assert loss.value == pytest.approx(written["d_loss"])
    assert any(tag.startswith("samples/c1_categorical") for tag in seen.Tags()["images"])


def test_the_command_refuses_a_folder_without_a_run(tmp_path: Path, capsys):
    assert track.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_run_with_track_sends_its_records_and_continues_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    images = write_images(tmp_path / "images.npz")
    more = ("--log-every", "1", "--track", "tensorboard")
    for steps in ("2", "3"):
        AcceleratorState._reset_state(reset_partial_state=True)
        assert train.main(command(images, tmp_path / "run", *more, "--steps", steps)) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    seen = events(tmp_path / "run" / "tensorboard")
    written = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [e.step for e in seen.Scalars("d_loss")] == [r["step"] for r in written] == [1, 2, 3]
    values = [e.value for e in seen.Scalars("d_loss")]
    assert values == pytest.approx([r["d_loss"] for r in written])


def train_and_resume(folder: Path, tracker: str) -> list[dict[str, Any]]:
    """Train 2 updates, resume to 3, in processes of their own; return metrics.jsonl's records."""
    images = write_images(folder / "images.npz")
    for steps in ("2", "3"):
        options = ("--log-every", "1", "--track", tracker, "--steps", steps)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "fastinfogan",
                "train",
                *command(images, folder / "run", *options),
            ],
            cwd=folder,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "switched off" not in done.stdout + done.stderr
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_trackio_keeps_one_curve_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    written = train_and_resume(tmp_path, "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY id"
        ).fetchall()
    assert {name for name, _, _ in rows} == {"run"}
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    curve = [(step, metrics["d_loss"]) for step, metrics in logged if "d_loss" in metrics]
    assert curve == [(r["step"], pytest.approx(r["d_loss"])) for r in written]
    assert [step for step, _ in curve] == [1, 2, 3]
    assert any(key.startswith("samples/") for _, metrics in logged for key in metrics)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_keeps_one_curve_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    written = train_and_resume(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("fastinfogan")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "16"
    curve = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "d_loss")]
    assert curve == [(r["step"], pytest.approx(r["d_loss"])) for r in written]
    assert [step for step, _ in curve] == [1, 2, 3]
    assert client.list_artifacts(run.info.run_id)


def test_an_unknown_tracker_ends_a_run_before_it_starts(tmp_path: Path, capsys):
    out = tmp_path / "run"
    assert train.main(["mnist", "--track", "comet", "--out", str(out)]) == 2
    assert "--track: expected some of" in capsys.readouterr().err
    assert not out.exists()
