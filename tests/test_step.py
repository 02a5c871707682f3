"""One update: its gradients against a textbook's, and who and what it moves."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.config import Routing, StepMode, TrainConfig
from fastinfogan.latents import LatentBatch, LatentSpec
from fastinfogan.networks.convolution import BatchNorm
from fastinfogan.parallel import Pending, Ranks
from fastinfogan.philox import Stream
from fastinfogan.training import step as step_module
from fastinfogan.training.gradients import generate
from fastinfogan.training.step import (
    Networks,
    Objective,
    Step,
    build,
    d_grads,
    g_grads,
    shared_grads,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROUTINGS: tuple[Routing, ...] = ("openai", "head", "generator-step")
MODES: tuple[StepMode, ...] = get_args(StepMode)
PRECISIONS = ("no", "bf16")
WEIGHTS = (0.5, 2.0, 1.5, 0.25)
CONFIG = TrainConfig(
    image_size=8, batch_size=8, noise=5, codes="cat3*0.5,uniform*2,bernoulli*1.5,gaussian2:learned"
)
SPEC = CONFIG.spec()
BATCH = 8


# A problem in fp64


def wide(latents: LatentBatch) -> LatentBatch:
    return LatentBatch(latents.input.double(), latents.categorical, latents.continuous.double())


def pair(seed: int = 0) -> Networks:
    """Networks in fp64 whose weights are large enough that no loss sits at its start value."""
    networks = build(CONFIG, SPEC)
    for network in networks:
        network.double()
    draw_weights(networks, seed)
    return networks


def draw_weights(networks: Networks, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for network in networks:
        for name, p in network.named_parameters():
            mean = 1.0 if "bn" in name and name.endswith("weight") else 0.0
            nn.init.normal_(p, mean, 0.05, generator=draw)


def objective(routing: Routing, weights=WEIGHTS, spec: LatentSpec = SPEC) -> Objective:
    return Objective(spec, torch.tensor(weights, dtype=torch.float64), routing)


def images(seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, 1, 8, 8, generator=draw, dtype=torch.float64)


def latent(seed: int = 0) -> LatentBatch:
    return wide(SPEC.sample(BATCH, seed=seed))


def of_d(
    networks: Networks, routing: Routing, *, weights=WEIGHTS, real=0, latents=0, together=True
):
    """D's gradients by parameter name, and its terms."""
    params = networks.split(routing)[0]
    grads, terms = d_grads(
        networks,
        objective(routing, weights),
        params,
        images(real),
        latent(latents),
        together=together,
    )
    return named(networks, params, grads), terms


def of_g(networks: Networks, routing: Routing, *, weights=WEIGHTS, latents=0):
    params = networks.split(routing)[1]
    grads, terms = g_grads(networks, objective(routing, weights), params, latent(latents))
    return named(networks, params, grads), terms


def of_both(networks: Networks, routing: Routing, *scale):
    """The shared step's gradients and terms: D's, then G's."""
    params = networks.split(routing)
    d, d_terms, g, g_terms = shared_grads(
        networks, objective(routing), *params, images(), latent(), *scale
    )
    return (
        (named(networks, params[0], d), d_terms),
        (named(networks, params[1], g), g_terms),
    )


def named(networks: Networks, params, grads) -> dict[str, Tensor]:
    names = {
        id(p): f"{prefix}.{name}"
        for prefix, module in zip("gd", networks, strict=True)
        for name, p in module.named_parameters()
    }
    return {names[id(p)]: g for p, g in zip(params, grads, strict=True)}


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], b) for name, b in module.named_buffers())


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


# The textbook: the same networks and losses, written down once more, two passes, .backward()


def leaves(networks: Networks) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": p.detach().clone().requires_grad_()
        for prefix, module in zip("gd", networks, strict=True)
        for name, p in module.named_parameters()
    }


def batch_norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    dims = [0] if x.ndim == 2 else [0, 2, 3]
    shape = (1, -1) if x.ndim == 2 else (1, -1, 1, 1)
    centred = x - x.mean(dims, keepdim=True)
    x = centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()
    return x * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)


def textbook_generator(p: dict[str, Tensor], z: Tensor) -> Tensor:
    x = F.relu(batch_norm(p, "g.bn1", z @ p["g.fc1.weight"].T))
    x = F.relu(batch_norm(p, "g.bn2", x @ p["g.fc2.weight"].T))
    x = x.reshape(-1, 2, 2, 128).permute(0, 3, 1, 2)  # the flat side counts H, W, C
    x = F.conv_transpose2d(x, p["g.up3.weight"], stride=2, padding=1)
    x = F.relu(batch_norm(p, "g.bn3", x))
    x = F.conv_transpose2d(x, p["g.up4.weight"], p["g.up4.bias"], stride=2, padding=1)
    return 1 / (1 + (-x).exp())


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def textbook_trunk(p: dict[str, Tensor], x: Tensor) -> Tensor:
    x = leaky(F.conv2d(x, p["d.conv1.weight"], p["d.conv1.bias"], stride=2, padding=1))
    x = F.conv2d(x, p["d.conv2.weight"], stride=2, padding=1)
    x = leaky(batch_norm(p, "d.bn2", x)).permute(0, 2, 3, 1).reshape(len(x), -1)
    return leaky(batch_norm(p, "d.bn3", x @ p["d.fc3.weight"].T))


