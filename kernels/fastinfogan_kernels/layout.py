"""How codes lie in Q's output: runs of equal neighbours, what the loss kernel is compiled for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CATEGORICAL, BERNOULLI, FIXED, LEARNED = range(4)
KINDS = {
    "categorical": CATEGORICAL,  # `width` logits
    "bernoulli": BERNOULLI,  # one logit
    "fixed": FIXED,  # `width` means
    "learned": LEARNED,  # `width` means, then `width` log-variances
}


class Run(NamedTuple):
    """`n` codes of one kind and width, side by side."""

    kind: int
    column: int  # first column in q
    width: int  # classes of a categorical, dims of a continuous code, 1 of a Bernoulli
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
    """The layout of codes given in order as (kind, width), kind one of `KINDS`.

    Raises ValueError for another kind, a width below 1 (a Bernoulli's is 1), or no code.
    """
    runs: list[Run] = []
    column = cat = cont = n_codes = 0
    for name, width in codes:
        if name not in KINDS or width < 1 or (name == "bernoulli" and width != 1):
            raise ValueError(
                f"expected one of {sorted(KINDS)} and a width ≥ 1 (bernoulli: 1), "
                f"got {name!r}, {width!r}"
            )
        kind = KINDS[name]
        discrete = kind in (CATEGORICAL, BERNOULLI)
        if runs and (runs[-1].kind, runs[-1].width) == (kind, width):
            runs[-1] = runs[-1]._replace(n=runs[-1].n + 1)
        else:
            runs.append(Run(kind, column, width, 1, n_codes, cat if discrete else cont))
        column += 2 * width if kind == LEARNED else width
        cat += discrete
        cont += 0 if discrete else width
        n_codes += 1
    if not runs:
        raise ValueError("a layout needs at least one code, got none")
    return Layout(tuple(runs), n_codes, column, cat, cont)
