"""Gradient penalties, balanced codes, InfoGAN-CR's pairs: their values, their gradients."""

import copy
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from helpers.small_pair import CONFIG, SPEC, Work, batch, differing, everything, images, pair
from torch import Tensor

from fastinfogan.config import Adversarial, NetworksName
from fastinfogan.latents import LatentSpec, parse_codes
from fastinfogan.networks.convolution import asking
from fastinfogan.philox import Stream
from fastinfogan.terms.contrastive import contrastive_grads, draw_pairs, n_factors
from fastinfogan.terms.penalty import MOST, Balance, gradient_penalty
from fastinfogan.training.schedule import Schedule
from fastinfogan.training.step import Step, build, build_critic

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("alternating", "shared")
OPTIONS: tuple[dict[str, Any], ...] = (
    *({"objective": name} for name in get_args(Adversarial)),
    {"label_smoothing": 0.1},
    {"r1": 10.0},
    {"r2": 10.0},
    {"contrastive": 1.0},
    {"balance_codes": 0.9},
)
TOGETHER: dict[str, Any] = {
    "objective": "relativistic",
    "r1": 1.0,
    "r2": 1.0,
    "contrastive": 1.0,
    "balance_codes": 0.9,
}


# Gradient penalties


def in_d(penalty: Tensor, parameters) -> tuple[Tensor, ...]:
    with asking("weights"):
        return torch.autograd.grad(penalty, parameters, materialize_grads=True)


def test_the_penalty_is_the_mean_of_the_squared_slopes():
    """One pixel up and down: central differences, whose error in fp64 is near 1e-10."""
    discriminator, x, h = pair().discriminator, images(), 1e-5

    def total(x: Tensor) -> Tensor:
        return discriminator.logit(discriminator.trunk(x, "batch")).sum()

    steps = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x[0].shape) * h
    squares = torch.zeros((), dtype=x.dtype)
    for i in range(2):  # of eight images
        for one in steps:
            up, down = x.clone(), x.clone()
            up[i] += one
            down[i] -= one
            squares += ((total(up) - total(down)).detach() / (2 * h)).square()
    leaf = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(slopes[:2].square().sum(), squares, rtol=1e-6, atol=0)
    expected = slopes.square().sum() / len(x)
    torch.testing.assert_close(gradient_penalty(discriminator, x).detach(), expected)


@pytest.mark.parametrize(
    "networks", ["mnist", "dsprites", pytest.param("chairs", marks=pytest.mark.slow)]
)
def test_the_penaltys_gradient_is_that_of_finite_differences(networks: NetworksName):
    """That the double backward really happens, in every one of D's parameters."""
    config = CONFIG.with_options(networks=networks, image_size=32)
    discriminator = build(config, SPEC).discriminator.double()
    draw = torch.Generator().manual_seed(0)
    for name, p in discriminator.named_parameters():
        mean = 1.0 if "bn" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(p, mean, 0.05, generator=draw)
    x = torch.rand(6, 1, 32, 32, generator=draw, dtype=torch.float64)
    q = {id(p) for p in discriminator.q_parameters()}
    named = [(n, p) for n, p in discriminator.named_parameters() if id(p) not in q]
    grads = in_d(gradient_penalty(discriminator, x), [p for _, p in named])
    moving = 0
    for (name, p), g in zip(named, grads, strict=True):
        # Short, as the slopes jump where a leaky ReLU changes sides; half along the gradient, to
        # stand out of rounding.
        way = F.normalize(torch.randn(p.shape, generator=draw, dtype=p.dtype).flatten(), dim=0)
        way = (way + F.normalize(g.flatten(), dim=0)).view_as(p) * 1e-8
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(way, alpha=sign)
            values.append(gradient_penalty(discriminator, x).detach())
            with torch.no_grad():
                p.sub_(way, alpha=sign)
        expected = float(values[0] - values[1]) / 2e-8
        got = float((g * way).sum()) / 1e-8
        noise = 1e-6 * float(values[0])
        assert got == pytest.approx(expected, rel=1e-3, abs=noise), name
        moving += abs(got) > 10 * noise
    assert moving >= sum(name.endswith("weight") for name, _ in named)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_penaltys_gradient_in_low_precision_is_near_the_fp64_one(cpu_ranks, precision):
    """In bf16 through the convolutions' own functions, which hand over to PyTorch's here."""
    step = Step(CONFIG, SPEC, cpu_ranks("bf16" if precision == torch.bfloat16 else "no"))
    masters = copy.deepcopy(step.networks.discriminator).double()
    x = batch(0)
    names = [n for n, _ in masters.named_parameters() if not n.startswith("q_")]
    truth = in_d(gradient_penalty(masters, x.double()), [masters.get_parameter(n) for n in names])
    low = step.working.discriminator
    got = in_d(gradient_penalty(low, x.to(precision)), [low.get_parameter(n) for n in names])
    # as for D's own gradients in test_step: what is zero or misses a part errs by about 1
    tolerance = 0.4 if precision == torch.bfloat16 else 1e-3
    for name, g, t in zip(names, got, truth, strict=True):
        if name.endswith("weight"):
            assert t.norm() > 0, name
            assert (g - t).norm() < tolerance * t.norm(), name


