"""One update: its gradients against a textbook's, and who and what it moves."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan import step as step_module
from fastinfogan.config import Routing, TrainConfig
from fastinfogan.latents import LatentBatch, LatentSpec
from fastinfogan.parallel import Ranks
from fastinfogan.philox import Stream
from fastinfogan.step import Networks, Objective, Step, build, d_grads, g_grads

pytestmark = pytest.mark.usefixtures("one_thread")

ROUTINGS: tuple[Routing, ...] = ("openai", "head", "generator-step")
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


def of_d(networks: Networks, routing: Routing, *, weights=WEIGHTS, real=0, latents=0):
    """D's gradients by parameter name, and its terms."""
    params = networks.split(routing)[0]
    grads, terms = d_grads(
        networks, objective(routing, weights), params, images(real), latent(latents)
    )
    return named(networks, params, grads), terms


def of_g(networks: Networks, routing: Routing, *, weights=WEIGHTS, latents=0):
    params = networks.split(routing)[1]
    grads, terms = g_grads(networks, objective(routing, weights), params, latent(latents))
    return named(networks, params, grads), terms


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
    return p


def textbook_g(networks: Networks, c: LatentBatch):
    p = leaves(networks)
    features = textbook_trunk(p, textbook_generator(p, c.input))
    loss = bce(textbook_logit(p, features), True)
    loss = loss + textbook_nll(p, features, c) @ torch.tensor(WEIGHTS, dtype=torch.float64)
    loss.backward()
    return p


