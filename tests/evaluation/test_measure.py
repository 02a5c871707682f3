"""The scores: against tables worked out by hand, closed forms, and what the run can't tell."""

import json
from dataclasses import replace
from functools import partial
from math import comb, log
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor, nn

from fastinfogan import data, evaluate
from fastinfogan.config import TrainConfig
from fastinfogan.evaluate import scored_code, summary
from fastinfogan.evaluation import classifier, disentanglement
from fastinfogan.evaluation import clustering as scores
from fastinfogan.evaluation.clustering import draw_contingency, frechet_distance, match
from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform
from fastinfogan.networks import MnistDiscriminator, MnistGenerator, initialise
from fastinfogan.runs.folder import Loaded, RunDir


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


class TestMatching:
    def test_a_table_worked_out_by_hand(self):
        codes, labels = pairs([[5, 1, 0], [2, 6, 2], [0, 3, 1]])
        table, names = scores.contingency(codes, labels + 3, categories=4)
        assert table.tolist() == [[5, 1, 0, 0], [2, 6, 2, 0], [0, 3, 1, 0]]
        assert names.tolist() == [3, 4, 5]
        assert scores.match_labels(table, names) == [3, 4, 5, None]

    @pytest.mark.parametrize(
        ("table", "matching"),
        [
            ([[10, 9], [9, 0]], [8, 7]),  # 9 + 9 beats 10 + 0
            ([[5, 5, 0, 0], [0, 0, 3, 7]], [7, None, None, 8]),  # two are left over
            ([[0, 5], [0, 9]], [7, 8]),  # a category that no image got has a label too
        ],
    )
    def test_each_category_gets_the_label_of_the_best_assignment(self, table, matching):
        names = np.array([7, 8])
        assert scores.match_labels(np.array(table), names) == matching

    @given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
    @modest
    def test_its_images_are_those_that_code_accuracy_counts(self, table):
        if sum(map(sum, table)) == 0:
            return
        codes, labels = pairs(table)
        matching = scores.match_labels(*scores.contingency(codes, labels, 3))
        accuracy = scores.obeyed(codes, labels, matching)
        assert accuracy == pytest.approx(match(codes, labels)["code_accuracy"], abs=1e-12)
        labelled = [label for label in matching if label is not None]
        assert len(labelled) == len(set(labelled)) == min(3, len(np.unique(labels)))

    def test_categories_are_ordered_by_label_and_the_rest_comes_last(self):
        assert scores.in_order([2, None, 0, 9, None, 1]) == [2, 5, 0, 3, 1, 4]

    def test_obedience_counts_a_category_without_a_label_as_wrong(self):
        categories, seen = np.array([0, 0, 1, 2, 2]), np.array([7, 8, 7, 8, 8])
        assert scores.obeyed(categories, seen, [7, None, 8]) == 3 / 5


class TestPicture:
    @staticmethod
    def blues(path) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels of full cells."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        red, _, blue = np.moveaxis(pixels, 2, 0)
        y, x = np.nonzero((blue - red > 80) & (red < 60))
        return y, x

    def test_a_perfect_code_shows_a_diagonal_whatever_its_categories_are_called(self, tmp_path):
        matching = [3, 0, None, 4, 1, 2]
        table = np.zeros((5, 6), np.int64)
        for category, label in enumerate(matching):
            if label is not None:
                table[label, category] = 100
        path = tmp_path / "new" / "contingency.png"
        draw_contingency(table, range(5), matching, "c1_categorical", path)
        y, x = self.blues(path)
        assert len(y) > 1000
        assert np.corrcoef(y, x)[0, 1] > 0.95

    @pytest.mark.parametrize("shape", [(1, 2), (3, 50), (60, 60)])
    def test_any_table_can_be_drawn(self, tmp_path, shape):
        table = np.random.default_rng(0).integers(0, 999, shape)
        labels = np.arange(shape[0])
        matching = scores.match_labels(table, labels)
        draw_contingency(table, labels.tolist(), matching, "c1", tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert max(picture.size) < 2000


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


SCORES = ("code_scored", "code_accuracy", "purity", "nmi", "ari", "matching", "contingency")
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
        counts = np.zeros((5, 5), int)
        counts[:, 0] = 400
        assert result["contingency"] == {"labels": [0, 1, 2, 3, 4], "counts": counts.tolist()}
        assert sorted(result["matching"]) == [0, 1, 2, 3, 4]
        # these images are no digits, whatever the labels say
        assert result["obedience"] is None
        assert result["factors"] is None
        assert result["disentanglement"] is None
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


ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)  # the digit of each category


