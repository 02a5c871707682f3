"""The networks of the paper's tables 2 to 6, and dSprites', row by row; and what all share."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastinfogan.networks import (
    TABLES,
    Discriminator,
    MnistDiscriminator,
    MnistGenerator,
    TableDiscriminator,
    TableGenerator,
    check_image_size,
    initialise,
    pair,
)
from fastinfogan.networks.convolution import Conv, Same, Up
from fastinfogan.networks.tables import Block

pytestmark = pytest.mark.usefixtures("one_thread")

Shape = tuple[int, ...]


def weights(module: nn.Module) -> list[Shape]:
    """Return the weights of layers in order; test_presets counts BatchNorm's and biases."""
    return [tuple(p.shape) for p in module.parameters() if p.ndim > 1]


def drawn(name: str, image_size: int, channels: int = 1, inputs: int = 9, q_dim: int = 4):
    networks = pair(name, inputs, q_dim, image_size, channels)
    draw = torch.Generator().manual_seed(0)
    for network in networks:
        initialise(network, draw)
    return networks


def blocks(network: nn.Module, part: str) -> list[Block]:
    return [m for m in network.get_submodule(part).modules() if isinstance(m, Block)]


def sides(network: nn.Module) -> list[int]:
    """Return a list that each pass fills with the sides of the maps behind each convolution."""
    seen: list[int] = []
    for module in network.modules():
        if isinstance(module, Conv | Same | Up):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.shape[-1]))
    return seen


def conv(outputs: int, inputs: int) -> Shape:
    return (outputs, inputs, 4, 4)


# (image size, channels, G's input, Q's output), weights of G, of D, of Q, as the tables have them.
# A transposed convolution's weight is [inputs, outputs, 4, 4], that of stride 1 [outputs, inputs].
ROWS: dict[str, tuple[Shape, list[Shape], list[Shape], list[Shape]]] = {
    "svhn": (
        (32, 3, 168, 48),
        [(2 * 2 * 448, 168), conv(448, 256), conv(256, 128), conv(128, 64), conv(64, 3)],
        [conv(64, 3), conv(128, 64), conv(256, 128), (1, 4 * 4 * 256)],
        [(128, 4 * 4 * 256), (48, 128)],
    ),
    "faces": (
        (32, 1, 133, 10),
        [(1024, 133), (8 * 8 * 128, 1024), conv(128, 64), conv(64, 1)],
        [conv(64, 1), conv(128, 64), (1024, 8 * 8 * 128), (1, 1024)],
        [(10, 1024)],
    ),
    "chairs": (
        (64, 1, 189, 62),
        [
            (1024, 189),
            (8 * 8 * 256, 1024),
            *[conv(256, 256)] * 2,
            conv(256, 128),
            conv(128, 64),
            conv(64, 1),
        ],
        [
            conv(64, 1),
            conv(128, 64),
            conv(256, 128),
            *[conv(256, 256)] * 2,
            (1024, 8 * 8 * 256),
            (1, 1024),
        ],
        [(62, 1024)],
    ),
    "dsprites": (
        (64, 1, 10, 5),
        [(128, 10), (4 * 4 * 64, 128), conv(64, 64), conv(64, 32), conv(32, 32), conv(32, 1)],
        [conv(32, 1), conv(32, 32), conv(64, 32), conv(64, 64), (128, 4 * 4 * 64), (1, 128)],
        [(128, 128), (5, 128)],
    ),
}

# Sides of the maps behind each convolution: D's, G's.
SIDES: dict[str, tuple[list[int], list[int]]] = {
    "svhn": ([16, 8, 4], [4, 8, 16, 32]),
    "faces": ([16, 8], [16, 32]),
    "chairs": ([32, 16, 8, 8, 8], [8, 8, 16, 32, 64]),
    "dsprites": ([32, 16, 8, 4], [8, 16, 32, 64]),
}
NORMS: dict[str, tuple[str, str, str]] = {  # of D's rows, Q's rows, G's rows: y or n
    "svhn": ("nyy", "y", "yynn"),
    "faces": ("nyy", "", "yyy"),
    "chairs": ("nyyyyy", "", "yyyyyy"),
    "dsprites": ("nnnnn", "n", "yyyyy"),
}


