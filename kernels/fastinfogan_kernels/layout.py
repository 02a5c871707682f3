"""The layout of codes in Q's output: runs of equal neighbours, for which the kernel is compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CATEGORICAL, BERNOULLI, FIXED, LEARNED, ANGLE, LEARNED_ANGLE = range(6)
KINDS = {
    "categorical": CATEGORICAL,  # `width` logits
    "bernoulli": BERNOULLI,  # one logit
    "fixed": FIXED,  # `width` means
    "learned": LEARNED,  # `width` means, then `width` log-variances
    "angle": ANGLE,  # a vector (a, b) in the mean direction, κ = 1
    "learned_angle": LEARNED_ANGLE,  # κ·(cos μ, sin μ)
}
NARROW_KINDS = (BERNOULLI, ANGLE, LEARNED_ANGLE)  # of width 1


def columns(kind: int, width: int) -> int:
    """Return the columns in q of one code."""
    return width * (2 if kind in (LEARNED, ANGLE, LEARNED_ANGLE) else 1)


class Run(NamedTuple):
    """`n` neighbouring codes of one kind and width."""

    kind: int
    column: int  # first column in q
    width: int  # classes of a categorical, dims of a continuous code, else 1
    n: int
    code: int  # index of the first code
    target: int  # first column in its target tensor


class Layout(NamedTuple):
    """All runs, and the widths that follow from them. Hashable: the key of a compiled kernel."""

    runs: tuple[Run, ...]
    n_codes: int
    q_dim: int
    n_cat: int
    n_cont: int


def make_layout(codes: Iterable[tuple[str, int]]) -> Layout:
    """Return the layout of codes given in order as (kind, width), kind one of `KINDS`.

    Raises ValueError for another kind, a width below 1, a Bernoulli or an angle of another width
    than 1, and for no code.
    """
    runs: list[Run] = []
    column = cat = cont = n_codes = 0
    for name, width in codes:
        kind = KINDS.get(name, -1)
        if kind < 0 or width < 1 or (kind in NARROW_KINDS and width != 1):
            raise ValueError(
                f"expected one of {sorted(KINDS)} and a width ≥ 1 (bernoulli and angles: 1), "
                f"got {name!r}, {width!r}"
            )
        discrete = kind in (CATEGORICAL, BERNOULLI)
        if runs and (runs[-1].kind, runs[-1].width) == (kind, width):
            runs[-1] = runs[-1]._replace(n=runs[-1].n + 1)
        else:
            runs.append(Run(kind, column, width, 1, n_codes, cat if discrete else cont))
        column += columns(kind, width)
        cat += discrete
        cont += 0 if discrete else width
        n_codes += 1
    if not runs:
        raise ValueError("a layout needs at least one code, got none")
    return Layout(tuple(runs), n_codes, column, cat, cont)
