"""The information bound with σ (or κ of an angle) fitted on one half of the generated latents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..latents import Angle, LatentSpec
from ..training.calibration import concentration, gaussian_nll, is_calibrated, von_mises_nll

MIN_VARIANCE = 1e-12


def held_out_information(
    spec: LatentSpec,
    means: NDArray[np.float64],
    targets: NDArray[np.float64],
    plain: dict[str, float],
) -> dict[str, float]:
    """Return the bound of each code in nats, H(c) − NLL on held-out latents.

    Args:
        spec: the codes.
        means: [N, n_cont], Q's mean of each continuous dim (an angle: its direction).
        targets: [N, n_cont], the values that were drawn.
        plain: the bound of each code as the loss has it; kept for a code with a learned σ or κ and
            for a discrete one.

    σ² of each dim is the mean squared error over the first half of the rows, κ of an angle its
    maximum-likelihood value there; the NLL is that of the second half.
    """
    half = len(means) // 2
    bounds = {}
    for name, (code, _, target) in zip(spec.names, spec.slots, strict=True):
        bounds[name] = plain[name]
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
