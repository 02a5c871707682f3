"""The match of a categorical code with labels: contingency table, accuracy, purity, NMI, ARI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matching = list[int | None]  # the label of each category; None where labels ran out


def contingency(
    codes: NDArray[np.int64], labels: NDArray[np.int64], categories: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count codes [N], in 0 … categories − 1, by labels [N]: a table [labels, categories].

    Returns (the table, the labels of its rows in rising order). A category that no image got
    has a column of zeros.
    """
    names, rows = np.unique(labels, return_inverse=True)
    table = np.zeros((len(names), categories), np.int64)
    np.add.at(table, (rows, codes), 1)
    return table, names


def match_labels(table: NDArray[np.int64], names: NDArray[np.int64]) -> Matching:
    """Return the label of each category under the best one-to-one matching (Kuhn 1955).

    `table` [labels, categories] and `names` [labels] are `contingency`'s. Every category gets a
    label as long as there are labels, be its column empty.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-table)
    matched = dict(zip(columns.tolist(), names[rows].tolist(), strict=True))
    return [matched.get(category) for category in range(table.shape[1])]


def obedience(
    categories: NDArray[np.int64], classes: NDArray[np.int64], matching: Matching
) -> float:
    """Return the share of images whose class `seen` [N] is the label of their category [N]."""
    expected = np.array([-1 if label is None else label for label in matching])
    return float((expected[categories] == classes).mean())


def in_order(matching: Sequence[int | None]) -> list[int]:
    """Return the categories in the order of their labels, those without one at the end."""
    return sorted(range(len(matching)), key=lambda i: (matching[i] is None, matching[i] or 0, i))


def match(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the agreement of codes [N] with labels [N], which need not start at 0.

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
