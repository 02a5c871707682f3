"""Untrained networks with a code of every kind, for tests of what is made of a run."""

from __future__ import annotations

import torch

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.networks import initialise, pair
from fastinfogan.runs.folder import Loaded

SPEC = LatentSpec(
    noise=5,
    codes=(
        Categorical(4, name="shape"),
        Categorical(3, probs=(0.5, 0.3, 0.2)),
        Bernoulli(0.3),
        Uniform(-1, 2, dim=2, name="place"),
        Gaussian(0.5, 2, dim=3, sigma="learned"),
        Angle(name="turn"),
    ),
)
EVALUATION = {
    "code_scored": "shape",
    "matching": [2, None, 0, 1],
    "factors": {
        "slant": {"code": "place[0]", "codes": {"place[0]": {"within": 0.96, "pooled": 0.9}}},
        "azimuth": {"code": "turn", "codes": {"place[0]": 0.5, "place[1]": None, "turn": 0.8}},
    },
}


def untrained(channels: int = 1, spec: LatentSpec = SPEC) -> Loaded:
    """Return networks for 8×8 images; every code column changes the generator's images visibly."""
    draw = torch.Generator().manual_seed(0)
    generator, discriminator = pair("mnist", spec.input_dim, spec.q_dim, 8, channels)
    for module in (generator, discriminator):
        initialise(module, draw)
        module.eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(2.0)
    return Loaded(generator, discriminator, spec)
