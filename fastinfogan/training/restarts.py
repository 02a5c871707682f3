"""Many random starts of the categories' layer, of which the best is kept.

Where mutual information has its maxima depends on the start, and a poor one stays: two digits mixed
and a third one cut in two. Ji et al. 2019 train five output layers and take the one of the least
loss. Here the layers are many and cheap: Q's other layers, which by then have learned from a finer
code or from telling images apart, stay as they are, so a start is a small matrix. No label is seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..networks import Discriminator
from ..terms.invariance import apart, mutual_information
from ..terms.protocol import Address, Recipe

IMAGES = 10_000  # of the training set, at most
UPDATES = 300  # of each start
BATCH = 256
RATE = 3e-3  # Adam's
STD = 0.02  # of a start's weights, as that of the networks'


class Starts(NamedTuple):
    """The last layer of the categories after each start, [S, …], and what it is worth."""

    weight: Tensor  # [S, K, F]
    bias: Tensor  # [S, K]
    nats: Tensor  # [S], the mutual information of all images with their copies

    @property
    def best(self) -> int:
        """The start of the greatest mutual information."""
        return int(self.nats.argmax())

    def line(self) -> str:
        """Return what the best is worth, and the median, in words."""
        best, middle = float(self.nats.max()), float(self.nats.median())
        return (
            f"categories: the best of {len(self.nats)} starts is kept: an image and its warped "
            f"copy tell {best:.2f} nats of each other's, by the median start {middle:.2f}"
        )


def output_layer(discriminator: nn.Module, q_dim: int) -> nn.Linear:
    """Return Q's last layer. Raises UserError unless one layer alone can be it."""
    layers = [
        layer
        for layer in discriminator.modules()
        if type(layer) is nn.Linear and layer.out_features == q_dim and layer.bias is not None
    ]
    if len(layers) != 1:
        raise UserError(
            "--invariance.restarts: expected networks whose Q ends with an nn.Linear of "
            f"{q_dim} outputs with a bias, without spectral normalisation, found {len(layers)}"
        )
    return layers[0]


@torch.no_grad()
def features(
    discriminator: Discriminator, layer: nn.Linear, images: Tensor, recipe: Recipe, seed: int
) -> tuple[Tensor, Tensor]:
    """Return what `layer` gets of images and of a warped copy of each, fp32 [N, F] twice.

    images: [N, C, H, W] in the generator's range. BatchNorm takes its running statistics.
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    was_training = discriminator.training
    discriminator.eval()
    try:
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            # Copies of their own: no update has an address this high.
            copies = recipe(part, Address(seed, 2**31 + start, 0)).images[0]
            discriminator(part)
            discriminator(copies)
    finally:
        discriminator.train(was_training)
        hook.remove()
    return torch.cat(seen[::2]), torch.cat(seen[1::2])


def fit(
    first: Tensor, second: Tensor, categories: int, starts: int, seed: int, standardise: bool
) -> Starts:
    """Return layers fitted to the mutual information of images and copies, each from its own start.

    Args:
        first, second: features [N, F] of images and of their copies.
        categories: K.
        starts: S.
        seed: of the starts and of the batches.
        standardise: how the categories are made apart, as in `apart`.
    """
    draw = torch.Generator().manual_seed(seed)
    shape = (starts, categories, first.shape[1])
    weight = (STD * torch.randn(shape, generator=draw)).to(first.device).requires_grad_()
    bias = torch.zeros(shape[:2], device=first.device, requires_grad=True)

    def information(weight: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        one, other = apart(a @ weight.T + bias, b @ weight.T + bias, standardise=standardise)
        of = mutual_information(one.softmax(1), other.softmax(1))
        return of.objective, of.nats

    of_each = torch.vmap(information, in_dims=(0, 0, None, None))
    adam = torch.optim.Adam([weight, bias], lr=RATE)
    with torch.enable_grad():
        for _ in range(UPDATES):
            rows = torch.randint(len(first), (min(BATCH, len(first)),), generator=draw)
            rows = rows.to(first.device)
            objective, _ = of_each(weight, bias, first[rows], second[rows])
            adam.zero_grad()
            (-objective.sum()).backward()
            adam.step()
    with torch.no_grad():
        _, nats = of_each(weight, bias, first, second)
    return Starts(weight.detach(), bias.detach(), nats)


@torch.no_grad()
def put(starts: Starts, layer: nn.Linear, columns: slice) -> None:
    """Write the best of the starts into the rows of `layer` that are `columns` of Q's output."""
    layer.weight[columns] = starts.weight[starts.best].to(layer.weight)
    layer.bias[columns] = starts.bias[starts.best].to(layer.bias)
