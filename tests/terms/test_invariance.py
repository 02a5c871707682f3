"""The mutual information of two predictions, and the term that maximises it on real images."""

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from helpers.terms import CONFIG, MODES, SPEC, assert_adds, random_images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.errors import UserError
from fastinfogan.terms.invariance import Anchor, Centre, Invariance, mutual_information
from fastinfogan.terms.protocol import Extra, Seen
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import Step, build_terms

pytestmark = pytest.mark.usefixtures("one_thread")

WITH = CONFIG.with_options(real_info=2.0)
WARPED = WarpedCopies(Warp(), 0.0)
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
    result = mutual_information(one_hot[a], one_hot[b], balance=1.0)
    truth = mutual_info_score(a.numpy(), b.numpy())
    assert float(result.nats) == pytest.approx(truth, abs=1e-5)
    assert float(result.objective) == pytest.approx(truth, abs=1e-5)


def test_the_most_there_is_is_log_k_and_independent_predictions_give_nothing():
    one_hot = torch.eye(10, dtype=torch.float64).repeat(7, 1)
    assert float(mutual_information(one_hot, one_hot).nats) == pytest.approx(math.log(10), abs=1e-5)
    even = torch.full((70, 10), 0.1, dtype=torch.float64)
    assert float(mutual_information(even, one_hot).nats) == pytest.approx(0.0, abs=1e-9)


def test_the_term_is_symmetric_in_the_two_copies():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    assert mutual_information(a, b) == mutual_information(b, a)


def test_balance_weighs_the_entropy_of_the_categories():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    joint = (a.T @ b + b.T @ a) / 60
    entropy = -(joint.sum(0) * joint.sum(0).log()).sum()
    of_one, of_three = (mutual_information(a, b, balance=w) for w in (1.0, 3.0))
    assert of_one.nats == of_three.nats == of_one.objective
    assert float(of_three.objective - of_one.objective) == pytest.approx(4 * float(entropy))


def test_the_gradient_is_right_and_finite_when_a_category_is_never_used():
    a, b = predictions(4, 6, 0).requires_grad_(), predictions(4, 6, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mutual_information(a, b).objective, (a, b))
    logits = torch.tensor([[0.0, 0.0, -1e4]] * 5, requires_grad=True)
    result = mutual_information(logits.softmax(1), logits.softmax(1)).objective
    assert torch.autograd.grad(result, logits)[0].isfinite().all()


def test_the_term_is_refused_without_a_category_and_when_q_would_not_learn_it():
    with pytest.raises(UserError, match="categorical"):
        config_module.check(WITH.with_options(codes="uniform"))
    with pytest.raises(UserError, match="needs a uniform or gaussian code"):
        config_module.check(WITH.with_options(follow=1.0, codes="cat3"))
    config_module.check(WITH.with_options(follow=1.0, codes="cat3,uniform", warp="shear=0.1"))
    with pytest.raises(UserError, match="changes no slant and no width"):
        config_module.check(WITH.with_options(follow=1.0, warp="shift=0.1", codes=TWO))
    for followed, message in (("", "got none"), ("slant,turn", "got 'turn'"), ("x,x", "got 'x'")):
        with pytest.raises(UserError, match=f"^--follow.changes: .*{message}"):
            config_module.check(WITH.with_options(follow=1.0, followed=followed, codes=TWO))
    config_module.check(WITH.with_options(follow=1.0, followed="y", warp="shift=0.1"))
    for followed, message in (("size", "no size"), ("stretch", "no stretch")):
        config_module.check(WITH.with_options(follow=1.0, followed=followed, warp="scale=0.1"))
        with pytest.raises(UserError, match=f"changes {message}"):
            config_module.check(WITH.with_options(follow=1.0, followed=followed, warp="shift=0.1"))
    none = WITH.with_options(real_info=0.0, routing="generator-step", codes=TWO)
    for config, option in (
        (none.with_options(real_info=1.0), "--invariance.weight"),
        (none.with_options(follow=1.0), "--follow.weight"),
        (none.with_options(vat=1.0), "--vat.weight"),
    ):
        with pytest.raises(UserError, match=f"^{option}: .*--routing openai"):
            config_module.check(config)
    with pytest.raises(UserError, match=r"^--vat.stop: .* more than --vat.start 7, got 7"):
        config_module.check(WITH.with_options(vat_start=7, vat_stop=7))


# In the step


