"""The measurements of a run: against pairs whose codes are known."""

import json
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pictures import blues
from torch import Tensor, nn

from fastinfogan import data
from fastinfogan.config import TrainConfig
from fastinfogan.evaluation import classifier, disentanglement, known_factors, measure
from fastinfogan.evaluation.features import Extractor
from fastinfogan.evaluation.measure import QUALITY, scored_code, summary
from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform
from fastinfogan.networks import MnistDiscriminator, MnistGenerator, initialise
from fastinfogan.runs.folder import Loaded, RunDir


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
            ((Categorical(10, weight=0), Categorical(4)), 10, 1),  # the only one that binds G
            ((Categorical(10, weight=0), Uniform()), 10, 0),
        ],
    )
    def test_it_is_the_first_of_those_nearest_in_size(self, codes, classes, scored):
        assert scored_code(LatentSpec(noise=1, codes=codes), classes) == scored


SCORES = ("code_scored", "code_accuracy", "purity", "nmi", "ari", "matching", "contingency")
CODES = "cat5,cat10,uniform"


@pytest.fixture
def few_generated(monkeypatch):
    """Generate 2,000 images in place of 10,000."""
    monkeypatch.setattr(measure, "GENERATED", 2000)


def blind(config: TrainConfig) -> Loaded:
    """Return an untrained pair whose Q says the same of every image: all logits and means 0."""
    spec = config.spec()
    generator = MnistGenerator(spec.input_dim, config.data.image_size, config.data.channels)
    discriminator = MnistDiscriminator(spec.q_dim, config.data.image_size, config.data.channels)
    for network in (generator, discriminator):
        initialise(network, torch.Generator().manual_seed(0))
        network.eval()
    nn.init.zeros_(discriminator.q_fc2.weight)
    return Loaded(generator, discriminator, spec)


def npz(path, n: int, size: int = 28, channels: int = 1, labels: bool = True) -> str:
    """Return an npz of n images of noise; the test split's labels are 0-4 in equal shares."""
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    arrays: dict[str, Any] = {"images": images}
    if labels:
        arrays["labels"] = np.arange(n) // 10 % 5
    np.savez(path / "x.npz", **arrays)
    return f"npz:{path / 'x.npz'}"


def splits(config: TrainConfig) -> dict[data.Split, data.Images]:
    return data.load(
        config.data.data, image_size=config.data.image_size, channels=config.data.channels
    )


def measured(config: TrainConfig) -> dict:
    result = measure.evaluate(blind(config), splits(config))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    lines = summary(result)
    assert len(lines) == 3
    assert not any("None" in line or "nan" in line or "\n" in line for line in lines)
    return result


