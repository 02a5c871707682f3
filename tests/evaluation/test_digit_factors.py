"""Slant and stroke width: against strokes drawn to measure and digits warped to measure."""

import itertools
import time

import numpy as np
import pytest
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import spearmanr

from fastinfogan import data
from fastinfogan.evaluation.digit_factors import correlate, factor_correlations, slant, stroke_width
from fastinfogan.latents import Categorical, Gaussian, LatentSpec, Uniform

FINE = 8  # each pixel is the mean of 8 × 8 points


def drawn(inside, side: int = 28) -> np.ndarray:
    """Return an anti-aliased image [1, side, side] of the points at which inside(x, y) is true."""
    at = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    return inside(x, y).reshape(1, side, FINE, side, FINE).mean((2, 4))


def stroke(width: float, degrees: float, length: float = 16) -> np.ndarray:
    """Return a straight stroke at an angle."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return drawn(
        lambda x, y: (abs(x * c + y * s) <= length / 2) & (abs(y * c - x * s) <= width / 2)
    )


def leaning(shear: float) -> np.ndarray:
    """Return a stroke whose upper end lies to the right by `shear` pixels per row."""
    return drawn(lambda x, y: (abs(y) <= 9) & (abs(x + shear * y) <= 1.5))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Return 300 test images, [N, 36, 36] in 0 … 1, with a border for warps."""
    images = np.asarray(data.load("mnist", image_size=28, channels=1)["test"].images[:300])
    return np.pad(images[..., 0] / 255, ((0, 0), (4, 4), (4, 4)))


class TestSlant:
    @pytest.mark.parametrize("shear", [-1.0, -0.4, 0.0, 0.2, 0.7])
    def test_a_stroke_has_the_shear_it_was_drawn_with(self, shear):
        assert slant(leaning(shear)) == pytest.approx([shear], abs=0.01)

    @pytest.mark.parametrize("shear", [-0.3, 0.2])
    def test_a_digit_sheared_to_the_right_leans_by_so_much_more(self, digits, shear):
        middle = (digits.shape[1] - 1) / 2
        # output (row, column) is read at (row, column + shear · (row − middle))
        warped = np.stack(
            [
                ndimage.affine_transform(
                    image, [[1, 0], [shear, 1]], offset=[0, -shear * middle], order=1
                )
                for image in digits
            ]
        )
        gained = slant(warped) - slant(digits)
        assert np.median(gained) == pytest.approx(shear, abs=0.005)
        assert np.abs(gained - shear).max() < 0.03

    def test_a_mirrored_image_leans_the_other_way(self, digits):
        assert slant(digits[:, :, ::-1]) == pytest.approx(-slant(digits), abs=1e-9)


class TestStrokeWidth:
    @pytest.mark.parametrize("width", [1.5, 2.0, 2.5, 3.0, 4.0, 5.0])
    def test_a_stroke_at_any_angle_has_about_the_width_it_was_drawn_with(self, width):
        exact = width * 16 / (width + 16)  # 2 area / perimeter
        result = [stroke_width(stroke(width, a))[0] for a in (0, 10, 20, 30, 45, 60, 90)]
        # a stroke under two pixels wide is smeared by the pixels themselves
        assert np.abs(np.array(result) / exact - 1).max() < (0.1 if width > 2 else 0.4)

    @pytest.mark.parametrize("width", [2.0, 3.0, 5.0])
    def test_a_ring_is_as_wide_as_it_was_drawn(self, width):
        ring = drawn(lambda x, y: abs(np.hypot(x, y) - 9) <= width / 2)
        assert stroke_width(ring) == pytest.approx([width], rel=0.06)

    def test_wider_strokes_measure_wider_whatever_their_angle(self):
        result = [
            [stroke_width(stroke(w, a))[0] for a in (0, 25, 45)] for w in (1.5, 2.5, 3.5, 4.5)
        ]
        assert all(max(a) < min(b) for a, b in itertools.pairwise(result))

    def test_on_digits_it_ranks_as_the_distance_transform_does(self, digits):
        """Morpho-MNIST's thickness, Castro et al. 2019: slower, and the definition held to."""

        def thickness(image):
            ink = ndimage.zoom(image, 4, order=1) > 0.5 * image.max()
            inner = ndimage.distance_transform_edt(ink)
            return inner[(inner == ndimage.maximum_filter(inner, 3)) & ink].mean() / 2

        expected = [thickness(image) for image in digits]
        assert spearmanr(stroke_width(digits), expected).statistic > 0.95
        assert np.mean(stroke_width(digits)) == pytest.approx(np.mean(expected), rel=0.1)

    def test_a_thickened_digit_is_wider(self, digits):
        thick = np.stack([ndimage.grey_dilation(image, 3) for image in digits])
        assert (stroke_width(thick) > stroke_width(digits) + 0.7).all()


@given(st.floats(0.05, 1.0), st.integers(0, 8), st.integers(0, 8))
@modest
def test_neither_contrast_nor_place_plays_a_part(contrast, down, right):
    image = np.concatenate((stroke(3.0, 70), leaning(0.3)))
    image = image * (np.indices((28, 28)).sum(0) % 7 > 0)  # some texture
    moved = np.pad(image, ((0, 0), (down, 8 - down), (right, 8 - right))) * contrast
    for measure in (slant, stroke_width):
        assert measure(moved) == pytest.approx(measure(image), rel=1e-4, abs=1e-6)


