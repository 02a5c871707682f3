"""Moves in one launch (`--fused-adam`), interpreted, against Adam, cast and average in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import runs
from torch import Tensor, nn

pytest.importorskip("triton")
from fastinfogan_kernels import adam

from fastinfogan import train
from fastinfogan.config import TrainConfig
from fastinfogan.training import step as step_module
from fastinfogan.training.ema import Ema
from fastinfogan.training.player import Player
from fastinfogan.training.policy import Policy, choose
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")
if not adam.INTERPRETED:
    pytest.skip("interpreted alone", allow_module_level=True)

BF16 = torch.bfloat16
BETAS = (0.5, 0.999)
DECAY = 0.99
CLOSE: dict[str, Any] = {"rtol": 3e-6, "atol": 1e-7}


class Side:
    """A player of a small network, moved either way, and the average of its first layer."""

    def __init__(self, ranks, one_launch: bool, dtype: torch.dtype = torch.float32) -> None:
        draw = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 7))
        for p in self.layers.parameters():
            nn.init.normal_(p, generator=draw)
        self.ema = Ema(self.layers[0], DECAY)
        more: dict[str, Any] = {}
        if one_launch:
            average = self.ema.flat.value.detach()
            more = {"one_launch": True, "average": average, "decay": DECAY}
        self.one_launch = one_launch
        params = list(self.layers.parameters())
        self.player = Player("g", params, dtype, 1e-2, BETAS, ranks, **more)

    def move(self, n: int) -> None:
        draw = torch.Generator().manual_seed(100 + n)
        grads = [torch.randn(p.shape, generator=draw) for p in self.layers.parameters()]
        self.player.set_rate(1e-2 / (n + 1))
        self.player.start_average(grads).wait()
        self.player.move()
        if not self.one_launch:
            self.ema.update(n, self.player.flat.value.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, the average, and what a checkpoint has of Adam."""
        own = {f"weight.{i}": p.detach() for i, p in enumerate(self.layers.parameters())}
        return own | {"average": self.ema.flat.value.detach()} | self.player.tensors()


def assert_close(one: Side, other: Side) -> None:
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        torch.testing.assert_close(value, theirs[name], **CLOSE, msg=name)


class TestPlayer:
    def test_it_moves_as_adam_cast_and_average_in_turn(self, cpu_ranks):
        ranks = cpu_ranks()
        fused, plain = Side(ranks, True), Side(ranks, False)
        for n in range(5):
            fused.move(n)
            plain.move(n)
            assert_close(fused, plain)

    def test_the_copy_that_is_computed_with_follows(self, cpu_ranks):
        fused = Side(cpu_ranks(), True, BF16)
        copy = fused.player.flat.working
        assert copy is not None
        before = copy.clone()
        fused.move(0)
        assert not torch.equal(copy, before)
        # Triton's interpreter cuts bf16 off where a GPU rounds to nearest.
        torch.testing.assert_close(
            copy.float(), fused.player.flat.value.detach(), rtol=2**-7, atol=0
        )

    @pytest.mark.parametrize("first", [True, False])
    def test_either_way_goes_on_from_the_tensors_of_the_other(self, cpu_ranks, first):
        ranks = cpu_ranks()
        one, other, plain = Side(ranks, first), Side(ranks, not first), Side(ranks, False)
        for n in range(3):
            one.move(n)
            plain.move(n)
        for name, tensor in other.tensors().items():
            tensor.copy_(one.tensors()[name])
        for n in range(3, 6):
            other.move(n)
            plain.move(n)
        assert_close(other, plain)

    def test_after_a_restart_it_counts_from_nothing(self, cpu_ranks):
        ranks = cpu_ranks()
        fused, plain = Side(ranks, True), Side(ranks, False)
        for n in range(2):
            fused.move(n)
            plain.move(n)
        fused.player.restart()
        plain.player.restart()
        assert fused.player.tensors()["adam_g.step"] == 0
        assert not any(t.any() for t in fused.player.tensors().values())
        fused.ema.flat.value.detach().copy_(plain.ema.flat.value.detach())
        fused.move(0)
        plain.move(0)
        assert_close(fused, plain)

    def test_without_memory_the_average_is_the_weights_to_the_last_bit(self, cpu_ranks):
        side = Side(cpu_ranks(), True)
        side.player._decay = 0.0
        for n in range(2):
            side.move(n)
            size = len(side.ema.flat.value)
            assert torch.equal(side.ema.flat.value, side.player.flat.value[:size])

    def test_nothing_is_read_back_to_the_host_around_the_launch(
        self, cpu_ranks, no_host_read, monkeypatch
    ):
        seen: list[Tensor] = []
        side = Side(cpu_ranks(), True)
        monkeypatch.setattr(adam, "adam_", lambda *args, **more: seen.extend(args))
        with no_host_read():
            side.move(0)
        assert all(isinstance(x, Tensor) for x in seen)
        state = side.player.optimizer.state[side.player.flat.value]
        value, _, first, second, count, *_ = (x.data_ptr() for x in seen)
        expected = (side.player.flat.value, state["exp_avg"], state["exp_avg_sq"], state["step"])
        assert [value, first, second, count] == [x.data_ptr() for x in expected]


