"""The arithmetic of an update: products of matrices and convolutions, from the networks' shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import StepMode, TrainConfig
from ..networks import pair

# Passes of G and of D per image and update. Backward takes two passes, one where weights get no
# gradient. Alternating: G forward for D; D forward and backward on a real and a generated image;
# then G, and D on its image, whose weights stay. Shared: on a generated image D goes backward for
# its weights, and again down to G.
_PASSES: dict[StepMode, tuple[int, int]] = {
    "alternating": (1 + 3, 6 + 2),
    "reused": (3, 6 + 2),
    "shared": (3, 6 + 1),
}
_REAL_PASSES = 3  # of Q on its trunk before --gan-start: forward and backward on a real image
_FIXED_PASSES = 4  # of D's that a fixed trunk of Q's does without: D's step does not train it


class Flop(NamedTuple):
    """FLOP of one image, forward; an addition and a multiplication count as two."""

    generator: int
    discriminator: int  # with Q
    q: int  # on its trunk
    fixed: int  # of Q's trunk, where the game leaves it as it is


def flop_per_image(config: TrainConfig) -> Flop | None:
    """Return the FLOP of one image, or None for a user's networks, which may need more than that.

    Nothing is computed: the networks are built without memory.
    """
    if ":" in config.adversarial.networks:
        return None
    spec, size = config.spec(), config.data
    with torch.device("meta"), torch.no_grad():
        generator, discriminator = pair(
            config.adversarial.networks,
            spec.input_dim,
            spec.q_dim,
            size.image_size,
            size.channels,
            spectral_norm=config.adversarial.spectral_norm,
            q_trunk=config.adversarial.q_trunk,
        )
        generator.eval()
        discriminator.eval()
        of_g, of_d = _Counter(generator), _Counter(discriminator)
        image = generator(torch.zeros(1, spec.input_dim))
        discriminator(image)
        of_both = of_d.flop
        features = discriminator.q_trunk(image)
        of_trunk = of_d.flop - of_both
        discriminator.q(features)
    fixed = of_trunk if config.adversarial.q_trunk == "fixed" else 0
    return Flop(of_g.flop, of_both, of_d.flop - of_both, fixed)


class _Counter:
    """A counter of the FLOP of a network's layers as they are passed.

    torch.utils.flop_counter would do, and takes seconds to import what it needs.
    """

    def __init__(self, network: nn.Module) -> None:
        self.flop = 0
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(self._count)

    def _count(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Add two per weight and place: of the output, or of the input that is spread over it."""
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        self.flop += 2 * layer.weight.numel() * places.shape[2:].numel() * len(places)


def cost_line(config: TrainConfig, ranks: int = 1) -> str:
    """Return a line that says what an update costs, or "" where that is not known."""
    flop = flop_per_image(config)
    if flop is None:
        return ""
    of_g, of_d = _PASSES[config.execution.step]
    image = of_g * flop.generator + of_d * flop.discriminator - _FIXED_PASSES * flop.fixed
    update = image * config.batch_size * ranks
    start = ""
    if config.adversarial.gan_start:
        part = _REAL_PASSES * flop.q * config.batch_size * ranks
        start = f" ({part / 1e9:,.3g} GFLOP before --gan-start)"
    return (
        f"an update takes about {update / 1e9:,.3g} GFLOP, {image / 1e9:,.3g} per image{start}, "
        "without terms on further images"
    )
