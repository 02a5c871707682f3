"""The check of the layers' numbers before the first update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from helpers.runs import assert_same_run, command, tensors, write_images
from helpers.small_pair import CONFIG, SPEC, everything
from torch import nn

from fastinfogan import train
from fastinfogan.networks import convolution
from fastinfogan.runs import loop
from fastinfogan.training.selfcheck import check_layers
from fastinfogan.training.step import Step

MNIST = CONFIG.with_options(real_info=0.5, vat=1.0, follow=0.5, warp="rotate=20,scale=0.15")
CONFIGS = {
    "mnist": MNIST,
    "shared": MNIST.with_options(step="shared"),
    "spectral": CONFIG.with_options(spectral_norm=True, contrastive_weight=0.1),
    "svhn": CONFIG.with_options(networks="svhn", image_size=32, channels=3, batch_size=4),
    "own trunk": MNIST.with_options(q_trunk="own"),
    "fixed trunk": MNIST.with_options(q_trunk="fixed", gan_start=1),
}


def wrong_conv(make_wrong):
    """Convolve as a faulty library would, in bf16 alone."""
    inner = convolution.convolve

    def convolve(x, weight, bias):
        y = inner(x, weight, bias)
        return make_wrong(y) if x.dtype == torch.bfloat16 else y

    return convolve


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", CONFIGS)
def test_sound_layers_pass_and_nothing_changes(name, cpu_ranks, one_thread):
    step = Step(CONFIGS[name], SPEC, cpu_ranks("bf16"))
    before, random = everything(step), torch.get_rng_state()
    assert check_layers(step) == ""
    after = everything(step)
    assert [k for k in before if not torch.equal(before[k], after[k])] == []
    assert torch.equal(random, torch.get_rng_state())
    hooks = [m for net in step.working for m in net.modules() if m._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize(
    ("make_wrong", "what"),
    [
        (lambda y: torch.cat([y[:-1], torch.full_like(y[-1:], 1e37)]), "an output"),
        (lambda y: torch.cat([y[:-1], torch.full_like(y[-1:], float("nan"))]), "an output"),
        (lambda y: torch.cat([y[:-1], torch.zeros_like(y[-1:])]), "an output"),
        (lambda y: torch.cat([y[:-1], y[-1:].detach()]), "an input gradient"),
    ],
    ids=["garbage", "nan", "never written", "no gradient"],
)
def test_wrong_numbers_of_a_layer_are_named(make_wrong, what, cpu_ranks, monkeypatch, one_thread):
    step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    monkeypatch.setattr(convolution, "convolve", wrong_conv(make_wrong))
    output = check_layers(step)
    assert output.startswith(f"discriminator.conv1 gives {what} in bfloat16 that is off by ")


def test_a_layer_of_a_users_own_is_checked(cpu_ranks, monkeypatch, one_thread):
    step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    inner = F.linear

    def linear(x, *more):
        return inner(x, *more) * (2 if x.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(F, "linear", linear)
    assert "generator.fc1 gives an output" in check_layers(step)


def test_fp32_is_not_checked(cpu_ranks, monkeypatch):
    monkeypatch.setattr(Step, "eager_work", None)
    assert check_layers(Step(CONFIG, SPEC, cpu_ranks("no"))) == ""


@pytest.mark.usefixtures("cpu_ranks", "one_thread")
class TestRuns:
    def run(self, data: Path, out: Path, steps: int, *more: str) -> int:
        AcceleratorState._reset_state(True)  # as a new process has it
        return train.main(command(data, out, "--steps", str(steps), *more))

    def test_a_run_is_the_same_with_and_without_the_check(self, tmp_path, monkeypatch):
        data = write_images(tmp_path / "images.npz")
        assert self.run(data, tmp_path / "checked", 3, "--precision", "bf16") == 0
        monkeypatch.setattr(loop, "check_layers", lambda _: "")
        assert self.run(data, tmp_path / "unchecked", 3, "--precision", "bf16") == 0
        assert_same_run(tmp_path / "checked", tmp_path / "unchecked", 3)

    def test_a_failed_check_makes_it_fp32_in_one_line_and_in_environment_json(
        self, tmp_path, monkeypatch, capsys
    ):
        data = write_images(tmp_path / "images.npz")
        monkeypatch.setattr(loop, "check_layers", lambda _: "generator.fc1 is off")
        for steps in (2, 3):  # a new run and a resumed one
            assert self.run(data, tmp_path / "run", steps, "--precision", "bf16") == 0
        lines = capsys.readouterr().out.splitlines()
        output = "fp32 (bf16 failed the self-check: generator.fc1 is off)"
        assert len([line for line in lines if output in line]) == 2
        environment = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert environment["precision"] == "fp32"
        assert environment["precision_failed"] == "bf16"
        assert "self_check_seconds" in environment
        assert self.run(data, tmp_path / "fp32", 3, "--precision", "fp32") == 0
        run, fp32 = tensors(tmp_path / "run", 3), tensors(tmp_path / "fp32", 3)
        assert all(torch.equal(fp32[k], v) for k, v in run.items())

    def test_a_run_in_bf16_goes_on_in_fp32_where_the_check_fails(self, tmp_path, monkeypatch):
        data = write_images(tmp_path / "images.npz")
        assert self.run(data, tmp_path / "run", 2, "--precision", "bf16") == 0
        monkeypatch.setattr(loop, "check_layers", lambda _: "generator.fc1 is off")
        assert self.run(data, tmp_path / "run", 3, "--precision", "bf16") == 0


def test_every_layer_of_the_networks_is_checked(cpu_ranks, monkeypatch, one_thread):
    from fastinfogan.training import selfcheck

    step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    checked = []
    inner = selfcheck._errors

    def errors(layer, *more):
        checked.append(layer)
        return inner(layer, *more)

    monkeypatch.setattr(selfcheck, "_errors", errors)
    assert check_layers(step) == ""
    own = [
        m
        for net in step.working
        for m in net.modules()
        if not isinstance(m, nn.Module) or list(m.parameters(recurse=False))
    ]
    assert {id(m) for m in own} == {id(m) for m in checked}
