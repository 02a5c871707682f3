"""Generators and discriminators; see `pairs`."""

from .pairs import (
    TABLES,
    BatchNorm,
    Discriminator,
    Generator,
    MnistDiscriminator,
    MnistGenerator,
    TableDiscriminator,
    TableGenerator,
    check_image_size,
    initialise,
    mnist_pair,
    pair,
)

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
