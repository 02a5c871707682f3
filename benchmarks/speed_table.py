"""Pytest plugin of the benchmarks: tables of what was timed, and a failure where nothing was.

It has no assertion (PYTEST_DONT_REWRITE: it is imported by what it is a plugin to).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch

OVER = ("eager loop", "sync-free loop", "CE + MSE, heads", "compiled")  # of the speed-ups


class Timing(NamedTuple):
    """One way to compute one case: seconds per call, over `n` blocks of calls."""

    case: str
    way: str
    median: float
    fastest: float
    n: int
    extra: Mapping[str, Any]


class StepTiming(NamedTuple):
    """One way to train: seconds per update in each round, and what they are compared with."""

    case: str
    way: str
    batch: int
    seconds: Sequence[float]
    textbook: float | None  # seconds per update of the textbook loop
    products: float  # seconds of the mode's convolutions and matrix products alone
    flop: int  # of the model in this mode, an image
    peak: float  # FLOP/s of a large product

    def figures(self) -> dict[str, Any]:
        """Return figures by name: images/s with its range over the rounds, all else as medians."""
        update = median(self.seconds)
        return {
            "n": len(self.seconds),
            "ms per update": 1e3 * update,
            "images/s": self.batch / update,
            "images/s, lowest": self.batch / max(self.seconds),
            "images/s, highest": self.batch / min(self.seconds),
            "× textbook": None if self.textbook is None else self.textbook / update,
            "utilisation": self.flop * self.batch / update / self.peak,
            "share of attainable": self.products / update,
        }


TIMINGS: list[Timing] = []
STEPS: list[StepTiming] = []


def speed_ups(median: float, medians: Mapping[str, float]) -> dict[str, float]:
    """Return the speed-up over each of `OVER` that was timed."""
    return {over: medians[over] / median for over in OVER if over in medians}


def _lines() -> Iterator[str]:
    yield f"{'way':<16}{'median µs':>11}{'fastest':>10}{'n':>5}" + "".join(
        f"{'× ' + over:>18}" for over in OVER
    )
    case = None
    for t in TIMINGS:
        if t.case != case:
            case = t.case
            yield f"-- {case}"
        medians = {other.way: other.median for other in TIMINGS if other.case == case}
        gains = speed_ups(t.median, medians)
        columns = "".join(f"{gains[o]:>18.2f}" if o in gains else f"{'':>18}" for o in OVER)
        extra = "".join(f"  {key} {value}" for key, value in t.extra.items())
        yield f"{t.way:<16}{t.median * 1e6:>11.1f}{t.fastest * 1e6:>10.1f}{t.n:>5}{columns}{extra}"


def _step_lines() -> Iterator[str]:
    yield (
        f"{'way':<24}{'ms':>8}{'images/s':>10}{'range':>14}{'n':>4}{'× textbook':>12}"
        f"{'utilisation':>13}{'of attainable':>15}"
    )
    case = None
    for step in STEPS:
        if step.case != case:
            case = step.case
            yield f"-- {case}"
        f = step.figures()
        spread = f"{f['images/s, lowest']:,.0f}–{f['images/s, highest']:,.0f}"
        gain = "" if f["× textbook"] is None else f"{f['× textbook']:.2f}"
        yield (
            f"{step.way:<24}{f['ms per update']:>8.1f}{f['images/s']:>10,.0f}{spread:>14}"
            f"{f['n']:>4}"
            f"{gain:>12}{f['utilisation']:>12.1%} {f['share of attainable']:>14.1%}"
        )
    yield (
        "utilisation: FLOP that the mode needs (an image: "
        + ", ".join(dict.fromkeys(f"{s.flop / 1e6:.0f} M" for s in STEPS))
        + "), over those of a large product in the same time"
    )
    yield "attainable: the mode's convolutions and matrix products alone, back to back"


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own table
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TIMINGS:
        terminalreporter.section("speed-up of the median (all ways of a case timed in turns)")
        terminalreporter.write_line(f"{_device()}, torch {torch.__version__}")
        for line in _lines():
            terminalreporter.write_line(line)
    if STEPS:
        terminalreporter.section("training step (all ways timed in turns)")
        terminalreporter.write_line(f"{_device()}, torch {torch.__version__}")
        for line in _step_lines():
            terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which every benchmark was skipped."""
    requested = session.config.getoption("benchmark_only") and not session.config.option.collectonly
    if requested and not (TIMINGS or STEPS) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nno benchmark was timed")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.update(device=_device(), torch=torch.__version__, threads=torch.get_num_threads())