def test_bytes_measure_as_fractions_do(digits):
    for measure in (slant, stroke_width):
        result = measure((digits * 255).round().astype(np.uint8))
        assert result == pytest.approx(measure(digits), rel=1e-5)


def test_without_ink_there_is_nothing_to_measure():
    images = np.concatenate((np.zeros((1, 28, 28)), stroke(3, 0)))
    for measure in (slant, stroke_width):
        assert np.isnan(measure(images)).tolist() == [True, False]
    row = np.zeros((1, 28, 28))
    row[0, 5, 3:20] = 1
    assert np.isnan(slant(row)).all()


def test_ten_thousand_images_take_under_five_seconds_of_one_core():
    images = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
    start = time.process_time()
    slant(images), stroke_width(images)
    assert time.process_time() - start < 5


class TestCorrelate:
    def test_within_categories_it_is_seen_what_pooling_hides(self):
        """Simpson's paradox: each category rises, and the categories fall."""
        code = np.array([*range(40), *range(100, 140)], float)[:, None]
        factor = np.array([*range(200, 240), *range(40)], float)
        categories = np.repeat([0, 1], 40)
        result = correlate(code, factor, categories)
        assert result.within == pytest.approx([1.0])
        # ranks 1-40, 41-80 against 41-80, 1-40: 1 − 6 · 80 · 40² / (80 · (80² − 1))
        assert result.pooled == pytest.approx([1 - 6 * 80 * 1600 / (80 * 6399)])

    def test_a_code_that_means_opposite_things_in_two_categories_cancels(self):
        code = np.tile(np.arange(30.0), 2)[:, None]
        factor = np.concatenate((np.arange(30.0), -np.arange(30.0)))
        assert correlate(code, factor, np.repeat([0, 1], 30)).within == pytest.approx([0.0])

    def test_categories_count_alike_whatever_their_size(self):
        code = np.concatenate((np.arange(30.0), np.arange(90.0)))[:, None]
        factor = np.concatenate((np.arange(30.0), -np.arange(90.0)))
        assert correlate(code, factor, np.repeat([3, 7], [30, 90])).within == pytest.approx([0.0])

    @pytest.mark.parametrize("seed", range(3))
    def test_with_ties_it_is_scipys(self, seed):
        rng = np.random.default_rng(seed)
        codes, factor = rng.integers(0, 9, (200, 2)) + 0.5, rng.integers(0, 5, 200) + 0.5
        expected = [spearmanr(code, factor).statistic for code in codes.T]
        assert correlate(codes, factor).pooled == pytest.approx(expected, abs=1e-12)
        assert correlate(codes, factor).within == pytest.approx(expected, abs=1e-12)

    def test_rows_without_a_factor_and_small_categories_are_left_out(self):
        code = np.concatenate((np.arange(30.0), -np.arange(29.0), [1e9]))[:, None]
        factor = np.concatenate((np.arange(30.0), np.arange(29.0), [np.nan]))
        assert correlate(code, factor, np.repeat([0, 1], 30)).within == pytest.approx([1.0])

    def test_a_constant_has_no_correlation(self):
        code, factor = np.arange(40.0)[:, None], np.arange(40.0)
        categories = np.zeros(40, np.int64)
        for c, f in ((code * 0, factor), (code, factor * 0), (code, factor * np.nan)):
            assert np.isnan(correlate(c, f, categories)).all()


def test_every_dim_of_every_continuous_code_is_named():
    spec = LatentSpec(noise=1, codes=(Gaussian(), Categorical(2), Uniform(dim=2)))
    lean = np.linspace(-1, 1, 30)
    images = np.concatenate([leaning(s) for s in lean])
    codes = np.stack((np.zeros(30), -lean, lean), axis=1)
    result = factor_correlations(spec, images, codes, np.zeros(30, np.int64))
    assert result.keys() == {"slant", "stroke_width"}
    whole = {"within": pytest.approx(1.0), "pooled": pytest.approx(1.0)}
    codes = result["slant"]["codes"]
    assert codes["c3_uniform[1]"] == whole
    assert codes["c3_uniform[0]"]["within"] == pytest.approx(-1.0)
    assert codes["c1_gaussian"] == {"within": None, "pooled": None}
    assert result["slant"]["code"] in ("c3_uniform[0]", "c3_uniform[1]")
    assert result["slant"]["correlation"] == pytest.approx(1.0)


def test_a_code_of_weight_0_is_not_the_best_of_any_factor():
    spec = LatentSpec(noise=1, codes=(Uniform(), Gaussian(dim=2, weight=0)))
    lean = np.linspace(-1, 1, 30)
    images = np.concatenate([leaning(s) for s in lean])
    codes = np.stack((np.sin(9 * lean), lean, -lean), axis=1)
    slants = factor_correlations(spec, images, codes, np.zeros(30, np.int64))["slant"]
    assert slants["code"] == "c1_uniform"
    assert slants["correlation"] < 0.9
    assert slants["codes"]["c2_gaussian[0]"]["within"] == pytest.approx(1.0)


def test_without_a_continuous_code_no_factor_has_one():
    spec = LatentSpec(noise=1, codes=(Categorical(2),))
    images = np.concatenate([leaning(s) for s in np.linspace(-1, 1, 30)])
    result = factor_correlations(spec, images, np.zeros((30, 0)), np.zeros(30, np.int64))
    assert result["slant"] == {"code": None, "correlation": None, "codes": {}}
