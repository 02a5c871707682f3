"""Gradients of one update against a textbook's, and what computing them leaves alone."""

import copy

import pytest
import torch
from helpers.small_pair import (
    ROUTINGS,
    WEIGHTS,
    assert_equal_to_rounding,
    assert_same_buffers,
    assert_same_terms,
    bce,
    buffers,
    differing,
    images,
    latent,
    leaves,
    named,
    objective,
    of_both,
    of_d,
    of_g,
    pair,
    textbook_d,
    textbook_g,
    textbook_generator,
    textbook_logit,
    textbook_nll,
    textbook_trunk,
    unchanged,
)

from fastinfogan.config import Routing
from fastinfogan.training import gradients
from fastinfogan.training.gradients import generate
from fastinfogan.training.step import (
    d_grads,
    g_grads,
    shared_grads,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
        for actual, expected in (
            (d.loss, bce(real_logit, True) + bce(fake_logit, False)),
            (d.real, real_logit.sigmoid().mean()),
            (d.fake, fake_logit.sigmoid().mean()),
            (d.nll, nll),
            (g.loss, bce(fake_logit, True)),
            (g.nll, nll),
        ):
            # values of order 1 in fp64
            torch.testing.assert_close(actual, expected.detach(), rtol=1e-11, atol=0)
            assert not actual.requires_grad

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
            assert all(torch.equal(a, b) for a, b in zip(terms[:-1], same[:-1], strict=True))


class TestPasses:
    """Fewer passes through the networks, the same gradients."""

    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_one_pass_of_d_over_both_batches_is_two_passes(self, routing, monkeypatch):
        one, two = pair(), pair()
        start = buffers(one.discriminator)
        grads, terms = of_d(one, routing)

        def apart(trunk, kinds, stats):
            return tuple(trunk(x, s) for x, s in zip(kinds, stats, strict=True))

        monkeypatch.setattr(gradients, "_pass", apart)
        expected, same = of_d(two, routing)
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
    """The parameters whose gradient differs between λ = 0 and λ = 1."""

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
    def test_ds_output_for_fakes_does_not_depend_on_the_real_batch_nor_the_reverse(self, routing):
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
