"""The scores: against tables worked out by hand, closed forms, and what the run can't tell."""

import json
from dataclasses import replace
from functools import partial
from math import comb, log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from strategies import modest
from torch import nn

from fastinfogan import classifier, data, evaluate
from fastinfogan.config import TrainConfig
from fastinfogan.evaluate import scored_code, summary
from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform
from fastinfogan.networks import MnistDiscriminator, MnistGenerator, initialise
from fastinfogan.run import Loaded
from fastinfogan.scores import frechet_distance, match


def pairs(table) -> tuple[np.ndarray, np.ndarray]:
    """Codes and labels whose table [label, code] this is."""
    table = np.array(table)
    labels, codes = np.indices(table.shape)
    return codes.repeat(table.flatten()), labels.repeat(table.flatten())


def entropy(counts) -> float:
    p = np.array(counts, float).flatten() / np.sum(counts)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def nmi(table) -> float:
    """Mutual information over the mean of both entropies."""
    table = np.array(table)
    rows, columns = entropy(table.sum(1)), entropy(table.sum(0))
    return (rows + columns - entropy(table)) / ((rows + columns) / 2)


def ari(table) -> float:
    """Hubert and Arabie's index, by counting pairs."""
    table = np.array(table)

    def together(counts):
        return sum(comb(int(n), 2) for n in np.array(counts).flatten())

    both, rows, columns = together(table), together(table.sum(1)), together(table.sum(0))
    chance = rows * columns / comb(int(table.sum()), 2)
    return (both - chance) / ((rows + columns) / 2 - chance)


class TestMatch:
    @pytest.mark.parametrize(
        ("table", "accuracy", "purity"),
        [
            # best one-to-one: 5 + 6 + 1; largest of each column: 5 + 6 + 2
            ([[5, 1, 0], [2, 6, 2], [0, 3, 1]], 12 / 20, 13 / 20),
            # the largest cell is no part of the best matching: 9 + 9 beats 10 + 0
            ([[10, 9], [9, 0]], 18 / 28, 19 / 28),
            # more codes than labels: two codes stay without a label
            ([[5, 5, 0, 0], [0, 0, 3, 7]], 12 / 20, 20 / 20),
            # more labels than codes
            ([[5, 0], [5, 0], [0, 3], [0, 7]], 12 / 20, 12 / 20),
            # one code for all
            ([[4], [6], [10]], 10 / 20, 10 / 20),
            ([[3, 3], [3, 3]], 6 / 12, 6 / 12),
        ],
    )
    def test_tables_worked_out_by_hand(self, table, accuracy, purity):
        scores = match(*pairs(table))
        assert scores["code_accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert scores["purity"] == pytest.approx(purity, abs=1e-12)
        assert scores["nmi"] == pytest.approx(nmi(table), abs=1e-12)
        assert scores["ari"] == pytest.approx(ari(table), abs=1e-12)

    def test_a_perfect_sorting_scores_1_whatever_its_codes_are_called(self):
        labels = np.random.default_rng(0).integers(0, 10, 500)
        names = np.array([17, 3, 99, 0, 5, 42, 8, 1, 2, 1000])
        scores = match(names[labels], labels + 5)
        assert scores == pytest.approx(dict.fromkeys(scores, 1.0), abs=1e-12)

    @given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=4))
    @modest
    def test_any_table_keeps_the_order_of_the_scores(self, table):
        if sum(map(sum, table)) < 2:
            return
        scores = match(*pairs(table))
        assert 0 <= scores["code_accuracy"] <= scores["purity"] <= 1 or (
            scores["code_accuracy"] == scores["purity"]
        )
        assert -1e-9 <= scores["nmi"] <= 1 + 1e-9
        json.dumps(scores, allow_nan=False)