class TestRows:
    @pytest.mark.parametrize("name", ROWS)
    def test_the_weights_are_those_of_the_table(self, name):
        (side, channels, inputs, q_dim), of_g, of_d, of_q = ROWS[name]
        generator, discriminator = pair(name, inputs, q_dim, side, channels)
        assert weights(generator) == of_g
        assert weights(discriminator) == of_d + of_q
        assert [tuple(p.shape) for p in discriminator.q_parameters() if p.ndim > 1] == of_q

    @pytest.mark.parametrize("name", ROWS)
    def test_maps_have_the_tables_sides(self, name):
        side, channels = ROWS[name][0][:2]
        generator, discriminator = drawn(name, side, channels)
        of_d, of_g = sides(discriminator), sides(generator)
        discriminator(generator(torch.randn(2, 9)))
        assert (of_d, of_g) == SIDES[name]

    @pytest.mark.parametrize("name", ROWS)
    def test_batchnorm_and_biases_are_where_the_table_has_them(self, name):
        """A layer has a bias where no BatchNorm would cancel it."""
        generator, discriminator = drawn(name, ROWS[name][0][0])
        parts = (
            [*blocks(discriminator, "conv"), *blocks(discriminator, "fc")],
            blocks(discriminator, "q_fc"),
            [*blocks(generator, "fc"), *blocks(generator, "up")],
        )
        result = tuple("".join("ny"[block.bn is not None] for block in part) for part in parts)
        assert result == NORMS[name]
        for block in (block for part in parts for block in part):
            assert (block.layer.bias is None) == (block.bn is not None)


def _by_name(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in network.named_parameters()}


