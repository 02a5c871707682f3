"""Codes against known factors: against codes whose relation to the factors is known."""

import json

import numpy as np
import pytest

from fastinfogan.evaluation import known_factors
from fastinfogan.evaluation.known_factors import Dim, Factor, code_dims, compare, parse_factors
from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform

N = 1000


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def real(name: str, values: np.ndarray) -> Dim:
    return Dim(name, Uniform(), values)


class TestParsing:
    def test_a_name_may_say_its_period(self):
        values = np.arange(9.0).reshape(3, 3)
        width, turn, odd = parse_factors(values, ("width", "azimuth:360", "a:b"))
        assert (width.name, width.period) == ("width", None)
        assert (turn.name, turn.period) == ("azimuth", 360.0)
        assert (odd.name, odd.period) == ("a:b", None)
        assert turn.values.tolist() == [1, 4, 7]

    def test_each_dim_of_a_code_has_a_name(self):
        spec = LatentSpec(noise=0, codes=(Categorical(3), Uniform(dim=2), Angle(), Bernoulli()))
        dims = code_dims(spec, np.arange(10.0).reshape(2, 5))
        assert [d.name for d in dims] == [
            *("c1_categorical", "c2_uniform[0]", "c2_uniform[1]", "c3_angle", "c4_bernoulli")
        ]
        assert dims[2].values.tolist() == [2, 7]

    def test_a_code_of_weight_0_counts_only_where_no_other_does(self):
        """Dims that tell images apart know any factor; G's images need not have it."""
        free = Gaussian(dim=64, weight=0, name="embedding")
        turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
        categories = np.floor(turn / np.pi)
        embedding = np.stack([f(k * turn) for k in range(1, 33) for f in (np.cos, np.sin)], 1)
        read = np.column_stack([categories, embedding])
        azimuth = Factor("azimuth", np.rad2deg(turn), period=360.0)
        spec = LatentSpec(noise=0, codes=(Categorical(2), free))
        dims = code_dims(spec, read)
        assert [d.name for d in dims] == ["c1_categorical"]
        # of half a turn each: the mean of a half-circle's directions is 2/π long
        assert compare(dims, [azimuth])["azimuth"]["fit"] == pytest.approx(2 / np.pi, abs=0.05)
        spec = LatentSpec(noise=0, codes=(Categorical(2, weight=0), free))
        assert len(code_dims(spec, read)) == 65
        assert compare(code_dims(spec, read), [azimuth])["azimuth"]["fit"] > 0.99


