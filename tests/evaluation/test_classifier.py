"""The fixed evaluation classifier: its size, its accuracy, the images that it takes."""

import pytest
import torch

from fastinfogan import data
from fastinfogan.evaluation import classifier


class TestClassifier:
    def test_its_file_is_small(self):
        assert classifier.WEIGHTS.stat().st_size < 1_000_000

    def test_it_reaches_the_accuracy_stored_with_it(self):
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
