"""Helpers for tests of image sets: folders of their own, loading, and being refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastinfogan import data
from fastinfogan.data import streaming as stream
from fastinfogan.errors import UserError


def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, hide Debian's, and give the path of an empty cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fastinfogan.data.known._DEBIAN", tmp_path / "debian")
    return tmp_path / "cache" / "fastinfogan"


def load(
    spec: str, size: int = 8, channels: int = 3, mode: stream.Mode = "never"
) -> dict[data.Split, data.Images]:
    return data.load(spec, image_size=size, channels=channels, stream=mode)


def refused(spec: str, size: int = 8, channels: int = 3, mode: stream.Mode = "never") -> str:
    """Return the one line with which `load` refuses."""
    with pytest.raises(UserError) as caught:
        load(spec, size, channels, mode)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def noise(n: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), np.uint8)


def labels_of(split: data.Images) -> list[int]:
    assert split.labels is not None
    return list(split.labels)


def assert_names(error: UserError, what: str) -> None:
    """Check that the error is one line with `what` in it."""
    assert what in str(error)
    assert "\n" not in str(error)


def pixels(split: data.Images) -> np.ndarray:
    """Return all images of a split, [N, H, W, C]."""
    return split.images[:]