class TestCompare:
    def test_any_rising_or_falling_function_of_an_ordered_factor_is_perfect(self):
        values = drawn().normal(size=N)
        noise = drawn(1).normal(size=N)
        dims = [real("noise", noise), real("falls", -(values**3)), real("half", values + noise)]
        (width,) = compare(dims, [Factor("width", values)]).values()
        assert (width["code"], width["correlation"]) == ("falls", pytest.approx(1.0))
        assert width["codes"]["noise"] < 0.1
        # Spearman's ρ of two Gaussians of correlation r is 6/π · asin(r/2)
        expected = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)
        assert width["codes"]["half"] == pytest.approx(expected, abs=0.05)
        assert width["fit"] > 0.95
        assert width["images"] == N

    def test_one_code_is_matched_with_one_factor(self):
        first, second = drawn().normal(size=(2, N))
        # "both" is the best code of each; the matching gives it to the one with no other.
        dims = [real("both", first + second), real("weak", first + 2 * drawn(1).normal(size=N))]
        result = compare(dims, [Factor("a", first), Factor("b", second)])
        assert result["a"]["code"] == result["b"]["code"] == "both"
        assert result["a"]["matched_code"] == "weak"
        assert result["b"]["matched_code"] == "both"
        assert result["a"]["matched_correlation"] == result["a"]["codes"]["weak"]

    def test_more_factors_than_codes_leaves_one_without_a_match(self):
        first, second = drawn().normal(size=(2, N))
        result = compare([real("a", first)], [Factor("x", first), Factor("y", second)])
        assert result["x"]["matched_code"] == "a"
        assert result["y"]["matched_code"] is None
        assert result["y"]["code"] == "a"

    def test_an_angle_follows_a_circular_factor_whatever_its_origin_and_direction(self):
        turn = drawn().uniform(0, 360, N)
        angle = np.arctan2(*np.array([np.sin(1 - np.radians(turn)), np.cos(1 - np.radians(turn))]))
        dims = [Dim("angle", Angle(), angle), real("line", np.radians(turn) - np.pi)]
        (azimuth,) = compare(dims, [Factor("azimuth", turn, 360.0)]).values()
        assert azimuth["codes"]["angle"] == pytest.approx(1.0)
        # A uniform code of the angle: sin x by x has R² 6/π², cos x by x² has 90/π⁴ of .5 each
        expected = np.sqrt((6 / np.pi**2 + 90 / np.pi**4) / 2)
        assert azimuth["codes"]["line"] == pytest.approx(expected, abs=0.02)
        assert azimuth["period"] == 360.0

    def test_the_categories_of_an_angle_are_as_good_as_they_are_narrow(self):
        turn = drawn().uniform(0, 360, 4000)
        category = np.floor(turn / 90)
        dims = [Dim("quarter", Categorical(4), category)]
        (azimuth,) = compare(dims, [Factor("azimuth", turn, 360.0)]).values()
        # The mean direction of a quarter has the length sin(π/4) / (π/4).
        expected = np.sin(np.pi / 4) / (np.pi / 4)
        assert azimuth["codes"]["quarter"] == pytest.approx(expected, abs=0.01)
        assert azimuth["fit"] == azimuth["codes"]["quarter"]

    def test_a_categorys_number_plays_no_part(self):
        values = np.repeat([0.0, 1.0, 2.0, 3.0], 100)
        dims = [Dim("c", Categorical(4), np.repeat([2.0, 0.0, 3.0, 1.0], 100))]
        (factor,) = compare(dims, [Factor("size", values)]).values()
        assert factor["correlation"] == pytest.approx(1.0)

    def test_a_factor_without_an_order_is_its_one_hot_rows(self):
        shape = drawn().integers(0, 3, N).astype(float)
        dims = [Dim("c", Categorical(3), (shape + 1) % 3), real("noise", drawn(1).normal(size=N))]
        (factor,) = compare(dims, [Factor("shape", shape, nominal=True)]).values()
        assert factor["code"] == "c"
        assert factor["correlation"] == pytest.approx(1.0)
        assert factor["codes"]["noise"] < 0.1

    def test_a_fit_is_scored_on_images_that_it_has_not_seen(self):
        # 40 random codes fit 100 images well, and tell nothing of 100 others.
        codes = drawn().normal(size=(40, 200))
        dims = [real(str(i), code) for i, code in enumerate(codes)]
        assert known_factors.fit(dims, Factor("x", drawn(1).normal(size=200))) < 0.3

    def test_a_constant_or_unknown_factor_has_no_correlation(self):
        values = drawn().normal(size=N)
        few = np.where(np.arange(N) < 20, values, np.nan)
        some = np.where(np.arange(N) < 500, values, np.nan)
        dims = [real("constant", np.ones(N)), real("same", values)]
        factors = [Factor("one", values * 0), Factor("few", few), Factor("some", some)]
        result = compare(dims, factors)
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        for name in ("one", "few"):
            assert result[name]["code"] is result[name]["correlation"] is None
            assert result[name]["matched_code"] is result[name]["fit"] is None
        assert result["some"]["codes"] == {"constant": None, "same": pytest.approx(1.0)}
        assert result["some"]["images"] == 500


def test_the_rotation_is_named_or_the_first_circular_factor():
    turn, other = drawn().uniform(0, 360, (2, N))
    dims = [Dim("a", Angle(), np.radians(turn))]
    factors = [Factor("light", other, 360.0), Factor("azimuth", turn, 360.0), Factor("w", other)]
    assert known_factors.rotation_fit(compare(dims, factors)) == pytest.approx(1.0)
    light = known_factors.rotation_fit(compare(dims, [factors[2], factors[0]]))
    assert light is not None
    assert light < 0.2
    assert known_factors.rotation_fit(compare(dims, [factors[2]])) is None


class TestScores:
    def test_factors_of_few_values_stay_and_others_are_cut_into_ten_equal_bins(self):
        values = np.array([5.0, 2.0, 5.0, 2.0, 9.0, 9.0])
        assert known_factors.discretise(values).tolist() == [1, 0, 1, 0, 2, 2]
        many = known_factors.discretise(drawn().normal(size=N))
        assert np.bincount(many).tolist() == [100] * 10
        turns = known_factors.discretise(np.arange(31.0).repeat(20))
        assert len(np.unique(turns)) == 10

    def test_codes_that_are_the_factors_score_high_and_noise_low(self):
        factors = [Factor("a", drawn().normal(size=2000)), Factor("b", drawn(1).uniform(size=2000))]
        good = [real("a", factors[0].values), real("b", factors[1].values)]
        bad = [real(str(i), drawn(2 + i).normal(size=2000)) for i in range(2)]
        scored, poor = known_factors.scores(good, factors), known_factors.scores(bad, factors)
        assert scored is not None
        assert poor is not None
        assert scored["factorvae"] == 1.0
        assert scored["mig"] > 0.7
        assert scored["images"] == 2000
        assert poor["mig"] < 0.1
        assert poor["factorvae"] < 0.7

    @pytest.mark.parametrize(
        "factors",
        [
            [Factor("a", np.arange(N) / N)],
            [Factor("a", np.arange(N) / N), Factor("b", np.ones(N))],
            [Factor("a", np.arange(N) / N), Factor("b", np.where(np.arange(N) < 400, 1.0, np.nan))],
        ],
    )
    def test_they_take_two_factors_that_vary_and_500_images(self, factors):
        assert known_factors.scores([real("a", np.arange(N) / N)], factors) is None
