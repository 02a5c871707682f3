"""Factors of a written digit that can be measured on its image: slant and stroke width.

No label and no network is used, so what a continuous code has learned can be held against them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..latents import Continuous, LatentSpec
from .bound import bound_codes

Images = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
MIN_ROWS = 30  # of a category: below it a rank correlation's standard error passes 0.18


def slant(images: Images) -> NDArray[np.float64]:
    """Return the horizontal shear of the ink in images [N, H, W], light on dark: −μ₁₁ / μ₀₂.

    μ are the central second moments, x to the right and y down; μ₀₂ is the vertical one. It is
    what deskewing undoes: shearing an image's upper rows to the right by s pixels per row adds s.
    0 is upright, positive leans right as "/" does; 1 is 45°. NaN where there is no ink, or all of
    it lies in one row.
    """
    ink = np.asarray(images, np.float64)
    y, x = np.arange(ink.shape[1]), np.arange(ink.shape[2])
    columns, rows = ink.sum(1), ink.sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = rows.sum(1)
        mean_y, mean_x = rows @ y / total, columns @ x / total
        mu02 = rows @ (y * y) / total - mean_y**2
        mu11 = (ink @ x) @ y / total - mean_x * mean_y
        return np.where(mu02 > 1e-9, -mu11 / mu02, np.nan)


def stroke_width(images: Images) -> NDArray[np.float64]:
    """Return the mean width of strokes, in pixels, in images [N, H, W]: 2 area / perimeter.

    For a stroke of width w and length L this is w·L / (w + L), which is w where the stroke is long.
    On a gray image the area is the sum and the perimeter the total variation (the co-area formula).
    It is measured by Roberts' diagonal differences, whose sum depends least on the edge's
    direction. So no threshold is needed, and an image's contrast plays no part. On MNIST's test
    images the rank correlation with Morpho-MNIST's thickness (Castro et al. 2019: twice the mean
    distance to the background along the skeleton, at four times the size) is 0.97. NaN where there
    is no ink.
    """
    ink = np.pad(np.asarray(images, np.float32), ((0, 0), (1, 1), (1, 1)))
    down = ink[:, 1:, 1:] - ink[:, :-1, :-1]
    up = ink[:, 1:, :-1] - ink[:, :-1, 1:]
    perimeter = np.hypot(down, up).sum((1, 2), dtype=np.float64) / np.sqrt(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * ink.sum((1, 2), dtype=np.float64) / perimeter


class Correlation(NamedTuple):
    """Spearman's ρ of each code dim with one factor, [D] each; NaN where it has none."""

    within: NDArray[np.float64]  # mean over the categories of ρ within each
    pooled: NDArray[np.float64]  # over all rows at once


def correlate(
    codes: NDArray[np.floating[Any]],
    factor: NDArray[np.floating[Any]],
    categories: NDArray[np.int64] | None = None,
) -> Correlation:
    """Return the rank correlation of code dims [N, D] with a factor [N], given categories [N].

    A 1 is thin and a 0 upright whatever the code says. So the first figure is ρ within each
    category, averaged plainly, sign included, over the categories that have 30 rows. A code that
    means opposite things in two categories cancels. Rows whose factor is NaN are left out. Without
    categories both figures are the same.
    """
    finite = np.isfinite(factor)
    codes, factor = codes[finite], factor[finite]
    pooled = spearman(codes, factor)
    if categories is None:
        return Correlation(pooled, pooled)
    groups = [categories[finite] == c for c in np.unique(categories[finite])]
    parts = [spearman(codes[g], factor[g]) for g in groups if g.sum() >= MIN_ROWS]
    return Correlation(np.mean(parts, axis=0) if parts else np.full(codes.shape[1], np.nan), pooled)


def spearman(
    codes: NDArray[np.floating[Any]], factor: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return Spearman's ρ of each column of codes [N, D] with factor [N]; NaN if constant."""
    from scipy.stats import rankdata

    if len(factor) < 2:
        return np.full(codes.shape[1], np.nan)
    ranks = rankdata(np.column_stack((codes, factor)), axis=0)
    ranks -= ranks.mean(0)
    norms = np.sqrt((ranks**2).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return ranks[:, :-1].T @ ranks[:, -1] / (norms[:-1] * norms[-1])


def factor_correlations(
    spec: LatentSpec,
    images: Images,
    continuous: NDArray[np.float64],
    categories: NDArray[np.int64] | None,
) -> dict[str, dict[str, Any]]:
    """Return the correlations of continuous codes [N, n_cont] with factors of digits [N, H, W].

    {"slant": {"code", "correlation", "codes"}, "stroke_width": …}: the code dim of the largest |ρ|
    within categories, one of `bound_codes`; that |ρ|; and for every dim {"within": ρ, "pooled": ρ}:
    see `correlate`; null where there is no ρ. An angle is taken in radians.
    """
    bound = bound_codes(spec)
    dims = {  # each dim's name, and whether it can be the best
        name + (f"[{i}]" if code.dim > 1 else ""): k in bound
        for k, (name, code) in enumerate(zip(spec.names, spec.codes, strict=True))
        if isinstance(code, Continuous)
        for i in range(code.dim)
    }
    out = {}
    for name, measure in (("slant", slant), ("stroke_width", stroke_width)):
        correlation = correlate(continuous, measure(images), categories)
        codes = {
            dim: {"within": _or_none(within), "pooled": _or_none(pooled)}
            for dim, within, pooled in zip(dims, *correlation, strict=True)
        }
        sizes = {
            dim: abs(rho)
            for dim, c in codes.items()
            if dims[dim] and (rho := c["within"]) is not None
        }
        best = max(sizes, key=lambda dim: sizes[dim]) if sizes else None
        out[name] = {
            "code": best,
            "correlation": None if best is None else sizes[best],
            "codes": codes,
        }
    return out


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
