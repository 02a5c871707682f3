"""`fastinfogan data check`: what it prints, draws and returns."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastinfogan import __main__, data_check
from fastinfogan.data.census import Census
from fastinfogan.presets import PRESETS


def pictures(root: Path, n: int = 40) -> Path:
    """Return two classes of gray pictures, all different, half of them wide."""
    rng = np.random.default_rng(0)
    for i in range(n):
        size = (16, 16) if i % 2 else (16, 32)
        path = root / ("a" if i < n // 2 else "b") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
    return root


def check(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, list[str], str]:
    code = __main__.main(["data", "check", *args])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_a_sound_folder_is_described_with_the_command_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "set")
    code, lines, err = check(capsys, f"folder:{root}", "--image-size", "28", "--fit", "pad")
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"folder:{root}: 40 images in 2 classes (a, b)")
    text = "\n".join(lines)
    for words in (
        "sizes: 16x16 to 32x16, median",
        "50% at most",
        "modes as stored: L 40",
        "transparency: 0 images",
        "values as stored, 8-bit: 0 to 255",
        "gray",
        "images of each class: a 20, b 20",
        "exact duplicates: 0",
        "damaged: 0 images",
        "28x28x1: read into memory at the start",
    ):
        assert words in text
    command = shlex.split(lines[-1].removeprefix("train with: "))
    own = ["own"] if "own" in PRESETS else []
    assert command[: 2 + len(own)] == ["fastinfogan", "train", *own]
    options = ["--data", "--image-size", "--channels", "--batch-size", "--fit"]
    assert command[2 + len(own) :: 2] == options
    # 36 images to train on are fewer than a batch of the preset
    assert command[3 + len(own) :: 2] == [f"folder:{root}", "28", "1", "32", "pad"]


def test_a_line_on_the_crop_comes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fit in ("crop", "pad"):
        root = pictures(tmp_path / fit)
        _, lines, _ = check(capsys, f"folder:{root}", "--image-size", "28", "--fit", fit)
        assert sum("50% at most" in line for line in lines) == 1


def test_a_set_with_one_coloured_image_is_coloured_whatever_follows():
    gray = np.full((4, 4, 3), 7, np.uint8)
    coloured = gray.copy()
    coloured[0, 0, 2] = 8
    census = Census()
    for i, (image, expected) in enumerate(((gray, False), (coloured, True), (gray, True))):
        census.add(image, partial("{}".format, i), bytes([i]))
        assert census.coloured is expected


def test_every_damaged_file_and_duplicate_is_named_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "set")
    for name in ("a/003.png", "b/030.png", "b/031.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    (root / "b" / "copy.png").write_bytes((root / "a" / "000.png").read_bytes())
    code, lines, err = check(capsys, f"folder:{root}")
    assert code == 2
    text = "\n".join(lines)
    assert "damaged: 3 images" in text
    for name in ("a/003.png", "b/030.png", "b/031.png"):
        assert f"  {root}/{name}: " in text
    assert f"exact duplicates: 1 ({root}/b/copy.png = {root}/a/000.png)" in text
    assert err.startswith("error: 3 of 41 images are damaged")
    assert lines[-1].endswith("--skip-bad 3")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_an_array_needs_no_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
    images[7] = images[3]
    if kind == "npz":
        np.savez(tmp_path / "x.npz", images=images, labels=np.arange(50) % 2)
    else:
        np.save(tmp_path / "x.npy", images)
    code, lines, _ = check(capsys, f"{kind}:{tmp_path / 'x'}.{kind}")
    assert code == 0
    text = "\n".join(lines)
    assert "exact duplicates: 1" in text
    assert ("images of each class: 0 25, 1 25" in text) is (kind == "npz")
    assert lines[-1].endswith("--image-size 12 --channels 3 --batch-size 32")


def test_the_contact_sheet_shows_evenly_spaced_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = np.arange(200).astype(np.uint8)  # sorted, as sets are: the first 100 tell half
    np.savez(tmp_path / "x.npz", images=np.tile(levels[:, None, None], (1, 28, 28)))
    sheet = tmp_path / "sheet.png"
    code, lines, _ = check(capsys, f"npz:{tmp_path / 'x.npz'}", "--out", str(sheet))
    assert code == 0
    assert f"contact sheet in {sheet}" in lines
    shown = np.unique(np.asarray(Image.open(sheet)))
    assert len(shown) > 90  # and the title
    assert set(range(180, 197, 9)) & set(shown.tolist())


def test_damaged_images_leave_the_sheet_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "set")
    (root / "a" / "000.png").write_bytes(b"")
    assert check(capsys, f"folder:{root}", "--out", str(tmp_path / "sheet.png"))[0] == 2
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("spec", ["folder:nowhere", "cifar", "npz:x.npz"])
def test_a_missing_set_ends_in_one_line(
    spec: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, lines, err = check(capsys, spec)
    assert (code, lines) == (2, [])
    assert err.startswith("error: --data ")
    assert err.count("\n") == 1


def test_the_module_is_the_command_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_check.main([f"folder:{pictures(tmp_path / 'set')}"]) == 0
    assert "train with" in capsys.readouterr().out
