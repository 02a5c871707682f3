"""The number of processes that `pytest` takes, as conftest decides."""

import os
from types import SimpleNamespace

import conftest
import pytest

WHOLE = {"benchmark_only": False, "collectonly": False, "usepdb": False, "keyword": "", "lf": False}


def processes(args: str = "TESTPATHS", **options: object) -> int | None:
    """Return the number of processes of a run with these options; None: this one."""
    config = SimpleNamespace(
        option=SimpleNamespace(**{"numprocesses": None, "dist": "no", **WHOLE, **options}),
        args_source=args,
        ArgsSource=SimpleNamespace(TESTPATHS="TESTPATHS"),
        pluginmanager=SimpleNamespace(hasplugin=lambda name: name == "xdist"),
    )
    conftest.pytest_cmdline_main(config)  # type: ignore[arg-type]
    return config.option.numprocesses


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)


def test_the_whole_suite_takes_as_many_processes_as_there_are_cores_four_at_most(monkeypatch):
    assert processes() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processes() == 4


def test_a_process_of_such_a_run_starts_no_others(monkeypatch):
    """Each would start some in turn, until memory is full."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert processes() is None


def test_chosen_tests_benchmarks_and_the_debugger_stay_in_one_process():
    assert processes(args="ARGS") is None
    for option in WHOLE:
        assert processes(**{option: "x"}) is None
    assert processes(numprocesses=0) == 0
