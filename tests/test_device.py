"""Precision and threads of the machine."""

import joblib
import psutil
import pytest
import torch

from fastinfogan import device
from fastinfogan.errors import UserError


def with_capabilities(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


class TestPrecision:
    def test_fp16_on_a_cpu_is_refused_with_what_to_use(self):
        with pytest.raises(UserError, match=r"--precision fp16 is for GPUs.*bf16 or fp32"):
            device.choose_precision("fp16", cpu=True)

    @pytest.mark.parametrize("requested", ["bf16", "fp32"])
    @pytest.mark.parametrize("cpu", [True, False])
    def test_a_requested_precision_is_used(self, monkeypatch, requested, cpu):
        with_capabilities(monkeypatch)
        assert device.choose_precision(requested, cpu) == (requested, "as requested")

    def test_fp16_is_taken_on_a_gpu(self):
        assert device.choose_precision("fp16", cpu=False) == ("fp16", "as requested")

    @pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16", "arm_bf16"])
    def test_auto_is_bf16_where_the_cpu_computes_it_and_names_what_does(self, monkeypatch, name):
        with_capabilities(monkeypatch, avx2=True, **{name: True})
        precision, reason = device.choose_precision("auto", cpu=True)
        assert precision == "bf16"
        assert name in reason

    @pytest.mark.parametrize("capabilities", [{}, {"avx2": True, "avx512_bf16": False}])
    def test_auto_is_fp32_where_it_does_not_and_says_so(self, monkeypatch, capabilities):
        with_capabilities(monkeypatch, **capabilities)
        precision, reason = device.choose_precision("auto", cpu=True)
        assert precision == "fp32"
        assert "no bf16" in reason

    @pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
    def test_auto_on_a_gpu_depends_on_the_gpu(self, monkeypatch, native, expected):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
        precision, reason = device.choose_precision("auto", cpu=False)
        assert precision == expected
        assert "Some GPU" in reason

    def test_accelerates_names(self):
        names = [device.accelerate_name(p) for p in ("bf16", "fp16", "fp32")]
        assert names == ["bf16", "fp16", "no"]


class TestUseCpu:
    @pytest.mark.parametrize("there", [True, False])
    @pytest.mark.parametrize("requested", [None, "true", "1", "YES", "false", "0", ""])
    def test_the_cpu_is_used_on_request_or_without_a_gpu(self, monkeypatch, there, requested):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        if requested is not None:
            monkeypatch.setenv("ACCELERATE_USE_CPU", requested)
        assert device.use_cpu() == (requested in ("true", "1", "YES") or not there)


class TestThreads:
    @pytest.mark.parametrize(
        ("physical", "allowed", "ranks", "expected"),
        [
            (8, 16, None, 8),
            (8, 16, "2", 4),
            (8, 16, "3", 2),
            (8, 2, "1", 2),  # a container's share
            (2, 4, "8", 1),  # at least one
            (None, 6, "1", 6),  # where physical cores are unknown
        ],
    )
    def test_the_local_ranks_share_the_physical_cores_that_are_allowed(
        self, monkeypatch, physical, allowed, ranks, expected
    ):
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else physical)
        monkeypatch.setattr(joblib, "cpu_count", lambda: allowed)
        for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        if ranks is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert device.cpu_threads() == expected

    @pytest.mark.parametrize(("text", "expected"), [("3", 3), (" 5,2", 5), ("", 8), ("many", 8)])
    def test_omp_num_threads_counts_where_the_user_set_it(self, monkeypatch, text, expected):
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
        monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
        for name in ("LOCAL_WORLD_SIZE", *device.LAUNCHED):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert device.cpu_threads() == expected

    @pytest.mark.parametrize(("users", "expected"), [({}, 8), ({"OMP_NUM_THREADS": "3"}, 3)])
    def test_a_launchers_omp_num_threads_is_not_the_users(self, monkeypatch, users, expected):
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
        monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
        monkeypatch.setattr(psutil.Process, "environ", lambda self: users)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert device.cpu_threads() == expected


def test_the_record_holds_versions_and_hardware_for_a_figure():
    record = device.environment(torch.device("cpu"), "bf16", "as requested", 2)
    assert record["packages"]["torch"] == torch.__version__
    assert (record["device"], record["precision"], record["world_size"]) == ("cpu", "bf16", 2)
    assert record["threads"] == torch.get_num_threads()
    assert record["device_name"]