class Shears(nn.Module):
    """A generator of a real digit for each category, sheared by its second continuous code."""

    image_range = (0.0, 1.0)

    def __init__(self, digits: Tensor) -> None:
        super().__init__()
        self.digits = nn.Parameter(digits, requires_grad=False)  # [categories, 1, 28, 28]

    def forward(self, latent: Tensor, stats: object = None) -> Tensor:
        category, shear = latent[:, 1:11].argmax(1), 0.3 * latent[:, 12]
        rows = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(len(latent), 1, 1)
        rows[:, 0, 1] = shear
        grid = nn.functional.affine_grid(rows, [len(latent), 1, 28, 28], align_corners=False)
        return nn.functional.grid_sample(self.digits[category], grid, align_corners=False)


class Reads(nn.Module):
    """A discriminator whose Q is the classifier, its classes in the categories' order."""

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier.load()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)[:, list(ORDER)]
        return logits[:, 0], torch.cat((logits, torch.zeros(len(images), 2)), 1)


@pytest.fixture(scope="module")
def mnist() -> dict[data.Split, data.Images]:
    return data.load("mnist", image_size=28, channels=1)


def readable(mnist: dict[data.Split, data.Images], digits: tuple[int, ...]) -> Loaded:
    """A pair of known obedience: category i draws a clear digits[i]."""
    test = mnist["test"]
    images = data.to_range(torch.from_numpy(np.asarray(test.images)), (0.0, 1.0))
    with torch.no_grad():
        sure = classifier.load()(images[:3000]).softmax(1).max(0).indices
    spec = LatentSpec(noise=1, codes=(Categorical(10), Uniform(), Uniform()))
    return Loaded(Shears(images[sure[list(digits)]]), Reads(), spec)  # type: ignore[arg-type]


@pytest.fixture
def few_real(monkeypatch):
    """2,000 test images in place of 10,000."""
    monkeypatch.setattr(evaluate, "MOST_REAL", 2000)


@pytest.mark.usefixtures("few_generated", "few_real")
class TestDigits:
    def test_codes_that_are_digits_are_matched_obeyed_and_followed(self, mnist):
        result = evaluate.evaluate(readable(mnist, ORDER), mnist)
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["matching"] == list(ORDER)
        assert result["code_accuracy"] == pytest.approx(classifier.committed_accuracy(), abs=0.006)
        assert result["obedience"] > 0.97  # a sheared digit may look like another
        slant, width = result["factors"]["slant"], result["factors"]["stroke_width"]
        assert slant["c3_uniform"]["within"] > 0.98
        # digits differ in slant, so pooling them shows less
        assert 0.3 < slant["c3_uniform"]["pooled"] < slant["c3_uniform"]["within"]
        assert abs(slant["c2_uniform"]["within"]) < 0.1
        assert abs(width["c2_uniform"]["within"]) < 0.1
        line = summary(result)[3]
        assert f"{result['obedience']:.1%}" in line
        assert "slant goes with c3_uniform, ρ = +1.00" in line

    def test_a_category_that_draws_another_digit_than_q_reads_disobeys(self, mnist):
        swapped = (1, 3, *ORDER[2:])  # two of ten categories
        result = evaluate.evaluate(readable(mnist, swapped), mnist)
        assert result["matching"] == list(ORDER)
        assert result["obedience"] == pytest.approx(0.8, abs=0.05)

    def test_where_labels_are_not_the_digits_nothing_is_obeyed(self, mnist):
        test, train = mnist["test"], mnist["train"]
        assert test.labels is not None
        moved = data.Images(test.images, (test.labels + 1) % 10)
        result = evaluate.evaluate(readable(mnist, ORDER), {"train": train, "test": moved})
        assert result["obedience"] is None
        assert result["factors"] is None
        assert result["frechet"] is not None
        assert len(summary(result)) == 3

    def test_writing_keeps_the_matching_and_draws_the_table(self, mnist, tmp_path):
        run = RunDir(tmp_path)
        result = evaluate.evaluate(readable(mnist, ORDER), mnist)
        written = evaluate.write(run, 7, "mnist", result)
        assert json.loads(run.evaluation.read_text()) == written
        assert written["step"] == 7
        assert "contingency" not in written
        assert run.read_matching(7) == ("c1_categorical", list(ORDER))
        y, x = TestPicture.blues(run.samples / "contingency.png")
        assert np.corrcoef(y, x)[0, 1] > 0.95


