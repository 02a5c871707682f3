"""The information on real images: its value, its gradient, its part in a step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.config import TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.terms.copies import real_terms
from fastinfogan.terms.invariance import FOLLOWED, PROBE, RealTerms, mutual_information
from fastinfogan.terms.warp import Warp, Warped
from fastinfogan.training.gradients import d_grads, shared_grads
from fastinfogan.training.step import Objective, Step, build

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig().with_options(
    image_size=8,
    batch_size=8,
    noise=5,
    codes="uniform,cat3,cat4",
    real_info=2.0,
)
SPEC = CONFIG.spec()
TWO = "cat3,uniform,uniform"


def predictions(k: int, rows: int, seed: int, dtype=torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, k, generator=draw, dtype=dtype)).softmax(1)


@given(k=st.integers(2, 12), rows=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_sure_predictions_give_the_mutual_information_of_their_classes(k, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(k, (rows,), generator=draw)
    # Both ways round, so that the joint table is symmetric as it is.
    a, b = torch.cat((first, first.roll(1))), torch.cat((first.roll(1), first))
    one_hot = torch.eye(k, dtype=torch.float64)
    found = mutual_information(one_hot[a], one_hot[b], balance=1.0)
    truth = mutual_info_score(a.numpy(), b.numpy())
    assert float(found.nats) == pytest.approx(truth, abs=1e-5)
    assert float(found.objective) == pytest.approx(truth, abs=1e-5)


def test_the_most_there_is_is_log_k_and_independent_predictions_give_nothing():
    one_hot = torch.eye(10, dtype=torch.float64).repeat(7, 1)
    assert float(mutual_information(one_hot, one_hot).nats) == pytest.approx(math.log(10), abs=1e-5)
    even = torch.full((70, 10), 0.1, dtype=torch.float64)
    assert float(mutual_information(even, one_hot).nats) == pytest.approx(0.0, abs=1e-9)


def test_which_copy_is_the_warped_one_makes_no_difference():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    assert mutual_information(a, b) == mutual_information(b, a)


def test_balance_weighs_the_entropy_of_the_categories():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    joint = (a.T @ b + b.T @ a) / 60
    entropy = -(joint.sum(0) * joint.sum(0).log()).sum()
    of_one, of_three = (mutual_information(a, b, balance=w) for w in (1.0, 3.0))
    assert of_one.nats == of_three.nats == of_one.objective
    assert float(of_three.objective - of_one.objective) == pytest.approx(4 * float(entropy))


def test_its_gradient_is_right_and_finite_where_a_category_is_never_used():
    a, b = predictions(4, 6, 0).requires_grad_(), predictions(4, 6, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mutual_information(a, b).objective, (a, b))
    logits = torch.tensor([[0.0, 0.0, -1e4]] * 5, requires_grad=True)
    found = mutual_information(logits.softmax(1), logits.softmax(1)).objective
    assert torch.autograd.grad(found, logits)[0].isfinite().all()


def test_it_is_refused_without_a_category_or_where_q_would_not_learn_it():
    with pytest.raises(UserError, match="categorical"):
        config_module.check(CONFIG.with_options(codes="uniform"))
    with pytest.raises(UserError, match="needs a uniform or gaussian code"):
        config_module.check(CONFIG.with_options(follow=1.0, codes="cat3"))
    config_module.check(CONFIG.with_options(follow=1.0, codes="cat3,uniform", warp="shear=0.1"))
    with pytest.raises(UserError, match="changes no slant and no width"):
        config_module.check(CONFIG.with_options(follow=1.0, warp="shift=0.1", codes=TWO))
    for followed, told in (("", "got none"), ("slant,turn", "got 'turn'"), ("x,x", "got 'x'")):
        with pytest.raises(UserError, match=f"^--follow.changes: .*{told}"):
            config_module.check(CONFIG.with_options(follow=1.0, followed=followed, codes=TWO))
    config_module.check(CONFIG.with_options(follow=1.0, followed="y", warp="shift=0.1"))
    for followed, told in (("size", "no size"), ("stretch", "no stretch")):
        config_module.check(CONFIG.with_options(follow=1.0, followed=followed, warp="scale=0.1"))
        with pytest.raises(UserError, match=f"changes {told}"):
            config_module.check(
                CONFIG.with_options(follow=1.0, followed=followed, warp="shift=0.1")
            )
    none = CONFIG.with_options(real_info=0.0, routing="generator-step", codes=TWO)
    for config, option in (
        (none.with_options(real_info=1.0), "--invariance.weight"),
        (none.with_options(follow=1.0), "--follow.weight"),
        (none.with_options(vat=1.0), "--vat.weight"),
    ):
        with pytest.raises(UserError, match=f"^{option}: .*--routing openai"):
            config_module.check(config)
    with pytest.raises(UserError, match=r"^--vat.stop: .* more than --vat.start 7, got 7"):
        config_module.check(CONFIG.with_options(vat_start=7, vat_stop=7))


# In the step


def of_step(terms: RealTerms, mode: str, probes: Tensor | None = None, warp=True):
    networks = build(CONFIG, SPEC)
    for network in networks:
        network.double()
        draw = torch.Generator().manual_seed(1)
        for p in network.parameters():
            torch.nn.init.normal_(p, 0.1, 0.1, generator=draw)
    goal = Objective(SPEC, torch.zeros(3, dtype=torch.float64), "openai", "auto", terms)
    d_params, g_params = networks.split("openai")
    draw = torch.Generator().manual_seed(2)
    real, warped = torch.rand(2, 8, 1, 8, 8, generator=draw, dtype=torch.float64).unbind()
    change = 2 * torch.rand(8, 5, generator=draw, dtype=torch.float64) - 1
    copies = Warped(warped, change)
    given = copies if warp else None
    latents = SPEC.sample(8, seed=0)
    latents = latents._replace(input=latents.input.double(), continuous=latents.continuous.double())
    if mode == "shared":
        grads, told, *_ = shared_grads(
            networks, goal, d_params, g_params, real, latents, warped=given, probes=probes
        )
    else:
        grads, told = d_grads(
            *(networks, goal, d_params, real, latents),
            warped=given,
            probes=probes,
            together=mode == "together",
        )
    return networks.discriminator, real, copies, grads, told


@pytest.mark.parametrize("mode", ["together", "apart", "shared"])
@pytest.mark.parametrize(("weight", "follow"), [(2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
def test_it_adds_its_weights_times_its_gradients_to_d_s(mode, weight, follow):
    terms = RealTerms(weight, slice(1, 4), follow, (0, 5), (1, 0))
    discriminator, real, copies, grads, told = of_step(terms, mode)
    _, _, _, without, _ = of_step(RealTerms(0.0, slice(1, 4), 0.0), mode)
    first, second = (discriminator(x, "batch")[1] for x in (real, copies.images))
    found = mutual_information(*((10 * q[:, 1:4]).softmax(1) for q in (first, second)))
    assert told.real_information.item() == pytest.approx(found.nats.item() if weight else 0)
    moved = (second - first)[:, [0, 5]]
    miss = (moved - FOLLOWED * copies.change[:, [1, 0]]).square().mean(0).sum()
    loss = -weight * found.objective + follow * miss
    truth = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
    # split() puts Q's parameters last, as the discriminator does
    for got, base, t in zip(grads, without, truth, strict=True):
        extra = torch.zeros_like(base) if t is None else t
        torch.testing.assert_close(got - base, extra, atol=1e-9, rtol=1e-7)


def test_the_first_codes_of_their_kind_are_asked():
    config = CONFIG.with_options(codes="bernoulli,uniform,cat3,cat4,gaussian2:learned", follow=3.0)
    terms = real_terms(config, config.spec())
    assert terms == RealTerms(2.0, slice(2, 5), 3.0, (1, 9), (0, 1))
    thin = config.with_options(followed="width", codes="cat3,uniform,uniform")
    assert real_terms(thin, thin.spec()) == RealTerms(2.0, slice(0, 3), 3.0, (3,), (1,))
    one = config.with_options(followed="width, slant", codes="cat3,uniform")
    assert real_terms(one, one.spec()) == RealTerms(2.0, slice(0, 3), 3.0, (3,), (1,))
    place = config.with_options(followed="size, y", codes="cat3,uniform3")
    assert real_terms(place, place.spec()) == RealTerms(2.0, slice(0, 3), 3.0, (3, 4), (4, 3))
    assert real_terms(config.with_options(real_info=0.0, follow=0.0), config.spec()) is None


@pytest.mark.parametrize("mode", ["alternating", "shared"])
def test_steps_with_it_tell_kinds_of_images_apart(cpu_ranks, mode):
    config = CONFIG.with_options(step=mode, lr_d=3e-3, codes="cat3", warp="rotate=10,shift=0.05")
    step = Step(config, config.spec(), cpu_ranks("no"))
    draw = torch.Generator().manual_seed(0)
    kinds = torch.zeros(3, 1, 8, 8)
    kinds[0, :, :, :3], kinds[1, :, 5:], kinds[2, :, 3:5, 3:5] = 1, 1, 1
    real = (kinds.repeat(16, 1, 1, 1) + 0.1 * torch.rand(48, 1, 8, 8, generator=draw)).clamp(0, 1)
    told = [float(step(n, real)[0].real_information) for n in range(60)]
    assert told[0] < 0.3
    assert sum(told[-5:]) / 5 > 0.9 * math.log(3)


def test_without_it_no_image_is_warped(cpu_ranks, monkeypatch):
    monkeypatch.setattr(Warp, "__call__", lambda *_, **__: pytest.fail("an image was warped"))
    step = Step(CONFIG.with_options(real_info=0.0), SPEC, cpu_ranks("no"))
    assert float(step(0, torch.rand(8, 1, 8, 8))[0].real_information) == 0


# Virtual adversarial copies


class Linear(torch.nn.Module):
    """A discriminator whose logits are linear in the image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def trunk(self, images: Tensor, stats: str) -> Tensor:
        assert stats == "batch"
        return images.flatten(1)

    def q(self, features: Tensor, stats: str) -> Tensor:
        return features @ self.weight.T


