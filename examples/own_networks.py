"""A pair of networks of your own: ordinary modules, given to a training by import path.

On the command line, from this folder:

    fastinfogan train mnist-paper --networks own_networks:make_pair

In Python: `python own_networks.py`, a few updates on images of random squares.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

import fastinfogan


class SmallGenerator(nn.Sequential):
    """Latents [B, input_dim] to images [B, C, H, W] in (0, 1)."""

    def __init__(self, input_dim: int, size: int, channels: int) -> None:
        hidden = (nn.Linear(input_dim, 128), nn.BatchNorm1d(128), nn.ReLU())
        pixels = (nn.Linear(128, channels * size * size), nn.Sigmoid())
        super().__init__(*hidden, *pixels, nn.Unflatten(1, (channels, size, size)))


class SmallDiscriminator(nn.Module):
    """D and Q on a trunk of one convolution."""

    def __init__(self, q_dim: int, size: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 4, 2, 1)
        features = 16 * (size // 2) ** 2
        self.d, self.q_head = nn.Linear(features, 1), nn.Linear(features, q_dim)

    def trunk(self, images: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(images), 0.1).flatten(1)

    def logit(self, features: Tensor) -> Tensor:
        return self.d(features).squeeze(1)

    def q(self, features: Tensor) -> Tensor:
        return self.q_head(features)

    def q_parameters(self) -> list[nn.Parameter]:
        return list(self.q_head.parameters())


def make_pair(*, input_dim: int, q_dim: int, image_size: int, channels: int):
    """Make both networks for latents and images of these sizes."""
    generator = SmallGenerator(input_dim, image_size, channels)
    return generator, SmallDiscriminator(q_dim, image_size, channels)


if __name__ == "__main__":
    images = np.zeros((200, 8, 8), np.uint8)
    images[:100, 2:6, 2:6] = images[100:, :, 3:5] = 255
    options = {"steps": 20, "batch_size": 16, "codes": "shape=cat2", "noise": 4}
    fastinfogan.fit("mnist-paper", data=images, networks=make_pair, out="runs/own", **options)