def textbook_logit(p: dict[str, Tensor], features: Tensor) -> Tensor:
    return features @ p["d.head.weight"][0] + p["d.head.bias"]


def textbook_nll(p: dict[str, Tensor], features: Tensor, c: LatentBatch) -> Tensor:
    """NLL of cat3, uniform (σ = 1), bernoulli, gaussian2 (learned σ), in nats."""
    x = leaky(batch_norm(p, "d.q_bn1", features @ p["d.q_fc1.weight"].T))
    q = x @ p["d.q_fc2.weight"].T + p["d.q_fc2.bias"]
    one = torch.ones(len(q), dtype=q.dtype)

    def gauss(mean: Tensor, value: Tensor, variance: Tensor) -> Tensor:
        return F.gaussian_nll_loss(mean, value, variance, full=True, eps=1e-12)

    return torch.stack(
        (
            F.cross_entropy(q[:, :3], c.categorical[:, 0]),
            gauss(q[:, 3], c.continuous[:, 0], one),
            F.binary_cross_entropy_with_logits(q[:, 4], c.categorical[:, 1].double()),
            2 * gauss(q[:, 5:7], c.continuous[:, 1:], q[:, 7:9].exp()),
        )
    )


def bce(logit: Tensor, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(real)))


def textbook_d(networks: Networks, routing: Routing, real: Tensor, c: LatentBatch):
    p = leaves(networks)
    fake = textbook_generator(p, c.input).detach()
    bce(textbook_logit(p, textbook_trunk(p, real)), True).backward()
    features = textbook_trunk(p, fake)
    loss = bce(textbook_logit(p, features), False)
    if routing != "generator-step":
        shared = features if routing == "openai" else features.detach()
        loss = loss + textbook_nll(p, shared, c) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    loss.backward()
    return {name: leaf.grad for name, leaf in p.items() if leaf.grad is not None}


def textbook_g(networks: Networks, c: LatentBatch):
    p = leaves(networks)
    features = textbook_trunk(p, textbook_generator(p, c.input))
    loss = bce(textbook_logit(p, features), True)
    loss = loss + textbook_nll(p, features, c) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    loss.backward()
    return {name: leaf.grad for name, leaf in p.items() if leaf.grad is not None}


