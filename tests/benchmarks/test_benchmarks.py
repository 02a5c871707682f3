"""The references of the step's benchmark: the model's FLOP, and its products alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastinfogan.presets import PRESETS
from fastinfogan.training.step import Step

BATCH = 4


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def step_of(cpu_ranks, **changes):
    """Return a config and a call of its step, in fp32: then all products are PyTorch's own."""
    config = PRESETS["mnist-paper"].with_options(batch_size=BATCH, **changes)
    step = Step(config, config.spec(), cpu_ranks())
    real = torch.rand(BATCH, config.data.channels, config.data.image_size, config.data.image_size)
    return config, lambda: step(0, real)


@pytest.mark.parametrize("routing", ["openai", "head", "generator-step"])
def test_the_models_flop_are_those_that_torch_counts_in_the_alternating_step(cpu_ranks, routing):
    from attainable import model_flop

    config, update = step_of(cpu_ranks, routing=routing)
    with FlopCounterMode(display=False) as counter:
        update()
    assert model_flop(config) * BATCH == counter.get_total_flops()


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("routing", ["openai", "head", "generator-step"])
@pytest.mark.parametrize("mode", ["alternating", "reused", "shared"])
def test_the_models_flop_are_those_of_the_products_recorded(cpu_ranks, mode, routing):
    from attainable import model_flop, products_of

    config, update = step_of(cpu_ranks, step=mode, routing=routing)
    _, recorded = products_of(update)
    # the shared step asks D's last layer for its logits of the generated images twice
    twice = 2 * 1024 if mode == "shared" else 0
    assert (model_flop(config) + twice) * BATCH == recorded


def test_larger_images_in_colour_are_counted(cpu_ranks):
    from attainable import model_flop

    config, update = step_of(cpu_ranks, image_size=32, channels=3)
    with FlopCounterMode(display=False) as counter:
        update()
    assert model_flop(config) * BATCH == counter.get_total_flops()


def test_the_products_replayed_are_those_that_were_recorded(cpu_ranks):
    from attainable import products_of

    _, update = step_of(cpu_ranks)
    replay, recorded = products_of(update)
    _, again = products_of(replay)
    assert again == recorded > 0


def test_a_steps_figures_are_over_its_rounds():
    from speed_table import StepTiming

    timing = StepTiming(  # made up
        "case", "way", 128, [0.5, 0.25, 1.0], textbook=2.0, products=0.25, flop=10**6, peak=1e9
    )
    assert timing.figures() == {
        "n": 3,
        "ms per update": 500.0,
        "images/s": 256.0,
        "images/s, lowest": 128.0,
        "images/s, highest": 512.0,
        "× textbook": 4.0,
        "utilisation": 0.256,
        "share of attainable": 0.5,
    }
