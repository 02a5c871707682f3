"""The evaluate command: what it prints, what it writes, and its errors."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastinfogan import evaluate
from fastinfogan.config import TrainConfig
from fastinfogan.evaluation import measure
from fastinfogan.networks import MnistDiscriminator, MnistGenerator
from fastinfogan.runs.folder import Loaded


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of untrained networks on 8×8 images with two factors."""
    draw = np.random.default_rng(0)
    azimuth = draw.uniform(0, 360, 1500)
    images = np.zeros((1500, 8, 8), np.uint8)
    images[:, 0] = (azimuth / 2)[:, None]
    np.savez(
        tmp_path / "x.npz",
        images=images,
        labels=np.arange(1500) % 3,
        factors=np.stack((azimuth, images.mean((1, 2))), 1).astype(np.float32),
        factor_names=np.array(["azimuth:360", "brightness"]),
    )
    spec = TrainConfig().spec()
    networks = MnistGenerator(spec.input_dim, 8, 1), MnistDiscriminator(spec.q_dim, 8, 1)
    loaded = Loaded(networks[0].eval(), networks[1].eval(), spec)
    config = TrainConfig().with_options(data=f"npz:{tmp_path / 'x.npz'}", image_size=8)
    monkeypatch.setattr(
        evaluate, "load_all", lambda path: (loaded, config, SimpleNamespace(step=7))
    )
    monkeypatch.setattr(measure, "GENERATED", 300)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_evaluate_prints_what_it_writes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(run)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((run / "eval.json").read_text())
    assert printed["step"] == 7
    assert (run / "samples" / "contingency.png").is_file()


@pytest.mark.parametrize("seed", [2**32 + 1, 2**64 - 1])
def test_every_seed_gives_an_evaluation(run: Path, seed: int) -> None:
    assert evaluate.main([str(run), "--seed", str(seed)]) == 0
    assert json.loads((run / "eval.json").read_text())["step"] == 7


def test_a_folder_that_cannot_be_written_costs_one_warning_and_not_the_result(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.rmdir()
    run.write_text("no folder")
    assert evaluate.main([str(run)]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["code_accuracy"] > 0
    assert streams.err.startswith(f"evaluating {run} after update 7 …\n")
    assert streams.err.count("\nwarning: cannot write ") == 1
    assert streams.err.count("\n") == 2


def test_known_factors_of_a_set_are_compared_with_every_code(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run)]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["factors"].keys() == {"azimuth", "brightness"}
    assert result["factors"]["azimuth"]["period"] == 360
    assert result["factors"]["azimuth"]["images"] == result["images"]["factors"] == 150
    assert result["rotation_fit"] == result["factors"]["azimuth"]["fit"]
    assert 0 <= result["rotation_fit"] <= 1
    assert "|correlation| with the best code: azimuth " in measure.summary(result)[-1]


class Means(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)).unsqueeze(1) * torch.tensor([1.0, 2.0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_features_of_the_users_are_named_in_the_result(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    assert evaluate.main([str(run), "--features", str(tmp_path / "means.pt")]) == 0
    assert json.loads(capsys.readouterr().out)["neighbour_features"].startswith("means.pt (sha256 ")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["--features", "missing.pt"], "--features: cannot read missing.pt"),
        (["--data", "npz:missing.npz"], "missing.npz"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert evaluate.main([str(run), *options]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert reason in line
    assert line.count("\n") == 1
