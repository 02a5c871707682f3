"""One update on several ranks, and under a loss scale."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from helpers.small_pair import CONFIG, MODES, SPEC, batch, differing, everything, mock_ranks, spy
from torch import Tensor

from fastinfogan.config import StepMode
from fastinfogan.parallel import Pending
from fastinfogan.philox import Stream
from fastinfogan.terms.protocol import Address
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")


class TestRanks:
    def test_ranks_take_the_rows_of_one_global_batch(self, cpu_ranks):
        whole = Step(CONFIG, SPEC, cpu_ranks()).latents(Address(0, 3, 0), Stream.D_LATENTS, 8)
        rows = []
        for rank in range(2):
            step = Step(CONFIG, SPEC, mock_ranks(rank))
            rows.append(step.latents(Address(0, 3, 4 * rank), Stream.D_LATENTS, 4))
        for a, b, both in zip(*rows, whole, strict=True):
            assert torch.equal(torch.cat((a, b)), both)

    @staticmethod
    def events(monkeypatch, mode: StepMode) -> list[str]:
        """Return what one update does, in order."""
        seen: list[str] = []

        def player(buffer: Tensor) -> str:
            return "D" if buffer.data_ptr() == step.d.flat.grad.data_ptr() else "G"

        def start_average(buffer: Tensor) -> Pending:
            assert buffer.shape in (step.d.flat.grad.shape, step.g.flat.grad.shape)
            seen.append(f"{player(buffer)}'s average starts")
            return Pending(partial(seen.append, f"{player(buffer)}'s average is there"))

        step = Step(CONFIG.with_options(step=mode), SPEC, mock_ranks(start_average=start_average))
        draw = step.latents

        def latents(*args):
            seen.append(f"{args[1].name} are drawn")
            return draw(*args)

        monkeypatch.setattr(step, "latents", latents)
        for moves, optimizer in (("D moves", step.d.optimizer), ("G moves", step.g.optimizer)):
            monkeypatch.setattr(optimizer, "step", partial(seen.append, moves))
        for name in ("d_grads", "g_grads", "shared_grads", "generate"):

            def note(_: Any, out: Any, name: str = name) -> None:
                seen.append(name)

            spy(monkeypatch, name, note)
        step(0, batch(0))
        return seen

    def test_ds_average_runs_during_gs_pass_and_ends_before_d_moves(self, monkeypatch):
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

        step = Step(CONFIG.with_options(step=mode), SPEC, mock_ranks(start_average=start_average))
        before = [p.detach().clone() for m in step.networks for p in m.parameters()]
        step(0, batch(0))
        after = [p for m in step.networks for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class TestLossScale:
    """fp16's, here on fp32, where it loses nothing."""

    @staticmethod
    def run(mode: StepMode, scale: float | None) -> Step:
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        step = Step(CONFIG.with_options(step=mode), SPEC, mock_ranks(scaler=scaler))
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
