"""Campaigns against a run: their size and seed, runs that start at once, and faults.

`pytest -m chaos` runs the campaigns, `-m slow` a few cases of each. CHAOS_CASES sets the number of
cases, CHAOS_SEED the seed, CHAOS_FIRST the first case: a failing test shows all three.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from .runs import command

SEED = int(os.environ.get("CHAOS_SEED", "0"))
FIRST = int(os.environ.get("CHAOS_FIRST", "0"))
STEPS = 24
OPTIONS = (
    *("--precision", "fp32", "--log-every", "3", "--checkpoint-every", "4", "--sample-every", "8"),
    *("--steps", str(STEPS)),
)
WRITES = 130  # about as many as a run makes of files and folders
LIMIT = 300  # seconds for a run on a busy machine
Rng = np.random.Generator


def campaign(sample: int, full: int) -> pytest.MarkDecorator:
    """Parametrize a test with its number of `cases`: a sample with -m slow, all with -m chaos."""
    count = int(os.environ.get("CHAOS_CASES", full))
    return pytest.mark.parametrize(
        "cases",
        [
            pytest.param(sample, id="sample", marks=pytest.mark.slow),
            pytest.param(count, id="campaign", marks=pytest.mark.chaos),
        ],
    )


def each_case(cases: int) -> Iterator[Rng]:
    """Yield a generator per case; the output of a failing test ends with the case's seed."""
    for case in range(FIRST, FIRST + cases):
        print(f"CHAOS_SEED={SEED} CHAOS_FIRST={case} CHAOS_CASES=1")
        yield np.random.default_rng([SEED, case])


class Undisturbed(NamedTuple):
    """A run of `STEPS` updates that nothing happened to."""

    data: Path
    out: Path
    seconds: float


class Run:
    """A training in a process of its own, forked off one that has imported everything."""

    def __init__(
        self,
        args: Sequence[str],
        log: Path,
        env: dict[str, str] | None = None,
        faults: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        self.process: ForkServerProcess = context().Process(
            target=_train, args=(list(args), log, env or {}, faults), daemon=True
        )
        self.process.start()

    def wait(self, seconds: float = LIMIT) -> int | None:
        """Return the exit code, or None where the run goes on for longer."""
        self.process.join(seconds)
        return self.process.exitcode

    def signal(self, number: int) -> None:
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def lines(self) -> list[str]:
        """Return all that was printed, which is never a traceback; progress is left out."""
        text = self.log.read_text() if self.log.exists() else ""
        assert "Traceback" not in text, text
        return [line for line in text.splitlines() if "images/s" not in line]

    def error(self) -> str:
        """Return the one line of an error."""
        lines = [line for line in self.lines() if "error: " in line]
        assert len(lines) == 1, self.lines()
        return lines[0]


def context() -> ForkServerContext:
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(
        ["pytest", "fastinfogan.train", "matplotlib.pyplot", "scipy.optimize", "sklearn.cluster"]
    )
    return forkserver


def _train(
    args: list[str], log: Path, env: dict[str, str], faults: Sequence[Callable[[], None]]
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ |= env
    for fault in faults:
        fault()
    from fastinfogan import train

    try:
        code = train.main(args)
    except SystemExit as error:  # of arguments that do not parse
        code = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    os._exit(code)


def start(data: Path, out: Path, *more: str, **options: Any) -> Run:
    """Start the small run of the campaigns."""
    return Run(command(data, out, *OPTIONS, *more), out.with_suffix(".log"), **options)


def finish(data: Path, out: Path, *more: str) -> None:
    """Go on with a run to its end; it leaves nothing behind but its own files."""
    run = start(data, out, *more)
    assert run.wait() == 0, run.lines()
    run.lines()
    hidden = [path for path in out.rglob(".*") if path.name != ".lock"]
    assert hidden == [], hidden


def tell(cases: int, counts: dict[Any, Any]) -> None:
    """Print what a campaign met with; `-rP` shows it."""
    print(f"{cases} cases from {FIRST}, seed {SEED}: {counts}")


# Faults, installed in the process of a run before it begins


class _Writes:
    """At the n-th time that a process opens, renames or makes a file below a folder, and at each
    later one, do something.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n, self.count = str(folder), n, 0

    def __call__(self) -> None:
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir"):
            return
        if not isinstance(args[0], str | Path) or not str(args[0]).startswith(self.folder):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.count += 1
        if self.count >= self.n:
            self.strike()

    def strike(self) -> None:
        raise NotImplementedError


class FullDisk(_Writes):
    """From the n-th write on they fail: a full disk, a quota, a file system now read-only."""

    def __init__(self, folder: Path, n: int, code: int = errno.ENOSPC) -> None:
        super().__init__(folder, n)
        self.code = code

    def strike(self) -> None:
        raise OSError(self.code, os.strerror(self.code))


class SignalAtWrite(_Writes):
    """A process sends itself a signal before its n-th write."""

    def __init__(self, folder: Path, n: int, number: int) -> None:
        super().__init__(folder, n)
        self.number = number

    def strike(self) -> None:
        if self.count == self.n:
            os.kill(os.getpid(), self.number)


class SignalAfter:
    """A process sends itself a signal some seconds after its start."""

    def __init__(self, seconds: float, number: int) -> None:
        self.seconds, self.number = seconds, number

    def __call__(self) -> None:
        timer = threading.Timer(self.seconds, os.kill, (os.getpid(), self.number))
        timer.daemon = True
        timer.start()


class SignalAtUpdate:
    """A process sends itself a signal some seconds into update n, from 0, or the first after it."""

    def __init__(self, n: int, seconds: float, number: int) -> None:
        self.n, self.after = n, SignalAfter(seconds, number)
        self.sent = False

    def __call__(self) -> None:
        from fastinfogan.runs.loop import Training

        update = Training._update

        def struck(training: Training, n: int, images: Any) -> Any:
            if n >= self.n and not self.sent:
                self.sent = True
                self.after()
            return update(training, n, images)

        setattr(Training, "_update", struck)  # noqa: B010


def at_any_moment(rng: Rng, whole: Undisturbed, out: Path, number: int) -> Callable[[], None]:
    """Return a signal after some time, in some update, or before some write: one in three each."""
    kinds: tuple[Callable[[], Callable[[], None]], ...] = (
        lambda: SignalAfter(rng.uniform(0, whole.seconds), number),
        lambda: SignalAtUpdate(
            int(rng.integers(STEPS)), rng.uniform(0, whole.seconds / STEPS), number
        ),
        lambda: SignalAtWrite(out, int(rng.integers(1, WRITES + 1)), number),
    )
    return kinds[rng.integers(len(kinds))]()


def impatient(seconds: float) -> None:
    """Give up another rank after so many seconds."""
    from datetime import timedelta

    from fastinfogan import parallel

    parallel.DEVICE_TIMEOUT = parallel.HOST_TIMEOUT = timedelta(seconds=seconds)


def other_clock(seconds: float) -> None:
    """Shift the wall clock."""
    inner = time.time
    time.time = lambda: inner() + seconds
