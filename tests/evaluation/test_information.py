"""The bound with σ or κ fitted on one half of the latents and evaluated on the other."""

import numpy as np
import pytest

from fastinfogan.evaluation.information import held_out_information
from fastinfogan.latents import Angle, Bernoulli, Categorical, LatentSpec, Uniform

SPEC = LatentSpec(
    noise=0, codes=(Categorical(3), Uniform(dim=2), Angle(), Uniform(sigma="learned"))
)
PLAIN = dict.fromkeys(SPEC.names, 0.25)


def measured(means, targets) -> list[float]:
    q, classes = np.zeros((len(means), SPEC.q_dim)), np.zeros((len(means), 1), np.int64)
    return list(held_out_information(SPEC, q, means, classes, targets, PLAIN).values())


def of_classes(q, classes, *, code: Categorical | Bernoulli = Categorical(4)) -> float:  # noqa: B008
    spec = LatentSpec(noise=0, codes=(code,))
    none = np.zeros((len(q), 0))
    bounds = held_out_information(spec, q, none, classes[:, None], none, {spec.names[0]: -9.0})
    return bounds[spec.names[0]]


def read(n: int = 20_000, *, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [n, 4], 1 for one class, a wrong one in a share of rows; and classes."""
    draw = np.random.default_rng(0)
    classes = draw.integers(4, size=n)
    seen = np.where(draw.random(n) < wrong, (classes + draw.integers(1, 4, n)) % 4, classes)
    return np.eye(4)[seen], classes


def drawn(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    targets = draw.uniform(-1, 1, (n, 4)) * [1, 1, np.pi, 1]
    return targets + draw.normal(size=(n, 4)) * [0.1, 0.5, 0.1, 0.1], targets


def test_each_dim_has_a_sigma_of_its_own():
    categorical, uniform, angle, learned = measured(*drawn())
    assert (categorical, learned) == (pytest.approx(0, abs=1e-3), 0.25)
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


def test_small_logits_bear_what_large_ones_do():
    """Spectral normalisation may keep them small; a user reads the greatest all the same."""
    q, classes = read(wrong=0.1)
    errors = 0.1
    truth = np.log(4) + (1 - errors) * np.log(1 - errors) + errors * np.log(errors / 3)
    for scale in (0.01, 1.0, 300.0):
        # the standard error over 10,000 rows is 0.01
        assert of_classes(scale * q + 7, classes) == pytest.approx(truth, abs=0.04)


def test_a_temperature_that_does_not_hold_on_the_other_half_costs_little_information():
    """One error in the other half where the first has none: 1/10,000 of ten nats or so."""
    q, classes = read(wrong=0.0)
    assert of_classes(q, classes) == pytest.approx(np.log(4), abs=0.01)
    q[-1] = np.roll(q[-1], 1)
    assert of_classes(q, classes) == pytest.approx(np.log(4), abs=0.01)


def test_a_code_that_q_reads_backwards_bears_nothing():
    q, classes = read(wrong=0.0)
    assert of_classes(-q, classes) == pytest.approx(0, abs=0.01)


def test_a_bernoulli_code_has_a_temperature_too():
    draw = np.random.default_rng(0)
    classes = draw.integers(2, size=20_000)
    q = 0.02 * (2 * classes[:, None] - 1.0) * np.where(draw.random((20_000, 1)) < 0.2, -1, 1)
    truth = np.log(2) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    assert of_classes(q, classes, code=Bernoulli()) == pytest.approx(truth, abs=0.03)


def test_equal_logits_bear_nothing():
    assert of_classes(np.ones((10, 4)), np.arange(10) % 4) == pytest.approx(0, abs=1e-6)