def assert_equal_to_rounding(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """In fp64, relative to each tensor's largest gradient: some thousand summands, and divisions
    by a batch's deviation, lose three or four of the 16 digits."""
    assert set(got) <= set(expected)
    for name, g in got.items():
        truth = expected[name]
        scale = float(truth.abs().max())
        assert scale > 1e-8, f"{name}: a gradient that tests nothing"
        torch.testing.assert_close(g, truth, rtol=0, atol=1e-11 * scale, msg=name)


class TestGradients:
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_ds_step_follows_the_textbooks_gradient(self, routing):
        networks = pair()
        grads, _ = of_d(networks, routing)
        expected = textbook_d(networks, routing, images(), latent())
        assert_equal_to_rounding(grads, expected)
        assert set(grads) == set(expected)

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_gs_step_follows_the_textbooks_gradient(self, routing):
        networks = pair()
        grads, _ = of_g(networks, routing)
        assert_equal_to_rounding(grads, textbook_g(networks, latent()))
        of_generator = {f"g.{name}" for name, _ in networks.generator.named_parameters()}
        of_q = {n for n in leaves(networks) if n.startswith("d.q_")}
        assert set(grads) == of_generator | (of_q if routing == "generator-step" else set())

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_terms_are_the_textbooks_values(self, routing):
        networks, c = pair(), latent()
        p = leaves(networks)
        features = textbook_trunk(p, textbook_generator(p, c.input))
        real_logit = textbook_logit(p, textbook_trunk(p, images()))
        fake_logit = textbook_logit(p, features)
        nll = textbook_nll(p, features, c)
        _, d = of_d(networks, routing)
        _, g = of_g(networks, routing)
        for got, expected in (
            (d.loss, bce(real_logit, True) + bce(fake_logit, False)),
            (d.real, real_logit.sigmoid().mean()),
            (d.fake, fake_logit.sigmoid().mean()),
            (d.nll, nll),
            (g.loss, bce(fake_logit, True)),
            (g.nll, nll),
        ):
            # values of order 1 in fp64
            torch.testing.assert_close(got, expected.detach(), rtol=1e-11, atol=0)
            assert not got.requires_grad

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_loss_scale_multiplies_every_gradient_and_no_term(self, routing):
        networks, c, goal = pair(), latent(), objective(routing)
        d_params, g_params = networks.split(routing)
        both = (networks, goal, d_params, g_params, images(), c)
        for run in (
            lambda *scale: d_grads(networks, goal, d_params, images(), c, *scale),
            lambda *scale: g_grads(networks, goal, g_params, c, *scale),
            lambda *scale: shared_grads(*both, *scale)[:2],
            lambda *scale: shared_grads(*both, *scale)[2:],
        ):
            plain, terms = run()
            scaled, same = run(lambda loss: loss * 1024)
            assert all(torch.equal(s, p * 1024) for s, p in zip(scaled, plain, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(terms, same, strict=True))


def assert_same_terms(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=0)  # values of order 1 in fp64
        assert not x.requires_grad


def assert_same_buffers(a: Networks, b: Networks) -> None:
    for one, other in zip(a, b, strict=True):
        for (name, x), y in zip(one.named_buffers(), other.buffers(), strict=True):
            # means of values of order 1 in fp64, over a pass of another shape
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13, msg=name)


class TestPasses:
    """Fewer passes through the networks, the same gradients."""

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_one_pass_of_d_over_both_batches_is_two_passes(self, routing):
        one, two = pair(), pair()
        start = buffers(one.discriminator)
        grads, terms = of_d(one, routing, together=True)
        expected, same = of_d(two, routing, together=False)
        assert grads.keys() == expected.keys()
        assert_equal_to_rounding(grads, expected)
        assert_same_terms(terms, same)
        assert_same_buffers(one, two)
        assert differing(start, buffers(one.discriminator)) == set(start)

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_shared_step_gives_what_ds_and_gs_steps_give(self, routing):
        shared, apart = pair(), pair()
        (d, d_terms), (g, g_terms) = of_both(shared, routing)
        expected_d, same_d = of_d(apart, routing)
        expected_g, same_g = of_g(apart, routing)
        assert (d.keys(), g.keys()) == (expected_d.keys(), expected_g.keys())
        assert_equal_to_rounding(d, expected_d)
        assert_equal_to_rounding(g, expected_g)
        assert_same_terms(d_terms, same_d)
        assert_same_terms(g_terms, same_g)

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_shared_step_moves_each_networks_buffers_once_by_its_own_batch(self, routing):
        networks = pair()
        alone = copy.deepcopy(networks)
        of_both(networks, routing)
        alone.discriminator(images(), "update")
        alone.generator(latent().input, "update")
        assert_same_buffers(networks, alone)

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_gs_step_takes_up_a_fake_begun_before(self, routing):
        """Nothing is lost, and G's buffers follow the batch once."""
        begun, whole = pair(), pair()
        params = begun.split(routing)[1]
        fake = generate(begun, latent())
        grads, _ = g_grads(begun, objective(routing), params, latent(), fake=fake)
        assert not differing(named(begun, params, grads), of_g(whole, routing)[0])
        assert not differing(buffers(begun.generator), buffers(whole.generator))


class TestRouting:
    """Whom λ = 0 instead of λ = 1 leaves with another gradient."""

    none = (0.0,) * 4

    def changed_by_information(self, routing: Routing) -> tuple[set[str], set[str]]:
        networks = pair()
        return (
            differing(of_d(networks, routing)[0], of_d(networks, routing, weights=self.none)[0]),
            differing(of_g(networks, routing)[0], of_g(networks, routing, weights=self.none)[0]),
        )

    def parts(self) -> dict[str, set[str]]:
        names = set(leaves(pair()))
        g = {n for n in names if n.startswith("g.")}
        q = {n for n in names if n.startswith("d.q_")}
        head = {"d.head.weight", "d.head.bias"}
        return {"g": g, "q": q, "head": head, "trunk": names - g - q - head}

    def test_openai_trains_trunk_and_q_in_ds_step_and_g_in_its_own(self):
        in_d, in_g = self.changed_by_information("openai")
        parts = self.parts()
        assert in_d == parts["trunk"] | parts["q"]
        assert in_g == parts["g"]

    def test_head_spares_the_trunk(self):
        in_d, in_g = self.changed_by_information("head")
        parts = self.parts()
        assert in_d == parts["q"]
        assert in_g == parts["g"]

    def test_generator_step_trains_g_and_q_in_gs_step_alone(self):
        in_d, in_g = self.changed_by_information("generator-step")
        parts = self.parts()
        assert in_d == set()
        assert in_g == parts["g"] | parts["q"]

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_every_parameter_is_trained_by_exactly_one_step(self, routing):
        networks = pair()
        d, g = networks.split(routing)
        ids = [id(p) for p in (*d, *g)]
        assert len(set(ids)) == len(ids)
        assert set(ids) == {id(p) for network in networks for p in network.parameters()}

    @pytest.mark.parametrize("routing", ROUTINGS)
    @pytest.mark.parametrize("code", range(4))
    def test_each_code_has_a_weight_of_its_own(self, routing, code):
        """The gradient is linear in λ: doubling one code's weight adds that code's part once."""
        networks = pair()
        alone, doubled = [0.0] * 4, list(WEIGHTS)
        alone[code] = WEIGHTS[code]
        doubled[code] *= 2
        base = of_g(networks, routing, weights=self.none)[0]
        plain = of_g(networks, routing)[0]
        part = of_g(networks, routing, weights=alone)[0]
        twice = of_g(networks, routing, weights=doubled)[0]
        for name in base:
            scale = float(twice[name].abs().max())
            torch.testing.assert_close(
                twice[name], plain[name] + part[name] - base[name], rtol=0, atol=1e-12 * scale
            )


class TestWhatStays:
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_ds_step_moves_ds_buffers_by_the_real_batch_only(self, routing):
        networks = pair()
        alone = copy.deepcopy(networks.discriminator)
        before = buffers(networks.generator)
        of_d(networks, routing)
        alone(images(), "update")
        assert unchanged(networks.generator, before)
        for (name, b), expected in zip(
            networks.discriminator.named_buffers(), alone.buffers(), strict=True
        ):
            assert torch.equal(b, expected), name

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_gs_step_moves_gs_buffers_and_leaves_ds_and_qs(self, routing):
        networks = pair()
        alone = copy.deepcopy(networks.generator)
        before = buffers(networks.discriminator)
        of_g(networks, routing)
        alone(latent().input, "update")
        assert unchanged(networks.discriminator, before)
        for (name, b), expected in zip(
            networks.generator.named_buffers(), alone.buffers(), strict=True
        ):
            assert torch.equal(b, expected), name
            assert not torch.equal(b, torch.zeros_like(b)), name

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_no_step_leaves_a_gradient_or_moves_a_weight(self, routing):
        networks = pair()
        before = [p.detach().clone() for network in networks for p in network.parameters()]
        of_d(networks, routing)
        of_g(networks, routing)
        of_both(networks, routing)
        after = [p for network in networks for p in network.parameters()]
        assert all(p.grad is None for p in after)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_what_d_says_of_fakes_does_not_depend_on_the_real_batch_nor_the_reverse(self, routing):
        networks = pair()
        _, base = of_d(networks, routing)
        _, other_real = of_d(networks, routing, real=1)
        _, other_fake = of_d(networks, routing, latents=1)
        assert torch.equal(base.fake, other_real.fake)
        assert torch.equal(base.nll, other_real.nll)
        assert not torch.equal(base.real, other_real.real)
        assert torch.equal(base.real, other_fake.real)
        assert not torch.equal(base.fake, other_fake.fake)

    def test_the_networks_mode_plays_no_part(self):
        trained, evaluated = pair(), pair()
        for network in evaluated:
            network.eval()
        for run in (of_d, of_g):
            assert not differing(run(trained, "openai")[0], run(evaluated, "openai")[0])


# The whole update


def batch(n: int, size: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(n)
    return torch.rand(size, 1, 8, 8, generator=draw).to(memory_format=torch.channels_last)


def everything(step: Step) -> dict[str, Tensor]:
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, module in step.modules().items()
        for name, tensor in module.state_dict().items()
    }
    return {k: v.clone() for k, v in (tensors | step.optimizer_tensors()).items()}


def with_routing(routing: Routing, **changes: Any) -> TrainConfig:
    return replace(CONFIG, routing=routing, **changes)


def spy(monkeypatch, name: str, look: Callable[[Any, Any], object]) -> None:
    """Let `look` see the arguments and the result of a function of fastinfogan.training.step."""
    inner = getattr(step_module, name)

    def spied(*args, **kwargs):
        out = inner(*args, **kwargs)
        look(args, out)
        return out

    monkeypatch.setattr(step_module, name, spied)


class TestStep:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("routing", ROUTINGS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_never_reads_a_value_back_to_the_host(
        self, cpu_ranks, no_host_read, routing, precision, mode
    ):
        step = Step(with_routing(routing, step=mode), SPEC, cpu_ranks(precision))
        real = batch(0)
        with no_host_read():
            step(0, real)
            step(1, real)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_is_deterministic(self, cpu_ranks, precision, mode):
        results = []
        for _ in range(2):
            torch.manual_seed(torch.seed())  # the global generator plays no part
            step = Step(replace(CONFIG, step=mode), SPEC, cpu_ranks(precision))
            terms = [step(n, batch(n)) for n in range(3)]
            flat = [t for pair_of_terms in terms for part in pair_of_terms for t in part]
            results.append((everything(step), flat))
        (first, first_terms), (second, second_terms) = results
        assert not differing(first, second)
        assert all(torch.equal(a, b) for a, b in zip(first_terms, second_terms, strict=True))

    def test_another_seed_gives_other_weights(self, cpu_ranks):
        ranks = cpu_ranks()
        first = everything(Step(CONFIG, SPEC, ranks))
        second = everything(Step(replace(CONFIG, seed=1), SPEC, ranks))
        weights = {n for n in first if n.endswith("weight")}
        assert weights <= differing(first, second)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_one_update_moves_every_weight_and_every_buffer(self, cpu_ranks, precision, mode):
        step = Step(replace(CONFIG, step=mode), SPEC, cpu_ranks(precision))
        before = everything(step)
        step(0, batch(0))
        assert differing(before, everything(step)) == set(before)
        for networks in (step.networks, step.working):
            assert all(p.grad is None for m in networks for p in m.parameters())

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_optimizers_are_adam(self, cpu_ranks, monkeypatch, routing, precision):
        """Unfused Adam, weight by weight, fed the very gradients that three updates computed."""
        recorded: dict[str, list[tuple[Tensor, ...]]] = {"d": [], "g": []}
        for key, seen in recorded.items():

            def keep(_, out, seen=seen):
                seen.append(tuple(g.clone() for g in out[0]))

            spy(monkeypatch, f"{key}_grads", keep)
        config = with_routing(routing, lr_d=3e-4, lr_g=2e-3, beta1=0.4, beta2=0.99)
        step = Step(config, SPEC, cpu_ranks(precision))
        d_params, g_params = step.networks.split(routing)
        parts = {"d": (d_params, 3e-4), "g": (g_params, 2e-3)}
        copies = {key: [p.detach().clone() for p in part[0]] for key, part in parts.items()}
        for n in range(3):
            step(n, batch(n))
        ours = step.optimizer_tensors()
        for key, (params, lr) in parts.items():
            reference = torch.optim.Adam(
                copies[key], lr=lr, betas=(0.4, 0.99), fused=False, foreach=False
            )
            assert len(recorded[key]) == 3
            for grads in recorded[key]:
                for p, g in zip(copies[key], grads, strict=True):
                    p.grad = g.float()
                reference.step()
            assert ours[f"adam_{key}.step"] == 3
            for i, (mine, theirs) in enumerate(zip(params, copies[key], strict=True)):
                # three fp32 roundings of weights up to 1.1, each of an update of about lr
                torch.testing.assert_close(mine.detach(), theirs, rtol=4e-7, atol=1e-6 * lr)
                expected = reference.state[theirs]
                for moment in ("exp_avg", "exp_avg_sq"):
                    scale = float(expected[moment].abs().max())
                    torch.testing.assert_close(
                        ours[f"adam_{key}.{i:02d}.{moment}"],
                        expected[moment],
                        rtol=1e-6,
                        atol=1e-6 * scale,
                    )

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_gs_step_sees_the_d_that_ds_step_has_just_trained(
        self, cpu_ranks, monkeypatch, precision
    ):
        seen = []
        step = Step(CONFIG, SPEC, cpu_ranks(precision))
        spy(
            monkeypatch,
            "g_grads",
            lambda args, _: seen.append(
                args[0].discriminator.get_parameter("fc3.weight").detach().clone()
            ),
        )
        before = step.working.discriminator.get_parameter("fc3.weight").detach().clone()
        step(0, batch(0))
        assert not torch.equal(seen[0], before)
        assert torch.equal(
            seen[0], step.networks.discriminator.get_parameter("fc3.weight").to(seen[0].dtype)
        )

    def test_in_the_shared_step_both_players_move_from_the_same_point(self, cpu_ranks, monkeypatch):
        step = Step(replace(CONFIG, step="shared"), SPEC, cpu_ranks())
        apart = copy.deepcopy(step.networks)
        recorded: list[tuple[Tensor, ...]] = []
        spy(monkeypatch, "shared_grads", lambda _, out: recorded.extend((out[0], out[2])))
        step(5, batch(0))
        c = SPEC.sample(BATCH, seed=CONFIG.seed, step=5, stream=Stream.G_LATENTS)
        d_params, g_params = apart.split(CONFIG.routing)
        expected = (
            d_grads(apart, step.objective, d_params, batch(0), c)[0],
            g_grads(apart, step.objective, g_params, c)[0],
        )
        for ours, theirs in zip(recorded, expected, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                # fp32 sums in another order; small weights at the start, so small differences
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))

    def test_in_the_reused_step_g_answers_the_moved_d_on_the_images_that_d_was_given(
        self, cpu_ranks, monkeypatch
    ):
        step = Step(replace(CONFIG, step="reused"), SPEC, cpu_ranks())
        apart = copy.deepcopy(step.networks)
        recorded: dict[str, tuple[Tensor, ...]] = {}
        moved: list[dict[str, Tensor]] = []
        spy(monkeypatch, "d_grads", lambda _, out: recorded.update(d=out[0]))

        def of_g(args: Any, out: Any) -> None:
            recorded["g"] = out[0]
            moved.append({k: v.clone() for k, v in args[0].discriminator.state_dict().items()})

        spy(monkeypatch, "g_grads", of_g)
        passes: list[int] = []
        step.working.generator.register_forward_hook(lambda *_: passes.append(1))
        step(5, batch(0))
        assert len(passes) == 1
        c = SPEC.sample(BATCH, seed=CONFIG.seed, step=5, stream=Stream.D_LATENTS)
        d_params, g_params = apart.split(CONFIG.routing)
        of_d = d_grads(apart, step.objective, d_params, batch(0), c)[0]
        for name, p in apart.discriminator.named_parameters():
            assert not torch.equal(p, moved[0][name]), name
            now = step.networks.discriminator.get_parameter(name)
            if not name.startswith("q_"):
                assert torch.equal(now, moved[0][name]), name
        apart.discriminator.load_state_dict(moved[0])
        expected = {"d": of_d, "g": g_grads(apart, step.objective, g_params, c)[0]}
        for name, theirs in expected.items():
            for a, b in zip(recorded[name], theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))
        for name, buffer in apart.generator.named_buffers():  # moved once, by this batch
            torch.testing.assert_close(step.networks.generator.get_buffer(name), buffer)

    def test_the_two_steps_draw_latents_of_their_own_keyed_by_seed_and_step(
        self, cpu_ranks, monkeypatch
    ):
        drawn: list[LatentBatch] = []
        spy(monkeypatch, "d_grads", lambda args, _: drawn.append(args[4]))
        spy(monkeypatch, "g_grads", lambda args, _: drawn.append(args[3]))
        spy(monkeypatch, "generate", lambda args, _: drawn.append(args[1]))
        step = Step(CONFIG, SPEC, cpu_ranks())
        step(7, batch(0))
        streams = (Stream.D_LATENTS, Stream.G_LATENTS, Stream.G_LATENTS)
        for latents, stream in zip(drawn, streams, strict=True):
            expected = SPEC.sample(BATCH, seed=CONFIG.seed, step=7, stream=stream)
            assert all(torch.equal(a, b) for a, b in zip(latents, expected, strict=True))
        assert not torch.equal(drawn[0].input, drawn[1].input)

    def test_lambda_multiplies_each_codes_weight(self, cpu_ranks):
        step = Step(with_routing("openai", info_weight=0.5), SPEC, cpu_ranks())
        assert step.objective.weights.tolist() == [0.25, 1.0, 0.75, 0.5]

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_average_follows_the_generator(self, cpu_ranks, precision, mode):
        step = Step(replace(CONFIG, step=mode), SPEC, cpu_ranks(precision))
        start = {n: p.detach().clone() for n, p in step.networks.generator.named_parameters()}
        step(0, batch(0))
        now = dict(step.networks.generator.named_parameters())
        for name, average in step.ema.module.named_parameters():
            # the first decay is 1/10; one fp32 rounding of values up to 1.1
            torch.testing.assert_close(
                average, 0.1 * start[name] + 0.9 * now[name].detach(), rtol=1e-6, atol=1e-8
            )


