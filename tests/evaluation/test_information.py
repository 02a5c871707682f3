"""The bound with σ or κ fitted on one half of the latents and evaluated on the other."""

import numpy as np
import pytest

from fastinfogan.evaluation.information import held_out_information
from fastinfogan.latents import Angle, Categorical, LatentSpec, Uniform

SPEC = LatentSpec(
    noise=0, codes=(Categorical(3), Uniform(dim=2), Angle(), Uniform(sigma="learned"))
)
PLAIN = dict.fromkeys(SPEC.names, 0.25)


def measured(means, targets) -> list[float]:
    return list(held_out_information(SPEC, means, targets, PLAIN).values())


def drawn(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    targets = draw.uniform(-1, 1, (n, 4)) * [1, 1, np.pi, 1]
    return targets + draw.normal(size=(n, 4)) * [0.1, 0.5, 0.1, 0.1], targets


def test_each_dim_has_a_sigma_of_its_own():
    categorical, uniform, angle, learned = measured(*drawn())
    assert (categorical, learned) == (0.25, 0.25)
    # H(c) − ½ log(2πe σ²) per dim; the standard error over 10,000 rows is 0.007 per dim
    expected = sum(np.log(2) - 0.5 * np.log(2 * np.pi * np.e * s**2) for s in (0.1, 0.5))
    assert uniform == pytest.approx(expected, abs=0.05)
    # A von Mises law so narrow is close to a Gaussian one.
    assert angle == pytest.approx(
        np.log(2 * np.pi) - 0.5 * np.log(2 * np.pi * np.e * 0.01), abs=0.05
    )


def test_angles_that_differ_by_whole_turns_are_the_same():
    means, targets = drawn()
    turned = means + np.array([0, 0, 2 * np.pi, 0])
    assert measured(turned, targets) == pytest.approx(measured(means, targets))


def test_a_sigma_that_does_not_hold_on_the_other_half_costs_information():
    means, targets = drawn()
    half = len(means) // 2
    worse = means.copy()
    worse[half:, 0] = targets[half:, 0] + 10 * (means[half:, 0] - targets[half:, 0])
    assert measured(worse, targets)[1] < measured(means, targets)[1] - 40  # 99 / 2 nats


def test_a_perfect_recovery_stays_finite():
    _, targets = drawn(100)
    assert np.isfinite(measured(targets, targets)).all()