class TestScoredCode:
    @pytest.mark.parametrize(
        ("codes", "classes", "scored"),
        [
            ((Categorical(10),), 10, 0),
            ((Uniform(), Categorical(4), Categorical(10)), 10, 2),
            ((Uniform(), Categorical(4), Categorical(10)), 4, 1),
            ((Categorical(8), Categorical(12)), 10, 0),  # equally near: the first
            ((Categorical(12), Categorical(8)), 10, 0),
            ((Categorical(10), Categorical(10)), 10, 0),
            ((Categorical(3), Categorical(20), Categorical(9)), 10, 2),
            ((Uniform(), Bernoulli()), 2, None),
        ],
    )
    def test_it_is_the_first_of_those_nearest_in_size(self, codes, classes, scored):
        assert scored_code(LatentSpec(noise=1, codes=codes), classes) == scored


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


class TestClassifier:
    def test_its_file_is_small(self):
        assert classifier.WEIGHTS.stat().st_size < 1_000_000

    def test_it_reaches_the_accuracy_written_beside_it(self):
        test = data.load("mnist", image_size=28, channels=1)["test"]
        images = data.to_range(torch.from_numpy(test.images), (0.0, 1.0))
        assert test.labels is not None
        accuracy = classifier.accuracy(classifier.load(), images, torch.from_numpy(test.labels))
        assert accuracy >= 0.99
        assert round(accuracy, 4) == classifier.committed_accuracy()

    @pytest.mark.parametrize(
        ("size", "channels", "applies"), [(28, 1, True), (32, 1, False), (28, 3, False)]
    )
    def test_it_applies_to_mnists_format_alone(self, size, channels, applies):
        assert classifier.applies_to(size, channels) is applies

    def test_it_is_in_eval_mode_with_128_features(self):
        network = classifier.load()
        assert not network.training
        assert network.features(torch.rand(2, 1, 28, 28)).shape == (2, 128)


SCORES = ("code_scored", "code_accuracy", "purity", "nmi", "ari")
CODES = "cat5,cat10,uniform"


@pytest.fixture
def few_generated(monkeypatch):
    """2,000 generated images in place of 10,000."""
    monkeypatch.setattr(evaluate, "GENERATED", 2000)


def blind(config: TrainConfig) -> Loaded:
    """An untrained pair whose Q says the same of every image: all logits and means 0."""
    spec = config.spec()
    generator = MnistGenerator(spec.input_dim, config.image_size, config.channels)
    discriminator = MnistDiscriminator(spec.q_dim, config.image_size, config.channels)
    for network in (generator, discriminator):
        initialise(network, torch.Generator().manual_seed(0))
        network.eval()
    nn.init.zeros_(discriminator.q_fc2.weight)
    return Loaded(generator, discriminator, spec)


def npz(path, n: int, size: int = 28, channels: int = 1, labels: bool = True) -> str:
    """Noise of n images; the test split's labels are 0-4 in equal shares."""
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    arrays: dict[str, Any] = {"images": images}
    if labels:
        arrays["labels"] = np.arange(n) // 10 % 5
    np.savez(path / "x.npz", **arrays)
    return f"npz:{path / 'x.npz'}"


def splits(config: TrainConfig) -> dict[data.Split, data.Images]:
    return data.load(config.data, image_size=config.image_size, channels=config.channels)


def measured(config: TrainConfig) -> dict:
    result = evaluate.evaluate(blind(config), splits(config))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    lines = summary(result)
    assert len(lines) == 3
    assert not any("None" in line or "nan" in line or "\n" in line for line in lines)
    return result