def test_the_penalty_moves_no_buffer():
    discriminator = pair().discriminator
    before = {n: b.clone() for n, b in discriminator.named_buffers()}
    gradient_penalty(discriminator, images())
    assert not differing(before, dict(discriminator.named_buffers()))


# Balanced codes


def test_a_codes_pull_is_the_norm_of_its_gradient_at_qs_output():
    spec = LatentSpec(2, parse_codes("cat3,uniform2"))
    c = spec.sample(16)
    q = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    balance = Balance(spec, 0.75)
    assert balance.factors().tolist() == [1, 1]
    balance.follow(q, c)
    of_class = (q[:, :3].softmax(1) - F.one_hot(c.categorical[:, 0], 3)) / 16
    of_value = (q[:, 3:] - c.continuous) / 16  # σ is 1
    pulls = torch.stack((of_class.norm(), of_value.norm()))
    torch.testing.assert_close(balance.pulls, 0.25 * pulls)
    torch.testing.assert_close(balance.factors(), pulls.mean() / pulls)
    torch.testing.assert_close(balance.factors() * pulls, pulls.mean().expand(2))


def test_no_code_gains_or_loses_more_than_the_most_there_is():
    balance = Balance(SPEC, 0.9)
    balance.pulls.copy_(torch.tensor([0.0, 1e-6, 1.0, 1e6]))
    assert balance.factors().tolist() == pytest.approx([MOST, MOST, MOST, 1 / MOST * 2.5])


@pytest.mark.parametrize("ramp", [0, 4])
def test_balancing_multiplies_the_weights_of_the_schedule_afresh_each_update(ramp):
    config = CONFIG.with_options(info_ramp=ramp)
    schedule = Schedule(config, SPEC, torch.device("cpu"))
    factors = torch.tensor([1.0, 2.0, 4.0, 0.5])
    for step in (0, 1, 9):
        schedule.set(step, factors)
        part = min((step + 1) / ramp, 1) if ramp else 1
        assert schedule.weights.tolist() == [0.5 * part, 4 * part, 6 * part, 0.5 * part]


# InfoGAN-CR


@pytest.mark.parametrize("codes", ["uniform5", "cat50,uniform,gaussian2:learned", "cat90,cat90"])
def test_a_pair_shares_the_one_factor_that_it_is_named_by(codes):
    spec = LatentSpec(3, parse_codes(codes))
    pairs = draw_pairs(spec, 400, seed=1, step=2)
    noise = pairs.input[:, :3]
    assert (noise[:400] != noise[400:]).all()
    first, second = pairs.input.chunk(2)
    column, of_factor = spec.noise, []
    for code in spec.codes:  # by the columns of G's input, discrete codes first
        for width in [code.input_dim] if code.kind == "categorical" else [1] * code.input_dim:
            same = (first[:, column : column + width] == second[:, column : column + width]).all(1)
            of_factor.append(same)
            column += width
    equal = torch.stack(of_factor, 1)
    assert equal.shape[1] == n_factors(spec)
    assert equal.gather(1, pairs.factor.unsqueeze(1)).all()
    others = equal.double().scatter(1, pairs.factor.unsqueeze(1), 0.0)
    chance = 0.0 if "cat" not in codes else 0.05  # two draws of one of 50 classes
    assert float(others.mean()) <= chance
    assert len(pairs.factor.unique()) == n_factors(spec)


