"""The quality of images: against closed forms and cases worked out by hand."""

from functools import partial

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fastinfogan.evaluation.fidelity import frechet_distance


def standardised(n: int = 64, features: int = 5, seed: int = 0) -> np.ndarray:
    """Points whose sample mean is 0 and whose sample covariance is the unit matrix, exactly."""
    x = np.random.default_rng(seed).normal(size=(n, features))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)).T)


class TestFrechetDistance:
    # Roots of eigenvalues that are not small keep nearly all of fp64's digits.
    close = staticmethod(partial(pytest.approx, rel=1e-9, abs=1e-9))

    def test_two_means_are_their_squared_distance_apart(self):
        x, shift = standardised(), np.array([3.0, 0, -4, 0, 1])
        assert frechet_distance(x, x + shift) == self.close(26.0)

    def test_diagonal_covariances_are_apart_by_their_deviations(self):
        x = standardised()
        first, second = np.array([1.0, 2, 3, 4, 5]), np.array([5.0, 2, 1, 0.5, 7])
        expected = ((first - second) ** 2).sum()
        assert frechet_distance(x * first, x * second) == self.close(expected)

    @pytest.mark.parametrize("seed", range(3))
    def test_any_covariances_agree_with_scipys_root(self, seed):
        draw = np.random.default_rng(seed)
        a = standardised(64, 5, seed) @ draw.normal(size=(5, 5)) + draw.normal(size=5)
        b = standardised(40, 5, seed + 10) @ draw.normal(size=(5, 5))
        ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        shift = a.mean(0) - b.mean(0)
        expected = shift @ shift + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
        assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)

    @pytest.mark.parametrize("dead", [0, 3])
    def test_a_set_is_no_distance_from_itself_even_with_dead_features(self, dead):
        x = standardised() * 3
        x[:, :dead] = 0.25
        # an eigenvalue that is 0 comes out as 1e-16 of the largest, its root as 1e-8
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)

    def test_the_order_of_the_points_plays_no_part(self):
        a, b = standardised(), standardised(seed=1) * 2 + 1
        assert frechet_distance(a[::-1], b) == self.close(frechet_distance(a, b))
