"""The MNIST networks against the paper's table 1, and BatchNorm against torch's own."""

import copy

import pytest
import torch
from torch import nn

from fastinfogan.networks import MnistDiscriminator, MnistGenerator, check_image_size, initialise
from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.networks.convolution import lrelu

pytestmark = pytest.mark.usefixtures("one_thread")

BAD_SIZES = [0, -8, 4, 6, 30, 27, 130, 132]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


def drawn(module, seed=0):
    initialise(module, torch.Generator().manual_seed(seed))
    return module


class TestTable1:
    """Appendix C.1: 74 latents, 28×28 gray images, Q's output for one 10-way code and two means."""

    def test_the_generators_parameters(self):
        generator = MnistGenerator(74)
        assert shapes(generator) == {
            "fc1.weight": (1024, 74),
            "bn1.weight": (1024,),
            "bn1.bias": (1024,),
            "fc2.weight": (7 * 7 * 128, 1024),
            "bn2.weight": (7 * 7 * 128,),
            "bn2.bias": (7 * 7 * 128,),
            "up3.weight": (128, 64, 4, 4),
            "bn3.weight": (64,),
            "bn3.bias": (64,),
            "up4.weight": (64, 1, 4, 4),
            "up4.bias": (1,),
        }
        assert count(generator) == (
            (74 * 1024 + 2 * 1024)
            + (1024 * 6272 + 2 * 6272)
            + (128 * 64 * 16 + 2 * 64)
            + (64 * 16 + 1)
        )

    def test_the_discriminators_parameters(self):
        discriminator = MnistDiscriminator(12)
        assert shapes(discriminator) == {
            "conv1.weight": (64, 1, 4, 4),
            "conv1.bias": (64,),
            "conv2.weight": (128, 64, 4, 4),
            "bn2.weight": (128,),
            "bn2.bias": (128,),
            "fc3.weight": (1024, 7 * 7 * 128),
            "bn3.weight": (1024,),
            "bn3.bias": (1024,),
            "head.weight": (1, 1024),
            "head.bias": (1,),
            "q_fc1.weight": (128, 1024),
            "q_bn1.weight": (128,),
            "q_bn1.bias": (128,),
            "q_fc2.weight": (12, 128),
            "q_fc2.bias": (12,),
        }
        trunk_and_head = (
            (16 * 64 + 64) + (64 * 128 * 16 + 2 * 128) + (6272 * 1024 + 2 * 1024) + (1024 + 1)
        )
        q = (1024 * 128 + 2 * 128) + (128 * 12 + 12)
        assert count(discriminator) == trunk_and_head + q
        assert sum(p.numel() for p in discriminator.q_parameters()) == q

    def test_q_parameters_are_those_of_qs_own_layers(self):
        discriminator = MnistDiscriminator(12, 8)
        own = {id(p) for name, p in discriminator.named_parameters() if name.startswith("q_")}
        assert {id(p) for p in discriminator.q_parameters()} == own

    def test_the_slope_of_leaky_relu_is_a_tenth(self):
        assert lrelu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == pytest.approx([-0.2, 0.0, 3.0])

    @pytest.mark.parametrize("network", [MnistGenerator(9, 8), MnistDiscriminator(4, 8)])
    def test_no_layer_in_front_of_batchnorm_has_a_bias(self, network):
        """Adding to it would change nothing: so each bias there is changes the output."""
        drawn(network)
        inputs = torch.rand(8, 9) if isinstance(network, MnistGenerator) else torch.rand(8, 1, 8, 8)
        for name, p in network.named_parameters():
            if not name.endswith("bias"):
                continue
            moved = copy.deepcopy(network)
            with torch.no_grad():
                moved.get_parameter(name).add_(torch.linspace(1, 2, p.numel()))
            before, after = network(inputs, "batch"), moved(inputs, "batch")
            if isinstance(network, MnistDiscriminator):
                before, after = (torch.cat([y[0], y[1].flatten()]) for y in (before, after))
            assert (before - after).abs().max() > 1e-3, name


SIZES = [(8, 1), (8, 3), (12, 2), (28, 1), (32, 3), (64, 1), (128, 1)]


