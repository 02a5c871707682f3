"""The information bound with σ, κ or a temperature fitted on one half of the generated latents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..latents import Angle, Bernoulli, Categorical, LatentSpec
from ..training.calibration import concentration, gaussian_nll, is_calibrated, von_mises_nll

MIN_VARIANCE = 1e-12
_MAX_LOG_SCALE = 12.0  # of logits, about their own deviation; e^12 = 160,000


def held_out_information(
    spec: LatentSpec,
    q: NDArray[np.float64],
    means: NDArray[np.float64],
    classes: NDArray[np.int64],
    targets: NDArray[np.float64],
    plain: dict[str, float],
) -> dict[str, float]:
    """Return the bound of each code in nats, H(c) − NLL on held-out latents.

    Args:
        spec: the codes.
        q: [N, q_dim], Q's output.
        means: [N, n_cont], Q's mean of each continuous dim (an angle: its direction).
        classes: [N, n_cat], the classes that were drawn.
        targets: [N, n_cont], the values that were drawn.
        plain: the bound of each code as the loss has it; kept for a code with a learned σ or κ.

    σ² of each dim is the mean squared error over the first half of the rows, κ of an angle its
    maximum-likelihood value there, and the temperature of a discrete code nearly so (Guo et al.
    2017, §4.2); the NLL is that of the second half.
    """
    half = len(q) // 2
    bounds = {}
    for name, (code, columns, target) in zip(spec.names, spec.slots, strict=True):
        bounds[name] = plain[name]
        if isinstance(code, Categorical | Bernoulli):
            logits = q[:, columns]
            if isinstance(code, Bernoulli):
                logits = np.concatenate((np.zeros_like(logits), logits), 1)
            bounds[name] = code.entropy() - _tempered_nll(logits, classes[:, target.start], half)
            continue
        if not is_calibrated(code):
            continue
        error = means[:, target] - targets[:, target]
        if isinstance(code, Angle):
            fitted, held_out = (float(np.cos(e).mean()) for e in (error[:half], error[half:]))
            nll = von_mises_nll(held_out, concentration(fitted))
        else:
            squares = error**2
            fit = np.maximum(squares[:half].mean(0), MIN_VARIANCE).tolist()
            nll = sum(map(gaussian_nll, squares[half:].mean(0).tolist(), fit))
        bounds[name] = code.entropy() - nll
    return bounds


def _tempered_nll(logits: NDArray[np.float64], classes: NDArray[np.int64], half: int) -> float:
    """Return the second half's NLL of classes [N] by logits [N, K] at the first half's temperature.

    The fit has one more row, wrong by the logits' deviation: without it a half that Q reads without
    an error would have the temperature 0, at which one error in the other half costs all.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = logits - logits.max(1, keepdims=True)
    deviation = float(logits.std()) or 1.0
    logits = logits / deviation

    def nll(scale: float, rows: slice) -> float:
        scaled = scale * logits[rows]
        right = np.take_along_axis(scaled, classes[rows, None], 1)[:, 0]
        return float((logsumexp(scaled, axis=1) - right).mean())

    fitted = minimize_scalar(
        lambda log_scale: nll(np.exp(log_scale), slice(half)) + np.exp(log_scale) / half,
        bounds=(-_MAX_LOG_SCALE, _MAX_LOG_SCALE),
        method="bounded",
    )
    return nll(float(np.exp(fitted.x)), slice(half, None))
