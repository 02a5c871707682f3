"""Disentanglement scores: does each code of a representation follow one factor of the images?

All five take the codes [N, D] that were read off N images and the factors [N, K] (integers from 0)
of these, drawn uniformly and independently: `sample_factors`. The two scores that hold a factor
fixed draw rows among those N by that factor's value. These have the distribution of fresh draws
from the grid, and each image is read once rather than a million; it takes dozens of rows of each
value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.floating[Any]]
Factors = NDArray[np.integer[Any]]

BINS = 20
MIN_STD = 0.05  # of a code: below it the code is constant and takes no part in a vote
TREES, LEAST_IN_LEAF = 10, 20  # smaller leaves fit noise, and noise then counts as importance
MIN_ROWS = 2  # of a factor's value


class FactorGrid(Protocol):
    """Images that are a function of their factors."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of each factor, which are counted from 0."""

    def images(self, factors: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images [B, H, W, C] of factors [B, K]."""


def sample_factors(sizes: Sequence[int], n: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return n rows of the grid, uniform and independent, int64 [n, K]."""
    return np.random.default_rng(seed).integers(0, sizes, (n, len(sizes)))


def all_scores(
    codes: Codes,
    factors: Factors,
    *,
    nominal: Collection[int] = (),
    classes: Collection[int] = (),
    seed: int = 0,
) -> dict[str, float]:
    """Return the five scores; of DCI also its completeness and informativeness.

    nominal: factors whose values have no order; classes: codes that are the number of a category.
    """
    scores = dci(codes, factors, seed=seed)
    return {
        "factorvae": factorvae_score(codes, factors, classes=classes, seed=seed),
        "mig": mig(codes, factors),
        "dci": scores.disentanglement,
        "dci_completeness": scores.completeness,
        "dci_informativeness": scores.informativeness,
        "sap": sap(codes, factors, nominal=nominal),
        "betavae": betavae_score(codes, factors, classes=classes, seed=seed),
    }


def mig(codes: Codes, factors: Factors, *, bins: int = BINS) -> float:
    """Return the mutual information gap, Chen et al. 2018 (arXiv 1802.04942), eq. 6.

    Mean over the factors of (I₁ − I₂) / H(v_k), I₁ and I₂ the two largest mutual informations
    of the factor with one code. Each code is cut into `bins` of equal width, so a factor of more
    values than bins keeps even a perfect code below 1. Independent codes score about 0.
    """
    _check(codes, factors)
    from sklearn.metrics import mutual_info_score

    cut = np.stack([_discretise(code, bins) for code in codes.T])
    gaps = []
    for factor in factors.T:
        nats = [mutual_info_score(factor, code) for code in cut]
        gaps.append(_gap(nats) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def _discretise(code: NDArray[Any], bins: int) -> NDArray[np.int64]:
    return np.digitize(code, np.histogram_bin_edges(code, bins)[1:-1])


class Dci(NamedTuple):
    """Eastwood and Williams' three, each from 0 to 1."""

    disentanglement: float  # each code tells of one factor
    completeness: float  # each factor shows in one code
    informativeness: float  # accuracy of predicting the factors, on rows not seen


def dci(codes: Codes, factors: Factors, *, seed: int = 0, trees: int = TREES) -> Dci:
    """Return disentanglement, completeness, informativeness, Eastwood & Williams 2018, section 2.

    A random forest (as there; 10 trees, every code at each split, 20 rows per leaf) predicts each
    factor on half of the rows, and R[i, k] is the importance of code i for factor k.
    Disentanglement is Σ_i ρ_i (1 − H_K(P_i)), P_i row i of R normalised, ρ_i that row's share of R,
    H_K the entropy to base K. Completeness is the mean over factors of 1 − H_D of R's column.
    Informativeness is the accuracy on the other half.
    """
    _check(codes, factors)
    from sklearn.ensemble import RandomForestClassifier

    half = len(codes) // 2
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    accuracy = []
    for k, factor in enumerate(factors.T):
        # max_features: a split that may not see the right code must take a wrong one.
        forest = RandomForestClassifier(
            trees, max_features=None, min_samples_leaf=LEAST_IN_LEAF, random_state=seed % 2**32
        )
        forest.fit(codes[:half], factor[:half])
        importance[:, k] = forest.feature_importances_
        accuracy.append(forest.score(codes[half:], factor[half:]))
    return Dci(*dci_of(importance), float(np.mean(accuracy)))


def dci_of(importance: NDArray[np.float64]) -> tuple[float, float]:
    """Return disentanglement and completeness of an importance matrix R [D, K]."""
    share = importance.sum(1) / max(importance.sum(), 1e-300)
    disentangled = 1 - _entropy(importance)
    complete = 1 - _entropy(importance.T)
    return float(share @ disentangled), float(complete.mean())


def _entropy(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row of weights [N, M], to base M; 1 for a row of zeros."""
    from scipy.special import entr

    n, m = weights.shape
    if m == 1:
        return np.zeros(n)
    total = weights.sum(1, keepdims=True)
    p = np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / m)
    return entr(p).sum(1) / np.log(m)


def sap(codes: Codes, factors: Factors, *, nominal: Collection[int] = ()) -> float:
    """Return separated attribute predictability, Kumar et al. 2018 (arXiv 1711.00848), section 3.

    Mean over the factors of the gap between the two codes that predict it best, each alone. A
    factor whose values are ordered is predicted linearly, scored by R²; one of those in `nominal`
    (indices) by thresholds on the code, n − 1 for n values, scored by balanced accuracy. There the
    second code is at chance, so a perfect representation scores 1 − 1/n, and 1 elsewhere.
    """
    _check(codes, factors)
    gaps = []
    for k, factor in enumerate(factors.T):
        score = _thresholds if k in nominal else _r_squared
        gaps.append(_gap([score(code, factor) for code in codes.T]))
    return float(np.mean(gaps))


def _r_squared(code: NDArray[Any], factor: NDArray[Any]) -> float:
    if code.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(code, factor)[0, 1] ** 2)


def _thresholds(code: NDArray[Any], factor: NDArray[Any]) -> float:
    """Return the balanced accuracy of one interval of the code for each value."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    values = len(np.unique(factor))
    tree = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
    column = code[:, None]
    return float(balanced_accuracy_score(factor, tree.fit(column, factor).predict(column)))


def _gap(scores: Sequence[float]) -> float:
    """Return the largest less the second largest; of a single score, itself."""
    first, second = sorted([*scores, 0.0], reverse=True)[:2]
    return first - second


def factorvae_score(
    codes: Codes,
    factors: Factors,
    *,
    classes: Collection[int] = (),
    seed: int = 0,
    votes: int = 10_000,
    tests: int = 5_000,
    batch: int = 64,
    least_std: float = MIN_STD,
) -> float:
    """Return the accuracy of the majority vote, Kim & Mnih 2018 (arXiv 1802.05983), section 4.

    A vote: a random factor is held at a random value in `batch` rows; the code whose variance
    there is least, relative to its variance over all rows, votes for the factor. Each code is given
    the factor that it most often votes for in `votes` votes; the score is the share of `tests`
    other votes that agree. Codes of a standard deviation under `least_std` are constant and do not
    vote (the paper prunes those that a VAE's prior has taken); where all are, the score is 0.
    Numbers of votes and rows are Locatello et al.'s (2019). Chance is 1/K.

    `classes` are the codes that are a category's number. Numbers of categories have no order, so
    their variance is Gini's: half the chance that two rows differ, as a variance is half the
    expected square of their difference. So a score does not depend on which category is which.
    """
    _check(codes, factors)
    codes, named = _classes_last(codes, classes)
    used = np.sqrt(_variance(codes, named)) >= least_std
    active, named = codes[:, used], int(used[codes.shape[1] - named :].sum())
    if active.shape[1] == 0:
        return 0.0
    variance = _variance(active, named)
    count = np.zeros((2, active.shape[1], factors.shape[1]))
    rng = np.random.default_rng(seed)
    for part, n in enumerate((votes, tests)):
        for k, rows in _draw_fixed(factors, n, batch, rng):
            least = (_variance(active[rows], named) / variance).argmin(1)
            np.add.at(count[part, :, k], least, 1)
    fitted, tested = count
    return float(tested[np.arange(len(tested)), fitted.argmax(1)].sum() / tested.sum())


def _classes_last(codes: Codes, classes: Collection[int]) -> tuple[Codes, int]:
    """Return the codes with those of `classes` last, as numbers from 0, and how many these are."""
    if not set(classes) <= set(range(codes.shape[1])):
        raise ValueError(f"classes: expected columns of {codes.shape[1]} codes, got {classes}")
    classes = sorted(set(classes))
    numbers = [np.unique(codes[:, i], return_inverse=True)[1] for i in classes]
    others = [codes[:, i] for i in range(codes.shape[1]) if i not in classes]
    return np.stack([*others, *numbers], 1), len(numbers)


def _variance(codes: Codes, classes: int) -> NDArray[np.float64]:
    """Return the unbiased variance of codes [..., N, D] over rows; Gini's of the last `classes`."""
    variances = codes.var(-2, ddof=1, dtype=np.float64)
    n = codes.shape[-2]
    for column in range(codes.shape[-1] - classes, codes.shape[-1]):
        values = codes[..., column]
        counts = np.stack([(values == value).sum(-1) for value in np.unique(values)])
        variances[..., column] = (n**2 - (counts**2).sum(0)) / (2 * n * (n - 1))
    return variances


def betavae_score(
    codes: Codes,
    factors: Factors,
    *,
    classes: Collection[int] = (),
    seed: int = 0,
    points: int = 10_000,
    tests: int = 5_000,
    batch: int = 64,
) -> float:
    """Return the accuracy of a linear classifier, Higgins et al. 2017 (β-VAE), section 3.

    A point: a random factor k; `batch` pairs of rows, both of a pair of one random value of k;
    the mean of |c − c'| over the pairs, [D]. A logistic regression, fitted on `points` points, is
    to tell k from it; the score is its accuracy on `tests` others. Each code is divided by its
    standard deviation first, so that its unit plays no part. Of `classes`, the codes that are a
    category's number, it is the share of pairs that differ. Chance is 1/K.
    """
    _check(codes, factors)
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    codes, named = _classes_last(codes, classes)
    others = codes.shape[1] - named
    scaled = np.array(codes, dtype=np.float64)
    scaled[:, :others] /= np.maximum(codes[:, :others].std(0), 1e-12)
    x, y = [], []
    for k, rows in _draw_fixed(factors, (points + tests) * batch, 2, rng):
        apart = np.abs(scaled[rows[:, 0]] - scaled[rows[:, 1]])
        apart[:, others:] = apart[:, others:] > 0
        whole = len(apart) // batch
        x.append(apart[: whole * batch].reshape(whole, batch, -1).mean(1))
        y.append(np.full(whole, k))
    features, target = np.concatenate(x), np.concatenate(y)
    order = rng.permutation(len(target))
    fitted, tested = order[:-tests], order[-tests:]
    classifier = LogisticRegression(C=100.0, max_iter=1000).fit(features[fitted], target[fitted])
    return float(classifier.score(features[tested], target[tested]))


def _draw_fixed(
    factors: Factors, n: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (k, rows [n_k, batch]), n draws in all: the rows of a draw share the value of factor k.

    Values are uniform, rows with replacement. Raises ValueError where a value has too few rows.
    """
    draws = rng.multinomial(n, np.full(factors.shape[1], 1 / factors.shape[1]))
    for k, n_k in enumerate(draws.tolist()):
        order = np.argsort(factors[:, k], kind="stable")
        values, first, count = np.unique(factors[order, k], return_index=True, return_counts=True)
        if count.min() < MIN_ROWS:
            raise ValueError(
                f"factor {k}: expected at least {MIN_ROWS} rows of every value, got "
                f"{count.min()} of value {values[count.argmin()]}; pass more rows"
            )
        value = rng.integers(0, len(values), n_k)
        place = rng.random((n_k, batch)) * count[value, None]
        yield k, order[first[value, None] + place.astype(np.int64)]


def _check(codes: Codes, factors: Factors) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 2:
        raise ValueError(
            "expected codes [N, D] and factors [N, K] of N ≥ 2 rows, got shapes "
            f"{list(codes.shape)} and {list(factors.shape)}"
        )
    if codes.shape[1] == 0:
        raise ValueError("expected at least one code, got none")
    constant = [k for k, factor in enumerate(factors.T) if (factor == factor[0]).all()]
    if constant or factors.shape[1] == 0:
        raise ValueError(f"expected factors that vary, got constant ones: {constant or 'none'}")
    if not np.isfinite(codes).all():
        raise ValueError("expected finite codes, got NaN or infinity")
