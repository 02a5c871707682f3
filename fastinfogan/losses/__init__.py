"""InfoGAN's losses, for this trainer and for other GAN code; see `functional`."""

from .adversarial import adversarial_losses
from .functional import (
    Backend,
    Convention,
    HeadLossOutput,
    InfoLoss,
    InfoLossOutput,
    Reduction,
    head_loss,
    info_loss,
    information,
    pack,
)

__all__ = [
    "Backend",
    "Convention",
    "HeadLossOutput",
    "InfoLoss",
    "InfoLossOutput",
    "Reduction",
    "adversarial_losses",
    "head_loss",
    "info_loss",
    "information",
    "pack",
]


def __dir__() -> list[str]:
    return sorted(__all__)