def test_pairs_are_rows_of_one_global_batch_and_share_no_random_numbers():
    whole = draw_pairs(SPEC, 6, seed=3, step=4)
    parts = [draw_pairs(SPEC, 3, seed=3, step=4, first_pair=i) for i in (0, 3)]
    for half in (0, 1):
        rows = torch.cat([p.input.chunk(2)[half] for p in parts])
        assert torch.equal(rows, whole.input.chunk(2)[half])
    assert torch.equal(torch.cat([p.factor for p in parts]), whole.factor)
    other = draw_pairs(SPEC, 6, seed=3, step=torch.tensor(4))
    assert all(torch.equal(a, b) for a, b in zip(other, whole, strict=True))
    assert len({int(s) for s in Stream.__members__.values()}) == len(Stream.__members__)


def test_the_contrastive_gradient_is_that_of_hs_cross_entropy():
    config = CONFIG.with_options(contrastive=1.0)
    generator, critic = pair().generator, build_critic(config, SPEC)
    assert critic is not None
    critic.double()
    pairs = draw_pairs(SPEC, 4)
    pairs = pairs._replace(input=pairs.input.double())
    params = [*generator.parameters(), *critic.parameters()]
    grads, nats = contrastive_grads(generator, critic, params, pairs, 2.0, lambda loss: 8 * loss)
    made = generator(pairs.input, "batch")
    logits = critic.network(torch.cat((made[:4], made[4:]), 1), "batch")[1]
    loss = -logits.log_softmax(1)[torch.arange(4), pairs.factor].mean()
    torch.testing.assert_close(nats, loss.detach())
    truth = torch.autograd.grad(16 * loss, params, materialize_grads=True)
    for g, t in zip(grads, truth, strict=True):
        torch.testing.assert_close(g, t, rtol=0, atol=1e-10 * float(t.abs().max()) + 1e-15)
    assert all((g != 0).any() for g in grads[: len(list(generator.parameters()))])


@pytest.mark.parametrize("networks", get_args(NetworksName))
def test_h_is_trained_with_g_and_kept_and_no_part_of_the_average(cpu_ranks, networks):
    config = CONFIG.with_options(networks=networks, image_size=32, contrastive=1.0)
    step = Step(config, SPEC, cpu_ranks("bf16"))
    before = everything(step)
    step(0, torch.rand(8, 1, 32, 32))
    moved = {n for n in differing(before, everything(step)) if n.startswith("critic.")}
    state = {f"critic.{n}" for n in step.modules()["critic"].state_dict()}
    head = {n for n in state if ".head." in n}  # H's own logit plays no part
    assert moved - head == state - head
    assert not {n for n in moved & head if n.endswith(("weight", "bias"))}
    assert len(step.ema.flat.params) == len(list(step.networks.generator.parameters()))


