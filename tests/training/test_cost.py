"""The arithmetic of an update, in the line that a run begins with."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastinfogan.presets import PRESETS
from fastinfogan.training.cost import cost_line, flop_per_image
from fastinfogan.training.step import build


@pytest.mark.parametrize("q_trunk", ["shared", "own", "fixed"])
@pytest.mark.parametrize("name", ["mnist", "own", "faces", "dsprites"])
def test_the_flop_are_those_that_torch_counts(name, q_trunk):
    config = PRESETS[name].with_options(q_trunk=q_trunk)
    generator, discriminator = (network.eval() for network in build(config, config.spec()))
    with torch.no_grad():
        with FlopCounterMode(display=False) as of_g:
            images = generator(torch.zeros(1, config.spec().input_dim))
        with FlopCounterMode(display=False) as of_d:
            discriminator(images)
        with FlopCounterMode(display=False) as of_q:
            discriminator.q(discriminator.q_trunk(images))  # type: ignore[operator]
        with FlopCounterMode(display=False) as of_trunk:
            discriminator.q_trunk(images)  # type: ignore[operator]
    counted = [mode.get_total_flops() for mode in (of_g, of_d, of_q)]
    fixed = of_trunk.get_total_flops() if q_trunk == "fixed" else 0
    assert flop_per_image(config) == (*counted, fixed)


def test_an_update_is_some_passes_of_each_network_for_every_image():
    config = PRESETS["mnist-paper"]
    g, d, *_ = _flop(config)
    for step, passes in (("alternating", 4 * g + 8 * d), ("shared", 3 * g + 7 * d)):
        line = cost_line(config.with_options(step=step), ranks=2)
        assert f"{passes / 1e9:.3g} per image" in line
        assert f"about {passes * 256 / 1e9:.3g} GFLOP" in line


@pytest.mark.parametrize("q_trunk", ["shared", "own"])
def test_an_update_before_the_game_is_three_passes_of_q_on_its_trunk(q_trunk):
    config = PRESETS["mnist-paper"].with_options(gan_start=5, q_trunk=q_trunk)
    q = _flop(config).q
    assert f" ({3 * q * 256 / 1e9:.3g} GFLOP before --gan-start), " in cost_line(config, ranks=2)


def test_the_game_passes_a_fixed_trunk_four_times_less():
    own, fixed = (
        PRESETS["faces"].with_options(gan_start=5, q_trunk=trunk) for trunk in ("own", "fixed")
    )
    trunk = _flop(fixed).fixed
    saved = _gflop_per_image(own) - _gflop_per_image(fixed)
    assert saved == pytest.approx(4 * trunk / 1e9, abs=0.01)


def _flop(config):
    flop = flop_per_image(config)
    assert flop is not None
    return flop


def _gflop_per_image(config):
    match = re.search(r"([\d.]+) per image", cost_line(config))
    assert match is not None
    return float(match[1])


def test_twice_the_side_is_about_four_times_the_arithmetic():
    own = PRESETS["own"]
    small, large = (
        sum(flop_per_image(own.with_options(image_size=side)) or ()) for side in (128, 256)
    )
    assert 3.9 < large / small < 4.1


def test_a_users_networks_are_not_counted():
    assert cost_line(PRESETS["mnist-paper"].with_options(networks="mine:pair")) == ""
