"""Latent codes: their distributions, and the specification of a generator's input."""

from .codes import (
    Angle,
    Bernoulli,
    Categorical,
    Code,
    Continuous,
    Gaussian,
    Real,
    Uniform,
    parse_codes,
)
from .spec import LatentBatch, LatentSpec, Slot

__all__ = [
    "Angle",
    "Bernoulli",
    "Categorical",
    "Code",
    "Continuous",
    "Gaussian",
    "LatentBatch",
    "LatentSpec",
    "Real",
    "Slot",
    "Uniform",
    "parse_codes",
]
