"""The interface of a pair of networks: a generator, and a discriminator with Q on its trunk."""

from __future__ import annotations

from torch import Tensor, nn

from .batchnorm import BatchStats, StatsPerPart

LARGEST = 128  # side of an image


class Generator(nn.Module):
    """Latents to images."""

    image_range: tuple[float, float] = (0.0, 1.0)  # what its output spans; real images get it too

    def forward(self, latent: Tensor, stats: BatchStats | None = None) -> Tensor:
        """[B, input_dim] to images [B, channels, H, W] in `image_range`."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to D's logit and Q's output, from features that both share."""

    def trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Images [B, C, H, W] in the generator's range to the shared features, [B, F]."""
        raise NotImplementedError

    def logit(self, features: Tensor) -> Tensor:
        """Features to D's logit, [B]; positive means real."""
        raise NotImplementedError

    def q(self, features: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Features to Q's output, [B, q_dim]."""
        raise NotImplementedError

    def q_parameters(self) -> list[nn.Parameter]:
        """The parameters of Q's own layers; all others are D's."""
        raise NotImplementedError

    def forward(self, images: Tensor, stats: StatsPerPart | None = None) -> tuple[Tensor, Tensor]:
        """Images to (D's logit [B], Q's output [B, q_dim])."""
        features = self.trunk(images, stats)
        return self.logit(features), self.q(features, stats)


def check_side(image_size: int, halvings: int) -> None:
    """Networks that halve the image so often take sides that leave 2 pixels or more.

    Raises ValueError.
    """
    factor = 2**halvings
    if image_size % factor or not 2 * factor <= image_size <= LARGEST:
        raise ValueError(
            f"expected images whose side is a multiple of {factor} from {2 * factor} to {LARGEST}, "
            f"got {image_size} (the networks halve it {halvings} times)"
        )
