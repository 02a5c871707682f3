"""The bound at the best fixed σ or κ: against closed forms and a search."""

import math

import pytest
import torch
from scipy.special import i0, i1

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import info_loss
from fastinfogan.training.calibration import (
    calibrated_information,
    concentration,
    convention,
    von_mises_nll,
)


def bound(spec: LatentSpec, *nll: float) -> list[float]:
    return calibrated_information(list(nll), spec)


def test_a_uniform_code_has_the_closed_form_of_its_mse():
    spec = LatentSpec(noise=0, codes=(Uniform(-1, 1),))
    for mse in (1 / 3, 0.04, 1e-3):
        nll = 0.5 * math.log(2 * math.pi) + mse / 2
        expected = math.log(2) - 0.5 * math.log(2 * math.pi * math.e * mse)
        assert bound(spec, nll) == [pytest.approx(expected, abs=1e-9)]


def test_the_calibrated_bound_is_that_of_the_best_fixed_sigma():
    spec = LatentSpec(noise=0, codes=(Gaussian(std=2.0, dim=3),))
    draw = torch.Generator().manual_seed(0)
    target = 2 * torch.randn(500, 3, generator=draw)
    q = target + 0.3 * torch.randn(500, 3, generator=draw)
    none = torch.zeros(500, 0, dtype=torch.int64)

    def nll(sigma: float) -> float:
        return float(info_loss(q.double(), spec, none, target.double(), sigma=sigma).per_code[0])

    best = min(nll(0.2 + 0.002 * i) for i in range(100))
    (calibrated,) = bound(spec, nll(1.0))
    assert calibrated == pytest.approx(spec.entropy()[0] - best, abs=1e-4)
    assert calibrated > spec.entropy()[0] - nll(1.0)


def test_learned_sigmas_and_discrete_codes_keep_their_plain_bound():
    codes = (Categorical(10), Bernoulli(), Uniform(sigma="learned"), Angle(concentration="learned"))
    spec = LatentSpec(noise=0, codes=codes)
    plain = [h - 0.1 for h in spec.entropy()]
    assert bound(spec, *(0.1,) * 4) == pytest.approx(plain)
    assert [convention(c) for c in codes] == [
        "best temperature",
        "best temperature",
        "learned σ",
        "learned κ",
    ]
    assert [convention(c) for c in (Uniform(), Angle())] == ["best fixed σ", "best fixed κ"]


def test_a_perfect_recovery_stays_finite():
    spec = LatentSpec(noise=0, codes=(Uniform(), Angle()))
    perfect = bound(spec, 0.5 * math.log(2 * math.pi), math.log(2 * math.pi * i0(1.0)) - 1.0)
    assert all(5 < nats < 10 for nats in perfect)


@pytest.mark.parametrize("kappa", [0.0, 0.01, 1.0, 20.0, 400.0])
def test_the_best_kappa_is_the_one_that_drew_the_angles(kappa):
    assert concentration(i1(kappa) / i0(kappa)) == pytest.approx(kappa, rel=1e-6, abs=1e-6)


def test_an_angle_has_the_best_kappas_likelihood():
    spec = LatentSpec(noise=0, codes=(Angle(),))
    cosine = 0.8
    nll = math.log(2 * math.pi * i0(1.0)) - cosine
    best = min(von_mises_nll(cosine, 0.01 * k) for k in range(1, 1000))
    assert bound(spec, nll) == [pytest.approx(math.log(2 * math.pi) - best, abs=1e-4)]
    # Errors that are worse than chance leave the prior.
    assert bound(spec, math.log(2 * math.pi * i0(1.0)) + 0.5) == [pytest.approx(0, abs=1e-9)]
