"""The presets against the paper's tables, and that each of them trains."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastinfogan.cli import parse
from fastinfogan.config import NetworksName, Preset, StepMode, TrainConfig, check, leaves
from fastinfogan.errors import UserError
from fastinfogan.latents import Categorical, LatentSpec, Uniform
from fastinfogan.losses import functional
from fastinfogan.networks import TABLES, pair
from fastinfogan.presets import PRESETS
from fastinfogan.training import compiler
from fastinfogan.training.step import Step, build

pytestmark = pytest.mark.usefixtures("one_thread")

FIVE = (Uniform(sigma="learned"),) * 5
THREE_CHAIRS = (Categorical(20),) * 3

# Image size, channels, noise, G's input, Q's output, codes; D's and G's learning rates.
# Appendix C and tables 2 to 7; dsprites: Lin et al. 2020; fashion-mnist: ours. Q's output is a
# column per category, two per continuous code whose σ is learned.
VALUES: dict[str, tuple[int, int, int, int, int, tuple, float, float]] = {
    "mnist-paper": (28, 1, 62, 74, 12, (Categorical(10), Uniform(), Uniform()), 2e-4, 1e-3),
    "fashion-mnist": (28, 1, 62, 74, 12, (Categorical(10), Uniform(), Uniform()), 5e-4, 1e-3),
    "svhn-paper": (32, 3, 124, 168, 48, (Categorical(10),) * 4 + FIVE[:4], 2e-4, 1e-3),
    "celeba-paper": (32, 3, 128, 228, 100, (Categorical(10),) * 10, 2e-4, 1e-3),
    "faces-paper": (32, 1, 128, 133, 10, FIVE, 2e-4, 5e-4),
    "faces-elevation-paper": (32, 1, 128, 133, 10, FIVE, 4e-4, 3e-4),
    "faces-lighting-paper": (32, 1, 128, 133, 10, FIVE, 8e-4, 3e-4),
    "chairs-paper": (64, 1, 128, 189, 62, (*THREE_CHAIRS, FIVE[0]), 2e-4, 1e-3),
    "chairs-width-paper": (64, 1, 128, 189, 62, (*THREE_CHAIRS, FIVE[0]), 2e-4, 1e-3),
    "dsprites-paper": (64, 1, 5, 10, 5, (Uniform(),) * 5, 2e-3, 1e-3),
}

# λ of each code.
WEIGHTS: dict[str, list[float]] = {
    "mnist-paper": [1.0] * 3,
    "fashion-mnist": [1.0] * 3,
    "svhn-paper": [1.0] * 8,
    "celeba-paper": [1.0] * 10,
    "faces-paper": [0.2] * 5,
    "faces-elevation-paper": [0.1] * 5,
    "faces-lighting-paper": [0.1] * 5,
    "chairs-paper": [1.0, 1.0, 1.0, 10.0],
    "chairs-width-paper": [2.0, 2.0, 2.0, 0.05],
    "dsprites-paper": [0.05] * 5,
}


# Options in which a preset differs from its paper's.
SMALLER = {"networks", "codes", "spectral-norm", "batch-size", "steps"}
FACES = {"codes", "info-weight", "spectral-norm", "lr-g", "batch-size", "decay.start"}
FACES |= {"decay.steps", "steps", "follow.weight", "follow.changes"}
FACES |= {f"invariance.warp.{field}" for field in ("rotate", "scale", "shear", "shift")}
FACES |= {"invariance.warp.thickness", "invariance.warp.light"}
WARPED = {"rotate", "scale", "shear", "shift", "thickness", "gamma"}
DIFFERENT: dict[str, set[str]] = {
    "svhn": {
        *{"data", "codes", "noise", "objective", "invariance.weight", "invariance.logits"},
        *{"instances.weight", "q-trunk", "gan-start", "lr-start", "lr-start-decay", "lr-d"},
        *{"info-start", "info-ramp", "decay.start", "decay.steps", "steps"},
        *(f"photo.{field}" for field in ("surround", "invert", "contrast", "brightness", "tint")),
        *(f"invariance.warp.{field}" for field in ("rotate", "scale", "thickness")),
    },
    "celeba": {"steps"},
    "faces": FACES,
    "faces-elevation": {
        *{*FACES, "lr-d", "gan-start", "lr-start", "lr-start-decay", "q-trunk"},
        *{"invariance.warp.shift-x", "invariance.warp.nod", "invariance.warp.aside", "routing"},
    },
    "faces-lighting": {*FACES, "lr-d"},
    "chairs": {
        *{"networks", "codes", "spectral-norm", "invariance.weight", "invariance.logits"},
        *{"gan-start", "lr-start", "lr-start-decay", "info-start", "info-ramp"},
        *{"decay.start", "decay.steps", "steps"},
        *(f"invariance.warp.{field}" for field in ("rotate", "scale", "shear", "thickness")),
        *(f"invariance.warp.{field}" for field in ("zoom", "erase-below", "white")),
    },
    "chairs-width": SMALLER,
}


def fc(inputs: int, outputs: int, bias: bool = False) -> int:
    return inputs * outputs + outputs * bias


def conv(inputs: int, outputs: int, bias: bool = False) -> int:
    return inputs * outputs * 4 * 4 + outputs * bias


def bn(features: int) -> int:
    return 2 * features


def svhn_g(inputs: int) -> int:
    first = fc(inputs, 2 * 2 * 448) + bn(2 * 2 * 448)
    ups = conv(448, 256) + bn(256) + conv(256, 128, True) + conv(128, 64, True) + conv(64, 3, True)
    return first + ups


SVHN_D = (
    conv(3, 64, True)
    + (conv(64, 128) + bn(128))
    + (conv(128, 256) + bn(256))
    + fc(4 * 4 * 256, 1, True)
)
SVHN_Q = fc(4 * 4 * 256, 128) + bn(128)  # before its output layer

# Parameters of G, and of D with Q.
COUNTS: dict[str, tuple[int, int]] = {
    "svhn-paper": (svhn_g(168), SVHN_D + SVHN_Q + fc(128, 48, True)),
    "celeba-paper": (svhn_g(228), SVHN_D + SVHN_Q + fc(128, 100, True)),
    "faces-paper": (
        (fc(133, 1024) + bn(1024))
        + (fc(1024, 8 * 8 * 128) + bn(8 * 8 * 128))
        + (conv(128, 64) + bn(64))
        + conv(64, 1, True),
        conv(1, 64, True)
        + (conv(64, 128) + bn(128))
        + (fc(8 * 8 * 128, 1024) + bn(1024))
        + fc(1024, 1, True)
        + fc(1024, 10, True),
    ),
    "chairs-paper": (
        (fc(189, 1024) + bn(1024))
        + (fc(1024, 8 * 8 * 256) + bn(8 * 8 * 256))
        + 2 * (conv(256, 256) + bn(256))
        + (conv(256, 128) + bn(128))
        + (conv(128, 64) + bn(64))
        + conv(64, 1, True),
        conv(1, 64, True)
        + (conv(64, 128) + bn(128))
        + (conv(128, 256) + bn(256))
        + 2 * (conv(256, 256) + bn(256))
        + (fc(8 * 8 * 256, 1024) + bn(1024))
        + fc(1024, 1, True)
        + fc(1024, 62, True),
    ),
    "dsprites-paper": (
        (fc(10, 128) + bn(128))
        + (fc(128, 4 * 4 * 64) + bn(4 * 4 * 64))
        + (conv(64, 64) + bn(64))
        + (conv(64, 32) + bn(32))
        + (conv(32, 32) + bn(32))
        + conv(32, 1, True),
        (conv(1, 32, True) + conv(32, 32, True) + conv(32, 64, True) + conv(64, 64, True))
        + fc(4 * 4 * 64, 128, True)
        + fc(128, 1, True)
        + (fc(128, 128, True) + fc(128, 5, True)),
    ),
}
TOTALS = {  # the same sums, as numbers
    "svhn-paper": (2_798_787, 1_194_097),
    "celeba-paper": (2_906_307, 1_200_805),
    "faces-paper": (8_675_457, 8_534_347),
    "chairs-paper": (19_760_513, 19_599_231),
    "dsprites-paper": (250_113, 263_878),
}


def without_weights(spec: LatentSpec) -> LatentSpec:
    return replace(spec, codes=tuple(replace(code, weight=1.0) for code in spec.codes))


class TestValues:
    def test_there_is_a_preset_for_every_name_and_no_other(self):
        assert tuple(PRESETS) == get_args(Preset)
        assert all(config.preset == name for name, config in PRESETS.items())
        assert set(get_args(NetworksName)) == {"mnist", *TABLES}

    @pytest.mark.parametrize("name", PRESETS)
    def test_each_can_run(self, name):
        check(PRESETS[name])

    @pytest.mark.parametrize("name", VALUES)
    def test_latents_sizes_and_rates_are_the_papers(self, name):
        config = PRESETS[name]
        size, channels, noise, inputs, q_dim, codes, lr_d, lr_g = VALUES[name]
        spec = config.spec()
        assert (config.data.image_size, config.data.channels) == (size, channels)
        assert without_weights(spec) == LatentSpec(noise, codes)
        assert (spec.input_dim, spec.q_dim) == (inputs, q_dim)
        assert (config.optimiser.lr_d, config.optimiser.lr_g, config.optimiser.beta1) == (
            lr_d,
            lr_g,
            0.5,
        )
        assert config.information.routing == "openai"
        assert config.batch_size == (64 if name == "dsprites-paper" else 128)

    @pytest.mark.parametrize("name", WEIGHTS)
    def test_every_code_has_the_papers_lambda(self, name):
        config = PRESETS[name]
        weights = [config.information.info_weight * code.weight for code in config.spec().codes]
        assert weights == pytest.approx(WEIGHTS[name])

    @pytest.mark.parametrize("name", COUNTS)
    def test_the_networks_have_as_many_parameters_as_their_tables(self, name):
        config = PRESETS[name]
        networks = build(config, config.spec())
        counts = tuple(sum(p.numel() for p in n.parameters()) for n in networks)
        assert counts == COUNTS[name] == TOTALS[name]

    def test_variants_differ_in_what_their_tables_list_alone(self):
        allowed = {"preset", "info-weight", "lr-d", "lr-g", "codes"}
        for first, *others in (
            ("faces-paper", "faces-elevation-paper", "faces-lighting-paper"),
            ("faces", "faces-lighting"),  # DIFFERENT has the others
            ("chairs-paper", "chairs-width-paper"),
        ):
            for other in others:
                a, b = leaves(PRESETS[first]), leaves(PRESETS[other])
                assert {key for key in a if a[key] != b[key]} <= allowed

    @pytest.mark.parametrize("name", DIFFERENT)
    def test_a_default_differs_from_the_papers_in_what_its_file_names_alone(self, name):
        ours, papers = leaves(PRESETS[name]), leaves(PRESETS[f"{name}-paper"])
        assert {key for key in ours if ours[key] != papers[key]} == {"preset", *DIFFERENT[name]}
        assert ours["steps"] < papers["steps"]

    @pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-paper")])
    def test_the_papers_presets_are_not_cut_short(self, name):
        steps = {"mnist-paper": 5000, "dsprites-paper": 322_560}
        assert PRESETS[name].steps == steps.get(name, 30_000)

    def test_sets_that_cannot_be_had_have_others_by_default_but_not_where_they_are_named(self):
        sets = {name: config.data.data for name, config in PRESETS.items()}
        for name, expected in {
            "faces": "faces-3d",
            "faces-paper": "faces-3d",
            "chairs": "chairs-like",
            "chairs-width-paper": "chairs-like",
            "svhn": "svhn|street-digits-like",
            "svhn-paper": "svhn",
            "dsprites": "dsprites|dsprites-like",
            "dsprites-paper": "dsprites",
            "celeba": "celeba",
            "letters": "emnist-letters",
        }.items():
            assert sets[name] == expected

    def test_fashion_mnist_is_our_recipe_on_other_images_with_warps_of_its_own(self):
        ours = PRESETS["fashion-mnist"]
        expected = PRESETS["mnist"].with_options(preset="fashion-mnist", data="fashion-mnist")
        expected = expected.with_options(vat=0.0, vat_start=0, vat_stop=0)
        expected = expected.with_options(steps=2500, decay_start=1000, decay_steps=1500)
        assert ours == expected.with_options(follow=0.0, warp=ours.invariance.warp)
        warp = ours.invariance.warp
        assert warp.gamma > 0
        assert warp.flip == 0  # all its shoes point one way
        assert warp.scale > 0.3  # heels and shafts of any height

    def test_letters_is_our_recipe_with_the_options_that_its_file_gives_reasons_for(self):
        ours, mnist = leaves(PRESETS["letters"]), leaves(PRESETS["mnist"])
        assert {key for key in ours if ours[key] != mnist[key]} == {
            *{"preset", "data", "codes", "invariance.codes", "instances.weight", "q-trunk"},
            *{"gan-start", "lr-start", "lr-start-decay", "vat.start", "vat.stop"},
            *{"pseudo-labels.weight", "pseudo-labels.start", "info-start", "decay.steps"},
            *(f"invariance.warp.{field}" for field in ("rotate", "scale", "stroke")),
            *{"batch-size", "steps"},
        }
        assert [code.weight for code in PRESETS["letters"].spec().codes] == [1, 1, 1, 0, 0]


class TestSizes:
    @pytest.mark.parametrize(
        ("preset", "size", "factor"),
        [("svhn", 28, 16), ("celeba", 16, 16), ("faces", 30, 4), ("chairs-paper", 36, 8)],
    )
    def test_a_side_that_the_networks_do_not_take_is_refused_in_one_line(
        self, preset, size, factor
    ):
        with pytest.raises(UserError) as caught:
            check(PRESETS[preset].with_options(image_size=size))
        message = str(caught.value)
        assert message.startswith(
            f"--image-size, for --networks {PRESETS[preset].adversarial.networks}: "
        )
        assert f"multiple of {factor} " in message
        assert f"got {size}" in message
        assert "\n" not in message

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("networks", ["svhn", "dsprites"])
    def test_sides_up_to_256_and_up_to_four_channels_are_taken(self, networks, channels):
        for side in (32, 144, 256):
            config = PRESETS["own"].with_options(
                networks=networks, image_size=side, channels=channels, codes="cat2", noise=2
            )
            check(config)
            with torch.device("meta"):
                generator, discriminator = pair(networks, 4, 2, side, channels)
                images = generator(torch.zeros(2, 4))
                logits, q = discriminator(images)
            assert images.shape == (2, channels, side, side)
            assert (logits.shape, q.shape) == ((2,), (2, 2))

    @pytest.mark.parametrize(
        ("networks", "side", "largest"),
        [("svhn", 272, 256), ("dsprites", 512, 256), ("mnist", 132, 128), ("faces", 256, 128)],
    )
    def test_a_larger_side_is_refused_with_the_largest(self, networks, side, largest):
        config = PRESETS["own"].with_options(networks=networks, image_size=side)
        with pytest.raises(UserError, match=f"to {largest}, got {side}"):
            check(config)

    def test_networks_can_be_chosen_apart_from_the_preset(self):
        config = parse(["mnist", "--networks", "svhn", "--image-size", "32", "--channels", "2"])
        check(config)
        generator, _ = build(config, config.spec())
        assert generator(config.spec().sample(3, seed=0).input, "batch").shape == (3, 2, 32, 32)


def batch(config: TrainConfig, generator, n: int, rows: int = 4) -> Tensor:
    """Return random images in the generator's range."""
    low, high = generator.image_range
    shape = (rows, config.data.channels, config.data.image_size, config.data.image_size)
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(n))


