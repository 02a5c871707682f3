"""The quality of images: against closed forms and cases worked out by hand."""

from functools import partial

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fastinfogan.evaluation.fidelity import Neighbours, frechet_distance, neighbour_scores


def standardised(n: int = 64, features: int = 5, seed: int = 0) -> np.ndarray:
    """Return points whose sample mean is 0 and whose sample covariance is I, exactly."""
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


def line(*places: float) -> np.ndarray:
    """Return points on a line, in a plane."""
    return np.stack((np.array(places, float), np.zeros(len(places))), 1)


class TestNeighbourScores:
    def test_a_case_worked_out_by_hand(self):
        # With k = 1 the balls are: real 0 ± 1, 1 ± 1, 3 ± 2, 10 ± 7; generated 2 ± 0.5, 2.5 ± 0.5,
        # 30 ± 27.5.
        scores = neighbour_scores(line(0, 1, 3, 10), line(2, 2.5, 30), k=1, k_density=1)
        # 2 lies on the ball of 1 and in that of 3, 2.5 in that of 3, 30 in none
        assert scores.precision == pytest.approx(2 / 3)
        # 3 lies on the ball of 2.5, and 3 and 10 in that of 30
        assert scores.recall == pytest.approx(2 / 4)
        assert scores.density == pytest.approx(3 / 3)
        # the balls of 1 (2 on its surface) and 3 hold a generated point
        assert scores.coverage == pytest.approx(2 / 4)

    def test_density_divides_by_its_own_k(self):
        # k = 2: real 0 ± 3, 1 ± 2, 3 ± 3, 10 ± 9; 2 lies in all, 2.5 in all, 30 in none
        scores = neighbour_scores(line(0, 1, 3, 10), line(2, 2.5, 30), k=1, k_density=2)
        assert scores.density == pytest.approx(8 / (2 * 3))
        assert scores.coverage == 1.0

    def test_a_set_against_itself_is_perfect_even_with_points_that_coincide(self):
        points = np.random.default_rng(0).normal(size=(60, 5)) * 1e3 + 1e6
        points[30:40] = points[0]
        scores = neighbour_scores(points, points)
        assert (scores.precision, scores.recall, scores.coverage) == (1.0, 1.0, 1.0)

    def test_points_far_away_score_nothing(self):
        points = np.random.default_rng(0).normal(size=(50, 3))
        far = points + np.array([1e4, 0, 0])
        assert neighbour_scores(points, far) == Neighbours(0.0, 0.0, 0.0, 0.0)

    def test_a_few_good_points_have_precision_without_recall(self):
        points = np.random.default_rng(0).normal(size=(300, 3))
        few = points[:5].repeat(20, axis=0)
        scores = neighbour_scores(points, few)
        assert scores.precision == 1.0
        assert scores.recall == pytest.approx(5 / 300)
        assert scores.coverage < 0.2

    def test_parts_of_the_matrix_add_up(self, monkeypatch):
        draw = np.random.default_rng(0)
        real, fake = draw.normal(size=(90, 4)), draw.normal(size=(70, 4)) * 0.8
        whole = neighbour_scores(real, fake)
        monkeypatch.setattr("fastinfogan.evaluation.fidelity.CHUNK", 32)
        assert neighbour_scores(real, fake) == pytest.approx(whole, abs=1e-12)
        assert 0 < whole.recall < 1

    def test_too_few_points_are_refused(self):
        with pytest.raises(ValueError, match="more than 5 points per set, got 6 real and 5"):
            neighbour_scores(line(*range(6)), line(*range(5)))