def assert_equal_to_rounding(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """In fp64, relative to each tensor's largest gradient: some thousand summands, and divisions
    by a batch's deviation, lose three or four of the 16 digits."""
    for name, g in got.items():
        truth = expected[name].grad
        assert truth is not None, name
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
        trained = {n for n, p in expected.items() if p.grad is not None}
        assert set(grads) == trained

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
        for run in (
            lambda *scale: d_grads(networks, goal, d_params, images(), c, *scale),
            lambda *scale: g_grads(networks, goal, g_params, c, *scale),
        ):
            plain, terms = run()
            scaled, same = run(lambda loss: loss * 1024)
            assert all(torch.equal(s, p * 1024) for s, p in zip(scaled, plain, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(terms, same, strict=True))


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
    def test_neither_step_leaves_a_gradient_or_moves_a_weight(self, routing):
        networks = pair()
        before = [p.detach().clone() for network in networks for p in network.parameters()]
        of_d(networks, routing)
        of_g(networks, routing)
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
    """Let `look` see the arguments and the result of a function of fastinfogan.step."""
    inner = getattr(step_module, name)

    def spied(*args):
        out = inner(*args)
        look(args, out)
        return out

    monkeypatch.setattr(step_module, name, spied)


class TestStep:
    @pytest.mark.parametrize("routing", ROUTINGS)
    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_it_never_reads_a_value_back_to_the_host(
        self, cpu_ranks, no_host_read, routing, precision
    ):
        step = Step(with_routing(routing), SPEC, cpu_ranks(precision))
        real = batch(0)
        with no_host_read():
            step(0, real)
            step(1, real)

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_it_is_deterministic(self, cpu_ranks, precision):
        results = []
        for _ in range(2):
            torch.manual_seed(torch.seed())  # the global generator plays no part
            step = Step(CONFIG, SPEC, cpu_ranks(precision))
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

    def test_one_update_moves_every_weight_and_every_buffer(self, cpu_ranks):
        step = Step(CONFIG, SPEC, cpu_ranks())
        before = everything(step)
        step(0, batch(0))
        assert differing(before, everything(step)) == set(before)
        assert all(p.grad is None for m in step.networks for p in m.parameters())

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_the_optimizers_are_adam(self, cpu_ranks, monkeypatch, routing):
        """Unfused Adam, fed the very gradients that three updates computed."""
        recorded: dict[str, list[tuple[Tensor, ...]]] = {"d": [], "g": []}
        for key, seen in recorded.items():

            def keep(_, out, seen=seen):
                seen.append(tuple(g.clone() for g in out[0]))

            spy(monkeypatch, f"{key}_grads", keep)
        config = with_routing(routing, lr_d=3e-4, lr_g=2e-3, beta1=0.4, beta2=0.99)
        step = Step(config, SPEC, cpu_ranks())
        parts = {
            "d": (step.d_params, step.d_optimizer, 3e-4),
            "g": (step.g_params, step.g_optimizer, 2e-3),
        }
        copies = {key: [p.detach().clone() for p in part[0]] for key, part in parts.items()}
        for n in range(3):
            step(n, batch(n))
        for key, (params, optimizer, lr) in parts.items():
            reference = torch.optim.Adam(
                copies[key], lr=lr, betas=(0.4, 0.99), fused=False, foreach=False
            )
            assert len(recorded[key]) == 3
            for grads in recorded[key]:
                for p, g in zip(copies[key], grads, strict=True):
                    p.grad = g
                reference.step()
            for ours, theirs in zip(params, copies[key], strict=True):
                # three fp32 roundings of weights up to 1.1, each of an update of about lr
                torch.testing.assert_close(ours.detach(), theirs, rtol=4e-7, atol=1e-6 * lr)
                state, expected = optimizer.state[ours], reference.state[theirs]
                assert state["step"] == expected["step"] == 3
                for moment in ("exp_avg", "exp_avg_sq"):
                    scale = float(expected[moment].abs().max())
                    torch.testing.assert_close(
                        state[moment], expected[moment], rtol=1e-6, atol=1e-6 * scale
                    )

    def test_gs_step_sees_the_d_that_ds_step_has_just_trained(self, cpu_ranks, monkeypatch):
        seen = []
        step = Step(CONFIG, SPEC, cpu_ranks())
        spy(
            monkeypatch,
            "g_grads",
            lambda args, _: seen.append(args[0].discriminator.head.weight.detach().clone()),
        )
        before = step.networks.discriminator.head.weight.detach().clone()
        step(0, batch(0))
        assert not torch.equal(seen[0], before)
        assert torch.equal(seen[0], step.networks.discriminator.head.weight)

    def test_the_two_steps_draw_latents_of_their_own_keyed_by_seed_and_step(
        self, cpu_ranks, monkeypatch
    ):
        drawn: list[LatentBatch] = []
        spy(monkeypatch, "d_grads", lambda args, _: drawn.append(args[4]))
        spy(monkeypatch, "g_grads", lambda args, _: drawn.append(args[3]))
        step = Step(CONFIG, SPEC, cpu_ranks())
        step(7, batch(0))
        streams = (Stream.D_LATENTS, Stream.G_LATENTS)
        for latents, stream in zip(drawn, streams, strict=True):
            expected = SPEC.sample(BATCH, seed=CONFIG.seed, step=7, stream=stream)
            assert all(torch.equal(a, b) for a, b in zip(latents, expected, strict=True))
        assert not torch.equal(drawn[0].input, drawn[1].input)

    def test_ranks_take_the_rows_of_one_global_batch(self, cpu_ranks):
        whole = Step(CONFIG, SPEC, cpu_ranks())._latents(3, Stream.D_LATENTS, 8)
        rows = []
        for rank in range(2):
            ranks = SimpleNamespace(
                rank=rank,
                device=torch.device("cpu"),
                accelerator=SimpleNamespace(scaler=None, autocast=None),
            )
            step = Step(CONFIG, SPEC, cast(Ranks, ranks))
            rows.append(step._latents(3, Stream.D_LATENTS, 4))
        for a, b, both in zip(*rows, whole, strict=True):
            assert torch.equal(torch.cat((a, b)), both)

    def test_lambda_multiplies_each_codes_weight(self, cpu_ranks):
        step = Step(with_routing("openai", info_weight=0.5), SPEC, cpu_ranks())
        assert step.objective.weights.tolist() == [0.25, 1.0, 0.75, 0.5]

    def test_the_average_follows_the_generator(self, cpu_ranks):
        step = Step(CONFIG, SPEC, cpu_ranks())
        start = {n: p.detach().clone() for n, p in step.networks.generator.named_parameters()}
        step(0, batch(0))
        now = dict(step.networks.generator.named_parameters())
        for name, average in step.ema.module.named_parameters():
            # the first decay is 1/10; one fp32 rounding of values up to 1.1
            torch.testing.assert_close(
                average, 0.1 * start[name] + 0.9 * now[name].detach(), rtol=1e-6, atol=1e-8
            )

    def test_the_optimizers_tensors_are_live_and_complete(self, cpu_ranks):
        step = Step(CONFIG, SPEC, cpu_ranks())
        tensors = step.optimizer_tensors()
        n = sum(1 for network in step.networks for _ in network.parameters())
        assert len(tensors) == 3 * n
        assert all((t == 0).all() for t in tensors.values())
        step(0, batch(0))
        counts = {float(t) for name, t in tensors.items() if name.endswith(".step")}
        assert counts == {1.0}

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_under_bf16_every_gradient_is_near_the_fp32_one(self, cpu_ranks, routing):
        """Above all Q's: older autocasts keep a cast made under no_grad, without its gradient."""
        step = Step(with_routing(routing), SPEC, cpu_ranks("bf16"))
        draw_weights(step.networks)  # at the start fakes hardly differ, and BatchNorm magnifies
        real, c = batch(0, 64), SPEC.sample(64)
        for i, run in enumerate((of_step_d, of_step_g)):
            exact = run(step, real, c)
            with step._autocast():
                mixed = run(step, real, c)
            params = (step.d_params, step.g_params)[i]
            for name, g in named(step.networks, params, mixed).items():
                truth = named(step.networks, params, exact)[name]
                assert g.dtype == torch.float32, name
                assert g.isfinite().all(), name
                assert truth.norm() > 0, name
                # bf16 has 8 bits, and a ReLU whose sign they turn errs by all it has: up to 0.25
                # is seen here. What misses a part or is zero errs by about 1.
                assert (g - truth).norm() < 0.4 * truth.norm(), name


def of_step_d(step: Step, real: Tensor, c: LatentBatch):
    return d_grads(step.networks, step.objective, step.d_params, real, c)[0]


def of_step_g(step: Step, real: Tensor, c: LatentBatch):
    return g_grads(step.networks, step.objective, step.g_params, c)[0]


def test_gs_step_computes_no_gradient_of_ds_weights():
    """Asking autograd for G's parameters alone is what freezes D: the work is not done."""
    networks = pair()
    products: list[torch.Size] = []
    convolutions: list[bool] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.convolution_backward.default:
                convolutions.append(args[-1][1])  # whether it computes the weight's gradient
            elif func is torch.ops.aten.mm.default:
                products.append(out.shape)
            return out

    with Watch():
        of_g(networks, "openai")
    assert sorted(convolutions) == [False, False, True, True]  # D's two, G's two
    made = [sorted(shape) for shape in products]  # a weight's gradient may come transposed
    matrices = {
        name: [p for p in network.parameters() if p.ndim == 2]
        for name, network in networks._asdict().items()
    }
    for weight in matrices["generator"]:
        assert made.count(sorted(weight.shape)) == 1
    others = [sorted(p.shape) for p in matrices["discriminator"]]
    shared = [sorted(p.shape) for p in matrices["generator"]]  # fc3 is as large as G's fc2
    assert len([shape for shape in others if shape in shared]) == 1
    assert not [shape for shape in others if shape in made and shape not in shared]
