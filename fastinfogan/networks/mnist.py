"""MNIST's networks (arXiv 1606.03657, table 1). Checkpoints hold these names of parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Discriminator, Generator, check_side
from .batchnorm import BatchNorm, BatchStats, StatsPerPart
from .convolution import Conv, Up, lrelu

HALVINGS = 2


class MnistGenerator(Generator):
    """Table 1's generator: FC1024 – FC(s·s·128) – up64 – up1, BN ReLU between, sigmoid behind.

    Args:
        input_dim: width of [noise | codes].
        image_size: side of the image; s = image_size / 4.
        channels: channels of the image.
    """

    def __init__(self, input_dim: int, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        check_side(image_size, HALVINGS)
        self.side = image_size // 2**HALVINGS
        self.fc1 = nn.Linear(input_dim, 1024, bias=False)
        self.bn1 = BatchNorm(1024)
        self.fc2 = nn.Linear(1024, self.side**2 * 128, bias=False)
        self.bn2 = BatchNorm(self.side**2 * 128)
        self.up3 = Up(128, 64, bias=False)
        self.bn3 = BatchNorm(64)
        self.up4 = Up(64, channels)

    def forward(self, latent: Tensor, stats: BatchStats | None = None) -> Tensor:
        """Map [B, input_dim] to images [B, channels, H, W] in `image_range`."""
        x = latent.to(self.fc1.weight.dtype)
        x = F.relu(self.bn1(self.fc1(x), stats), inplace=True)
        x = F.relu(self.bn2(self.fc2(x), stats), inplace=True)
        x = x.view(-1, self.side, self.side, 128).permute(0, 3, 1, 2)
        x = F.relu(self.bn3(self.up3(x), stats), inplace=True)
        return torch.sigmoid(self.up4(x))


class MnistDiscriminator(Discriminator):
    """Table 1's discriminator, with Q on its trunk.

    Trunk: conv64 s2 – conv128 s2 BN – FC1024 BN, lReLU. D: FC1. Q: FC128 BN lReLU – FC(q_dim).

    Args:
        q_dim: width of Q's output.
        image_size, channels: of the images.
    """

    def __init__(self, q_dim: int, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        check_side(image_size, HALVINGS)
        side = image_size // 2**HALVINGS
        self.conv1 = Conv(channels, 64)
        self.conv2 = Conv(64, 128, bias=False)
        self.bn2 = BatchNorm(128)
        self.fc3 = nn.Linear(side**2 * 128, 1024, bias=False)
        self.bn3 = BatchNorm(1024)
        self.head = nn.Linear(1024, 1)
        self.q_fc1 = nn.Linear(1024, 128, bias=False)
        self.q_bn1 = BatchNorm(128)
        self.q_fc2 = nn.Linear(128, q_dim)

    def trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map images [B, C, H, W] to the features that D and Q share, [B, 1024]."""
        x = lrelu(self.conv1(images.to(self.conv1.weight.dtype)))
        x = lrelu(self.bn2(self.conv2(x), stats))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return lrelu(self.bn3(self.fc3(x), stats))

    def logit(self, features: Tensor) -> Tensor:
        """Map features to D's logit, [B]; positive means real."""
        return self.head(features).squeeze(1)

    def q(self, features: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map features to Q's output, [B, q_dim]."""
        return self.q_fc2(lrelu(self.q_bn1(self.q_fc1(features), stats)))

    def q_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of Q's own layers; all others are D's."""
        return [p for layer in (self.q_fc1, self.q_bn1, self.q_fc2) for p in layer.parameters()]
