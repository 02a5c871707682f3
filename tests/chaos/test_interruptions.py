"""Kills and signals at random moments: a run goes on to the weights of an undisturbed one."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from pathlib import Path

from helpers.chaos import (
    STEPS,
    Undisturbed,
    at_any_moment,
    campaign,
    each_case,
    finish,
    start,
    tell,
)
from helpers.runs import assert_same_run

from fastinfogan.runs import checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def newest(out: Path) -> int:
    saved, notes = checkpoint.load_newest(out / "checkpoints")
    assert notes == []
    return 0 if saved is None else saved.step


@campaign(sample=2, full=100)
def test_after_kills_at_any_moment_the_weights_are_those_of_an_undisturbed_run(
    whole: Undisturbed, tmp_path: Path, cases: int
) -> None:
    out, reached = tmp_path / "run", Counter[str]()
    for rng in each_case(cases):
        for _ in range(rng.integers(1, 4)):
            run = start(whole.data, out, faults=[at_any_moment(rng, whole, out, signal.SIGKILL)])
            code = run.wait()
            assert code in (0, -signal.SIGKILL), run.lines()
            run.lines()
            reached[str(newest(out)) if code else "finished"] += 1
        finish(whole.data, out)
        assert_same_run(whole.out, out, STEPS)
        shutil.rmtree(out)
    tell(cases, reached)


@campaign(sample=2, full=100)
def test_a_signal_at_any_moment_has_its_exit_code_and_costs_no_update(
    whole: Undisturbed, tmp_path: Path, cases: int
) -> None:
    out, codes = tmp_path / "run", Counter[int]()
    for rng in each_case(cases):
        number = signal.Signals(rng.choice(SIGNALS))
        run = start(whole.data, out, faults=[at_any_moment(rng, whole, out, number)])
        code = run.wait()
        # Before the first and after the last update a signal ends a process at once; a shell
        # shows that as 128 + n too.
        assert code in (0, 128 + number, -number), run.lines()
        codes[code] += 1
        saved = re.search(rf"{number.name}: saved after update (\d+)", "\n".join(run.lines()))
        if saved is not None:
            assert code == 128 + number
            assert newest(out) == int(saved[1])
        finish(whole.data, out)
        assert_same_run(whole.out, out, STEPS)
        shutil.rmtree(out)
    tell(cases, codes)