def linear_case():
    draw = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(4, 16, generator=draw, dtype=torch.float64)
    images = torch.rand(5, 1, 4, 4, generator=draw, dtype=torch.float64)
    probes = torch.randn(5, 1, 4, 4, generator=draw)
    return Linear(weight), images, probes


def divergence(network, images: Tensor, moved: Tensor) -> Tensor:
    """KL of the first three columns, row by row."""
    p, q = ((10 * network.q(x.flatten(1), "batch")[:, :3]).softmax(1) for x in (images, moved))
    return (p * (p / q).log()).sum(1)


def test_the_adversarial_change_is_nearly_the_worst_of_its_length():
    network, images, probes = linear_case()
    terms = RealTerms(categories=slice(0, 3), vat=1.0, radius=0.3)
    q = network.q(images.flatten(1), "batch")
    found = terms.adversarial(network, images, q, probes).detach()
    draw = torch.Generator().manual_seed(1)
    others = torch.randn(2000, *images.shape, generator=draw, dtype=torch.float64)
    others = 0.3 * others / others.flatten(2).norm(dim=2).view(2000, 5, 1, 1, 1)
    tried = torch.stack([divergence(network, images, images + r).detach() for r in others])
    assert float(found) > float(tried.mean(1).max())
    # and no better than the best of each row that gradient ascent finds
    r = others[tried.argmax(0), torch.arange(5)].clone()
    for _ in range(500):
        r.requires_grad_()
        (slope,) = torch.autograd.grad(divergence(network, images, images + r).sum(), r)
        r = (r + slope).detach()
        r = 0.3 * r / r.flatten(1).norm(dim=1).view(5, 1, 1, 1)
    best = float(divergence(network, images, images + r).mean().detach())
    assert 0.6 * best < float(found) <= best * (1 + 1e-9)


