"""Fixtures that several test files share."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.host_reads import HOST_READS
from helpers.runs import command, write_images
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.parallel import Ranks

# Tests run on the CPU, Triton's kernels interpreted, whatever the machine has: a GPU is for the
# benchmarks and for benchmarks/gpu_report.py. To be said before CUDA or Triton begin.
if "--benchmark-only" not in sys.argv:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# A shell's background jobs ignore Ctrl-C, and so would the runs that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The processes of one run share the cores: with all cores for each, threads wait for one another.
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if PROCESSES > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // PROCESSES))


QUICK = "not slow and not chaos"  # pyproject.toml's -m
CHOSEN = (
    "benchmark_only",
    "collectonly",
    "usepdb",
    "trace",
    "keyword",
    "lf",
)  # of pytest's options


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the number
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in as many processes as there are cores, four at most.

    A run of chosen tests (also by a marker: campaigns kill processes and fill memory), of
    benchmarks, in a debugger, with its output shown (-s) or with a number (-n) of one's own stays
    as it is. The processes of such a run call this too, and start none.
    """
    options = config.option
    chosen = (
        "PYTEST_XDIST_WORKER" in os.environ
        or config.args_source is not config.ArgsSource.TESTPATHS
        or not config.pluginmanager.hasplugin("xdist")
        or options.numprocesses is not None
        or options.markexpr != QUICK
        or options.capture == "no"
        or any(getattr(options, name, False) for name in CHOSEN)
    )
    if not chosen:
        options.numprocesses = min(4, os.cpu_count() or 1)
        options.dist = "loadfile"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that change between processes; mark as slow all but n cases, evenly spaced, of
    a test marked `quick_cases(n)`.
    """
    if addresses := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"names differ between processes, as pytest-xdist's: {addresses}")
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("quick_cases"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in cases.values():
        marker = same[0].get_closest_marker("quick_cases")
        assert marker is not None
        (quick,) = marker.args
        kept = {i * len(same) // quick for i in range(quick)}
        for i, item in enumerate(same):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


class _NoHostRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in HOST_READS, f"{func} reads a tensor's value on the host"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_read() -> Callable[[], AbstractContextManager[object]]:
    """Return a context in which reading a tensor's value on the host fails."""
    return _NoHostRead


@pytest.fixture
def cpu_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ranks]]:
    """Yield a maker of one CPU rank of a given precision ("no", "bf16")."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def make(precision: str = "no") -> Ranks:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Ranks(Accelerator(mixed_precision=precision, cpu=True))

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Set one CPU thread, for tensors so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def hf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return Hugging Face's library with a cache of the test's own, and without the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an evaluated run of two updates on labelled 8×8 images, which tests only read."""
    from fastinfogan import train

    folder = tmp_path_factory.mktemp("small_run")
    images = write_images(folder / "images.npz")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        AcceleratorState._reset_state(reset_partial_state=True)
        codes = ("--codes", "cat3,bernoulli,uniform,gaussian2:learned")
        assert train.main(command(images, folder / "run", *codes, "--steps", "2")) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
    return folder / "run"
