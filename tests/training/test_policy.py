"""The choice of the way to run, and what is refused."""

import importlib.util
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from fastinfogan.config import TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.parallel import Ranks
from fastinfogan.training.policy import Policy, choose
from fastinfogan.training.step import build_terms

CONFIG = TrainConfig().with_options(steps=100_000, batch_size=128)


def ranks(device: str, precision: str = "bf16") -> Ranks:
    scaler = object() if precision == "fp16" else None
    accelerator = SimpleNamespace(mixed_precision=precision, scaler=scaler)
    return cast(Ranks, SimpleNamespace(device=torch.device(device), accelerator=accelerator))


def chosen(device: str, precision: str = "bf16", **options: Any) -> Policy:
    config = CONFIG.with_options(**options)
    terms = build_terms(config, config.spec(), 0.0)
    return choose(config, ranks(device, precision), terms)


@pytest.fixture
def amd(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")


@pytest.fixture
def no_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


class TestDefaults:
    def test_a_cpu_runs_eagerly(self):
        assert chosen("cpu").name == "eager"

    def test_an_nvidia_gpu_compiles_and_captures(self):
        assert chosen("cuda").name == "compiled and captured"

    def test_a_short_run_is_captured_alone(self):
        short = chosen("cuda", steps=4_000)
        assert short.name == "captured"
        assert "under 10,000,000 images" in short.reason
        assert chosen("cuda", steps=4_000, batch_size=4_096).name == "compiled and captured"
        assert chosen("cuda", steps=4_000, compile="on").name == "compiled and captured"

    def test_an_amd_gpu_compiles(self, amd):
        assert chosen("cuda").name == "compiled"

    def test_without_triton_a_gpu_captures_what_is_eager(self, no_triton):
        assert chosen("cuda").name == "captured"

    def test_a_torch_that_cannot_trace_gradients_captures_the_eager_step_on_a_gpu(
        self, monkeypatch
    ):
        monkeypatch.setattr(torch._dynamo, "config", object())
        assert chosen("cuda").name == "captured"

    def test_fp16_is_captured_but_its_loss_scale_is_not_compiled(self):
        assert chosen("cuda", "fp16").name == "captured"

    @pytest.mark.parametrize("option", ["r1", "r2"])
    def test_with_a_gradient_penalty_a_gpu_runs_eagerly_and_the_reason_is_given(self, option):
        options: dict[str, Any] = {option: 1.0}
        policy = chosen("cuda", **options)
        assert policy.name == "eager"
        assert "differentiated twice" in policy.reason

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_each_choice_has_a_reason(self, device):
        assert chosen(device).reason not in ("", "as requested")

    @pytest.mark.parametrize(
        ("precision", "dtype"),
        [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
    )
    def test_the_precision_is_accelerates(self, precision, dtype):
        assert chosen("cuda", precision).dtype == dtype


class TestOptions:
    def test_each_option_overrides_its_part_and_no_other(self):
        assert chosen("cpu", compile="on").name == "compiled"
        assert chosen("cuda", compile="off").name == "captured"
        assert chosen("cuda", capture="off").name == "compiled"
        assert chosen("cuda", compile="off", capture="off").name == "eager"

    def test_a_requested_policy_has_the_reason_as_requested(self):
        assert chosen("cpu", compile="on").reason == "as requested"
        assert chosen("cuda", compile="off", capture="off").reason == "as requested"

    def test_the_memory_format_is_the_options(self):
        assert chosen("cpu").memory_format == torch.channels_last
        assert chosen("cpu", memory_format="contiguous").memory_format == torch.contiguous_format

    def test_the_record_holds_no_torch_object(self):
        assert chosen("cpu").record() == {
            "compiled": False,
            "captured": False,
            "fused_adam": False,
            "memory_format": "channels_last",
            "step_reason": chosen("cpu").reason,
        }


class TestRefusals:
    def test_a_cpu_has_no_cuda_graphs(self):
        with pytest.raises(UserError, match="--capture on: CUDA graphs need an NVIDIA GPU"):
            chosen("cpu", capture="on")

    def test_nor_has_an_amd_gpu(self, amd):
        with pytest.raises(UserError, match="--capture on"):
            chosen("cuda", capture="on")

    def test_compiling_for_a_gpu_needs_triton(self, no_triton):
        with pytest.raises(UserError, match="--compile on: triton is not installed"):
            chosen("cuda", compile="on")

    def test_fp16_is_too_narrow_for_adversarial_copies(self):
        with pytest.raises(UserError, match=r"^--vat: fp16 is too narrow .* --vat 0$"):
            chosen("cuda", "fp16", vat=1.0)
        assert chosen("cuda", "bf16", vat=1.0)

    def test_the_kernel_for_adam_needs_a_gpu(self):
        with pytest.raises(UserError, match=r"^--fused-adam: .* this run is on cpu; leave it out$"):
            chosen("cpu", fused_adam=True)
        assert chosen("cuda", fused_adam=True).fused_adam
        assert not chosen("cuda").fused_adam

    def test_and_no_loss_scale(self):
        with pytest.raises(UserError, match=r"^--fused-adam: .* loss scale; use bf16 or fp32$"):
            chosen("cuda", "fp16", fused_adam=True)

    def test_and_triton(self, monkeypatch):
        monkeypatch.setattr("fastinfogan.training.policy.available", lambda: False)
        with pytest.raises(UserError, match=r"^--fused-adam: triton is not installed"):
            chosen("cuda", fused_adam=True)

    def test_a_loss_scale_is_not_compiled(self):
        with pytest.raises(UserError, match="--compile on: fp16"):
            chosen("cuda", "fp16", compile="on")
