"""The information bound of a continuous code at the best fixed σ, or κ of an angle.

H(c) + E[log Q(c | x)] bounds the mutual information from below for any σ. The loss keeps σ at 1,
where a perfectly recovered U(−1, 1) shows −0.226 nats. At the σ that maximises it, σ² = MSE, the
bound is H(c) − ½ log(2πe·MSE) per dim. The entropy of a continuous code is differential, so its
bound may exceed H(c).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..latents import Angle, Code, Continuous, LatentSpec
from ..latents.codes import LOG_2PI, Real

CONVENTION = "best fixed σ"  # the name in the output
TEMPERATURE = "best temperature"  # of a discrete code's logits; evaluation alone fits it
MIN_MSE = 1e-6  # fp32 sums of an NLL near 0.92 nats do not resolve less
_MAX_KAPPA = 1e6
_BISECTIONS = 80


def is_calibrated(code: Code) -> bool:
    """Return True where the bound of `code` depends on a σ or κ that the loss keeps fixed."""
    if isinstance(code, Angle):
        return code.concentration == "fixed"
    return isinstance(code, Real) and code.sigma == "fixed"


def convention(code: Code) -> str:
    """Return the name of the convention by which evaluation calibrates the bound of `code`."""
    letter = "κ" if isinstance(code, Angle) else "σ"
    if is_calibrated(code):
        return f"best fixed {letter}"
    return f"learned {letter}" if isinstance(code, Continuous) else TEMPERATURE


def calibrated_information(nll: Sequence[float], spec: LatentSpec) -> list[float]:
    """Return the bound of each code in nats, [n_codes], from its NLL at σ = 1 (of an angle, κ = 1).

    The NLL at σ = 1 is ½ log 2π + ½ MSE per dim, so it gives the MSE exactly. One σ serves all
    dims of a code. A code with a learned σ, or a discrete one, keeps its plain bound H(c) − NLL.
    """
    bounds = []
    for code, value in zip(spec.codes, nll, strict=True):
        best = value
        if is_calibrated(code):
            if isinstance(code, Angle):
                best = von_mises_nll(log_i0(1.0) + LOG_2PI - value)
            else:
                mse = max(2 * value / code.dim - LOG_2PI, MIN_MSE)
                best = code.dim * gaussian_nll(mse)
        bounds.append(code.entropy() - best)
    return bounds


def gaussian_nll(mse: float, variance: float | None = None) -> float:
    """Return the NLL in nats of errors of mean square `mse` at σ² = `variance` (default: `mse`)."""
    variance = mse if variance is None else variance
    return 0.5 * (LOG_2PI + math.log(variance) + mse / variance)


def von_mises_nll(cosine: float, kappa: float | None = None) -> float:
    """Return the NLL in nats of angular errors of mean cosine `cosine` at κ (default: the best)."""
    kappa = concentration(cosine) if kappa is None else kappa
    return LOG_2PI + log_i0(kappa) - kappa * cosine


def concentration(cosine: float) -> float:
    """Return the κ that maximises the likelihood: I₁(κ) / I₀(κ) = `cosine`; 0 where that is < 0."""
    low, high = 0.0, _MAX_KAPPA
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        k = torch.tensor(middle, dtype=torch.float64)
        if float(torch.special.i1e(k) / torch.special.i0e(k)) < cosine:
            low = middle
        else:
            high = middle
    return low


def log_i0(kappa: float) -> float:
    """Return log I₀(κ), I₀ the modified Bessel function."""
    k = torch.tensor(kappa, dtype=torch.float64)
    return kappa + math.log(float(torch.special.i0e(k)))
