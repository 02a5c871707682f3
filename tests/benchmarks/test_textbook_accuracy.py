"""Code accuracy of the textbook loop: what is measured, and what a second call leaves alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import textbook_accuracy as measuring
from textbook import Textbook

from fastinfogan import data


@pytest.fixture(autouse=True)
def small_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def images(n: int) -> data.Images:
        pixels = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
        return data.Images(pixels, np.arange(n, dtype=np.uint8) % 10)

    sets = {"train": images(16), "test": images(20)}
    monkeypatch.setattr(data, "load", lambda *_, **__: sets)
    monkeypatch.setattr(measuring, "BATCH", 8)


def test_a_seed_has_a_line_with_its_accuracy_at_each_interval_and_is_measured_once(
    tmp_path: Path, one_thread: None
) -> None:
    out = tmp_path / "textbook.jsonl"
    measuring.main(measuring.Config(seeds=(3,), steps=3, every=2, out=out))
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (line["name"], line["seed"], line["updates"], line["threads"]) == ("textbook", 3, 3, 1)
    assert [step for step, _, _ in line["accuracies"]] == [2, 3]
    assert all(0 <= accuracy <= 1 for _, accuracy, _ in line["accuracies"])
    seconds = [seconds for _, _, seconds in line["accuracies"]]
    assert 0 < seconds[0] < seconds[1] == line["seconds"]
    measuring.main(measuring.Config(seeds=(3, 4), steps=3, every=2, out=out))
    assert [json.loads(line)["seed"] for line in out.read_text().splitlines()] == [3, 4]


def test_reading_the_code_changes_no_weight_and_no_buffer(one_thread: None) -> None:
    loop = Textbook(np.zeros((8, 28, 28), np.uint8), 8)
    before = {name: value.clone() for name, value in loop.discriminator.state_dict().items()}
    measuring.accuracy(loop, torch.rand(20, 1, 28, 28), np.arange(20) % 10)
    assert loop.discriminator.training
    for name, value in loop.discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name