@pytest.mark.usefixtures("few_generated")
class TestEvaluate:
    @pytest.mark.slow
    def test_with_labels_and_enough_images_everything_is_measured(self, tmp_path):
        config = TrainConfig().with_options(data=npz(tmp_path, 20_000), codes=CODES)
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
        names = ("codes", "information", *QUALITY)
        assert result["images"] == {**dict.fromkeys(names, 2000), "factors": 0}
        # noise is in the balls of noise; those of fakes that are all alike hold nothing
        assert result["neighbour_features"] == "random-conv-v1"
        assert result["recall"] == 0.0
        assert result["recall_floor"] > 0.3
        assert result["coverage_floor"] > 0.8
        # Q's mean is 0, so that MSE = 1/3: log 2 − ½ log(2πe/3)
        best = result["information_calibrated"]
        assert best["c3_uniform"] == pytest.approx(
            log(2) - 0.5 * log(2 * np.pi * np.e / 3), abs=0.05
        )
        assert best["c1_categorical"] == pytest.approx(0, abs=1e-4)
        assert result["information_convention"] == {
            "c1_categorical": "best temperature",
            "c2_categorical": "best temperature",
            "c3_uniform": "best fixed σ",
        }
        line = summary(result, ["c1_categorical"])[1]
        assert ("c1_" in line, "c2_" in line, "c3_" in line) == (False, True, True)
        assert summary(result, list(bound))[1] == "information: no code has a weight"
        notes = "(discrete codes: best temperature; continuous codes: best fixed σ)"
        assert summary(result)[1].endswith(notes)
        assert summary(result, ["c3_uniform"])[1].endswith("(discrete codes: best temperature)")
        assert "20.0%" in summary(result)[0]
        assert "2,000" in summary(result)[0]

    def test_without_labels_no_code_is_scored(self, tmp_path):
        path = npz(tmp_path, 100, size=8, labels=False)
        result = measured(TrainConfig().with_options(data=path, codes=CODES, image_size=8))
        assert all(result[name] is None for name in SCORES)
        assert "no labels" in summary(result)[0]

    def test_without_a_categorical_code_none_is_scored_and_that_is_the_reason_given(self, tmp_path):
        path = npz(tmp_path, 100, size=8)
        result = measured(
            TrainConfig().with_options(data=path, codes="uniform,bernoulli", image_size=8)
        )
        assert all(result[name] is None for name in SCORES)
        assert "no labels" not in summary(result)[0]

    @pytest.mark.slow
    def test_under_2000_test_images_there_is_no_frechet_distance_of_digits(self, tmp_path):
        result = measured(TrainConfig().with_options(data=npz(tmp_path, 19_990), codes=CODES))
        assert result["frechet"] is None
        assert result["frechet_floor"] is None
        assert result["frechet_features"] is None
        assert result["precision"] is not None
        assert result["images"]["codes"] == 1999
        assert result["images"]["frechet"] == 0
        assert result["images"]["precision"] == 1999
        assert result["code_accuracy"] is not None
        assert "no Fréchet distance" in summary(result)[2]

    @pytest.mark.parametrize(("size", "channels"), [(32, 1), (28, 3), (8, 2)])
    def test_other_images_are_compared_by_the_random_features(
        self, tmp_path, monkeypatch, size, channels
    ):
        monkeypatch.setattr(measure, "MIN_RANDOM", 100)
        monkeypatch.setattr(measure, "GENERATED", 200)
        config = TrainConfig().with_options(
            data=npz(tmp_path, 1000, size, channels),
            codes=CODES,
            image_size=size,
            channels=channels,
        )
        result = measured(config)
        # 100 images in 64 dimensions: most of the floor is the error of the covariances
        assert 0 <= result["frechet_floor"] < 0.5 * result["frechet"]
        assert result["frechet_features"] == result["neighbour_features"] == "random-conv-v1"
        assert result["recall"] == 0.0 < result["recall_floor"]
        assert result["images"]["frechet"] == result["images"]["density_floor"] == 100
        assert result["code_accuracy"] == 0.2
        assert "Fréchet distance to real ones" in summary(result)[2]

    def test_with_few_images_there_is_neither_distance_nor_neighbour(self, tmp_path):
        result = measured(
            TrainConfig().with_options(data=npz(tmp_path, 990, size=8), codes=CODES, image_size=8)
        )
        names = (*QUALITY, "frechet_features", "neighbour_features")
        assert all(result[name] is None for name in names)
        assert not any(result["images"][name] for name in QUALITY)

    def test_without_as_many_training_images_there_are_no_floors(self, tmp_path):
        config = TrainConfig().with_options(
            data=npz(tmp_path, 1500, size=8), codes=CODES, image_size=8
        )
        read = splits(config)
        few = data.Images(read["train"].images[:100], None)
        result = measure.evaluate(blind(config), {"train": few, "test": read["test"]})
        assert result["precision"] is not None
        assert result["precision_floor"] is None
        assert "real against real" not in summary(result)[2]

    def test_features_of_the_users_serve_every_distance(self, tmp_path):
        def brightness(images: Tensor) -> Tensor:
            return images.mean((1, 2, 3)).unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0])

        result = measure.evaluate(
            blind(config := TrainConfig().with_options(data=npz(tmp_path, 20_000), codes=CODES)),
            splits(config),
            extractor=Extractor("brightness", brightness),
        )
        assert result["frechet_features"] == result["neighbour_features"] == "brightness"
        assert result["images"]["frechet"] == result["images"]["coverage"] == 2000
        assert result["frechet"] < 0.1

    def test_the_same_seed_gives_the_same_result_and_another_seed_other_images(self, tmp_path):
        config = TrainConfig().with_options(
            data=npz(tmp_path, 100, size=8), codes=CODES, image_size=8
        )
        loaded = blind(config)
        read = splits(config)
        first, again, other = (measure.evaluate(loaded, read, seed=s) for s in (0, 0, 1))
        assert first == again
        assert first["information"] != other["information"]

    def test_generated_images_are_what_the_generator_draws_in_eval_mode(self):
        config = TrainConfig().with_options(image_size=8, codes=CODES)
        generator, discriminator, spec = blind(config)
        images = measure._generate(generator, discriminator, spec, 1100, 3).images
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
    """Return a pair of known obedience: category i draws a clear digits[i]."""
    test = mnist["test"]
    images = data.to_range(torch.from_numpy(np.asarray(test.images)), (0.0, 1.0))
    with torch.no_grad():
        sure = classifier.load()(images[:3000]).softmax(1).max(0).indices
    spec = LatentSpec(noise=1, codes=(Categorical(10), Uniform(), Uniform()))
    return Loaded(Shears(images[sure[list(digits)]]), Reads(), spec)  # type: ignore[arg-type]


@pytest.fixture
def few_real(monkeypatch):
    """Take 2,000 test images in place of 10,000."""
    monkeypatch.setattr(measure, "MAX_REAL", 2000)


