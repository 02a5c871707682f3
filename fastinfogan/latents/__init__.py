"""Latent codes: their distributions, and the specification of a generator's input."""

import torch.serialization as _serialization

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

# What a pickled spec holds, so that `torch.load` with its default weights_only=True reads one.
_serialization.add_safe_globals([LatentSpec, Angle, Bernoulli, Categorical, Gaussian, Uniform])