def _norm(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    return F.batch_norm(x, None, None, p[f"{name}.bn.weight"], p[f"{name}.bn.bias"], training=True)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


class TestValues:
    """Against the same networks written out in PyTorch's functions, in fp64."""

    latent = torch.randn(5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    @staticmethod
    def wide(name: str, image_size: int, channels: int = 1):
        """Return networks whose weights let no nonlinearity pass for a straight line."""
        networks = drawn(name, image_size, channels)
        draw = torch.Generator().manual_seed(2)
        for network in networks:
            network.double()
            for key, p in network.named_parameters():
                nn.init.normal_(p, float(key.endswith("bn.weight")), 0.2, generator=draw)
        return networks

    def test_svhn(self):
        generator, discriminator = self.wide("svhn", 32, 3)
        p = _by_name(generator)
        x = F.relu(_norm(self.latent @ p["fc.0.layer.weight"].t(), p, "fc.0"))
        x = x.view(-1, 2, 2, 448).permute(0, 3, 1, 2)

        def up(x: Tensor, name: str) -> Tensor:
            weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias")
            return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

        x = F.relu(_norm(up(x, "up.0.layer"), p, "up.0"))
        x = F.relu(up(F.relu(up(x, "up.1.layer")), "up.2.layer"))
        images = torch.tanh(up(x, "last"))
        torch.testing.assert_close(generator(self.latent, "batch"), images)
        assert generator.image_range == (-1.0, 1.0)

        p = _by_name(discriminator)

        def conv(x: Tensor, name: str) -> Tensor:
            weight, bias = p[f"conv.{name}.layer.weight"], p.get(f"conv.{name}.layer.bias")
            return F.conv2d(x, weight, bias, stride=2, padding=1)

        x = F.leaky_relu(conv(images, "0"), 0.1)
        for name in "12":
            x = F.leaky_relu(_norm(conv(x, name), p, f"conv.{name}"), 0.1)
        x = _rows(x)
        logit = (x @ p["head.weight"].t() + p["head.bias"]).squeeze(1)
        x = F.leaky_relu(_norm(x @ p["q_fc.0.layer.weight"].t(), p, "q_fc.0"), 0.1)
        q = x @ p["q_head.weight"].t() + p["q_head.bias"]
        torch.testing.assert_close(discriminator(images, "batch"), (logit, q))

    def test_chairs(self):
        """At 16×16; an upconv of stride 1 as a convolution."""
        generator, discriminator = self.wide("chairs", 16)
        images = generator(self.latent, "batch")
        p = _by_name(discriminator)
        x = images
        for i in range(5):
            weight, bias = p[f"conv.{i}.layer.weight"], p.get(f"conv.{i}.layer.bias")
            padded = F.pad(x, (1, 1, 1, 1) if i < 3 else (1, 2, 1, 2))
            x = F.conv2d(padded, weight, bias, stride=2 if i < 3 else 1)
            x = F.leaky_relu(x if i == 0 else _norm(x, p, f"conv.{i}"), 0.1)
        x = F.leaky_relu(_norm(_rows(x) @ p["fc.0.layer.weight"].t(), p, "fc.0"), 0.1)
        logit = (x @ p["head.weight"].t() + p["head.bias"]).squeeze(1)
        q = x @ p["q_head.weight"].t() + p["q_head.bias"]
        torch.testing.assert_close(discriminator(images, "batch"), (logit, q))

        p = _by_name(generator)
        x = self.latent
        for i in range(2):
            x = F.relu(_norm(x @ p[f"fc.{i}.layer.weight"].t(), p, f"fc.{i}"))
        x = x.view(-1, 2, 2, 256).permute(0, 3, 1, 2)
        for i in range(4):
            weight = p[f"up.{i}.layer.weight"]
            if i < 2:
                x = F.conv2d(F.pad(x, (1, 2, 1, 2)), weight)
            else:
                x = F.conv_transpose2d(x, weight, stride=2, padding=1)
            x = F.relu(_norm(x, p, f"up.{i}"))
        x = F.conv_transpose2d(x, p["last.weight"], p["last.bias"], stride=2, padding=1)
        torch.testing.assert_close(images, torch.sigmoid(x))

    def test_dsprites(self):
        """At 32×32. Slopes of 0.2, spectral norm by the singular values themselves."""
        generator, discriminator = self.wide("dsprites", 32)
        p = _by_name(generator)
        x = self.latent
        for i in range(2):
            x = F.relu(_norm(x @ p[f"fc.{i}.layer.weight"].t(), p, f"fc.{i}"))
        x = x.view(-1, 2, 2, 64).permute(0, 3, 1, 2)
        for i in range(3):
            x = F.conv_transpose2d(x, p[f"up.{i}.layer.weight"], stride=2, padding=1)
            x = F.leaky_relu(_norm(x, p, f"up.{i}"), 0.2)
        x = F.conv_transpose2d(x, p["last.weight"], p["last.bias"], stride=2, padding=1)
        images = torch.sigmoid(x)
        torch.testing.assert_close(generator(self.latent, "batch"), images)

        for _ in range(1000):  # until the vectors stand still
            for module in discriminator.modules():
                if hasattr(module, "iterate"):
                    module.iterate()
        p = _by_name(discriminator)
        for name, w in p.items():
            if name.endswith("weight"):
                p[name] = w / torch.linalg.matrix_norm(w.flatten(1), 2)
        x = images
        for i in range(4):
            weight, bias = p[f"conv.{i}.layer.weight"], p[f"conv.{i}.layer.bias"]
            x = F.leaky_relu(F.conv2d(x, weight, bias, stride=2, padding=1), 0.2)
        x = F.leaky_relu(F.linear(_rows(x), p["fc.0.layer.weight"], p["fc.0.layer.bias"]), 0.2)
        logit = F.linear(x, p["head.weight"], p["head.bias"]).squeeze(1)
        x = F.leaky_relu(F.linear(x, p["q_fc.0.layer.weight"], p["q_fc.0.layer.bias"]), 0.2)
        q = F.linear(x, p["q_head.weight"], p["q_head.bias"])
        actual = discriminator(images, "batch")
        torch.testing.assert_close(actual, (logit, q), rtol=1e-5, atol=1e-8)

    def test_faces_are_mnists_networks_but_for_q(self):
        theirs = MnistGenerator(9, 32), MnistDiscriminator(4, 32)
        ours = pair("faces", 9, 4, 32, 1)
        for a, b in zip(ours, theirs, strict=True):
            initialise(b, torch.Generator().manual_seed(0))
            for p, q in zip(a.parameters(), b.parameters(), strict=False):
                if p.shape == q.shape:  # all but Q's own
                    p.data = q.data
        latent = self.latent.float()
        images = theirs[0](latent, "batch")
        assert torch.equal(ours[0](latent, "batch"), images)
        features = ours[1].trunk(images, "batch")
        assert torch.equal(features, theirs[1].trunk(images, "batch"))
        assert torch.equal(ours[1].logit(features), theirs[1].logit(features))
        head = ours[1].get_submodule("q_head")
        assert torch.equal(ours[1].q(features), head(features))
        assert {id(p) for p in ours[1].q_parameters()} == {id(p) for p in head.parameters()}


LEAST = {"svhn": 32, "faces": 8, "chairs": 16, "dsprites": 32}
FACTOR = {"svhn": 16, "faces": 4, "chairs": 8, "dsprites": 16}


def takes(name: str, side: int) -> bool:
    try:
        check_image_size(side, name)
    except ValueError:
        return False
    return True


class TestSizes:
    @pytest.mark.parametrize("name", TABLES)
    def test_they_take_what_they_can_halve_up_to_their_largest(self, name):
        taken = [side for side in range(-16, 300) if takes(name, side)]
        largest = 256 if name in ("svhn", "dsprites") else 128
        assert taken == list(range(LEAST[name], largest + 1, FACTOR[name]))

    @pytest.mark.parametrize("name", TABLES)
    @pytest.mark.parametrize("channels", [1, 2, 3])
    @pytest.mark.parametrize("more", [0, 1])
    def test_images_and_outputs_have_the_requested_sizes(self, name, channels, more):
        side = LEAST[name] + more * FACTOR[name]
        generator, discriminator = drawn(name, side, channels)
        with torch.no_grad():
            for p in generator.get_submodule("last").parameters():
                p.mul_(200)  # so that the range's ends are reached
            images = generator(torch.randn(8, 9))
            logit, q = discriminator(images)
        assert images.shape == (8, channels, side, side)
        assert (logit.shape, q.shape) == ((8,), (8, 4))
        low, high = generator.image_range
        assert low <= images.min() <= low + 0.1 * (high - low)
        assert high >= images.max() >= high - 0.1 * (high - low)

    @pytest.mark.parametrize("name", TABLES)
    def test_another_side_is_refused_by_both_networks(self, name):
        for make in (TableGenerator, TableDiscriminator):
            with pytest.raises(ValueError, match=f"a multiple of {FACTOR[name]} from .*, got 30"):
                make(TABLES[name], 9, 30, 1)


class TestInterface:
    @pytest.mark.parametrize("name", ["mnist", *TABLES])
    def test_forward_is_the_trunk_and_the_two_heads(self, name):
        discriminator = drawn(name, 32)[1]
        assert isinstance(discriminator, Discriminator)
        images = torch.rand(4, 1, 32, 32)
        logit, q = discriminator(images, "batch")
        features = discriminator.trunk(images, "batch")
        assert torch.equal(logit, discriminator.logit(features))
        assert torch.equal(q, discriminator.q(features, "batch"))
        assert features.ndim == 2

    @pytest.mark.parametrize("name", TABLES)
    def test_q_parameters_are_what_q_alone_depends_on(self, name):
        discriminator = drawn(name, 32)[1]
        images = torch.rand(4, 1, 32, 32)
        logit, _ = discriminator(images, "batch")
        own = discriminator.q_parameters()
        rest = [p for p in discriminator.parameters() if not any(p is o for o in own)]
        used = torch.autograd.grad(logit.sum(), [*own, *rest], allow_unused=True)
        assert all(g is None for g in used[: len(own)])
        assert all(g is not None for g in used[len(own) :])

    @pytest.mark.parametrize("name", TABLES)
    def test_batchnorms_buffers_move_for_the_statistics_update_alone(self, name):
        generator, discriminator = drawn(name, 32)
        latent = torch.randn(4, 9)
        for network, x in ((generator, latent), (discriminator, generator(latent).detach())):
            for stats, moves in (("update", True), ("batch", False), ("running", False)):
                before = copy.deepcopy(dict(network.named_buffers()))
                network(x, stats)
                for key, now in network.named_buffers():
                    if "running" in key:
                        assert torch.equal(before[key], now) is not moves, (stats, key)
