"""The quality of generated images: distances of their features from those of real images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1000  # rows of a matrix of distances at once


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Fréchet distance of the Gaussians fitted to features [N, F] and [M, F].

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), Heusel et al. 2017, eq. 6. The root's trace is the
    sum of the roots of the eigenvalues of Σ₁Σ₂, which are real and not negative.
    """
    from scipy.linalg import eigvals

    difference = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(eigvals(first @ second).real, 0, None))
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * roots.sum())


class Neighbours(NamedTuple):
    """Precision, recall, density and coverage of generated images: see `neighbour_scores`."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    real: NDArray[np.float64], fake: NDArray[np.float64], *, k: int = 3, k_density: int = 5
) -> Neighbours:
    """Return the four scores of features of real [N, F] and generated [M, F] images.

    The ball of a point reaches to its k-th nearest neighbour in its own set (itself left out; its
    surface belongs to it). precision: share of generated points in the ball of any real one;
    recall: share of real points in the ball of any generated one (Kynkäänniemi et al. 2019, eq. 1
    and 2, k = 3). density: mean number of real balls that a generated point lies in, over k;
    coverage: share of real balls that hold a generated point (Naeem et al. 2020, eq. 5 and 6,
    k = 5). Raises ValueError with fewer than k + 1 points.
    """
    most = max(k, k_density)
    if min(len(real), len(fake)) <= most:
        raise ValueError(
            f"expected more than {most} points per set, got {len(real)} real and {len(fake)} "
            "generated ones"
        )
    # Around 0, so that squared distances lose few digits to the squared norms.
    middle = real.mean(0)
    a, b = torch.from_numpy(real - middle), torch.from_numpy(fake - middle)
    real_radii, fake_radii = _radii(a, most), _radii(b, most)
    # A distance of 0 comes out as rounding; a point on a surface must not fall off it.
    slack = 1e-12 * float(a.square().sum(1).mean() + b.square().sum(1).mean())
    precise = torch.zeros(len(b), dtype=torch.bool)
    recalled, covered = (torch.zeros(len(a), dtype=torch.bool) for _ in range(2))
    inside = 0
    for rows in torch.arange(len(a)).split(CHUNK):
        distances = _squared_distances(a[rows], b)
        radii = real_radii[rows] + slack
        precise |= (distances <= radii[:, k - 1 : k]).any(0)
        in_ball = distances <= radii[:, k_density - 1 : k_density]
        inside += int(in_ball.sum())
        covered[rows] = in_ball.any(1)
        recalled[rows] = (distances <= fake_radii[:, k - 1] + slack).any(1)
    return Neighbours(
        float(precise.double().mean()),
        float(recalled.double().mean()),
        inside / (k_density * len(b)),
        float(covered.double().mean()),
    )


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |aᵢ − bⱼ|² [N, M] of points [N, F] and [M, F]."""
    norms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(norms, a, b.T, alpha=-2)


def _radii(points: Tensor, k: int) -> Tensor:
    """Return the squared distances [N, k] of each point's k nearest others, rising."""
    parts = []
    for rows in torch.arange(len(points)).split(CHUNK):
        distances = _squared_distances(points[rows], points)
        distances[torch.arange(len(rows)), rows] = torch.inf
        parts.append(distances.topk(k, largest=False).values)
    return torch.cat(parts)
