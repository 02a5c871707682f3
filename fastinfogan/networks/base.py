"""The interface of a pair of networks: a generator, and a discriminator with Q on its trunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from .batchnorm import BatchStats, StatsPerPart

MAX_SIDE = 128  # side of an image, where networks do not say another


class GeneratorModule(Protocol):
    """A generator of a user's own: an `nn.Module`.

    `image_range`, (low, high) of its images, may be an attribute; without one it is (0, 1).
    """

    def __call__(self, latent: Tensor) -> Tensor:
        """Map latents [B, input_dim] to images [B, channels, image_size, image_size]."""
        ...


class DiscriminatorModule(Protocol):
    """A discriminator of a user's own, with Q: an `nn.Module`."""

    def trunk(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in the generator's range to the features that D and Q share."""
        ...

    def logit(self, features: Tensor) -> Tensor:
        """Map features to D's logit, [B]; positive means real."""
        ...

    def q(self, features: Tensor) -> Tensor:
        """Map features to Q's output, [B, q_dim]."""
        ...

    def q_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of Q's own layers; all others are D's."""
        ...


class PairFunction(Protocol):
    """A function for `--networks module.path:function` or `fit(networks=…)`.

    The modules draw their own weights; the run's seed decides them. All parameters are trained in
    fp32 and computed with in the run's precision. Sizes of images that the networks do not take
    are refused by raising an exception.

    Ordinary `nn.BatchNorm` layers work. Real, generated and extra images each get a pass of their
    own, and so are normalised by their own statistics. But each pass in training moves the running
    statistics, of which a discriminator's therefore mix real and generated images. Pictures and
    evaluation use the running statistics (eval mode). A method that takes a second argument
    `stats`, as the package's own networks do (`networks.batchnorm.BatchNorm`), decides itself.
    """

    def __call__(
        self, *, input_dim: int, q_dim: int, image_size: int, channels: int
    ) -> tuple[GeneratorModule, DiscriminatorModule]:
        """Return (generator, discriminator)."""
        ...


class Generator(nn.Module):
    """Latents to images."""

    image_range: tuple[float, float] = (0.0, 1.0)  # what its output spans; real images get it too

    def forward(self, latent: Tensor, stats: BatchStats | None = None) -> Tensor:
        """Map [B, input_dim] to images [B, channels, H, W] in `image_range`."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to D's logit and Q's output, from features that both share.

    Where `own_trunk` is true Q has a trunk of its own, and half of the features are for each.
    """

    own_trunk = False

    def trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map images [B, C, H, W] in the generator's range to the shared features, [B, F]."""
        raise NotImplementedError

    def q_trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map images to what `q` reads alone: `trunk`'s features, where these are shared."""
        return self.trunk(images, stats)

    def logit(self, features: Tensor) -> Tensor:
        """Map features to D's logit, [B]; positive means real."""
        raise NotImplementedError

    def q(self, features: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map features to Q's output, [B, q_dim]."""
        raise NotImplementedError

    def q_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of Q's own layers; all others are D's."""
        raise NotImplementedError

    def fixed_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn before the game alone: by default none."""
        return []

    def forward(self, images: Tensor, stats: StatsPerPart | None = None) -> tuple[Tensor, Tensor]:
        """Map images to (D's logit [B], Q's output [B, q_dim])."""
        features = self.trunk(images, stats)
        return self.logit(features), self.q(features, stats)


def check_side(image_size: int, halvings: int, largest: int = MAX_SIDE) -> None:
    """Raise ValueError for a side that networks do not take.

    Networks that halve the image so often take sides that leave 2 pixels or more, up to `largest`.
    """
    factor = 2**halvings
    if image_size % factor or not 2 * factor <= image_size <= largest:
        raise ValueError(
            f"expected images whose side is a multiple of {factor} from {2 * factor} to {largest}, "
            f"got {image_size} (the networks halve it {halvings} times)"
        )
