"""InfoGAN-CR's pairs, its critic and its term."""

from typing import get_args

import pytest
import torch
from helpers.small_pair import (
    CONFIG,
    SPEC,
    Work,
    batch,
    differing,
    everything,
    images,
    latent,
    objective,
    pair,
)
from torch import Tensor

from fastinfogan.config import NetworksName
from fastinfogan.latents import LatentSpec, parse_codes
from fastinfogan.philox import Stream
from fastinfogan.terms.contrastive import Contrastive, PairLatents, draw_pairs, n_factors
from fastinfogan.terms.protocol import Extra, TermSet
from fastinfogan.training.gradients import Gradients, GRecord, g_grads, shared_grads
from fastinfogan.training.step import Step, build_critic

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("alternating", "shared")


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


@pytest.mark.parametrize("mode", MODES)
def test_the_terms_gradient_is_that_of_hs_cross_entropy(mode):
    """In G's parameters it is added to that of G's own loss; H has no other."""
    config = CONFIG.with_options(contrastive=1.0)
    networks, critic = pair(), build_critic(config, SPEC).double()
    term = Contrastive(2.0, critic, PairLatents(SPEC))
    pairs = draw_pairs(SPEC, 4)
    pairs = pairs._replace(input=pairs.input.double())
    own = list(networks.generator.parameters())
    params = [*own, *critic.parameters()]

    def scale(loss: Tensor) -> Tensor:
        return 8 * loss

    def of_g(terms: TermSet) -> tuple[Gradients, GRecord]:
        goal, extras = objective("openai"), [Extra(tensors=tuple(pairs))] if terms.terms else []
        if mode == "shared":
            d_params = networks.split("openai")[0]
            *_, grads, record = shared_grads(
                *(networks, goal, d_params, params, images(), latent(), scale),
                g_terms=terms,
                g_extras=extras,
            )
            return grads, record
        return g_grads(networks, goal, params, latent(), scale, terms=terms, extras=extras)

    (grads, record), (base, _) = of_g(TermSet([term])), of_g(TermSet())
    made = networks.generator(pairs.input, "batch")
    logits = critic.network(torch.cat((made[:4], made[4:]), 1), "batch")[1]
    loss = -logits.log_softmax(1)[torch.arange(4), pairs.factor].mean()
    torch.testing.assert_close(record.terms["contrastive"], loss.detach())
    truth = torch.autograd.grad(16 * loss, params, materialize_grads=True)
    for g, plain, t in zip(grads, base, truth, strict=True):
        atol = 1e-10 * float(t.abs().max()) + 1e-13 * float(g.abs().max()) + 1e-15
        torch.testing.assert_close(g - plain, t, rtol=0, atol=atol)
    assert all((t != 0).any() for t in truth[: len(own)])
    assert all((g == 0).all() for g in base[len(own) :])


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "networks",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "chairs" else name
        for name in get_args(NetworksName)
    ],
)
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


def test_before_its_start_h_is_neither_evaluated_nor_moved(cpu_ranks):
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
        ours = graphed._update(torch.tensor(n), batch(n), graphed.active(n)).g.terms
        theirs = eager(n, batch(n)).g.terms
        assert ours.keys() == theirs.keys() == ({"contrastive"} if n >= 2 else set())
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(graphed.ema.flat.value, eager.ema.flat.value)
    assert not torch.equal(at_once.ema.flat.value, eager.ema.flat.value)
