"""Generators and discriminators of the experiments (arXiv 1606.03657, appendix C), by name.

Convolutions are 4×4, lReLU's slope is 0.1, weights start at N(0, 0.02), BatchNorm's γ at
N(1, 0.02), as in openai/InfoGAN. Layers in front of BatchNorm have no bias: it would cancel.
Images and feature maps are channels_last; the flat side of a convolution counts H, W, C. The
networks compute in the dtype of their weights; BatchNorm's γ, β and buffers may be wider.
"""

from __future__ import annotations

import torch
from torch import nn

from ..losses.options import QTrunk
from . import mnist as networks_mnist
from . import tables as networks_tables
from .base import Discriminator, Generator, check_side
from .batchnorm import BatchNorm
from .custom import UserDiscriminator, UserGenerator, user_pair
from .drawing import GLOBAL_GENERATOR
from .mnist import MnistDiscriminator, MnistGenerator
from .spectral import Spectral
from .tables import Table, TableDiscriminator, TableGenerator

__all__ = [
    "TABLES",
    "BatchNorm",
    "Discriminator",
    "Generator",
    "MnistDiscriminator",
    "MnistGenerator",
    "TableDiscriminator",
    "TableGenerator",
    "check_image_size",
    "initialise",
    "mnist_pair",
    "pair",
]

# All but MNIST's, which have classes of their own.
TABLES: dict[str, Table] = {
    "svhn": networks_tables.SVHN,
    "faces": networks_tables.FACES,
    "chairs": networks_tables.CHAIRS,
    "dsprites": networks_tables.DSPRITES,
}
WARM_UP_ITERATIONS = (
    15  # power iterations after which a fresh weight's largest singular value is known
)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew: N(0, 0.02), BatchNorm's γ from N(1, 0.02), biases and β 0.

    A user's networks draw their own, under a seed from `generator`.
    """
    own = [m for m in module.modules() if isinstance(m, UserGenerator | UserDiscriminator)]
    for network in own:
        network.draw_weights(generator)
    skipped = {id(layer) for network in own for layer in network.modules()}
    for layer in (layer for layer in module.modules() if id(layer) not in skipped):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, Spectral):
            for _ in range(WARM_UP_ITERATIONS):
                layer.iterate()


def check_image_size(image_size: int, networks: str = "mnist") -> None:
    """Raise ValueError for a side that these networks do not take; a user's say so themselves."""
    if ":" in networks:
        return
    table = TABLES.get(networks)
    if table is None:
        check_side(image_size, networks_mnist.HALVINGS)
    else:
        check_side(image_size, table.halvings, table.largest)


def mnist_pair(
    input_dim: int, q_dim: int, image_size: int, channels: int
) -> tuple[MnistGenerator, MnistDiscriminator]:
    """Return the two networks for latents and images of these sizes, their weights not drawn."""
    return (
        MnistGenerator(input_dim, image_size, channels),
        MnistDiscriminator(q_dim, image_size, channels),
    )


def pair(
    networks: str,
    input_dim: int,
    q_dim: int,
    image_size: int,
    channels: int,
    *,
    spectral_norm: bool = False,
    q_trunk: QTrunk = "shared",
) -> tuple[Generator, Discriminator]:
    """Return the networks of a name, "mnist" or one of `TABLES`, their weights not yet drawn.

    A name "module.path:function" is the import path of a user's: see `base.PairFunction`.

    Args:
        input_dim: width of G's input, [noise | codes].
        q_dim: width of Q's output.
        image_size, channels: of the images. Raises ValueError for a side that they do not take.
        spectral_norm: D and Q with spectral normalisation in the place of BatchNorm.
        q_trunk: "own" gives Q convolutions and fully connected layers of its own, built as D's;
            "fixed" too, and these learn before the game alone.
    """
    with GLOBAL_GENERATOR:
        if ":" in networks:
            return user_pair(networks, input_dim, q_dim, image_size, channels)
        generator: Generator
        table = TABLES.get(networks, networks_tables.MNIST)
        if networks == "mnist":
            if not spectral_norm and q_trunk == "shared":
                return mnist_pair(input_dim, q_dim, image_size, channels)
            generator = MnistGenerator(input_dim, image_size, channels)
        else:
            generator = TableGenerator(table, input_dim, image_size, channels)
        of_d = table.with_spectral_norm() if spectral_norm else table
        return generator, TableDiscriminator(of_d, q_dim, image_size, channels, q_trunk=q_trunk)
