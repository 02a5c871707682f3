"""Spectral normalisation against the singular values themselves, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastinfogan.networks import TABLES, initialise, pair
from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.networks.convolution import Conv, Same
from fastinfogan.networks.spectral import Spectral, SpectralConv, SpectralLinear, SpectralSame
from fastinfogan.training.player import Flat, working_copies, working_network

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["conv", "same", "linear"]
NETWORKS = ["mnist", *TABLES]


def layer_of(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64):
    layer: SpectralConv | SpectralSame | SpectralLinear
    if kind == "linear":
        layer = SpectralLinear(12, 7)
    else:
        layer = SpectralConv(3, 8) if kind == "conv" else SpectralSame(3, 8)
    draw = torch.Generator().manual_seed(seed)
    for p in layer.parameters():
        nn.init.normal_(p, generator=draw)
    return layer.to(dtype)


def x_of(kind: str, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    shape = (5, 12) if kind == "linear" else (5, 3, 8, 8)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def settled(layer):
    for _ in range(3000):
        layer.iterate()
    return layer


def norm(weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(weight.detach().flatten(1), 2)


@pytest.mark.parametrize("kind", KINDS)
class TestLayers:
    def test_it_computes_with_the_weight_over_its_largest_singular_value(self, kind):
        layer, x = settled(layer_of(kind)), x_of(kind)
        w = layer.weight.detach() / norm(layer.weight)
        if kind == "conv":
            expected = F.conv2d(x, w, layer.bias, stride=2, padding=1)
        elif kind == "same":
            plain = Same(3, 8).double()
            plain.load_state_dict({"weight": w, "bias": layer.bias})
            expected = plain(x)
        else:
            expected = F.linear(x, w, layer.bias)
        torch.testing.assert_close(layer(x), expected)
        assert float(norm(layer.normalise())) == pytest.approx(1.0, abs=1e-9)

    def test_iterations_bring_the_estimate_to_it_from_below(self, kind):
        layer = layer_of(kind)
        truth, last = float(norm(layer.weight)), 0.0
        for _ in range(30):
            layer.iterate()
            ratio = layer.weight / layer.normalise()
            estimate = float(ratio.detach().flatten()[0])
            assert last <= estimate * (1 + 1e-12)
            assert estimate <= truth * (1 + 1e-12)
            last = estimate
        assert last > 0.95 * truth

    def test_the_weights_scale_does_not_matter(self, kind):
        layer, x = settled(layer_of(kind)), x_of(kind)
        before = layer(x)
        with torch.no_grad():
            layer.weight.mul_(3)
        torch.testing.assert_close(layer(x), before)

    def test_the_gradient_is_miyatos(self, kind):
        """Eq. 12: (G - <G, W/σ> uvᵀ) / σ for the gradient G of the normalised weight."""
        layer = settled(layer_of(kind))
        upstream = torch.randn(layer.weight.shape, dtype=torch.float64)
        (actual,) = torch.autograd.grad(layer.normalise(), layer.weight, upstream)
        u, s, vt = torch.linalg.svd(layer.weight.detach().flatten(1))
        g, w = upstream.flatten(1), layer.weight.detach().flatten(1)
        expected = (g - (g * w / s[0]).sum() * torch.outer(u[:, 0], vt[0])) / s[0]
        torch.testing.assert_close(actual.flatten(1), expected)

    def test_a_pass_leaves_the_vectors_alone(self, kind):
        layer = layer_of(kind)
        u, v = layer.u.clone(), layer.v.clone()
        layer.train()(x_of(kind)), layer.eval()(x_of(kind))
        assert torch.equal(layer.u, u)
        assert torch.equal(layer.v, v)

    def test_an_iteration_before_the_backward_pass_does_not_disturb_it(self, kind):
        one, other = settled(layer_of(kind)), settled(layer_of(kind))
        with torch.no_grad():
            for layer in (one, other):
                layer.weight.add_(0.1)
        y, z = one(x_of(kind)), other(x_of(kind))
        one.iterate()
        assert not torch.equal(one.v, other.v)
        (actual,) = torch.autograd.grad(y.square().sum(), one.weight)
        (expected,) = torch.autograd.grad(z.square().sum(), other.weight)
        assert torch.equal(actual, expected)

    def test_in_bf16_it_is_within_bf16s_rounding(self, kind):
        layer, x = settled(layer_of(kind)), x_of(kind)
        truth = layer(x).detach()
        copies = working_copies([Flat(layer.float().parameters(), torch.bfloat16)])
        twin = working_network(layer, copies)
        assert twin.weight.dtype == torch.bfloat16
        actual = twin(x.bfloat16())
        assert actual.dtype == torch.bfloat16
        assert (actual.double() - truth).norm() < 2**-6 * truth.norm()


def test_a_convolution_keeps_its_memory_format():
    layer = layer_of("conv").to(memory_format=torch.channels_last)
    assert layer.normalise().is_contiguous(memory_format=torch.channels_last)
    assert isinstance(layer, Conv)


@pytest.mark.parametrize("networks", NETWORKS)
class TestOption:
    """--spectral-norm, on any networks."""

    @staticmethod
    def pair(networks, spectral_norm):
        return pair(networks, 10, 5, 32, 1, spectral_norm=spectral_norm)

    def test_the_generator_is_as_it_was(self, networks):
        one, other = (self.pair(networks, on)[0] for on in (False, True))
        assert str(one) == str(other)

    def test_the_discriminators_weights_are_those_without_it(self, networks):
        one, other = (self.pair(networks, on)[1] for on in (False, True))

        def weights(network):
            return [p.shape for p in network.parameters() if p.ndim > 1]

        assert weights(one) == weights(other)
        assert not any(isinstance(m, BatchNorm) for m in other.modules())
        of_q = [sum(p.ndim > 1 for p in n.q_parameters()) for n in (one, other)]
        assert of_q[0] == of_q[1]

    def test_the_scale_of_its_weights_does_not_matter(self, networks):
        network = self.pair(networks, True)[1]
        initialise(network, torch.Generator().manual_seed(0))
        images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        before = network.logit(network.trunk(images, "batch"))
        with torch.no_grad():
            for layer in TestDiscriminator.layers(network).values():
                layer.weight.mul_(1000)
        torch.testing.assert_close(network.logit(network.trunk(images, "batch")), before)


@pytest.mark.parametrize("networks", NETWORKS)
class TestDiscriminator:
    """Its vectors follow where running buffers would."""

    @pytest.fixture
    def discriminator(self, networks):
        network = pair(networks, 10, 5, 32, 1, spectral_norm=True)[1]
        initialise(network, torch.Generator().manual_seed(0))
        return network

    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    @staticmethod
    def layers(network) -> dict[str, Spectral]:
        return {n: m for n, m in network.named_modules() if isinstance(m, Spectral)}

    def test_all_its_weights_are_normalised(self, discriminator):
        layers = self.layers(discriminator)
        of_layers = {f"{name}.weight" for name in layers}
        assert of_layers == {n for n, p in discriminator.named_parameters() if p.ndim > 1}

    @pytest.mark.quick_cases(1)
    def test_fresh_weights_are_known_to_a_tenth(self, discriminator):
        for name, layer in self.layers(discriminator).items():
            assert 1.0 <= float(norm(layer.normalise())) * (1 + 1e-6) < 1.1, name

    @pytest.mark.parametrize(
        ("stats", "training", "moves"),
        [
            ("update", True, True),
            (("update", "batch"), False, True),
            (("batch", "update"), True, True),
            (None, True, True),
            ("batch", True, False),
            ("running", True, False),
            (("batch", "batch"), True, False),
            (None, False, False),
        ],
    )
    def test_they_take_one_iteration_where_statistics_are_updated(
        self, discriminator, stats, training, moves
    ):
        with torch.no_grad():
            for p in discriminator.parameters():
                p.add_(torch.randn(p.shape) * 0.02)  # as an optimizer may have
        layers = self.layers(discriminator)
        before = {name: (layer.u.clone(), layer.v.clone()) for name, layer in layers.items()}
        discriminator.train(training)
        discriminator.q(discriminator.trunk(self.images, stats), stats)
        for name, layer in layers.items():
            u, v = before[name]
            if moves:
                w = layer.weight.detach().flatten(1)
                v = F.normalize(w.t() @ u, dim=0)
                u = F.normalize(w @ v, dim=0)
                assert not torch.equal(v, before[name][1])
            assert torch.equal(layer.u, u), name
            assert torch.equal(layer.v, v), name

    def test_the_copy_that_computes_moves_the_vectors_that_are_saved(self, discriminator):
        flat = Flat(discriminator.parameters(), torch.bfloat16)
        twin = working_network(discriminator, working_copies([flat]))
        with torch.no_grad():
            flat.value.add_(torch.randn(flat.value.shape) * 0.02)
        flat.refresh()
        before = {k: v.clone() for k, v in discriminator.state_dict().items()}
        twin.trunk(self.images, ("update", "batch"))
        for key, now in discriminator.state_dict().items():
            if key.endswith(".v"):
                assert now.dtype == torch.float32
                assert not torch.equal(before[key], now), key
