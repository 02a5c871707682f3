"""The options of how images are read, from the command line to the run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import COMMON
from PIL import Image

from fastinfogan import train
from fastinfogan.data.options import DataOptions
from fastinfogan.errors import UserError
from fastinfogan.evaluation import measure


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "GENERATED", 500)
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


def test_a_run_reports_how_it_reads_and_follows_the_reading_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    (root / ".thumbnails").mkdir(parents=True)
    for i in range(220):  # ever brighter on nothing
        pixels = np.full((8, 8, 4), i, np.uint8)
        pixels[:, 4:, 3] = 0
        pixels[:, :4, 3] = 255
        Image.fromarray(pixels).save(root / f"{i:03}.png")
    (root / "000.png").write_bytes(b"")
    options = ["--background", "black", "--skip-bad", "1", "--steps", "2"]
    out = tmp_path / "run"
    args = ["--data", f"folder:{root}", "--out", str(out), *COMMON, *options]
    assert train.main(args) == 0
    output = capsys.readouterr().out
    assert (
        f"folder:{root}: 219 images, 198 to train on, 21 to test on; left out: 1 hidden" in output
    )
    assert f"passed over {root}/000.png" in output
    assert "transparency in 219 images: put on black" in output
    real = np.asarray(Image.open(out / "samples" / "real.png").convert("L"))
    assert (real == 0).mean() > 0.4  # the right halves
    shown = set(np.unique(real).tolist())
    assert max(shown - {255}) > 210  # evenly spaced: the first hundred end at 111
    assert 3 in shown or 4 in shown
    assert "background: black" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (DataOptions(background="sky"), "background"),
        (DataOptions(value_range="1"), "value-range"),
        (DataOptions(skip_bad=-1), "skip-bad"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_images_are_read(
    options: DataOptions, name: str
) -> None:
    with pytest.raises(UserError, match=f"--{name}: expected"):
        options.check(None)
