"""Virtual adversarial training: the worst change, the term's gradient, when it is active."""

import pytest
import torch
from helpers.terms import CONFIG, MODES, SPEC, assert_adds, random_images
from torch import Tensor

from fastinfogan.terms.invariance import Invariance
from fastinfogan.terms.protocol import Address, Extra
from fastinfogan.terms.vat import PROBE_LENGTH, Probes, VirtualAdversarial
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")


class Linear(torch.nn.Module):
    """A discriminator whose logits are linear in the image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def q_trunk(self, images: Tensor, stats: str) -> Tensor:
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
    """Return the KL of the first three columns, row by row."""
    p, q = ((10 * network.q(x.flatten(1), "batch")[:, :3]).softmax(1) for x in (images, moved))
    return (p * (p / q).log()).sum(1)


def test_the_adversarial_change_is_nearly_the_worst_of_its_length():
    network, images, probes = linear_case()
    term = VirtualAdversarial(1.0, slice(0, 3), 0.3)
    q = network.q(images.flatten(1), "batch")
    result = term.divergence(network, images, q, probes).detach()
    draw = torch.Generator().manual_seed(1)
    others = torch.randn(2000, *images.shape, generator=draw, dtype=torch.float64)
    others = 0.3 * others / others.flatten(2).norm(dim=2).view(2000, 5, 1, 1, 1)
    tried = torch.stack([divergence(network, images, images + r).detach() for r in others])
    assert float(result) > float(tried.mean(1).max())
    # and no better than the best of each row that gradient ascent finds
    r = others[tried.argmax(0), torch.arange(5)].clone()
    for _ in range(500):
        r.requires_grad_()
        (slope,) = torch.autograd.grad(divergence(network, images, images + r).sum(), r)
        r = (r + slope).detach()
        r = 0.3 * r / r.flatten(1).norm(dim=1).view(5, 1, 1, 1)
    best = float(divergence(network, images, images + r).mean().detach())
    assert 0.6 * best < float(result) <= best * (1 + 1e-9)


def test_the_gradient_reaches_the_copies_and_not_the_target_or_the_search():
    network, images, probes = linear_case()
    term = VirtualAdversarial(1.0, slice(0, 3), 0.3)
    q = network.q(images.flatten(1), "batch")
    result = term.divergence(network, images, q, probes)
    (actual,) = torch.autograd.grad(result, network.weight)
    # found again by hand, with the target and the change as constants
    start = (
        images + PROBE_LENGTH * probes / probes.flatten(1).norm(dim=1).view(5, 1, 1, 1)
    ).double()
    start.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(network, images, start).mean(), start)
    moved = images + 0.3 * slope / slope.flatten(1).norm(dim=1).view(5, 1, 1, 1)
    target = (10 * q[:, :3]).softmax(1).detach()
    log_q = (10 * network.q(moved.flatten(1), "batch")[:, :3]).log_softmax(1)
    loss = (target * (target.log() - log_q)).sum(1).mean()
    (expected,) = torch.autograd.grad(loss, network.weight)
    torch.testing.assert_close(actual, expected)
    assert float(actual[3].abs().max()) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alone", [True, False])
def test_vat_is_added_with_its_weight_to_ds_loss(mode, alone):
    real, warped = random_images(2)
    probes = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    term = VirtualAdversarial(3.0, slice(1, 4), 0.5)
    others = [] if alone else [Invariance(2.0, slice(1, 4), WarpedCopies(Warp(), 0.0))]
    extras = [] if alone else [Extra((warped,), (torch.zeros(8, 6),))]
    values = []

    def loss(discriminator) -> Tensor:
        q = discriminator(real, "batch")[1]
        value = term.divergence(discriminator, real, q, probes)
        values.append(value.item())
        return 3.0 * value

    extras = [*extras, Extra(tensors=(probes,))]
    record = assert_adds(mode, real, [*others, term], extras, loss, without=others)
    assert record.terms["vat"].item() == pytest.approx(values[0])


def test_vat_is_active_from_its_start_to_its_stop(cpu_ranks, monkeypatch):
    config = CONFIG.with_options(vat=1.0, vat_start=2, vat_stop=4)
    step, probes = Step(config, SPEC, cpu_ranks("no")), []
    make = Probes.__call__

    def recorded(*args) -> Extra:
        extra = make(*args)
        probes.append(extra.tensors[0])
        return extra

    monkeypatch.setattr(Probes, "__call__", recorded)
    logged = [step(n, torch.rand(8, 1, 8, 8)).d.terms.get("vat") for n in range(5)]
    assert [value is None for value in logged] == [True, True, False, False, True]
    assert len(probes) == 2
    assert set(probes[0].unique().tolist()) == {-1, 1}
    assert not torch.equal(*probes)


def test_rows_of_probes_depend_on_their_place_in_the_global_batch_alone():
    def probes(rows: int, first: int, step: int | Tensor = 3) -> Tensor:
        return Probes()(torch.rand(rows, 1, 8, 8), Address(0, step, first)).tensors[0]

    whole = probes(8, 0)
    assert torch.equal(probes(4, 4), whole[4:])
    assert torch.equal(probes(4, 4, torch.tensor(3)), whole[4:])
    assert not torch.equal(probes(4, 0), whole[4:])
