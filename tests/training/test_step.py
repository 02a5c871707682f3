"""One update: what it moves, what a run keeps of it, and its working precision."""

import copy
from typing import Any

import pytest
import torch
from helpers.small_pair import (
    BATCH,
    CONFIG,
    MODES,
    PRECISIONS,
    ROUTINGS,
    SPEC,
    batch,
    differing,
    draw_weights,
    everything,
    named,
    spy,
    with_routing,
)
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastinfogan.latents import LatentBatch
from fastinfogan.networks.batchnorm import BatchNorm
from fastinfogan.philox import Stream
from fastinfogan.training.step import (
    Step,
    build,
    d_grads,
    g_grads,
    shared_grads,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
            step = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks(precision))
            terms = [step(n, batch(n)) for n in range(3)]
            flat = [t for record in terms for part in record for t in tree_leaves(part)]
            results.append((everything(step), flat))
        (first, first_terms), (second, second_terms) = results
        assert not differing(first, second)
        assert all(torch.equal(a, b) for a, b in zip(first_terms, second_terms, strict=True))

    def test_another_seed_gives_other_weights(self, cpu_ranks):
        ranks = cpu_ranks()
        first = everything(Step(CONFIG, SPEC, ranks))
        second = everything(Step(CONFIG.with_options(seed=1), SPEC, ranks))
        weights = {n for n in first if n.endswith("weight")}
        assert weights <= differing(first, second)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_one_update_moves_every_weight_and_every_buffer(self, cpu_ranks, precision, mode):
        step = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks(precision))
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
        step = Step(CONFIG.with_options(step="shared"), SPEC, cpu_ranks())
        apart = copy.deepcopy(step.networks)
        recorded: list[tuple[Tensor, ...]] = []
        spy(monkeypatch, "shared_grads", lambda _, out: recorded.extend((out[0], out[2])))
        step(5, batch(0))
        c = SPEC.sample(BATCH, seed=CONFIG.seed, step=5, stream=Stream.G_LATENTS)
        d_params, g_params = apart.split(CONFIG.information.routing)
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
        step = Step(CONFIG.with_options(step="reused"), SPEC, cpu_ranks())
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
        d_params, g_params = apart.split(CONFIG.information.routing)
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
        step = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks(precision))
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
        config, ranks = CONFIG.with_options(step=mode), cpu_ranks(precision)
        first, second = (Step(config.with_options(seed=s), SPEC, ranks) for s in (0, 1))
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
        before = step.d.flat.value.detach().clone(), step.g.flat.value.detach().clone()
        for n in range(2):
            step(n, batch(n))
            self.assert_rounded(step)
        for flat, start in zip((step.d.flat, step.g.flat), before, strict=True):
            assert all(
                (now != was).any()
                for now, was in zip(flat.views(flat.value), flat.views(start), strict=True)
            )

    def test_an_update_smaller_than_bf16_can_say_moves_the_weights_that_are_kept(self, cpu_ranks):
        """The fp32 copy keeps Adam's 1e-7 on a weight of 0.02: under half a unit of bf16."""
        config = CONFIG.with_options(lr_d=1e-7, lr_g=1e-7)
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

    @pytest.mark.quick_cases(1)
    @pytest.mark.parametrize("routing", ROUTINGS)
    def test_every_gradient_is_near_the_fp32_one(self, cpu_ranks, routing):
        """D's, G's and the shared step's, as Adam finds them."""
        step = Step(with_routing(routing), SPEC, cpu_ranks("bf16"))
        draw_weights(step.networks)  # at the start fakes hardly differ, and BatchNorm magnifies
        step.refresh()
        real, c = batch(0, 64), SPEC.sample(64, seed=0)
        goal, (d_params, g_params) = step.objective, step.networks.split(routing)
        truth_d = d_grads(step.networks, goal, d_params, real, c)[0]
        truth_g = g_grads(step.networks, goal, g_params, c)[0]
        d = d_grads(step.working, goal, step.d_params, real, c)[0]
        g = g_grads(step.working, goal, step.g_params, c)[0]
        shared = shared_grads(step.working, goal, step.d_params, step.g_params, real, c)
        for flat, grads, truths in (
            (step.d.flat, d, truth_d),
            (step.g.flat, g, truth_g),
            (step.d.flat, shared[0], truth_d),
            (step.g.flat, shared[2], truth_g),
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