class Corners:
    """A grid of two factors, each of them the gray of one pixel."""

    sizes = (4, 5)

    def images(self, factors: np.ndarray) -> np.ndarray:
        out = np.zeros((len(factors), 8, 8, 1), np.uint8)
        out[:, 0, 0, 0], out[:, 7, 7, 0] = (factors * 50).T
        return out


class Looks(nn.Module):
    """A discriminator whose Q reads these two pixels, as two means with log-variances."""

    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at = images[:, 0, 0, 0], images[:, 0, 7, 7]
        noise = torch.randn(len(images), 2, generator=torch.Generator().manual_seed(0))
        return at[0], torch.cat((torch.stack(at, 1), noise), 1)


def test_a_set_with_factors_has_its_disentanglement_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "GENERATED", 500)
    monkeypatch.setattr(evaluate, "RENDERED", 2000)
    config = TrainConfig(
        data=npz(tmp_path, 100, size=8, labels=False), codes="uniform2:learned", image_size=8
    )
    loaded = Loaded(blind(config).generator, Looks(), config.spec())  # type: ignore[arg-type]
    result = evaluate.evaluate(loaded, splits(config), grid=Corners())
    assert result["disentanglement"] == {
        "factorvae": 1.0,
        "betavae": pytest.approx(1.0, abs=0.01),
        "mig": pytest.approx(1.0, abs=0.01),
        "dci": pytest.approx(1.0),
        "dci_completeness": pytest.approx(1.0),
        "dci_informativeness": pytest.approx(1.0),
        "sap": pytest.approx((1 - 1 / 4 + 1) / 2, abs=0.05),  # the first factor has no order
        "images": 2000,
    }
    assert evaluate.evaluate(loaded, splits(config))["disentanglement"] is None


def test_scores_are_told_which_columns_are_a_categorys_number(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "RENDERED", 50)
    told = {}
    monkeypatch.setattr(disentanglement, "all_scores", lambda *_, **k: told.update(k) or {})
    codes = "uniform2:learned,cat3,bernoulli,cat4"
    config = TrainConfig(data=npz(tmp_path, 100, size=8, labels=False), codes=codes, image_size=8)
    pair = blind(config)
    evaluate._disentanglement(pair.discriminator, config.spec(), (0.0, 1.0), Corners(), 0)
    assert told["classes"] == [2, 4]


def test_what_q_says_has_a_column_for_each_dim_of_each_code():
    spec = LatentSpec(
        noise=0, codes=(Uniform(dim=2, sigma="learned"), Categorical(3), Bernoulli(), Uniform())
    )
    q = torch.tensor([[0.1, 0.2, 8, 9, 0, 5, 1, 0, -0.5], [1, 2, 8, 9, 3, 2, 1, log(3), 4]])
    expected = torch.tensor([[0.1, 0.2, 1, 0.5, -0.5], [1, 2, 0, 0.75, 4]])
    torch.testing.assert_close(evaluate.read_codes(q, spec), expected)