def test_before_its_start_h_is_neither_asked_nor_moved(cpu_ranks):
    config = CONFIG.with_options(contrastive=2.0, contrastive_start=2)
    late, never = Step(config, SPEC, cpu_ranks()), Step(CONFIG, SPEC, cpu_ranks())
    at_once = Step(config.with_options(contrastive_start=0), SPEC, cpu_ranks())
    critic = [p.clone() for p in late.modules()["critic"].parameters()]
    for n in range(2):
        late(n, batch(n)), never(n, batch(n))
    torch.testing.assert_close(late.ema.flat.value, never.ema.flat.value, rtol=0, atol=0)
    kept = zip(critic, late.modules()["critic"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in kept)
    with Work() as without:
        never(2, batch(2))
    with Work() as work:
        late(2, batch(2))
    assert work.convolutions > without.convolutions
    # by a number on the device, as in a graph, the same
    graphed = Step(config, SPEC, cpu_ranks())
    eager = Step(config, SPEC, cpu_ranks())
    for n in range(3):
        _, ours = graphed._update(torch.tensor(n), batch(n), False)
        _, theirs = eager(n, batch(n))
        assert torch.equal(ours.contrastive, theirs.contrastive)
        assert bool(ours.contrastive) == (n >= 2)
    assert torch.equal(graphed.ema.flat.value, eager.ema.flat.value)
    assert not torch.equal(at_once.ema.flat.value, eager.ema.flat.value)


# In the step


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_updates_in_bf16_stay_finite_and_differ_by_the_option(cpu_ranks, mode, option):
    ranks = cpu_ranks("bf16")
    plain = Step(CONFIG.with_options(step=mode), SPEC, ranks)
    other = Step(CONFIG.with_options(step=mode, **option), SPEC, ranks)
    for n in range(3):
        plain(n, batch(n)), other(n, batch(n))
    assert all(t.isfinite().all() for t in other._state())
    weights = [
        torch.equal(a.value, b.value)
        for a, b in zip((plain.d_flat, plain.ema.flat), (other.d_flat, other.ema.flat), strict=True)
    ]
    assert any(weights) == (option == {"objective": "nonsaturating"})


@pytest.mark.parametrize("mode", MODES)
def test_what_a_penalty_and_the_contrast_amount_to_is_told(cpu_ranks, mode):
    step = Step(CONFIG.with_options(step=mode, r1=3.0, contrastive=2.0), SPEC, cpu_ranks("no"))
    penalty = 1.5 * gradient_penalty(step.working.discriminator, batch(0)).detach()
    assert step.critic is not None
    d, g = step(0, batch(0))
    torch.testing.assert_close(d.penalty, penalty)
    assert 0 < float(g.contrastive) < 2 * math.log(n_factors(SPEC))
    d, g = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks("no"))(0, batch(0))
    assert float(d.penalty) == float(g.contrastive) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "options", [TOGETHER, {"label_smoothing": 0.1}, {"objective": "wgan"}], ids=str
)
def test_nothing_is_read_back_to_the_host(cpu_ranks, no_host_read, mode, precision, options):
    step = Step(CONFIG.with_options(step=mode, **options), SPEC, cpu_ranks(precision))
    step(0, batch(0))
    with no_host_read():
        step(1, batch(1))


@pytest.mark.parametrize("mode", MODES)
def test_with_all_of_them_an_update_is_the_same_after_all_was_written_into_another(cpu_ranks, mode):
    config, ranks = CONFIG.with_options(step=mode, **TOGETHER), cpu_ranks("bf16")
    first, second = (Step(config.with_options(seed=s), SPEC, ranks) for s in (0, 1))
    first(0, batch(0)), second(0, batch(1))
    for name, module in second.modules().items():
        module.load_state_dict(first.modules()[name].state_dict())
    for name, tensor in second.optimizer_tensors().items():
        tensor.copy_(first.optimizer_tensors()[name])
    second.refresh()
    second.config = first.config  # the seed, for the latents
    first(1, batch(2)), second(1, batch(2))
    assert not differing(everything(first), everything(second))


@pytest.mark.parametrize("mode", MODES)
def test_the_updates_number_may_be_a_tensor(cpu_ranks, mode):
    config = CONFIG.with_options(step=mode, contrastive=1.0, balance_codes=0.9)
    one, other = (Step(config, SPEC, cpu_ranks("bf16")) for _ in range(2))
    for n in range(3):
        one(n, batch(n)), other._update(torch.tensor(n), batch(n), False)
    assert all(torch.equal(a, b) for a, b in zip(one._state(), other._state(), strict=True))


def test_off_they_cost_nothing(cpu_ranks):
    """As many convolutions, and as many of their gradients, as are D's and G's own."""
    step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    with Work() as work:
        step(0, batch(0))
    assert work.convolutions == 4 + 5
    assert step.critic is step.balance is None