@pytest.mark.parametrize("mode", MODES)
def test_invariance_adds_its_weight_times_its_gradient_to_ds(mode):
    real, warped = random_images(2)
    term = Invariance(2.0, slice(1, 4), WARPED)
    values = []

    def loss(discriminator) -> Tensor:
        first, second = (discriminator(x, "batch")[1][:, 1:4] for x in (real, warped))
        information = mutual_information((10 * first).softmax(1), (10 * second).softmax(1))
        values.append(information.nats.item())
        return -2.0 * information.objective

    record = assert_adds(mode, real, [term], [Extra((warped,), (torch.zeros(8, 6),))], loss)
    assert record.terms["invariance"].item() == pytest.approx(values[0])


def test_standardised_information_does_not_depend_on_how_sharp_the_logits_are():
    """Under spectral normalisation they differ by hundredths at the start of a run."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 5, generator=draw, dtype=torch.float64)
    copies = logits + 0.3 * torch.randn(16, 5, generator=draw, dtype=torch.float64)
    term = Invariance(2.0, slice(1, 4), WARPED, standardise=True)

    def of(scale: float) -> tuple[Tensor, Tensor | None]:
        q, copy = (3 + scale * x for x in (logits, copies))
        return term.loss(cast(Seen, SimpleNamespace(q=q, q_extra=(copy,))))

    for actual, expected in zip(of(1e-3), of(1.0), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    parts = torch.cat((logits, copies))[:, 1:4]
    standard = 2 * (parts - parts.mean(0)) / (parts - parts.mean(0)).square().mean().sqrt()
    first, second = standard.softmax(1).chunk(2)
    nats = of(1.0)[1]
    assert nats is not None
    assert nats.item() == pytest.approx(mutual_information(first, second).nats.item(), abs=1e-9)


def test_equal_logits_have_finite_gradients_when_they_are_standardised():
    """Those of one image and a copy that no warp changed."""
    q = torch.ones(1, 4, requires_grad=True)
    term = Invariance(2.0, slice(1, 4), WARPED, standardise=True)
    loss, _ = term.loss(cast(Seen, SimpleNamespace(q=q, q_extra=(q,))))
    loss.backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_logits_are_standardised_under_spectral_normalisation_or_where_the_option_says_so(
    spectral_norm,
):
    expectations = {"auto": spectral_norm, "sharp": False, "standard": True}
    expectations |= {"anchored": True, "centred": True}
    for logits, expected in expectations.items():
        config = WITH.with_options(spectral_norm=spectral_norm, invariance_logits=logits)
        term, *others = build_terms(config, config.spec(), 0.0)
        assert isinstance(term, Invariance)
        assert term.standardise is expected
        more: dict[str, list[type]] = {"anchored": [Anchor], "centred": [Anchor, Centre]}
        assert others == [kind(term.categories) for kind in more.get(logits, [])]


def test_every_categorical_code_adds_its_information_where_the_option_says_all():
    config = WITH.with_options(codes="cat3,uniform,cat2,cat5*0")
    spec = config.spec()
    draw = torch.Generator().manual_seed(0)
    width = spec.slots[-1].q.stop
    seen = SimpleNamespace(
        q=torch.randn(16, width, generator=draw), q_extra=(torch.randn(16, width, generator=draw),)
    )
    columns = [slot.q for slot, name in zip(spec.slots, spec.names, strict=True) if "cat" in name]
    assert len(columns) == 3

    def of(*slices: slice) -> tuple[float, float]:
        results = []
        for one in slices:
            first, second = ((10 * x[:, one]).softmax(1) for x in (seen.q, *seen.q_extra))
            results.append(mutual_information(first, second))
        return -2 * sum(result.objective.item() for result in results), results[0].nats.item()

    for codes, slices in (("first", columns[:1]), ("all", columns)):
        (term,) = build_terms(config.with_options(invariance_codes=codes), spec, 0.0)
        loss, nats = term.loss(cast(Seen, seen))
        assert nats is not None
        assert (loss.item(), nats.item()) == pytest.approx(of(*slices))


class TestAnchor:
    @staticmethod
    def logits(scale):
        draw = torch.Generator().manual_seed(0)
        centred = torch.randn(16, 4, generator=draw, dtype=torch.float64)
        centred = centred - centred.mean(0)
        return (scale * centred / centred[:, 1:4].square().mean().sqrt()).requires_grad_()

    @pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 100.0])
    def test_the_deviation_on_real_images_is_drawn_to_two(self, scale):
        q = self.logits(scale)
        loss, logged = Anchor(slice(1, 4)).loss(cast(Seen, SimpleNamespace(q=q)))
        away = abs(math.log(scale / 2))
        assert loss.item() == pytest.approx(away**2 / 2 if away < 1 else away - 0.5, abs=1e-6)
        assert logged is not None
        assert logged.item() == pytest.approx(scale, rel=1e-6)
        (slope,) = torch.autograd.grad(loss, q)
        assert not slope[:, 0].any()
        assert math.copysign(1, (slope * q).sum().item()) == (1 if scale > 2 else -1)

    def test_equal_logits_have_finite_gradients(self):
        q = torch.ones(2, 4, requires_grad=True)
        loss, _ = Anchor(slice(1, 4)).loss(cast(Seen, SimpleNamespace(q=q)))
        loss.backward()
        assert q.grad is not None
        assert q.grad.isfinite().all()

    def test_it_acts_in_the_game_alone(self, cpu_ranks):
        config = WITH.with_options(invariance_logits="anchored", gan_start=1)
        step = Step(config, SPEC, cpu_ranks("no"))
        images = torch.rand(8, 1, 8, 8)
        assert [set(step(n, images).d.terms) for n in range(2)] == [
            {"invariance"},
            {"invariance", "anchor"},
        ]


class TestCentre:
    def test_the_means_of_categories_are_drawn_together_whatever_the_logits_scale(self):
        draw = torch.Generator().manual_seed(0)
        q = torch.randn(16, 4, generator=draw, dtype=torch.float64)
        q = q + torch.tensor([9.0, 0.5, 0.0, -1.0], dtype=torch.float64)
        of_three = q[:, 1:4]
        means = of_three.mean(0)
        expected = means.var(correction=0) / (of_three - means).square().mean()
        for scale in (0.01, 1.0, 100.0):
            scaled = (scale * q).requires_grad_()
            loss, logged = Centre(slice(1, 4)).loss(cast(Seen, SimpleNamespace(q=scaled)))
            assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
            assert logged is not None
            assert logged.item() == pytest.approx(expected.sqrt().item(), rel=1e-3)
            (slope,) = torch.autograd.grad(loss, scaled)
            assert not slope[:, 0].any()
            assert torch.equal(slope, slope[:1].expand_as(slope))  # no image moves by itself
            assert slope[0, 1] > 0
            assert slope[0, 3] < 0

    def test_a_mean_that_all_categories_share_counts_for_nothing(self):
        """The softmax does not see it."""
        q = (torch.eye(4) + 7).requires_grad_()
        loss, _ = Centre(slice(0, 4)).loss(cast(Seen, SimpleNamespace(q=q)))
        assert loss.item() == pytest.approx(0.0, abs=1e-6)

    def test_equal_logits_have_finite_gradients(self):
        q = torch.ones(2, 4, requires_grad=True)
        loss, logged = Centre(slice(1, 4)).loss(cast(Seen, SimpleNamespace(q=q)))
        loss.backward()
        assert logged is not None
        assert logged.isfinite()
        assert q.grad is not None
        assert q.grad.isfinite().all()

    def test_it_acts_in_the_game_alone(self, cpu_ranks):
        config = WITH.with_options(invariance_logits="centred", gan_start=1)
        step = Step(config, SPEC, cpu_ranks("no"))
        images = torch.rand(8, 1, 8, 8)
        assert [set(step(n, images).d.terms) for n in range(2)] == [
            {"invariance"},
            {"invariance", "centre", "anchor"},
        ]


def test_the_first_categorical_code_has_the_term():
    config = WITH.with_options(codes="bernoulli,uniform,cat3,cat4,gaussian2:learned")
    (term,) = build_terms(config, config.spec(), 0.0)
    assert isinstance(term, Invariance)
    assert (term.weight, term.categories) == (2.0, slice(2, 5))
    assert build_terms(CONFIG, SPEC, 0.0) == ()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("mode", MODES)
def test_steps_with_invariance_separate_kinds_of_images(cpu_ranks, mode):
    config = WITH.with_options(step=mode, lr_d=3e-3, codes="cat3", warp="rotate=10,shift=0.05")
    step = Step(config, config.spec(), cpu_ranks("no"))
    draw = torch.Generator().manual_seed(0)
    kinds = torch.zeros(3, 1, 8, 8)
    kinds[0, :, :, :3], kinds[1, :, 5:], kinds[2, :, 3:5, 3:5] = 1, 1, 1
    real = (kinds.repeat(16, 1, 1, 1) + 0.1 * torch.rand(48, 1, 8, 8, generator=draw)).clamp(0, 1)
    nats = [float(step(n, real).d.terms["invariance"]) for n in range(60)]
    assert nats[0] < 0.3
    assert sum(nats[-5:]) / 5 > 0.9 * math.log(3)


def test_without_it_no_image_is_warped(cpu_ranks, monkeypatch):
    monkeypatch.setattr(Warp, "__call__", lambda *_, **__: pytest.fail("an image was warped"))
    step = Step(CONFIG, SPEC, cpu_ranks("no"))
    assert step(0, torch.rand(8, 1, 8, 8)).d.terms == {}