def test_its_gradient_goes_to_the_copies_and_not_to_the_target_or_the_search():
    network, images, probes = linear_case()
    terms = RealTerms(categories=slice(0, 3), vat=1.0, radius=0.3)
    q = network.q(images.flatten(1), "batch")
    found = terms.adversarial(network, images, q, probes)
    (got,) = torch.autograd.grad(found, network.weight)
    # found again by hand, with the target and the change as constants
    start = (images + PROBE * probes / probes.flatten(1).norm(dim=1).view(5, 1, 1, 1)).double()
    start.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(network, images, start).mean(), start)
    moved = images + 0.3 * slope / slope.flatten(1).norm(dim=1).view(5, 1, 1, 1)
    target = (10 * q[:, :3]).softmax(1).detach()
    log_q = (10 * network.q(moved.flatten(1), "batch")[:, :3]).log_softmax(1)
    loss = (target * (target.log() - log_q)).sum(1).mean()
    (expected,) = torch.autograd.grad(loss, network.weight)
    torch.testing.assert_close(got, expected)
    assert float(got[3].abs().max()) == 0


@pytest.mark.parametrize("mode", ["together", "apart", "shared"])
def test_it_is_added_for_its_weight_to_d_s_loss_alone(mode):
    probes = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    terms = RealTerms(2.0, slice(1, 4), vat=3.0, radius=0.5)
    discriminator, real, _, grads, _ = of_step(terms, mode, probes)
    _, _, _, without, _ = of_step(terms, mode)
    alone = replace(terms, weight=0.0)
    *_, lone, _ = of_step(alone, mode, probes, warp=False)
    *_, none, _ = of_step(alone, mode, warp=False)
    buffers = {k: v.clone() for k, v in discriminator.named_buffers()}
    on_real = discriminator(real, "batch")[1]
    loss = 3 * terms.adversarial(discriminator, real, on_real, probes)
    assert all(torch.equal(buffers[k], v) for k, v in discriminator.named_buffers())
    truth = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
    for (got, base), t in zip(
        [*zip(grads, without, strict=True), *zip(lone, none, strict=True)], truth * 2, strict=True
    ):
        extra = torch.zeros_like(base) if t is None else t
        torch.testing.assert_close(got - base, extra, atol=1e-9, rtol=1e-7)