@pytest.mark.usefixtures("few_generated")
class TestEvaluate:
    def test_with_labels_and_enough_images_everything_is_measured(self, tmp_path):
        config = TrainConfig(data=npz(tmp_path, 20_000), codes=CODES)
        result = measured(config)
        # Q calls every image class 0 of c1, the code nearest to five classes
        assert result["code_scored"] == "c1_categorical"
        assert result["code_accuracy"] == result["purity"] == 0.2
        assert result["nmi"] == result["ari"] == 0.0
        # log n − log n for the categories; for U(−1, 1) with mean 0 and σ = 1:
        # log 2 − ½ log 2π − E[c²]/2
        bound = result["information"]
        assert bound["c1_categorical"] == pytest.approx(0, abs=1e-6)
        assert bound["c2_categorical"] == pytest.approx(0, abs=1e-6)
        expected = log(2) - 0.5 * log(2 * np.pi) - 1 / 6
        # the standard error of the mean of c²/2 over 2,000 draws is 0.0033
        assert bound["c3_uniform"] == pytest.approx(expected, abs=0.014)
        # gray fakes are far from noise, noise is near noise
        assert 0 <= result["frechet_floor"] < 0.1 * result["frechet"]
        assert result["frechet_features"] == "mnist-classifier"
        names = ("codes", "information", "frechet", "frechet_floor")
        assert result["images"] == dict.fromkeys(names, 2000)
        assert "20.0%" in summary(result)[0]
        assert "2,000" in summary(result)[0]

    def test_without_labels_no_code_is_scored(self, tmp_path):
        path = npz(tmp_path, 100, size=8, labels=False)
        result = measured(TrainConfig(data=path, codes=CODES, image_size=8))
        assert all(result[name] is None for name in SCORES)
        assert "no labels" in summary(result)[0]

    def test_without_a_categorical_code_none_is_scored_and_that_is_the_reason_given(self, tmp_path):
        path = npz(tmp_path, 100, size=8)
        result = measured(TrainConfig(data=path, codes="uniform,bernoulli", image_size=8))
        assert all(result[name] is None for name in SCORES)
        assert "no labels" not in summary(result)[0]

    def test_under_2000_test_images_there_is_no_frechet_distance(self, tmp_path):
        result = measured(TrainConfig(data=npz(tmp_path, 19_990), codes=CODES))
        assert result["frechet"] is None
        assert result["frechet_floor"] is None
        assert result["frechet_features"] is None
        assert result["images"]["codes"] == 1999
        assert result["images"]["frechet"] == 0
        assert result["code_accuracy"] is not None

    @pytest.mark.parametrize(("size", "channels"), [(32, 1), (28, 3)])
    def test_where_the_classifier_does_not_apply_there_is_no_frechet_distance(
        self, tmp_path, monkeypatch, size, channels
    ):
        monkeypatch.setattr(evaluate, "LEAST_IMAGES", 5)  # so that their number is no reason
        monkeypatch.setattr(evaluate, "GENERATED", 500)
        config = TrainConfig(
            data=npz(tmp_path, 100, size, channels),
            codes=CODES,
            image_size=size,
            channels=channels,
        )
        result = measured(config)
        assert result["frechet"] is None
        assert result["frechet_floor"] is None
        assert result["code_accuracy"] == 0.2

    def test_the_same_seed_gives_the_same_result_and_another_seed_other_images(self, tmp_path):
        config = TrainConfig(data=npz(tmp_path, 100, size=8), codes=CODES, image_size=8)
        loaded = blind(config)
        read = splits(config)
        first, again, other = (evaluate.evaluate(loaded, read, seed=s) for s in (0, 0, 1))
        assert first == again
        assert first["information"] != other["information"]

    def test_generated_images_are_what_the_generator_draws_in_eval_mode(self):
        config = replace(TrainConfig(), image_size=8, codes=CODES)
        generator, discriminator, spec = blind(config)
        images = evaluate._generate(generator, discriminator, spec, 1100, 3).images
        with torch.no_grad():
            straight = generator(spec.sample(1100, seed=3).input)
        expected = data.from_range(straight, generator.image_range)
        assert images.shape == (1100, 8, 8, 1)
        # chunks sum in another order: a value on the edge may round the other way
        assert (images.int() - expected.int()).abs().max() <= 1
