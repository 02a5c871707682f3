"""Pseudo-labels: the term's value, whose gradient it has, which images count, when it is active."""

import pytest
import torch
from helpers.terms import CONFIG, MODES, SPEC, assert_adds, random_images
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.errors import UserError
from fastinfogan.latents import LatentBatch
from fastinfogan.terms.invariance import LOGIT_STD, SHARPNESS, Invariance
from fastinfogan.terms.protocol import Address, Extra, Seen
from fastinfogan.terms.pseudo_labels import PseudoLabels
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

COLUMNS = slice(1, 4)
WARPED = WarpedCopies(Warp(), 0.0)


def cross_entropy(of_image: Tensor, of_copy: Tensor, threshold: float) -> tuple[Tensor, float]:
    """Return the mean cross entropy of rows [B, K] of scaled logits, and the share of sure ones."""
    total, n = of_copy.new_zeros(()), 0
    for image, copy in zip(of_image.detach(), of_copy, strict=True):
        p = image.softmax(0)
        if float(p.max()) >= threshold:
            total, n = total - copy.log_softmax(0)[int(p.argmax())], n + 1
    return total / len(of_image), n / len(of_image)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("standardise", [False, True])
def test_only_copies_of_images_whose_category_is_sure_have_a_gradient(mode, standardise):
    """Next to the invariance on the same copies, which are made once."""
    real, warped = random_images(2)
    threshold = 0.366 if standardise else 0.6  # some of the images pass either
    term = PseudoLabels(3.0, COLUMNS, WARPED, standardise, threshold)
    values = []

    def loss(discriminator) -> Tensor:
        first, second = (discriminator(x, "batch")[1][:, COLUMNS] for x in (real, warped))
        if standardise:
            both = torch.cat((first, second))
            both = both - both.mean(0)
            both = LOGIT_STD * both / both.square().mean().sqrt()
            first, second = both.chunk(2)
        else:
            first, second = SHARPNESS * first, SHARPNESS * second
        entropy, share = cross_entropy(first, second, threshold)
        values.append(share)
        return 3.0 * entropy

    terms = [Invariance(0.0, COLUMNS, WARPED), term]
    record = assert_adds(mode, real, terms, [Extra((warped,), ())], loss)
    assert 0 < values[0] < 1
    assert record.terms["pseudo_labels"].item() == pytest.approx(values[0])


def test_the_images_own_category_has_no_gradient():
    q = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    copies = q.detach().clone().requires_grad_()
    none = q.new_zeros(0, 4)
    latents = LatentBatch(none, none.long(), none)
    seen = Seen(None, None, none, none, latents, q, none, none, (copies,))  # type: ignore[arg-type]
    loss, _ = PseudoLabels(1.0, COLUMNS, WARPED, threshold=0.5).loss(seen)
    loss.backward()
    assert q.grad is None
    assert copies.grad is not None
    assert float(copies.grad.abs().max()) > 0


def test_pseudo_labels_are_active_from_their_start(cpu_ranks):
    config = CONFIG.with_options(pseudo_labels_weight=1.0, pseudo_labels_start=2)
    step = Step(config, SPEC, cpu_ranks("no"))
    logged = [step(n, torch.rand(8, 1, 8, 8)).d.terms.get("pseudo_labels") for n in range(4)]
    assert [value is None for value in logged] == [True, True, False, False]


def test_copies_are_those_of_the_invariance_made_once(cpu_ranks, monkeypatch):
    made = []
    make = WarpedCopies.__call__

    def recorded(self, real: Tensor, at: Address) -> Extra:
        made.append(self)
        return make(self, real, at)

    monkeypatch.setattr(WarpedCopies, "__call__", recorded)
    config = CONFIG.with_options(real_info=1.0, pseudo_labels_weight=1.0)
    Step(config, SPEC, cpu_ranks("no"))(0, torch.rand(8, 1, 8, 8))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": "uniform", "pseudo_labels_weight": 1.0}, "--pseudo-labels.weight: needs a cat"),
        ({"pseudo_labels_threshold": 1.0}, "--pseudo-labels.threshold: expected .*less than 1"),
        ({"pseudo_labels_start": -1}, "--pseudo-labels.start: expected "),
        (
            {"pseudo_labels_weight": 1.0, "routing": "generator-step"},
            "--pseudo-labels.weight: Q must learn in D's step",
        ),
    ],
)
def test_options_that_no_run_can_have_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        config_module.check(CONFIG.with_options(**options))
