"""Scores of arrays: how well codes sort labelled images, how far two sets of features lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runs.checkpoint import writing

Matching = list[int | None]  # the label of each category; None where labels ran out
MOST_PRINTED = 30  # rows or columns of a picture whose cells still have room for their counts


def contingency(
    codes: NDArray[np.int64], labels: NDArray[np.int64], categories: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The table [labels, categories] of codes [N], in 0 … categories − 1, against labels [N].

    Returns (the table, the labels of its rows in rising order). A category that no image got
    has a column of zeros.
    """
    names, rows = np.unique(labels, return_inverse=True)
    table = np.zeros((len(names), categories), np.int64)
    np.add.at(table, (rows, codes), 1)
    return table, names


def match_labels(table: NDArray[np.int64], names: NDArray[np.int64]) -> Matching:
    """The label of each category under the best one-to-one matching (Kuhn 1955, "Hungarian").

    `table` [labels, categories] and `names` [labels] are `contingency`'s. Every category gets a
    label as long as there are labels, be its column empty.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-table)
    matched = dict(zip(columns.tolist(), names[rows].tolist(), strict=True))
    return [matched.get(category) for category in range(table.shape[1])]


def obeyed(categories: NDArray[np.int64], seen: NDArray[np.int64], matching: Matching) -> float:
    """Share of images whose class `seen` [N] is the label of their category [N]."""
    expected = np.array([-1 if label is None else label for label in matching])
    return float((expected[categories] == seen).mean())


def in_order(matching: Sequence[int | None]) -> list[int]:
    """The categories in the order of their labels, those without one at the end."""
    return sorted(range(len(matching)), key=lambda i: (matching[i] is None, matching[i] or 0, i))


def match(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Agreement of codes [N] with labels [N]; neither needs to start at 0 or be of one size.

    code_accuracy: share of images whose label is their code's under the best one-to-one matching.
    purity: the same where each code may take its most frequent label. nmi: mutual information over
    the mean of both entropies. ari: Hubert and Arabie's adjusted Rand index (1985).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, codes)
    rows, columns = linear_sum_assignment(-table)
    return {
        "code_accuracy": float(table[rows, columns].sum() / table.sum()),
        "purity": float(table.max(axis=0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(labels, codes)),
        "ari": float(adjusted_rand_score(labels, codes)),
    }


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Fréchet distance of the Gaussians fitted to features [N, F] and [M, F].

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), Heusel et al. 2017, eq. 6. The root's trace is the
    sum of the roots of the eigenvalues of Σ₁Σ₂, which are real and not negative.
    """
    from scipy.linalg import eigvals

    difference = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(eigvals(first @ second).real, 0, None))
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * roots.sum())


def draw_contingency(
    table: NDArray[np.int64],
    labels: Sequence[int],
    matching: Sequence[int | None],
    code: str,
    path: Path,
) -> None:
    """The table [labels, categories] as a PNG: categories in the order of their labels.

    A cell's shade is its share of its label's images; its number is the count. A perfect code
    shows one dark diagonal.
    """
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    order = in_order(matching)
    shown = table[:, order]
    share = shown / shown.sum(axis=1, keepdims=True)
    rows, columns = shown.shape
    printed = max(rows, columns) <= MOST_PRINTED
    cell = 0.5 if printed else 0.12
    figure = Figure(figsize=(cell * columns + 2, cell * rows + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    accuracy = sum(
        int(table[row, i])
        for i, label in enumerate(matching)
        for row, name in enumerate(labels)
        if label == name
    )
    title = f"{accuracy / table.sum():.1%} of {table.sum():,} test images on their category"
    axes.set(xlabel=f"category of {code}", ylabel="label")
    axes.set_title(title, fontsize="medium")
    if printed:
        axes.set_xticks(range(columns), [str(i) for i in order])
        axes.set_yticks(range(rows), [str(name) for name in labels])
        for row, column in zip(*np.nonzero(shown), strict=True):
            dark = share[row, column] > 0.5
            count = str(shown[row, column])
            axes.text(
                column, row, count, ha="center", va="center", fontsize=8, color="wk"[not dark]
            )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
