"""Codes against known factors of real images: correlations, one-to-one matching, scores.

How a code dim goes with a factor is a number from 0 to 1:

    factor      code            measure
    ordered     real, Bernoulli |Spearman's ρ|
    ordered     categorical     correlation ratio η of the factor's ranks, held out
    ordered     angle           R of a least-squares fit of the factor's ranks, held out
    circular    any             R of a least-squares fit of the factor's (cos, sin), held out
    nominal     any             R of a least-squares fit of the factor's one-hot rows, held out

A fit's regressors are the one-hot rows of a categorical code's most probable class, (cos, sin) of
an angle, and of any other code its value and that squared. It is fitted on one random half of the
images and scored on the other: R² = 1 − SSE / SST, summed over the fitted columns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..latents import Angle, Categorical, Code, LatentSpec
from .bound import bound_codes
from .digit_factors import spearman
from .disentanglement import all_scores

MIN_IMAGES = 30  # with a factor known: below it a rank correlation's standard error passes 0.18
MIN_SCORED = 500  # for the disentanglement scores
MAX_VALUES = 20  # of a factor that is taken as it is; one of more values is cut into bins
BINS = 10
ROTATIONS = ("rotation", "azimuth")


class Factor(NamedTuple):
    """A factor of N images. Circular where it has a period."""

    name: str
    values: NDArray[np.float64]  # [N], NaN where not known
    period: float | None = None
    nominal: bool = False  # numbers of classes without an order


class Dim(NamedTuple):
    """One dim of a code as Q reads it."""

    name: str  # the code's, with [i] where it has several dims
    code: Code
    values: NDArray[np.float64]  # [N]: a mean, a probability, a class, an angle in radians


def parse_factors(
    values: NDArray[Any], names: Sequence[str], *, nominal: Collection[int] = ()
) -> list[Factor]:
    """Return the factors of values [N, K]; a name such as "azimuth:360" says the period."""
    factors = []
    for k, text in enumerate(names):
        name, _, period_text = text.partition(":")
        try:
            period = float(period_text) if period_text else None
        except ValueError:
            name, period = text, None
        factors.append(Factor(name, np.asarray(values[:, k], np.float64), period, k in nominal))
    return factors


def code_dims(spec: LatentSpec, codes: NDArray[np.floating[Any]]) -> list[Dim]:
    """Return the dims of `bound_codes` in codes [N, D], the columns that `read_codes` gives."""
    bound = bound_codes(spec)
    dims, column = [], 0
    for k, (name, code) in enumerate(zip(spec.names, spec.codes, strict=True)):
        for i in range(code.dim):
            label = f"{name}[{i}]" if code.dim > 1 else name
            if k in bound:
                dims.append(Dim(label, code, np.asarray(codes[:, column], np.float64)))
            column += 1
    return dims


def classes(dims: Sequence[Dim]) -> list[int]:
    """Return the places of the dims that are a category's number."""
    return [i for i, dim in enumerate(dims) if isinstance(dim.code, Categorical)]


def compare(dims: Sequence[Dim], factors: Sequence[Factor]) -> dict[str, dict[str, Any]]:
    """Return for each factor its best code, its matched code, and every code's correlation.

    {factor: {"code", "correlation"}}: the code dim that goes best with it; {"matched_code",
    "matched_correlation"}: its dim under the one-to-one matching of dims with factors that has the
    largest sum of correlations; "fit": R of the least-squares fit by all codes; "period"; "images":
    those with the factor known; "codes": the correlation of each dim. null where there is none:
    the factor or the code is constant, or fewer than 30 images have it.
    """
    from scipy.optimize import linear_sum_assignment

    table = np.array([[_correlation(dim, factor) for dim in dims] for factor in factors])
    table = table.reshape(len(factors), len(dims))
    known = np.nan_to_num(table, nan=0.0)
    rows, columns = linear_sum_assignment(-known)
    matched = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    result = {}
    for k, factor in enumerate(factors):
        best = int(known[k].argmax()) if np.isfinite(table[k]).any() else None
        pair = matched.get(k)
        if pair is not None and not np.isfinite(table[k, pair]):
            pair = None
        result[factor.name] = {
            "code": None if best is None else dims[best].name,
            "correlation": None if best is None else float(table[k, best]),
            "matched_code": None if pair is None else dims[pair].name,
            "matched_correlation": None if pair is None else float(table[k, pair]),
            "fit": _or_none(fit(dims, factor)),
            "period": factor.period,
            "images": int(np.isfinite(factor.values).sum()),
            "codes": {d.name: _or_none(r) for d, r in zip(dims, table[k].tolist(), strict=True)},
        }
    return result