@pytest.mark.usefixtures("few_generated", "few_real")
class TestDigits:
    def test_codes_that_are_digits_are_matched_obeyed_and_followed(self, mnist):
        result = measure.evaluate(readable(mnist, ORDER), mnist)
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["matching"] == list(ORDER)
        assert result["code_accuracy"] == pytest.approx(classifier.committed_accuracy(), abs=0.006)
        assert result["obedience"] > 0.97  # a sheared digit may look like another
        slant, width = result["factors"]["slant"], result["factors"]["stroke_width"]
        assert slant["code"] == "c3_uniform"
        codes = slant["codes"]
        assert slant["correlation"] == codes["c3_uniform"]["within"] > 0.98
        # digits differ in slant, so pooling them shows less
        assert 0.3 < codes["c3_uniform"]["pooled"] < codes["c3_uniform"]["within"]
        assert abs(codes["c2_uniform"]["within"]) < 0.1
        assert abs(width["codes"]["c2_uniform"]["within"]) < 0.1
        line = summary(result)[3]
        assert f"{result['obedience']:.1%}" in line
        assert "slant goes with c3_uniform, ρ = +1.00" in line

    @pytest.mark.slow
    def test_a_category_that_draws_another_digit_than_q_reads_disobeys(self, mnist):
        swapped = (1, 3, *ORDER[2:])  # two of ten categories
        result = measure.evaluate(readable(mnist, swapped), mnist)
        assert result["matching"] == list(ORDER)
        assert result["obedience"] == pytest.approx(0.8, abs=0.05)

    @pytest.mark.slow
    def test_labels_other_than_the_digits_give_no_obedience(self, mnist):
        test, train = mnist["test"], mnist["train"]
        assert test.labels is not None
        moved = data.Images(test.images, (test.labels + 1) % 10)
        result = measure.evaluate(readable(mnist, ORDER), {"train": train, "test": moved})
        assert result["obedience"] is None
        assert result["factors"] is None
        assert result["frechet"] is not None
        assert len(summary(result)) == 3

    def test_writing_keeps_the_matching_and_draws_the_table(self, mnist, tmp_path):
        run = RunDir(tmp_path)
        result = measure.evaluate(readable(mnist, ORDER), mnist)
        written = measure.as_written(7, "mnist", result)
        measure.write(run, written, result["contingency"])
        assert json.loads(run.evaluation.read_text()) == written
        assert written["step"] == 7
        assert "contingency" not in written
        assert run.read_matching(7) == ("c1_categorical", list(ORDER))
        y, x = blues(run.samples / "contingency.png")
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
    monkeypatch.setattr(measure, "GENERATED", 500)
    monkeypatch.setattr(measure, "RENDERED", 2000)
    config = TrainConfig().with_options(
        data=npz(tmp_path, 100, size=8, labels=False), codes="uniform2:learned", image_size=8
    )
    loaded = Loaded(blind(config).generator, Looks(), config.spec())  # type: ignore[arg-type]
    result = measure.evaluate(loaded, splits(config), grid=Corners())
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
    factors = result["factors"]
    assert factors["factor_1"]["code"] == "c1_uniform[1]"
    assert factors["factor_1"]["correlation"] == pytest.approx(1.0)
    assert factors["factor_0"]["matched_code"] == "c1_uniform[0]"
    assert result["images"]["factors"] == 2000
    assert measure.evaluate(loaded, splits(config))["disentanglement"] is None


def test_scores_get_the_columns_that_hold_a_categorys_number(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RENDERED", 50)
    reported = {}
    monkeypatch.setattr(disentanglement, "all_scores", lambda *_, **k: reported.update(k) or {})
    codes = "uniform2:learned,cat3,bernoulli,cat4"
    config = TrainConfig().with_options(
        data=npz(tmp_path, 100, size=8, labels=False), codes=codes, image_size=8
    )
    pair = blind(config)
    monkeypatch.setattr(known_factors, "compare", lambda *_: {})
    measure._by_grid(pair.discriminator, config.spec(), (0.0, 1.0), Corners(), 0)
    assert reported["classes"] == [2, 4]


def test_codes_read_from_q_have_a_column_per_dim():
    spec = LatentSpec(
        noise=0, codes=(Uniform(dim=2, sigma="learned"), Categorical(3), Bernoulli(), Uniform())
    )
    q = torch.tensor([[0.1, 0.2, 8, 9, 0, 5, 1, 0, -0.5], [1, 2, 8, 9, 3, 2, 1, log(3), 4]])
    expected = torch.tensor([[0.1, 0.2, 1, 0.5, -0.5], [1, 2, 0, 0.75, 4]])
    torch.testing.assert_close(measure.read_codes(q, spec), expected)
