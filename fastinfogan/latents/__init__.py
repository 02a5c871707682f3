"""Latent codes: their distributions, and the specification of a generator's input."""

from .codes import Bernoulli, Categorical, Code, Continuous, Gaussian, Uniform, parse_codes
from .spec import LatentBatch, LatentSpec, Slot

__all__ = [
    "Bernoulli",
    "Categorical",
    "Code",
    "Continuous",
    "Gaussian",
    "LatentBatch",
    "LatentSpec",
    "Slot",
    "Uniform",
    "parse_codes",
]