class TestWhatARunKeeps:
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_every_weight_has_moments_of_its_shape_by_player_and_place(
        self, cpu_ranks, routing, precision
    ):
        step = Step(with_routing(routing), SPEC, cpu_ranks(precision))
        tensors = step.optimizer_tensors()
        expected = {}
        for key, params in zip("dg", step.networks.split(routing), strict=True):
            expected[f"adam_{key}.step"] = torch.Size()
            for i, p in enumerate(params):
                expected[f"adam_{key}.{i:02d}.exp_avg"] = p.shape
                expected[f"adam_{key}.{i:02d}.exp_avg_sq"] = p.shape
        assert {name: t.shape for name, t in tensors.items()} == expected
        assert all(t.dtype == torch.float32 and (t == 0).all() for t in tensors.values())

    def test_the_optimizers_tensors_are_live(self, cpu_ranks):
        step = Step(CONFIG, SPEC, cpu_ranks())
        tensors = step.optimizer_tensors()
        step(0, batch(0))
        assert {float(t) for name, t in tensors.items() if name.endswith(".step")} == {1.0}
        assert all((t != 0).any() for t in tensors.values())

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_weights_are_kept_in_fp32_by_the_networks_own_names(self, cpu_ranks, precision):
        kept = Step(CONFIG, SPEC, cpu_ranks(precision)).modules()
        plain = build(CONFIG, SPEC)._asdict()
        plain["generator_ema"] = plain["generator"]
        assert kept.keys() == plain.keys()
        for name, module in kept.items():
            state = module.state_dict()
            assert list(state) == list(plain[name].state_dict())
            assert {t.dtype for t in state.values()} == {torch.float32}

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_an_update_is_the_same_after_all_of_it_was_written_into_another_step(
        self, cpu_ranks, precision, mode
    ):
        config, ranks = replace(CONFIG, step=mode), cpu_ranks(precision)
        first, second = (Step(replace(config, seed=s), SPEC, ranks) for s in (0, 1))
        first(0, batch(0))
        second(0, batch(1))  # so that nothing is as it was when it was made
        for name, module in second.modules().items():
            module.load_state_dict(first.modules()[name].state_dict())
        for name, tensor in second.optimizer_tensors().items():
            tensor.copy_(first.optimizer_tensors()[name])
        second.refresh()
        second.config = first.config  # the seed, for the latents
        for step in (first, second):
            step(1, batch(2))
        assert not differing(everything(first), everything(second))