QUICK = ["fashion-mnist", "svhn-paper", "celeba", "faces", "dsprites-paper"]
# Each preset in both precisions and both modes, each pair of these with half of the presets.
EVERY_WEIGHT = [
    (name, precision, mode if i % 2 else other)
    for i, name in enumerate([*QUICK, "chairs-paper"])
    for precision, mode, other in (
        ("no", "shared", "alternating"),
        ("bf16", "alternating", "shared"),
    )
]


def small(name: str, mode: StepMode = "alternating") -> TrainConfig:
    """Return the preset with few images, and the game from its first update on."""
    at_once = {"gan_start": 0, "lr_start": 0.0, "lr_start_decay": 0}
    return PRESETS[name].with_options(batch_size=4, step=mode, **at_once)


class TestTraining:
    @pytest.mark.quick_cases(2)
    @pytest.mark.parametrize(("name", "precision", "mode"), EVERY_WEIGHT)
    def test_every_weight_gets_a_finite_gradient_and_moves(self, cpu_ranks, name, precision, mode):
        config = small(name, mode)
        s = Step(config, config.spec(), cpu_ranks(precision))
        generator, discriminator = s.networks
        before = [p.clone() for network in s.networks for p in network.parameters()]
        # At its start D answers ½ to all, which in bf16 can leave its last bias no gradient.
        flats = (s.d.flat, s.g.flat)
        reached = [torch.zeros(len(flat.params), dtype=torch.bool) for flat in flats]
        for n in range(2):
            record = s(n, batch(config, generator, n))
            assert all(torch.isfinite(t).all() for t in tree_leaves(record))
            for flat, seen in zip(flats, reached, strict=True):
                gradients = flat.views(flat.grad)
                assert all(torch.isfinite(g).all() for g in gradients)
                seen |= torch.stack([(g != 0).any() for g in gradients])
        assert all(seen.all() for seen in reached)
        after = [p for network in s.networks for p in network.parameters()]
        assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        with torch.no_grad():
            logit, q = discriminator.eval()(s.ema.module(config.spec().sample(4, seed=0).input))
        assert torch.isfinite(logit).all()
        assert torch.isfinite(q).all()

    @pytest.mark.parametrize("name", ["own", "svhn", "dsprites", "letters"])
    def test_presets_beyond_the_papers_stay_finite_and_move_both_networks(self, cpu_ranks, name):
        """Not each weight at once: the hinge loss gives D's last bias no gradient at its start."""
        config = small(name)
        if config.adversarial.q_trunk == "fixed":  # at --gan-start
            config = config.with_options(gan_start=1)
        s = Step(config, config.spec(), cpu_ranks("no"))
        before = [[p.clone() for p in network.parameters()] for network in s.networks]
        for n in range(2):
            s(n, batch(config, s.networks.generator, n))
        for network, old in zip(s.networks, before, strict=True):
            assert all(torch.isfinite(p).all() for p in network.parameters())
            moved = [not torch.equal(a, b) for a, b in zip(network.parameters(), old, strict=True)]
            assert sum(moved) >= len(moved) - 1

    @pytest.mark.quick_cases(1)
    @pytest.mark.parametrize("name", ["svhn", "faces", "dsprites-paper"])
    def test_the_saved_state_is_all_that_another_step_needs(self, cpu_ranks, name):
        """Restored by their names, weights, buffers and moments go on bit for bit."""
        config = small(name)
        ranks = cpu_ranks("bf16")
        one = Step(config, config.spec(), ranks)
        other = Step(config.with_options(seed=1), config.spec(), ranks)
        one(0, batch(config, one.networks.generator, 0))
        for key, module in one.modules().items():
            other.modules()[key].load_state_dict(module.state_dict())
        saved, live = one.optimizer_tensors(), other.optimizer_tensors()
        params = sum(len(list(network.parameters())) for network in one.networks)
        assert len(saved) == 2 + 2 * params  # two counts; two moments per parameter
        with torch.no_grad():
            for key, tensor in saved.items():
                live[key].copy_(tensor)
        other.refresh()
        other.config = one.config
        for s in (one, other):
            s(1, batch(config, s.networks.generator, 1))
        for a, b in zip(one._state(), other._state(), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("name", ["svhn", "dsprites-paper"])
    def test_the_averaged_generator_follows_and_shares_no_memory(self, cpu_ranks, name):
        config = small(name)
        s = Step(config, config.spec(), cpu_ranks("bf16"))
        before = {k: v.clone() for k, v in s.ema.module.state_dict().items()}
        s(0, batch(config, s.networks.generator, 0))
        live = s.networks.generator.state_dict()
        for key, tensor in s.ema.module.state_dict().items():
            assert tensor.data_ptr() != live[key].data_ptr(), key
            assert not torch.equal(tensor, before[key]), key


@pytest.fixture
def _compiler(monkeypatch):
    """Trace as for Inductor, and run by PyTorch's own operators."""
    monkeypatch.setattr(compiler, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("mode", ["alternating", "shared"])
@pytest.mark.parametrize("name", ["svhn", "dsprites-paper"])
def test_compiled_each_update_is_one_graph_a_gradient_and_the_same(
    cpu_ranks, monkeypatch, name, mode: StepMode
):
    """Spectral vectors and BatchNorm's buffers, which a graph must write, included."""
    monkeypatch.setattr(functional, "applies", lambda *args: False)  # eager's own faster form
    config = small(name, mode).with_options(image_size=32)
    ranks = cpu_ranks("no")
    eager = Step(config, config.spec(), ranks)
    other = Step(config.with_options(compile="on"), config.spec(), ranks)
    for n in range(3):
        with torch.compiler.set_stance("fail_on_recompile" if n else "default"):
            for s in (eager, other):
                s(n, batch(config, s.networks.generator, n))
        for a, b in zip(eager._state(), other._state(), strict=True):
            assert torch.equal(a, b)