def test_the_copies_are_looked_for_from_vat_start_to_vat_stop(cpu_ranks, monkeypatch):
    config = CONFIG.with_options(vat=1.0, vat_start=2, vat_stop=4)
    step = Step(config, SPEC, cpu_ranks("no"))
    seen = []
    eager = step._gradients.d

    def d(*args):
        seen.append(args[3])
        return eager(*args)

    monkeypatch.setattr(step, "_gradients", step._gradients._replace(d=d))
    real = torch.rand(8, 1, 8, 8)
    for n in range(5):
        step(n, real)
    assert [probes is None for probes in seen] == [True, True, False, False, True]
    assert set(seen[2].unique().tolist()) == {-1, 1}
    assert not torch.equal(seen[2], seen[3])


def test_rows_of_probes_depend_on_their_place_in_the_global_batch_alone(cpu_ranks):
    step = Step(CONFIG.with_options(vat=1.0), SPEC, cpu_ranks("no"))

    def probes(rows: int, at: int | Tensor = 3) -> Tensor:
        found = step._copies(at, torch.rand(rows, 1, 8, 8), True)[1]
        assert found is not None
        return found

    whole = probes(8)
    step.ranks.rank = 1
    assert torch.equal(probes(4), whole[4:])
    assert torch.equal(probes(4, torch.tensor(3)), whole[4:])
