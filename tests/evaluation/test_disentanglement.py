"""Disentanglement: cases worked out by hand, perfect codes, and codes that know nothing."""

from itertools import permutations
from math import log

import numpy as np
import pytest
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan.evaluation import disentanglement
from fastinfogan.evaluation.disentanglement import (
    _variance,
    all_scores,
    betavae_score,
    dci,
    dci_of,
    factorvae_score,
    mig,
    sample_factors,
    sap,
)

SIZES = (3, 6, 10, 8, 8)
DSPRITES = (3, 6, 40, 32, 32)


def whole_grid(*sizes: int) -> np.ndarray:
    return np.indices(sizes).reshape(len(sizes), -1).T


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    return sample_factors(SIZES, 4000, seed=1)


@pytest.fixture(scope="module")
def perfect(factors) -> np.ndarray:
    """Return codes that are a factor each, in another order, unit and sign, and a useless one."""
    noise = np.random.default_rng(0).normal(size=len(factors))
    return np.column_stack((-factors[:, [2, 0, 4]] * 7.0, noise, factors[:, [1, 3]] / 3 + 5))


@pytest.fixture(scope="module")
def ignorant(factors) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(factors), 6))


class TestMig:
    def test_a_case_worked_out_by_hand(self):
        factors = whole_grid(2, 4)
        codes = np.stack((factors[:, 0], factors[:, 1] // 2), axis=1).astype(float)
        # code 0 has all log 2 nats of factor 0, code 1 has log 2 of factor 1's log 4
        assert mig(codes, factors) == pytest.approx((1 + 0.5) / 2)

    def test_a_factor_in_two_codes_has_no_gap(self):
        factors = whole_grid(2, 4)
        codes = factors[:, [0, 0, 1]].astype(float)
        assert mig(codes, factors) == pytest.approx((0 + 1) / 2)

    def test_a_single_code_gaps_from_nothing(self):
        factors = whole_grid(4)
        assert mig(factors.astype(float), factors) == pytest.approx(1.0)

    def test_a_perfect_representation_scores_1(self):
        factors = whole_grid(3, 6, 8)
        assert mig(-2.0 * factors[:, ::-1], factors) == pytest.approx(1.0)

    @pytest.mark.parametrize("size", [32, 40])
    def test_more_values_than_bins_are_merged_as_equal_widths_merge_them(self, size):
        factors = whole_grid(size)
        # value i of 0 … size − 1 lies in the bin ⌊20 i / (size − 1)⌋, the last in the last
        merged = np.bincount(np.minimum(np.arange(size) * 20 // (size - 1), 19))
        expected = (merged / size * np.log(size / merged)).sum() / log(size)
        assert expected < 0.9
        assert mig(factors.astype(float), factors) == pytest.approx(expected)

    @pytest.mark.parametrize("seed", [2**32, 2**64])
    def test_every_seed_is_taken(self, perfect, factors, seed):
        assert dci(perfect, factors, seed=seed) == pytest.approx((1, 1, 1), abs=0.01)
        scores = all_scores(perfect, factors, seed=seed)
        assert scores["factorvae"] == pytest.approx(1, abs=0.01)

    def test_random_codes_score_nothing(self, ignorant, factors):
        assert 0 <= mig(ignorant, factors) < 0.01


class TestDci:
    @pytest.mark.parametrize(
        ("importance", "disentanglement", "completeness"),
        [
            ([[1, 0], [0, 3]], 1, 1),
            ([[1, 1], [1, 1]], 0, 0),
            ([[1, 1], [0, 0]], 0, 1),  # one code for both factors
            # two codes share a factor: the entropy of (½, ½, 0) to base 3
            ([[0.5, 0], [0.5, 0], [0, 1]], 1, (1 - log(2) / log(3) + 1) / 2),
            # code 0 has entropy h(¼), code 1 none; their shares of R are ½
            (
                [[0.75, 0.25], [0, 1]],
                (1 + (0.25 * log(4) + 0.75 * log(4 / 3)) / -log(2) + 1) / 2,
                (1 + 1 - (0.2 * log(5) + 0.8 * log(1.25)) / log(2)) / 2,
            ),
            ([[0, 0], [0, 0]], 0, 0),
        ],
    )
    def test_importances_worked_out_by_hand(self, importance, disentanglement, completeness):
        result = dci_of(np.array(importance, float))
        assert result == pytest.approx((disentanglement, completeness), abs=1e-12)

    def test_a_perfect_representation_scores_1_in_all_three(self, perfect, factors):
        assert dci(perfect, factors) == pytest.approx((1, 1, 1), abs=0.01)

    def test_random_codes_score_nothing(self, ignorant, factors):
        result = dci(ignorant, factors)
        assert result.disentanglement < 0.02
        assert result.completeness < 0.02
        chance = np.mean(1 / np.array(SIZES))
        assert result.informativeness == pytest.approx(chance, abs=0.03)

    def test_one_code_for_all_factors_is_complete_and_not_disentangled(self):
        factors = sample_factors((2, 3), 600)
        code = (factors[:, :1] * 3 + factors[:, 1:]).astype(float)
        noise = np.random.default_rng(0).normal(size=(600, 1))
        result = dci(np.hstack((code, noise)), factors)
        assert result.disentanglement < 0.05
        assert result.completeness > 0.95
        assert result.informativeness == 1.0


class TestSap:
    def test_a_linear_case_worked_out_by_hand(self):
        factor = np.arange(4)[:, None]
        # cov(f, c) = ½, var(f) = 5/4, var(c) = ¼: R² = 0.8
        codes = np.array([[0.0, 1, 2, 3], [0, 0, 1, 1]]).T
        assert sap(codes, factor) == pytest.approx(1 - 0.8)

    def test_classes_without_order_are_separated_by_thresholds(self):
        factor = np.repeat([0, 1, 2], 5)[:, None]
        middle = np.repeat([0.0, 9.0, 4.0], 5)  # class 2 lies between the others
        halves = np.repeat([0.0, 1.0, 1.0], 5)  # two of three classes in one: 2/3
        codes = np.stack((middle, halves), axis=1)
        assert sap(codes, factor, nominal=(0,)) == pytest.approx(1 - 2 / 3)
        linear = np.corrcoef(middle, factor[:, 0])[0, 1] ** 2
        assert sap(codes[:, :1], factor) == pytest.approx(linear)

    def test_classes_count_alike_whatever_their_number(self):
        factor = np.repeat([0, 1], [30, 10])[:, None]
        codes = np.zeros((40, 1))
        assert sap(codes, factor, nominal=(0,)) == pytest.approx(0.5)
        # 20 of class 0 at 0; 10 of class 0 and all 10 of class 1 at 1, and so called class 1
        codes[[*range(20, 30), *range(30, 40)]] = 1
        assert sap(codes, factor, nominal=(0,)) == pytest.approx((20 / 30 + 1) / 2)
        rare = np.repeat([0, 1], [30, 8])[:, None]  # outnumbered at 1 by class 0
        assert sap(codes[:38], rare, nominal=(0,)) == pytest.approx((20 / 30 + 1) / 2)

    def test_a_perfect_representation_scores_1_and_1_less_chance_for_classes(
        self, perfect, factors
    ):
        assert sap(perfect, factors) == pytest.approx(1, abs=0.01)
        # the second code is at chance, 1/3, but for what thresholds find in noise
        expected = (4 + 2 / 3) / 5
        assert sap(perfect, factors, nominal=(0,)) == pytest.approx(expected, abs=0.01)

    def test_random_codes_score_nothing(self, ignorant, factors):
        assert 0 <= sap(ignorant, factors, nominal=(0,)) < 0.01


class TestFactorVae:
    def test_a_case_worked_out_by_hand(self):
        """Two codes for three factors: votes for the third are split, and both are in vain."""
        factors = sample_factors((4, 4, 4), 2000)
        codes = factors[:, :2].astype(float)
        assert factorvae_score(codes, factors) == pytest.approx(2 / 3, abs=0.02)

    def test_a_single_code_can_name_one_factor(self):
        factors = sample_factors((4, 4), 2000)
        score = factorvae_score(factors[:, :1].astype(float), factors)
        assert score == pytest.approx(1 / 2, abs=0.02)

    def test_a_perfect_representation_scores_1(self, perfect, factors):
        assert factorvae_score(perfect, factors) == 1.0

    def test_random_codes_are_at_chance(self, ignorant, factors):
        # few rows are shared by many votes, which leaves a little over 1/5
        assert factorvae_score(ignorant, factors) == pytest.approx(1 / 5, abs=0.05)

    def test_a_constant_code_has_no_vote(self, perfect, factors):
        rng = np.random.default_rng(0)
        blurred = perfect / perfect.std(0) + 0.3 * rng.normal(size=perfect.shape)
        alone = factorvae_score(blurred, factors)
        assert alone > 0.95
        faint = 0.1 * (rng.random(len(factors)) < 0.01)  # in most batches, but not in all, constant
        more = np.column_stack((blurred, faint, np.ones(len(factors))))
        assert factorvae_score(more, factors) == alone
        assert factorvae_score(more, factors, least_std=0.001) < 0.9
        assert factorvae_score(0 * perfect, factors) == 0.0

    def test_the_unit_of_a_code_plays_no_part(self, factors):
        codes = factors @ np.random.default_rng(0).normal(size=(5, 4))
        scaled = codes * [1, 64, 8, 2] + 3
        assert factorvae_score(scaled, factors) == pytest.approx(factorvae_score(codes, factors))


class TestCategories:
    """Codes that are a category's number."""

    def test_their_variance_is_half_the_chance_that_two_rows_differ(self):
        codes = np.array([[0.0, 5], [2, 5], [2, 9], [7, 5]])
        pairs = list(permutations(codes, 2))
        numbers = np.mean([(a[0] - b[0]) ** 2 for a, b in pairs]) / 2
        differ = np.mean([a[1] != b[1] for a, b in pairs]) / 2
        assert _variance(codes, 1) == pytest.approx([numbers, differ])
        assert _variance(np.stack([codes, codes]), 1) == pytest.approx(
            np.array(2 * [[numbers, differ]])
        )

    @pytest.mark.parametrize("score", [factorvae_score, betavae_score])
    def test_their_order_plays_no_part(self, score):
        rng = np.random.default_rng(1)
        factors = sample_factors((3, 8, 8), 3000)
        right = rng.random(len(factors)) < 0.5
        shape = np.where(right, factors[:, 0], rng.integers(0, 3, len(factors)))
        rest = factors[:, 1:] + 9 * rng.normal(size=(len(factors), 2))

        def scored(names, **options):
            codes = np.column_stack((np.array(names)[shape], rest))
            return score(codes, factors, **options)

        assert scored([0, 1, 2], classes=[0]) == scored([40, -3, 9], classes=[0])
        assert scored([0, 1, 2]) != scored([0, 2, 1])

    def test_a_constant_one_has_no_vote(self, perfect, factors):
        more = np.column_stack((perfect, np.ones(len(factors)), factors[:, 0]))
        first, last = perfect.shape[1], perfect.shape[1] + 1
        alone = factorvae_score(np.delete(more, first, 1), factors, classes=[first])
        assert factorvae_score(more, factors, classes=[first, last, last]) == alone == 1.0

    def test_one_that_is_not_there_is_refused(self, perfect, factors):
        with pytest.raises(ValueError, match="expected columns of"):
            factorvae_score(perfect, factors, classes=[perfect.shape[1]])


class TestBetaVae:
    def test_a_case_worked_out_by_hand(self):
        """A code for one of three factors: the other two cannot be distinguished."""
        factors = sample_factors((4, 4, 4), 2000)
        score = betavae_score(factors[:, :1].astype(float), factors)
        assert score == pytest.approx(1 / 3 + 2 / 3 * 1 / 2, abs=0.03)

    def test_a_factor_that_no_code_knows_is_known_by_what_changes(self):
        factors = sample_factors((4, 4, 4), 2000)
        assert betavae_score(factors[:, :2].astype(float), factors) > 0.99

    def test_a_perfect_representation_scores_1(self, perfect, factors):
        assert betavae_score(perfect, factors) > 0.999

    def test_random_codes_are_at_chance(self, ignorant, factors):
        assert betavae_score(ignorant, factors) == pytest.approx(1 / 5, abs=0.05)

    def test_the_unit_of_a_code_plays_no_part(self, factors):
        codes = factors @ np.random.default_rng(0).normal(size=(5, 4))
        scaled = codes * [1, 64, 8, 2] + 3
        # the solver stops at another last digit
        expected = pytest.approx(betavae_score(codes, factors), abs=0.002)
        assert betavae_score(scaled, factors) == expected


class TestRowsOfAFixedFactor:
    @given(st.integers(0, 2**32), st.lists(st.integers(2, 5), min_size=1, max_size=4))
    @modest
    def test_they_share_its_value_and_come_from_all_values_and_rows(self, seed, sizes):
        factors = sample_factors(sizes, 400, seed=seed)
        rng = np.random.default_rng(seed)
        drawn = dict(disentanglement._draw_fixed(factors, 400 * len(sizes), 16, rng))
        assert sorted(drawn) == list(range(len(sizes)))
        assert sum(map(len, drawn.values())) == 400 * len(sizes)
        for k, rows in drawn.items():
            values = factors[rows, k]
            assert (values == values[:, :1]).all()
            assert set(values[:, 0]) == set(range(sizes[k]))
            assert len(np.unique(rows)) > 390

    def test_values_are_drawn_alike_however_many_rows_they_have(self):
        factors = np.repeat([0, 1], [900, 100])[:, None]
        ((_, rows),) = disentanglement._draw_fixed(factors, 4000, 2, np.random.default_rng(0))
        assert factors[rows[:, 0], 0].mean() == pytest.approx(0.5, abs=0.04)


def test_a_rotation_of_perfect_codes_lies_between_perfect_and_random(factors):
    turned, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    codes = (factors - factors.mean(0)) / factors.std(0)
    best, mixed = all_scores(codes, factors), all_scores(codes @ turned, factors)
    floor = {"factorvae": 0.25, "betavae": 0.25, "dci_informativeness": 0.2}
    for name, score in mixed.items():
        assert floor.get(name, 0.01) < score < best[name] - 0.02, name


def test_the_seed_decides(ignorant, factors):
    assert all_scores(ignorant, factors, seed=3) == all_scores(ignorant, factors, seed=3)
    first, other = (all_scores(ignorant, factors, seed=s) for s in (3, 4))
    assert all(first[name] != other[name] for name in ("factorvae", "betavae", "dci"))


def test_factors_are_drawn_uniformly():
    drawn = sample_factors(DSPRITES, 20_000, seed=5)
    assert drawn.shape == (20_000, 5)
    for column, size in zip(drawn.T, DSPRITES, strict=True):
        assert np.bincount(column, minlength=size) == pytest.approx(20_000 / size, rel=0.25)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.03
    assert (drawn == sample_factors(DSPRITES, 20_000, seed=5)).all()


@pytest.mark.parametrize(
    ("codes", "factors", "reason"),
    [
        (np.zeros((4, 0)), whole_grid(2, 2), "at least one code"),
        (np.zeros(4), whole_grid(2, 2), r"\[4\] and \[4, 2\]"),
        (np.zeros((3, 1)), whole_grid(2, 2), r"\[3, 1\] and \[4, 2\]"),
        (np.zeros((4, 1)), np.array([[0, 5], [1, 5], [0, 5], [1, 5]]), r"constant ones: \[1\]"),
        (np.zeros((4, 1)), np.zeros((4, 0), int), "factors that vary"),
        (np.array([[0.0], [np.nan], [1], [2]]), whole_grid(2, 2), "finite codes"),
    ],
)
@pytest.mark.parametrize("score", [mig, dci, sap, factorvae_score, betavae_score])
def test_codes_and_factors_that_cannot_be_scored_are_refused(score, codes, factors, reason):
    with pytest.raises(ValueError, match=reason):
        score(codes, factors)


def test_a_value_with_too_few_rows_is_named():
    factors = np.array([[0], [0], [1]])
    with pytest.raises(ValueError, match="at least 2 rows of every value, got 1 of value 1"):
        factorvae_score(np.arange(3.0)[:, None], factors)