class TestShapes:
    @pytest.mark.parametrize(("size", "channels"), SIZES)
    def test_the_generator_spans_its_range_at_every_size(self, size, channels):
        generator = drawn(MnistGenerator(9, size, channels))
        with torch.no_grad():
            generator.up4.weight.mul_(100)  # so that the sigmoid's ends are reached
            images = generator(torch.randn(4, 9))
        assert images.shape == (4, channels, size, size)
        low, high = generator.image_range
        assert images.min() >= low
        assert images.max() <= high
        assert images.max() - images.min() > 0.9 * (high - low)

    @pytest.mark.parametrize(("size", "channels"), SIZES)
    def test_the_discriminator_gives_a_logit_and_a_row_of_q_per_image(self, size, channels):
        discriminator = drawn(MnistDiscriminator(5, size, channels))
        images = torch.rand(3, channels, size, size)
        with torch.no_grad():
            logit, q = discriminator(images, "batch")
            features = discriminator.trunk(images, "batch")
        assert (logit.shape, q.shape, features.shape) == ((3,), (3, 5), (3, 1024))
        assert torch.equal(logit, discriminator.logit(features))
        assert torch.equal(q, discriminator.q(features, "batch"))

    @pytest.mark.parametrize("size", BAD_SIZES)
    def test_a_size_that_cannot_be_halved_twice_is_refused(self, size):
        for make in (lambda: MnistGenerator(9, size), lambda: MnistDiscriminator(4, size)):
            with pytest.raises(ValueError, match=f"multiple of 4 from 8 to 128, got {size}"):
                make()

    @pytest.mark.parametrize("size", range(8, 129, 4))
    def test_every_multiple_of_4_from_8_to_128_is_taken(self, size):
        check_image_size(size)

    def test_memory_format_changes_no_value_beyond_rounding(self):
        generator, discriminator = drawn(MnistGenerator(9, 8)), drawn(MnistDiscriminator(4, 8))
        latent = torch.randn(8, 9)
        with torch.no_grad():
            plain = discriminator(generator(latent))[1]
            for network in (generator, discriminator):
                network.to(memory_format=torch.channels_last)
            last = discriminator(generator(latent))[1]
        # values of order 1; sums of some 1,000 fp32 terms in another order
        torch.testing.assert_close(plain, last, rtol=0, atol=1e-4)