TINY = TrainConfig().with_options(image_size=8, batch_size=8, noise=5, codes="cat3,uniform")


def batch(n: int) -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(n))


@pytest.fixture
def few_programs(monkeypatch):
    """Let a program move more numbers: interpreted, each takes milliseconds."""
    monkeypatch.setattr(adam, "BLOCK", 2**17)


@pytest.mark.parametrize("mode", ["alternating", "reused", "shared"])
@pytest.mark.parametrize("start", [0, 1])
def test_an_update_differs_from_the_default_s_by_rounding_alone(
    cpu_ranks, few_programs, mode, start
):
    """Each update from the same state: over many, the game multiplies a last bit."""
    config = TINY.with_options(step=mode, gan_start=start, real_info=1.0, decay_steps=9)
    ranks = cpu_ranks()
    plain = Step(config, config.spec(), ranks)
    fused = Step(config, config.spec(), ranks, Policy(fused_adam=True))
    for n in range(2):
        before = [t.clone() for t in plain._state()]
        for ours, was in zip(fused._state(), before, strict=True):
            ours.copy_(was)
        fused(n, batch(n)), plain(n, batch(n))
        # Not entry by entry: Adam makes ±lr of a gradient that is but rounding.
        for ours, theirs, was in zip(fused._state(), plain._state(), before, strict=True):
            off = (ours - theirs).abs().sum()
            assert off <= 1e-3 * (theirs - was).abs().sum()


@pytest.mark.slow
def test_a_run_is_resumed_with_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_programs: None
):
    images = runs.write_images(tmp_path / "images.npz")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def fused(config: TrainConfig, *more: Any) -> Policy:
        if not config.execution.fused_adam:
            return choose(config, *more)
        return Policy(fused_adam=True, reason="a test")

    monkeypatch.setattr(step_module, "choose", fused)
    options = ("--precision", "fp32", "--log-every", "1")
    out = tmp_path / "run"
    for steps, more in (("1", ()), ("2", ("--fused-adam",)), ("3", ())):
        assert train.main(runs.command(images, out, "--steps", steps, *options, *more)) == 0
    assert [r["step"] for r in runs.records(out)] == [1, 2, 3]
    held = runs.tensors(out, 3)
    assert held["training/adam_d.step"] == held["training/adam_g.step"] == 3


def test_on_a_cpu_the_command_refuses_it_in_one_line(tmp_path, monkeypatch, capsys):
    images = runs.write_images(tmp_path / "images.npz")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert train.main(runs.command(images, tmp_path / "run", "--fused-adam")) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: --fused-adam: its kernel runs on CUDA and ROCm GPUs")
    assert line.count("\n") == 1