class TestWorkingPrecision:
    """bf16, on weights that are kept in fp32."""

    @staticmethod
    def assert_rounded(step: Step) -> None:
        for masters, working in zip(step.networks, step.working, strict=True):
            for name, module in masters.named_modules():
                for key, p in module.named_parameters(recurse=False):
                    w = working.get_submodule(name).get_parameter(key)
                    assert p.dtype == torch.float32
                    if isinstance(module, BatchNorm):
                        assert w is p, (name, key)
                    else:
                        assert w.dtype == torch.bfloat16
                        assert torch.equal(w, p.to(torch.bfloat16)), (name, key)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_working_weights_are_the_rounded_ones_after_every_update(
        self, cpu_ranks, routing, mode
    ):
        step = Step(with_routing(routing, step=mode), SPEC, cpu_ranks("bf16"))
        self.assert_rounded(step)
        before = step.d_flat.value.detach().clone(), step.g_flat.value.detach().clone()
        for n in range(2):
            step(n, batch(n))
            self.assert_rounded(step)
        for flat, start in zip((step.d_flat, step.g_flat), before, strict=True):
            assert all(
                (now != was).any()
                for now, was in zip(flat.views(flat.value), flat.views(start), strict=True)
            )

    def test_an_update_smaller_than_bf16_can_say_moves_the_weights_that_are_kept(self, cpu_ranks):
        """What the fp32 copy is for: Adam's 1e-7 on a weight of 0.02 is under a half unit."""
        config = replace(CONFIG, lr_d=1e-7, lr_g=1e-7)
        step = Step(config, SPEC, cpu_ranks("bf16"))
        weight, working = (p[1].get_parameter("fc3.weight") for p in (step.networks, step.working))
        start, start_working = weight.detach().clone(), working.detach().clone()
        step(0, batch(0))
        assert (weight != start).double().mean() > 0.5
        assert (working != start_working).double().mean() < 0.02

    def test_refresh_takes_up_weights_that_were_written_from_outside(self, cpu_ranks):
        step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
        draw_weights(step.networks, seed=3)
        step.refresh()
        self.assert_rounded(step)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_step_trains_working_weights_in_the_place_of_those_kept(self, cpu_ranks, precision):
        step = Step(CONFIG, SPEC, cpu_ranks(precision))
        of_working = {id(p) for m in step.working for p in m.parameters()}
        assert {id(p) for p in (*step.d_params, *step.g_params)} == of_working
        if precision == "no":
            kept = {id(p) for m in step.networks for p in m.parameters()}
            assert of_working == kept

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_every_gradient_is_near_the_fp32_one(self, cpu_ranks, routing):
        """D's, G's and the shared step's, as Adam finds them."""
        step = Step(with_routing(routing), SPEC, cpu_ranks("bf16"))
        draw_weights(step.networks)  # at the start fakes hardly differ, and BatchNorm magnifies
        step.refresh()
        real, c = batch(0, 64), SPEC.sample(64)
        goal, (d_params, g_params) = step.objective, step.networks.split(routing)
        truth_d = d_grads(step.networks, goal, d_params, real, c)[0]
        truth_g = g_grads(step.networks, goal, g_params, c)[0]
        d = d_grads(step.working, goal, step.d_params, real, c)[0]
        g = g_grads(step.working, goal, step.g_params, c)[0]
        shared = shared_grads(step.working, goal, step.d_params, step.g_params, real, c)
        for flat, grads, truths in (
            (step.d_flat, d, truth_d),
            (step.g_flat, g, truth_g),
            (step.d_flat, shared[0], truth_d),
            (step.g_flat, shared[2], truth_g),
        ):
            flat.collect(grads)
            names = named(step.networks, flat.params, flat.views(flat.grad))
            for (name, gradient), truth in zip(names.items(), truths, strict=True):
                assert gradient.dtype == torch.float32, name
                assert gradient.isfinite().all(), name
                assert truth.norm() > 0, name
                # bf16 has 8 bits, and a ReLU whose sign they turn errs by all it has: up to 0.25
                # is seen here. What misses a part or is zero errs by about 1.
                assert (gradient - truth).norm() < 0.4 * truth.norm(), name


