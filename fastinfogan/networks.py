"""Generators and discriminators of the paper's experiments (arXiv 1606.03657, appendix C).

Convolutions are 4×4, lReLU's slope is 0.1, weights start at N(0, 0.02), BatchNorm's γ at
N(1, 0.02), as in openai/InfoGAN. Layers in front of BatchNorm have no bias: it would cancel.
Images and feature maps are channels_last; the flat side of a convolution counts H, W, C. The
networks compute in the dtype of their weights; BatchNorm's γ, β and buffers may be wider.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import BatchNorm, Conv, Parts, Stats, Up, lrelu


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew: N(0, 0.02), BatchNorm's γ from N(1, 0.02), biases and β 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(layer.bias)


def check_image_size(image_size: int) -> None:
    """The MNIST networks halve the image twice. Raises ValueError."""
    if image_size % 4 or not 8 <= image_size <= 128:
        raise ValueError(
            f"image size: expected a multiple of 4 from 8 to 128, got {image_size} "
            "(the networks halve the image twice)"
        )


class MnistGenerator(nn.Module):
    """Table 1's generator: FC1024 – FC(s·s·128) – up64 – up1, BN ReLU between, sigmoid behind.

    Args:
        input_dim: width of [noise | codes].
        image_size: side of the image; s = image_size / 4.
        channels: channels of the image.
    """

    image_range = (0.0, 1.0)  # what its sigmoid spans, so what real images are scaled to

    def __init__(self, input_dim: int, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        check_image_size(image_size)
        self.side = image_size // 4
        self.fc1 = nn.Linear(input_dim, 1024, bias=False)
        self.bn1 = BatchNorm(1024)
        self.fc2 = nn.Linear(1024, self.side**2 * 128, bias=False)
        self.bn2 = BatchNorm(self.side**2 * 128)
        self.up3 = Up(128, 64, bias=False)
        self.bn3 = BatchNorm(64)
        self.up4 = Up(64, channels)

    def forward(self, latent: Tensor, stats: Stats | None = None) -> Tensor:
        """[B, input_dim] to images [B, channels, H, W] in `image_range`."""
        x = latent.to(self.fc1.weight.dtype)
        x = F.relu(self.bn1(self.fc1(x), stats), inplace=True)
        x = F.relu(self.bn2(self.fc2(x), stats), inplace=True)
        x = x.view(-1, self.side, self.side, 128).permute(0, 3, 1, 2)
        x = F.relu(self.bn3(self.up3(x), stats), inplace=True)
        return torch.sigmoid(self.up4(x))


class MnistDiscriminator(nn.Module):
    """Table 1's discriminator, with Q on its trunk.

    Trunk: conv64 s2 – conv128 s2 BN – FC1024 BN, lReLU. D: FC1. Q: FC128 BN lReLU – FC(q_dim).

    Args:
        q_dim: width of Q's output.
        image_size, channels: of the images.
    """

    def __init__(self, q_dim: int, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        check_image_size(image_size)
        side = image_size // 4
        self.conv1 = Conv(channels, 64)
        self.conv2 = Conv(64, 128, bias=False)
        self.bn2 = BatchNorm(128)
        self.fc3 = nn.Linear(side**2 * 128, 1024, bias=False)
        self.bn3 = BatchNorm(1024)
        self.head = nn.Linear(1024, 1)
        self.q_fc1 = nn.Linear(1024, 128, bias=False)
        self.q_bn1 = BatchNorm(128)
        self.q_fc2 = nn.Linear(128, q_dim)

    def trunk(self, images: Tensor, stats: Parts | None = None) -> Tensor:
        """Images [B, C, H, W] to the features that D and Q share, [B, 1024]."""
        x = lrelu(self.conv1(images.to(self.conv1.weight.dtype)))
        x = lrelu(self.bn2(self.conv2(x), stats))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return lrelu(self.bn3(self.fc3(x), stats))

    def logit(self, features: Tensor) -> Tensor:
        """Features to D's logit, [B]; positive means real."""
        return self.head(features).squeeze(1)

    def q(self, features: Tensor, stats: Parts | None = None) -> Tensor:
        """Features to Q's output, [B, q_dim]."""
        return self.q_fc2(lrelu(self.q_bn1(self.q_fc1(features), stats)))

    def q_parameters(self) -> list[nn.Parameter]:
        """The parameters of Q's own layers; all others are D's."""
        return [p for layer in (self.q_fc1, self.q_bn1, self.q_fc2) for p in layer.parameters()]

    def forward(self, images: Tensor, stats: Parts | None = None) -> tuple[Tensor, Tensor]:
        """Images to (D's logit [B], Q's output [B, q_dim])."""
        features = self.trunk(images, stats)
        return self.logit(features), self.q(features, stats)


def mnist_pair(
    input_dim: int, q_dim: int, image_size: int, channels: int
) -> tuple[MnistGenerator, MnistDiscriminator]:
    """The two networks for latents and images of these sizes, their weights not yet drawn."""
    return (
        MnistGenerator(input_dim, image_size, channels),
        MnistDiscriminator(q_dim, image_size, channels),
    )
