"""The number of processes that `pytest` takes, as conftest decides."""

import os
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

# What `pytest` has alone. Without its cache it has no `lf`.
WHOLE = {"numprocesses": None, "dist": "no", "markexpr": "not slow and not chaos", "capture": "fd"}


@pytest.fixture
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Return a function of a run's options to its number of processes; None: its own alone."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    ours = str(Path(__file__).with_name("conftest.py"))
    plugin = request.config.pluginmanager.get_plugin(ours)
    assert plugin is not None
    return partial(number, plugin.pytest_cmdline_main)


def number(decide: Callable[..., None], args: str = "TESTPATHS", **options: object) -> int | None:
    config = SimpleNamespace(
        option=SimpleNamespace(**{**WHOLE, **options}),
        args_source=args,
        ArgsSource=SimpleNamespace(TESTPATHS="TESTPATHS"),
        pluginmanager=SimpleNamespace(hasplugin=lambda name: name == "xdist"),
    )
    decide(config)
    return config.option.numprocesses


def test_the_whole_suite_takes_as_many_processes_as_there_are_cores_four_at_most(
    processes, monkeypatch
):
    assert processes() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processes() == 4


def test_a_process_of_such_a_run_starts_no_others(processes, monkeypatch):
    """Each would start some in turn, until memory is full."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert processes() is None


def test_chosen_tests_benchmarks_and_the_debugger_stay_in_one_process(processes):
    assert processes(args="ARGS") is None
    for option in ("benchmark_only", "collectonly", "usepdb", "trace", "keyword", "lf"):
        assert processes(**{option: "x"}) is None
    assert processes(markexpr="chaos") is None
    assert processes(capture="no") is None
    assert processes(numprocesses=0) == 0


def test_the_marker_of_the_whole_suite_is_that_of_the_project(request):
    options = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())
    assert f"-m '{WHOLE['markexpr']}'" in options["tool"]["pytest"]["ini_options"]["addopts"]


def test_the_processes_of_a_run_share_the_cores():
    """So that together they have one thread per core, and in a run of one process all."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    assert torch.get_num_threads() <= max(1, (os.cpu_count() or 1) // count)
