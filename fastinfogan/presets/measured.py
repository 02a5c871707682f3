"""Measurements of the presets, from docs/quality.jsonl, which a wheel does not hold."""

from __future__ import annotations

from typing import NamedTuple

NOTE = """Minutes: the median of training on one thread of an AMD EPYC, next to other runs;
svhn and dsprites in fp32, the others in bf16.
Code accuracy: the least and the greatest of all seeds.
Only what was measured with the default options is shown."""


class Measured(NamedTuple):
    """Runs of a preset with its default number of updates."""

    seeds: int
    accuracy: tuple[float, float]  # of the code on test images, the least and the greatest
    minutes: float  # the median: updates · batch size / images per second


MEASURED = {
    "mnist": Measured(10, (0.986, 0.9882), 23.4),
    "mnist-paper": Measured(5, (0.7809, 0.9582), 34.1),
    "fashion-mnist": Measured(5, (0.6958, 0.7116), 13.2),
    "svhn": Measured(3, (0.8988, 0.9591), 65.0),
    "dsprites": Measured(3, (0.9998, 1.0), 74.0),
}
