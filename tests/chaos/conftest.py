"""Shared by the campaigns: images, and a run that nothing happens to."""

from __future__ import annotations

import time

import pytest
from helpers.chaos import Undisturbed, start
from helpers.runs import write_images


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("chaos")
    data = write_images(folder / "images.npz")
    seconds = 0.0
    for _ in range(2):  # the first also waits for the imports of all later ones
        out = folder / f"whole-{seconds}"
        began = time.monotonic()
        run = start(data, out)
        assert run.wait() == 0, run.lines()
        seconds = time.monotonic() - began
    return Undisturbed(data, out, seconds)
