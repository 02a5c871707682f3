"""Networks built from the rows of a table (arXiv 1606.03657, tables 2 to 6, and dSprites').

A row of the paper reads "4 × 4 conv. 128 lRELU. stride 2. batchnorm"; here it is `Row(128)`. As in
openai/InfoGAN, BatchNorm comes before the nonlinearity, though the tables name it behind. The rows
that every table has are left out: D's and Q's output layers, and the last upconv, of as many
channels as the images have and of stride 2. (Tables 4 and 6 give no stride there, as table 1 gives
none for MNIST; with stride 1 their generators would make 16×16 and 32×32 images.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.options import QTrunk
from .base import MAX_SIDE, Discriminator, Generator, check_side
from .batchnorm import BatchNorm, BatchStats, StatsPerPart, follows
from .convolution import Conv, Same, Up
from .spectral import Spectral, SpectralConv, SpectralLinear, SpectralSame


@dataclass(frozen=True)
class Row:
    """A fully connected layer or a 4×4 convolution, with its BatchNorm."""

    width: int  # outputs, or channels
    bn: bool = True
    stride: Literal[1, 2] = 2  # of a convolution


@dataclass(frozen=True)
class Table:
    """A pair of networks for images of any side that they can halve, and of any channels."""

    convs: tuple[Row, ...]  # D: convolutions,
    d_fc: tuple[Row, ...]  # then fully connected; the last one's output is D's and Q's features
    q_fc: tuple[Row, ...]  # Q's own, before its output layer
    g_fc: tuple[Row, ...]  # G: fully connected,
    g_maps: int  # then one more, to this many maps,
    ups: tuple[Row, ...]  # then up-convolutions
    output: Literal["sigmoid", "tanh"] = "sigmoid"
    slope: float = 0.1  # of D's and Q's leaky ReLU
    up_slope: float = 0.0  # of the up-convolutions'; 0 is ReLU
    spectral: bool = False  # D's and Q's weights are spectrally normalised
    largest: int = MAX_SIDE  # side: a hidden layer on all maps grows with its square

    def with_spectral_norm(self) -> Table:
        """Return the table with spectral normalisation instead of BatchNorm in D and Q."""
        convs, d_fc, q_fc = (
            tuple(replace(row, bn=False) for row in rows)
            for rows in (self.convs, self.d_fc, self.q_fc)
        )
        return replace(self, convs=convs, d_fc=d_fc, q_fc=q_fc, spectral=True)

    @property
    def doublings(self) -> int:
        """The number of times that G doubles the side of its first maps."""
        return 1 + _halvings(self.ups)

    @property
    def halvings(self) -> int:
        """The number of times that an image is halved."""
        return max(self.doublings, _halvings(self.convs))


def _halvings(rows: Iterable[Row]) -> int:
    return sum(row.stride == 2 for row in rows)


_PLAIN = Row(64, bn=False)

# Tables 2 (SVHN) and 3 (CelebA, captioned SVHN) are the same but for the width of G's input.
SVHN = Table(
    convs=(_PLAIN, Row(128), Row(256)),
    d_fc=(),
    q_fc=(Row(128),),
    g_fc=(),
    g_maps=448,
    ups=(Row(256), Row(128, bn=False), Row(64, bn=False)),
    output="tanh",
    largest=256,
)

# Table 1, whose networks have classes of their own (`networks_mnist`) unless spectrally normalised.
MNIST = Table(
    convs=(_PLAIN, Row(128)),
    d_fc=(Row(1024),),
    q_fc=(Row(128),),
    g_fc=(Row(1024),),
    g_maps=128,
    ups=(Row(64),),
)

# Table 4. Q "shares the same network, and only [has] separate output units at the last layer".
FACES = Table(
    convs=(_PLAIN, Row(128)),
    d_fc=(Row(1024),),
    q_fc=(),
    g_fc=(Row(1024),),
    g_maps=128,
    ups=(Row(64),),
)

# Table 6; Q as for the faces. Where it gives no stride the side stays, but for the last upconv.
CHAIRS = Table(
    convs=(_PLAIN, Row(128), Row(256), Row(256, stride=1), Row(256, stride=1)),
    d_fc=(Row(1024),),
    q_fc=(),
    g_fc=(Row(1024),),
    g_maps=256,
    ups=(Row(256, stride=1), Row(256, stride=1), Row(128), Row(64)),
)

# FactorVAE's networks (Kim & Mnih 2018, appendix) as InfoGAN-CR trains them (Lin et al. 2020,
# appendix, and its published code): spectral instead of batch normalisation in D and Q.
DSPRITES = Table(
    convs=tuple(Row(width, bn=False) for width in (32, 32, 64, 64)),
    d_fc=(Row(128, bn=False),),
    q_fc=(Row(128, bn=False),),
    g_fc=(Row(128),),
    g_maps=64,
    ups=(Row(64), Row(32), Row(32)),
    slope=0.2,
    up_slope=0.2,
    spectral=True,
    largest=256,
)


class Block(nn.Module):
    """A row: a layer with weights, BatchNorm where the row has it, (leaky) ReLU."""

    def __init__(self, layer: nn.Module, norm: BatchNorm | None, slope: float) -> None:
        super().__init__()
        self.layer, self.bn, self.slope = layer, norm, slope

    def forward(self, x: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        x = self.layer(x)
        if self.bn is not None:
            x = self.bn(x, stats)
        return F.leaky_relu(x, self.slope, inplace=True)


class Blocks(nn.ModuleList):
    """Rows one after another, their layers of one kind, but `same` where the stride is 1."""

    def __init__(
        self,
        kind: type[nn.Linear | Conv | Up],
        inputs: int,
        rows: Iterable[Row],
        slope: float,
        same: type[Same] = Same,
    ) -> None:
        super().__init__()
        for row in rows:
            of = same if row.stride == 1 else kind
            layer = of(inputs, row.width, bias=not row.bn)  # in front of BatchNorm it would cancel
            self.append(Block(layer, BatchNorm(row.width) if row.bn else None, slope))
            inputs = row.width
        self.outputs = inputs

    def forward(self, x: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        for block in self:
            x = block(x, stats)
        return x


class TableGenerator(Generator):
    """A table's generator.

    Args:
        table: its rows.
        input_dim: width of [noise | codes].
        image_size, channels: of the images.
    """

    def __init__(self, table: Table, input_dim: int, image_size: int, channels: int) -> None:
        super().__init__()
        check_side(image_size, table.halvings, table.largest)
        self.output = table.output
        self.image_range = (-1.0, 1.0) if table.output == "tanh" else (0.0, 1.0)
        self.side = image_size // 2**table.doublings
        self.maps = table.g_maps
        fc = (*table.g_fc, Row(self.side**2 * self.maps))
        self.fc = Blocks(nn.Linear, input_dim, fc, 0.0)
        self.up = Blocks(Up, self.maps, table.ups, table.up_slope)
        self.last = Up(self.up.outputs, channels)

    def forward(self, latent: Tensor, stats: BatchStats | None = None) -> Tensor:
        """Map [B, input_dim] to images [B, channels, H, W] in `image_range`."""
        x = self.fc(latent.to(self.last.weight.dtype), stats)
        x = x.view(-1, self.side, self.side, self.maps).permute(0, 3, 1, 2)
        x = self.last(self.up(x, stats))
        return torch.tanh(x) if self.output == "tanh" else torch.sigmoid(x)


class TableDiscriminator(Discriminator):
    """A table's discriminator, with Q on its trunk.

    Args:
        table: its rows.
        q_dim: width of Q's output.
        image_size, channels: of the images.
        q_trunk: "own": Q reads the features of a trunk of its own, built as D's. The shared
            features are then both trunks' side by side, [B, 2F]. "fixed": that trunk learns before
            the game alone.
    """

    def __init__(
        self,
        table: Table,
        q_dim: int,
        image_size: int,
        channels: int,
        *,
        q_trunk: QTrunk = "shared",
    ) -> None:
        super().__init__()
        check_side(image_size, table.halvings, table.largest)
        linear: type[nn.Linear] = SpectralLinear if table.spectral else nn.Linear
        conv: type[Conv] = SpectralConv if table.spectral else Conv
        same: type[Same] = SpectralSame if table.spectral else Same
        side = image_size // 2 ** _halvings(table.convs)

        def trunk() -> tuple[Blocks, Blocks]:
            conv_blocks = Blocks(conv, channels, table.convs, table.slope, same)
            flat = side**2 * conv_blocks.outputs
            return conv_blocks, Blocks(linear, flat, table.d_fc, table.slope)

        self.conv, self.fc = trunk()
        self.head = linear(self.fc.outputs, 1)
        self.own_trunk, self._fixed_trunk = q_trunk != "shared", q_trunk == "fixed"
        if self.own_trunk:
            self.q_conv, self.q_trunk_fc = trunk()
        self.q_fc = Blocks(linear, self.fc.outputs, table.q_fc, table.slope)
        self.q_head = linear(self.q_fc.outputs, q_dim)

    def trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map images [B, C, H, W] in the generator's range to the shared features, [B, F].

        Where weights are spectrally normalised, D's and Q's, their vectors take one power
        iteration in a pass whose statistics (of a part of it) running buffers follow.
        """
        self._iterate(stats)
        of_d = self._features(self.conv, self.fc, images, stats)
        if not self.own_trunk:
            return of_d
        return torch.cat((of_d, self._features(self.q_conv, self.q_trunk_fc, images, stats)), 1)

    def q_trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map images to what `q` reads alone, [B, F], without D's trunk where Q has its own."""
        if not self.own_trunk:
            return self.trunk(images, stats)
        self._iterate(stats)
        return self._features(self.q_conv, self.q_trunk_fc, images, stats)

    def _iterate(self, stats: StatsPerPart | None) -> None:
        if follows(stats, self.training):
            for layer in self.modules():
                if isinstance(layer, Spectral):
                    layer.iterate()

    def _features(
        self, conv: Blocks, fc: Blocks, images: Tensor, stats: StatsPerPart | None
    ) -> Tensor:
        x = conv(images.to(self.head.weight.dtype), stats)
        return fc(x.permute(0, 2, 3, 1).flatten(1), stats)

    def logit(self, features: Tensor) -> Tensor:
        """Map features to D's logit, [B]; positive means real."""
        if self.own_trunk:
            features = features[:, : self.head.in_features]
        return self.head(features).squeeze(1)

    def q(self, features: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Map features to Q's output, [B, q_dim]."""
        if self.own_trunk:
            features = features[:, -self.fc.outputs :]  # of both trunks or of Q's alone
        return self.q_head(self.q_fc(features, stats))

    def q_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of Q's own layers, its trunk's not; all others are D's.

        D's step trains Q's trunk too: the terms on real images are in that step.
        """
        return [*self.q_fc.parameters(), *self.q_head.parameters()]

    def fixed_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of Q's trunk, where it is fixed."""
        if not self._fixed_trunk:
            return []
        return [*self.q_conv.parameters(), *self.q_trunk_fc.parameters()]
