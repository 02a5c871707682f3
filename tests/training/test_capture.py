"""Capture and replay, with a stand-in for CUDA: what is copied, restored, compared, given up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import runs
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastinfogan.config import TrainConfig
from fastinfogan.train import main
from fastinfogan.training import capture, step
from fastinfogan.training.capture import Captured, CaptureFailed, restore
from fastinfogan.training.policy import Policy, choose
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="cat3*0.5,uniform*2,bernoulli"
)
SPEC = CONFIG.spec()


class Recorded:
    """A replay that does the work again, into the memory of the first result, as a graph does."""

    replays = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        work()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = work()

        def replay() -> None:
            Recorded.replays += 1
            result.copy_(work())

        return replay, result


class Refused(Recorded):
    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")


class Wrong(Recorded):
    """A graph that lost part of the work."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, work()


def count_up(state: Tensor) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        state.add_(x)
        return state * 2

    return function


class TestCaptured:
    def test_making_it_leaves_the_state_as_it_was_where_it_was(self):
        state = torch.tensor([1.0, 2.0])
        place = state.data_ptr()
        Captured(count_up(state), [state], [torch.ones(2)], Recorded())
        assert state.tolist() == [1, 2]
        assert state.data_ptr() == place

    def test_a_replay_does_what_the_function_does_on_the_inputs_of_the_moment(self):
        state = torch.zeros(2)
        captured = Captured(count_up(state), [state], [torch.ones(2)], Recorded())
        assert captured(torch.tensor([1.0, 5.0])).tolist() == [2, 10]
        assert captured(torch.tensor([1.0, 1.0])).tolist() == [4, 12]
        assert state.tolist() == [2, 6]

    def test_a_number_is_an_input_too(self):
        state = torch.zeros(())
        captured = Captured(count_up(state), [state], [torch.zeros(())], Recorded())
        assert float(captured(3)) == 6

    def test_results_are_the_callers_and_outlive_the_next_replay(self):
        state = torch.zeros(2)
        captured = Captured(count_up(state), [state], [torch.ones(2)], Recorded())
        first = captured(torch.ones(2))
        captured(torch.ones(2))
        assert first.tolist() == [2, 2]

    def test_the_callers_input_is_neither_kept_nor_written(self):
        state, example = torch.zeros(2), torch.ones(2)
        captured = Captured(count_up(state), [state], [example], Recorded())
        captured(torch.full((2,), 7.0))
        assert example.tolist() == [1, 1]

    def test_a_capture_that_fails_says_why_in_one_line_and_restores_the_state(self):
        state = torch.zeros(2)
        with pytest.raises(CaptureFailed, match=r"^operation not permitted .* capturing$"):
            Captured(count_up(state), [state], [torch.ones(2)], Refused())
        assert state.tolist() == [0, 0]

    def test_so_does_a_warm_up_that_fails(self):
        class Full(Recorded):
            def warm_up(self, work: Callable[[], object]) -> None:
                work()
                raise RuntimeError("out of memory")

        state = torch.zeros(2)
        with pytest.raises(CaptureFailed, match=r"^out of memory$"):
            Captured(count_up(state), [state], [torch.ones(2)], Full())
        assert state.tolist() == [0, 0]

    def test_a_replay_that_does_not_do_the_work_is_detected(self):
        state = torch.zeros(2)
        with pytest.raises(CaptureFailed, match="a replay differs"):
            Captured(count_up(state), [state], [torch.ones(2)], Wrong())
        assert state.tolist() == [0, 0]

    def test_a_replay_that_does_half_of_the_work_is_detected(self):
        class Half(Recorded):
            """A graph without what the function does to the second tensor, and that is little."""

            def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
                result = work()

                def replay() -> None:
                    kept = second.clone()
                    result.copy_(work())
                    second.copy_(kept)

                return replay, result

        first, second = torch.zeros(50), torch.full((50,), 100.0)

        def function(x: Tensor) -> Tensor:
            first.add_(x)
            second.add_(0.001 * x)
            return first * 2

        with pytest.raises(CaptureFailed, match=r"a replay differs .* by 1 of it$"):
            Captured(function, [first, second], [torch.ones(50)], Half())

    def test_a_few_signs_that_rounding_turns_are_no_difference(self):
        """Adam's first step is ± the rate, be the gradient 1 or 1e-12."""
        runs = 0

        def function(x: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            gradient = x.clone()
            gradient[0] = 1e-12 * (-1) ** runs
            state.sub_(0.001 * gradient.sign())
            return gradient

        state = torch.zeros(50)
        Captured(function, [state], [torch.ones(50)], Recorded())

    @pytest.mark.parametrize("graphs", [Recorded, Refused, Wrong])
    def test_no_rank_replays_when_another_rank_cannot(self, graphs):
        """Behave after a comparison as after a capture that this rank alone brought about."""
        for of_rounds in (["no memory", ""], ["", "a replay differs"]):
            state, rounds = torch.zeros(2), iter(of_rounds)
            output: list[str] = []

            def agree(mine: str, output: list[str] = output, rounds=rounds) -> str:
                output.append(mine)
                return next(rounds) or mine

            with pytest.raises(CaptureFailed):
                Captured(count_up(state), [state], [torch.ones(2)], graphs(), agree)
            assert state.tolist() == [0, 0]
            stopped_at_once = graphs is Refused or of_rounds[0]
            assert len(output) == (1 if stopped_at_once else 2)  # as many rounds on every rank

    def test_restored_puts_back_what_an_exception_left(self):
        state = torch.zeros(2)

        def fail() -> None:
            with restore([state]):
                state.add_(1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert state.tolist() == [0, 0]


def everything(s: Step) -> list[Tensor]:
    return [t.clone() for t in s._state()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def batch(n: int) -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(n))


@pytest.fixture
def captured_step(cpu_ranks, monkeypatch):
    def make(graphs: type, **changes) -> tuple[Step, Step]:
        """Return (a step that captures, the same run eagerly)."""
        monkeypatch.setattr(capture, "CudaGraphs", graphs)
        ranks, config = cpu_ranks(changes.pop("precision", "bf16")), CONFIG.with_options(**changes)
        dtype = choose(config, ranks).dtype
        return Step(config, SPEC, ranks, Policy(dtype, capture=True)), Step(config, SPEC, ranks)

    return make


class TestStep:
    @pytest.mark.quick_cases(2)
    @pytest.mark.parametrize("mode", ["alternating", "reused", "shared"])
    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_a_captured_run_is_the_eager_run_bit_for_bit(self, captured_step, mode, precision):
        copies: dict[str, Any] = {"vat": 1.0, "vat_start": 2, "vat_stop": 4, "upright": 1.0}
        copies |= {"gan_start": 3, "lr_start": 2**-7, "lr_start_decay": 1}  # upright has it too
        copies |= {"q_trunk": "fixed"}
        captured, eager = captured_step(Recorded, step=mode, precision=precision, **copies)
        before = everything(captured)
        assert captured.prepare(batch(0)) == []
        assert same(before, everything(captured))
        replays = Recorded.replays
        for n in range(6):
            ours, theirs = captured(n, batch(n)), eager(n, batch(n))
            assert same(tree_leaves(ours), tree_leaves(theirs))
            assert ours.d.terms.keys() == theirs.d.terms.keys()
        assert Recorded.replays == replays + 6
        assert same(everything(captured), everything(eager))

    def test_weights_written_from_outside_are_what_a_replay_goes_on_with(self, captured_step):
        """Load weights before or after the capture, as a checkpoint or rank 0's broadcast does."""
        captured, eager = captured_step(Recorded)
        captured.prepare(batch(0))
        for s in (captured, eager):
            with torch.no_grad():
                for p in s.networks.generator.parameters():
                    p.mul_(1.5)
            s.refresh()
            s(0, batch(0))
        assert same(everything(captured), everything(eager))

    @pytest.mark.parametrize("graphs", [Refused, Wrong])
    def test_a_run_that_cannot_be_captured_goes_on_eagerly_and_says_so(self, captured_step, graphs):
        captured, eager = captured_step(graphs)
        (line,) = captured.prepare(batch(0))
        assert line.startswith("the update runs without a CUDA graph: ")
        assert "\n" not in line
        assert not captured.policy.capture
        assert captured.policy.reason.startswith("not captured: ")
        for n in range(2):
            captured(n, batch(n)), eager(n, batch(n))
        assert same(everything(captured), everything(eager))


def test_the_warm_up_s_stream_and_the_current_one_wait_for_each_other(monkeypatch):
    calls: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            calls.append(f"{self.name} waits for {other.name}")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("current"))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("host waits"))
    capture.CudaGraphs().warm_up(lambda: calls.append("work"))
    assert calls == ["side waits for current", "work", "current waits for side", "host waits"]


@pytest.mark.slow
def test_a_captured_run_is_saved_and_resumed_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = runs.write_images(tmp_path / "images.npz")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    plain, whole, halves = (tmp_path / name for name in ("plain", "whole", "halves"))
    assert main(runs.command(images, plain, "--steps", "6")) == 0
    monkeypatch.setattr(capture, "CudaGraphs", Recorded)
    monkeypatch.setattr(
        step, "choose", lambda *_: Policy(torch.bfloat16, capture=True, reason="a test")
    )
    assert main(runs.command(images, whole, "--steps", "6")) == 0
    assert main(runs.command(images, halves, "--steps", "3")) == 0
    assert main(runs.command(images, halves, "--steps", "6")) == 0
    runs.assert_same_run(whole, halves, 6)
    assert '"captured": true' in (whole / "environment.json").read_text()