class TestBatchNorm:
    @staticmethod
    def pair(kind: str):
        """Return our layer and torch's with the same γ, β and buffers, and batches for them."""
        torch.manual_seed(0)
        theirs = nn.BatchNorm1d(6) if kind == "rows" else nn.BatchNorm2d(6)
        nn.init.normal_(theirs.weight)
        nn.init.normal_(theirs.bias)
        theirs(torch.randn(16, 6, *([] if kind == "rows" else [4, 4])) * 3 + 1)
        ours = BatchNorm(6)
        state = {k: v for k, v in theirs.state_dict().items() if k != "num_batches_tracked"}
        ours.load_state_dict(state)
        x = torch.randn(5, 6, *([] if kind == "rows" else [3, 3])) * 2 - 1
        return ours, theirs, x

    @pytest.mark.parametrize("kind", ["rows", "maps"])
    def test_update_is_torchs_training_mode(self, kind):
        ours, theirs, x = self.pair(kind)
        for _ in range(3):
            assert torch.equal(ours(x, "update"), theirs(x))
            assert torch.equal(ours.running_mean, theirs.running_mean)
            assert torch.equal(ours.running_var, theirs.running_var)

    @pytest.mark.parametrize("kind", ["rows", "maps"])
    def test_running_is_torchs_eval_mode_and_leaves_the_buffers(self, kind):
        ours, theirs, x = self.pair(kind)
        before = buffers(ours)
        assert torch.equal(ours(x, "running"), theirs.eval()(x))
        assert all(torch.equal(before[k], v) for k, v in ours.named_buffers())

    @pytest.mark.parametrize("kind", ["rows", "maps"])
    def test_batch_normalises_by_the_batch_and_leaves_the_buffers(self, kind):
        ours, _, x = self.pair(kind)
        before = buffers(ours)
        actual = ours(x, "batch")
        dims = [d for d in range(x.ndim) if d != 1]
        wide = x.double()
        spread = (wide.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
        shape = (1, -1) + (1,) * (x.ndim - 2)
        expected = (wide - wide.mean(dims, keepdim=True)) / spread
        expected = expected * ours.weight.view(shape) + ours.bias.view(shape)
        # fp32 against fp64: a few roundings of values of order 1
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
        assert all(torch.equal(before[k], v) for k, v in ours.named_buffers())

    def test_the_mode_decides_where_the_caller_does_not(self):
        ours, _, x = self.pair("rows")
        trained, evaluated = copy.deepcopy(ours).train(), copy.deepcopy(ours).eval()
        assert torch.equal(trained(x), copy.deepcopy(ours)(x, "update"))
        assert not torch.equal(trained.running_mean, ours.running_mean)
        assert torch.equal(evaluated(x), ours(x, "running"))
        assert torch.equal(evaluated.running_mean, ours.running_mean)

    @pytest.mark.parametrize("stats", ["batch", "update", "running"])
    @pytest.mark.parametrize("training", [True, False])
    def test_the_caller_overrules_the_mode(self, stats, training):
        ours, _, x = self.pair("maps")
        other = copy.deepcopy(ours).train(not training)
        assert torch.equal(ours.train(training)(x, stats), other(x, stats))
        assert torch.equal(ours.running_var, other.running_var)


class TestStatisticsOfWholeNetworks:
    latent = torch.randn(8, 9, generator=torch.Generator().manual_seed(0))

    def networks(self):
        generator = drawn(MnistGenerator(9, 8))
        return (
            (generator, self.latent),
            (drawn(MnistDiscriminator(4, 8)), generator(self.latent, "batch").detach()),
        )

    def test_update_moves_every_buffer_and_batch_and_running_none(self):
        for network, x in self.networks():
            for stats, moves in (("update", True), ("batch", False), ("running", False)):
                before = buffers(network)
                network(x, stats)
                for name, now in network.named_buffers():
                    assert torch.equal(before[name], now) is not moves, (stats, name)

    def test_update_and_batch_give_the_same_values(self):
        for network, x in self.networks():
            batch, update = network(x, "batch"), network(x, "update")
            for a, b in zip(batch, update, strict=True):
                assert torch.equal(a, b)

    def test_in_eval_mode_an_image_does_not_depend_on_its_batch(self):
        (generator, latent), _ = self.networks()
        generator.eval()
        with torch.no_grad():
            alone, together = generator(latent[:1]), generator(latent)[:1]
            # the same sums, perhaps in another order: fp32 rounding of values up to 1
            torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
            generator.train()
            assert (generator(latent)[:1] - generator(latent[:2])[:1]).abs().max() > 1e-3


class TestInitialise:
    def test_it_is_a_function_of_the_generators_seed_alone(self):
        torch.manual_seed(1)
        first = drawn(MnistDiscriminator(4, 8), seed=5)
        torch.manual_seed(2)
        second = drawn(MnistDiscriminator(4, 8), seed=5)
        other = drawn(MnistDiscriminator(4, 8), seed=6)
        for (name, a), b, c in zip(
            first.named_parameters(), second.parameters(), other.parameters(), strict=True
        ):
            assert torch.equal(a, b), name
            assert name.endswith("bias") or not torch.equal(a, c), name

    def test_it_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        network = MnistGenerator(9, 8)
        torch.set_rng_state(before)
        drawn(network)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("network", [MnistGenerator(74, 8), MnistDiscriminator(12, 8)])
    def test_weights_have_the_stated_means_and_deviations(self, network):
        drawn(network)
        for name, p in network.named_parameters():
            if name.endswith("bias"):
                assert (p == 0).all(), name
                continue
            mean = 1.0 if "bn" in name else 0.0
            values, n = p.detach(), p.numel()
            # five standard errors of a mean and of a deviation of n normals
            assert float(values.mean()) == pytest.approx(mean, abs=5 * 0.02 / n**0.5), name
            assert float(values.std()) == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5), name

    def test_no_two_layers_share_their_draw(self):
        network = drawn(MnistDiscriminator(12, 8))
        starts = {
            round(float(p.detach().flatten()[0]), 6) for p in network.parameters() if p.ndim > 1
        }
        assert len(starts) == 6