# Several ranks, played by one process


def mock_ranks(rank: int = 0, scaler: Any = None, start_average: Any = None) -> Ranks:
    """A rank whose averages are what the test makes of them."""
    return cast(
        Ranks,
        SimpleNamespace(
            rank=rank,
            device=torch.device("cpu"),
            accelerator=SimpleNamespace(scaler=scaler, mixed_precision="no"),
            start_average=start_average or (lambda flat: Pending()),
        ),
    )


class TestRanks:
    def test_ranks_take_the_rows_of_one_global_batch(self, cpu_ranks):
        whole = Step(CONFIG, SPEC, cpu_ranks())._latents(3, Stream.D_LATENTS, 8)
        rows = []
        for rank in range(2):
            step = Step(CONFIG, SPEC, mock_ranks(rank))
            rows.append(step._latents(3, Stream.D_LATENTS, 4))
        for a, b, both in zip(*rows, whole, strict=True):
            assert torch.equal(torch.cat((a, b)), both)

    @staticmethod
    def events(monkeypatch, mode: StepMode) -> list[str]:
        """What one update does, in order."""
        seen: list[str] = []

        def player(buffer: Tensor) -> str:
            return "D" if buffer.data_ptr() == step.d_flat.grad.data_ptr() else "G"

        def start_average(buffer: Tensor) -> Pending:
            assert buffer.shape in (step.d_flat.grad.shape, step.g_flat.grad.shape)
            seen.append(f"{player(buffer)}'s average starts")
            return Pending(partial(seen.append, f"{player(buffer)}'s average is there"))

        step = Step(replace(CONFIG, step=mode), SPEC, mock_ranks(start_average=start_average))
        draw = step._latents

        def latents(*args):
            seen.append(f"{args[1].name} are drawn")
            return draw(*args)

        monkeypatch.setattr(step, "_latents", latents)
        for moves, optimizer in (("D moves", step.d_optimizer), ("G moves", step.g_optimizer)):
            monkeypatch.setattr(optimizer, "step", partial(seen.append, moves))
        for name in ("d_grads", "g_grads", "shared_grads", "generate"):

            def note(_: Any, out: Any, name: str = name) -> None:
                seen.append(name)

            spy(monkeypatch, name, note)
        step(0, batch(0))
        return seen

    def test_ds_average_runs_beside_gs_own_pass_and_is_there_before_d_moves(self, monkeypatch):
        assert self.events(monkeypatch, "alternating") == [
            "D_LATENTS are drawn",
            "d_grads",
            "D's average starts",
            "G_LATENTS are drawn",
            "generate",
            "D's average is there",
            "D moves",
            "g_grads",
            "G's average starts",
            "G's average is there",
            "G moves",
        ]

    def test_in_the_reused_step_latents_are_drawn_and_images_made_once(self, monkeypatch):
        assert self.events(monkeypatch, "reused") == [
            "D_LATENTS are drawn",
            "generate",
            "d_grads",
            "D's average starts",
            "D's average is there",
            "D moves",
            "g_grads",
            "G's average starts",
            "G's average is there",
            "G moves",
        ]

    def test_in_the_shared_step_each_player_waits_for_its_own_average(self, monkeypatch):
        seen = self.events(monkeypatch, "shared")
        assert seen[:2] == ["G_LATENTS are drawn", "shared_grads"]
        assert sorted(seen[2:]) == [
            f"{player}{what}"
            for player in "DG"
            for what in (" moves", "'s average is there", "'s average starts")
        ]
        for player in "DG":
            starts, there, moves = (
                seen.index(f"{player}{what}")
                for what in ("'s average starts", "'s average is there", " moves")
            )
            assert starts < there < moves
        # both are under way before either is waited for
        assert seen.index("G's average starts") < seen.index("D's average is there")

    @pytest.mark.parametrize("mode", MODES)
    def test_adam_moves_by_what_the_average_gives_in_the_end(self, mode):
        """Here nothing: weights stay, whatever this rank's own gradients are."""

        def start_average(flat: Tensor) -> Pending:
            return Pending(lambda: cast(None, flat.zero_()))

        step = Step(replace(CONFIG, step=mode), SPEC, mock_ranks(start_average=start_average))
        before = [p.detach().clone() for m in step.networks for p in m.parameters()]
        step(0, batch(0))
        after = [p for m in step.networks for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class TestLossScale:
    """fp16's, here on fp32, where it loses nothing."""

    @staticmethod
    def run(mode: StepMode, scale: float | None) -> Step:
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        step = Step(replace(CONFIG, step=mode), SPEC, mock_ranks(scaler=scaler))
        for n in range(2):
            step(n, batch(n))
        return step

    @pytest.mark.parametrize("mode", MODES)
    def test_it_changes_no_update(self, mode):
        plain, scaled = self.run(mode, None), self.run(mode, 1024.0)
        assert not differing(everything(plain), everything(scaled))

    @pytest.mark.parametrize("mode", MODES)
    def test_gradients_that_overflow_move_no_weight_and_halve_it(self, mode):
        step = self.run(mode, 2.0**127)
        assert step.scaler is not None
        assert step.scaler.get_scale() == 2.0**125
        start = Step(CONFIG, SPEC, mock_ranks())
        for now, was in zip(step.networks, start.networks, strict=True):
            for (name, a), b in zip(now.named_parameters(), was.parameters(), strict=True):
                assert torch.equal(a, b), name
        assert all((t == 0).all() for t in step.optimizer_tensors().values())


# What is not computed


class Work(TorchDispatchMode):
    """Which gradients convolutions compute, the shapes of matrix products, and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[str] = []
        self.products: list[list[int]] = []  # sorted: a weight's gradient may come transposed
        self.convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default:
            asked = zip(args[-1], ("input", "weight"), strict=False)
            wanted = " ".join(what for wanted, what in asked if wanted)
            self.gradients += [wanted] * bool(wanted)
        elif func is torch.ops.aten.mm.default:
            self.products.append(sorted(out.shape))
        elif func is torch.ops.aten.convolution.default:
            self.convolutions += 1
        return out


def test_gs_step_computes_no_gradient_of_ds_weights():
    """Asking autograd for G's parameters alone is what freezes D: the work is not done."""
    networks = pair()
    with Work() as work:
        of_g(networks, "openai")
    assert sorted(work.gradients) == ["input", "input", "input weight", "input weight"]
    matrices = {
        name: [p for p in network.parameters() if p.ndim == 2]
        for name, network in networks._asdict().items()
    }
    for weight in matrices["generator"]:
        assert work.products.count(sorted(weight.shape)) == 1
    others = [sorted(p.shape) for p in matrices["discriminator"]]
    shared = [sorted(p.shape) for p in matrices["generator"]]  # fc3 is as large as G's fc2
    assert len([shape for shape in others if shape in shared]) == 1
    assert not [shape for shape in others if shape in work.products and shape not in shared]


def test_ds_step_computes_no_gradient_of_images():
    with Work() as work:
        of_d(pair(), "openai")
    assert sorted(work.gradients) == ["input weight", "weight"]  # conv2's, conv1's


def test_the_shared_step_computes_no_gradient_of_images_for_d_nor_of_ds_weights_for_g():
    with Work() as work:
        of_both(pair(), "openai")
    ds = ["weight", "weight", "input weight", "input weight"]  # on real images and on fakes
    gs = ["input", "input", "input weight", "input weight"]  # the first two are D's layers
    assert sorted(work.gradients) == sorted([*ds, *gs])


# In bf16 the gradient of conv2's weight and of up3's is a product of this shape; so is q_fc1's.
PRODUCT = [128, 16 * 64]


@pytest.mark.parametrize(
    ("step", "gradients", "products", "convolutions"),
    [
        # conv2 before conv1: its input, and conv1's weight with no more. 4 forward passes.
        ("d", ["input", "weight"], ["conv2", "q_fc1"], 4),
        # conv2, up3, up4. 4 forward passes, and conv1's input, which is a convolution too.
        ("g", ["input", "input", "input weight"], ["up3"], 5),
        # D's on two batches, G's. G's 2 forward passes, D's 4, conv1's input once.
        (
            "shared",
            ["input", "input", "weight", "weight", "input", "input", "input weight"],
            ["conv2", "conv2", "q_fc1", "up3"],
            7,
        ),
    ],
)
def test_in_bf16_no_more_is_computed_either(cpu_ranks, step, gradients, products, convolutions):
    trained = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    real, c = batch(0), SPEC.sample(BATCH)
    with Work() as work:
        if step == "d":
            trained._gradients.d(real, c)
        elif step == "g":
            trained._gradients.g(c, None)
        else:
            trained._gradients.shared(real, c)
    assert sorted(work.gradients) == sorted(gradients)
    assert work.products.count(PRODUCT) == len(products)
    assert work.convolutions == convolutions
