"""Feature extractors: the same features on every machine, and files of the user's."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinfogan.errors import UserError
from fastinfogan.evaluation.features import RandomConv, load_features, random_features

CPU = torch.device("cpu")


def ramp(size: int, channels: int) -> Tensor:
    """Return two images of a fixed pattern."""
    shape = (2, size, size, channels)
    return (torch.arange(2 * size * size * channels).view(shape) * 7 % 256).byte()


class TestRandomConv:
    @pytest.mark.parametrize(
        ("channels", "digest"),
        [
            (1, "dbca8f2626d47cb1cc839e3cc64182dae3358f660a17fd1c3d4f06ad6ff6b4f0"),
            (3, "dbca8f2626d47cb1cc839e3cc64182dae3358f660a17fd1c3d4f06ad6ff6b4f0"),
            (2, "2af7f5ca70f152044152f6bcc5fd5dec3832e518218f1cc4c4cb0f55255da4f7"),
        ],
    )
    def test_its_weights_are_the_stored_ones_to_the_last_bit(self, channels, digest):
        weights = dict(sorted(RandomConv(channels).named_buffers())).values()
        content = b"".join(weight.numpy().tobytes() for weight in weights)
        assert hashlib.sha256(content).hexdigest() == digest

    @pytest.mark.parametrize(
        ("size", "channels", "stored"),
        [
            (28, 1, [[2.888403, -1.032607, -3.510133], [1.164361, -0.501981, -1.969633]]),
            (32, 3, [[1.657951, -2.454109, -1.22531], [1.657951, -2.454109, -1.22531]]),
            (100, 3, [[-0.198203, 0.486676, -1.015036], [0.286908, -0.546248, -1.428729]]),
            (8, 1, [[0.920918, -2.851, -1.103566], [1.427326, -4.537061, 0.112701]]),
        ],
    )
    def test_its_features_are_the_stored_ones_to_fp32_rounding(self, size, channels, stored):
        features = random_features(channels, CPU)(ramp(size, channels))
        assert features.shape == (2, 64)
        # Five layers of fp32 sums, the longest of 4,096 terms; features are of the order of 1.
        np.testing.assert_allclose(features[:, :3], stored, atol=1e-4)

    def test_gray_is_gray_in_three_channels(self):
        gray, colour = random_features(1, CPU), random_features(3, CPU)
        images = ramp(32, 1)
        np.testing.assert_allclose(gray(images), colour(images.expand(-1, -1, -1, 3)), atol=1e-5)

    def test_its_name_has_a_version(self):
        assert random_features(3, CPU).name == "random-conv-v1"


class Means(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class Scalars(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean()


class Roots(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images.mean((2, 3)) - 2).sqrt()


class FourChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def saved(path, module):
    torch.jit.script(module).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestFiles:
    def test_a_torchscript_file_gives_its_features_and_its_name(self, tmp_path):
        extractor = load_features(saved(tmp_path / "means.pt", Means()), CPU)
        images = ramp(8, 3)
        expected = images.double().mean((1, 2)) / 255
        np.testing.assert_allclose(extractor(images), expected, rtol=1e-5)
        digest = hashlib.sha256((tmp_path / "means.pt").read_bytes()).hexdigest()
        assert extractor.name == f"means.pt (sha256 {digest[:12]})"

    def test_so_does_an_exported_program(self, tmp_path):
        batch = torch.export.Dim("batch", max=1000)
        example = (torch.rand(4, 3, 8, 8),)
        program = torch.export.export(Means(), example, dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "means.pt2")
        extractor = load_features(tmp_path / "means.pt2", CPU)
        assert extractor(ramp(8, 3)).shape == (2, 3)

    @pytest.mark.parametrize("name", ["text.pt", "text.pt2"])
    def test_a_file_of_another_kind_is_one_line(self, tmp_path, name):
        (tmp_path / name).write_text("no module")
        with pytest.raises(
            UserError, match=r"--features .*text.*: expected a TorchScript"
        ) as caught:
            load_features(tmp_path / name, CPU)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_not_there_is_one_line(self, tmp_path):
        with pytest.raises(UserError, match=r"--features: cannot read .*x\.pt: No such file"):
            load_features(tmp_path / "x.pt", CPU)

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            (Scalars(), r"got \[\]"),
            (Roots(), "some are not finite"),
            (FourChannels(), "it raised: .*channels"),
        ],
    )
    def test_features_that_do_not_fit_are_one_line(self, tmp_path, module, reason):
        extractor = load_features(saved(tmp_path / "x.pt", module), CPU)
        with pytest.raises(UserError, match=reason) as caught:
            extractor(ramp(8, 3))
        message = str(caught.value)
        assert "\n" not in message
        assert "maps float32 images [2, 3, 8, 8] in [0, 1] to features [2, F]" in message