def rotation_fit(result: dict[str, dict[str, Any]]) -> float | None:
    """Return the "fit" of the circular factor that `compare` reports: rotation, azimuth, or any."""
    circular = [name for name, factor in result.items() if factor["period"]]
    named = [name for name in ROTATIONS if name in circular]
    return result[(named or circular)[0]]["fit"] if circular else None


def scores(
    dims: Sequence[Dim], factors: Sequence[Factor], *, seed: int = 0
) -> dict[str, float] | None:
    """Return `disentanglement.all_scores` of the dims, or None where the factors do not allow it.

    They need two factors that vary and 500 images that have all of them. A factor of at most 20
    values, each on two images or more, is taken as it is; any other is cut into ten bins of equal
    counts. A circular factor counts as one without an order, since its ends meet. The factors of
    an image set need not be independent, as the scores' authors have them.
    """
    known = np.isfinite([factor.values for factor in factors]).all(0)
    varied = [factor for factor in factors if len(np.unique(factor.values[known])) > 1]
    if len(varied) < 2 or known.sum() < MIN_SCORED:
        return None
    scores = all_scores(
        np.stack([dim.values[known] for dim in dims], 1),
        np.stack([discretise(factor.values[known]) for factor in varied], 1),
        nominal=[k for k, factor in enumerate(varied) if factor.nominal or factor.period],
        classes=classes(dims),
        seed=seed,
    )
    return {**scores, "images": int(known.sum())}


def discretise(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a factor's values [N] as integers from 0, in ten bins if need be; see `scores`."""
    from scipy.stats import rankdata

    distinct, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= MAX_VALUES and counts.min() > 1:
        return numbers.astype(np.int64)
    ranks = rankdata(values, "average") - 0.5
    bins = np.floor(ranks * BINS / len(values)).astype(np.int64)
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def fit(dims: Sequence[Dim], factor: Factor) -> float:
    """Return R of the least-squares fit of a factor by all dims on held-out images; NaN if none."""
    known = np.isfinite(factor.values)
    if known.sum() < MIN_IMAGES:
        return math.nan
    columns = np.concatenate([_regressors(dim)[known] for dim in dims], 1)
    return _held_out_r(columns, _targets(factor)[known])


def _correlation(dim: Dim, factor: Factor) -> float:
    known = np.isfinite(factor.values)
    if known.sum() < MIN_IMAGES:
        return math.nan
    plain = factor.period is None and not factor.nominal
    if plain and not isinstance(dim.code, Categorical | Angle):
        return float(abs(spearman(dim.values[known, None], factor.values[known])[0]))
    return _held_out_r(_regressors(dim)[known], _targets(factor)[known])


def _targets(factor: Factor) -> NDArray[np.float64]:
    """Return the columns [N, P] that a fit predicts; NaN rows stay NaN."""
    from scipy.stats import rankdata

    if factor.period is not None:
        angle = factor.values * (2 * math.pi / factor.period)
        return np.stack((np.cos(angle), np.sin(angle)), 1)
    if factor.nominal:
        return (factor.values[:, None] == np.unique(factor.values)).astype(np.float64)
    ranks: NDArray[np.float64] = rankdata(factor.values, nan_policy="omit")
    return ranks[:, None]


def _regressors(dim: Dim) -> NDArray[np.float64]:
    if isinstance(dim.code, Categorical):
        return (dim.values[:, None] == np.arange(dim.code.n)).astype(np.float64)
    if isinstance(dim.code, Angle):
        return np.stack((np.cos(dim.values), np.sin(dim.values)), 1)
    return np.stack((dim.values, dim.values**2), 1)


def _held_out_r(columns: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return R of the fit of targets [N, P] by columns [N, D]; NaN for constant targets."""
    order = np.random.default_rng(0).permutation(len(columns))
    fitted, scored = order[: len(order) // 2], order[len(order) // 2 :]
    design = np.column_stack((np.ones(len(columns)), columns))
    weights = np.linalg.lstsq(design[fitted], targets[fitted], rcond=None)[0]
    total = ((targets[scored] - targets[scored].mean(0)) ** 2).sum()
    if total <= 1e-12 * len(scored):
        return math.nan
    error = ((targets[scored] - design[scored] @ weights) ** 2).sum()
    return math.sqrt(max(0.0, 1.0 - error / total))


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
