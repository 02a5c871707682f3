"""Two ranks, of which one meets with a fault at a random moment: both end, or both go on."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from helpers.chaos import (
    LIMIT,
    OPTIONS,
    STEPS,
    WRITES,
    FullDisk,
    Run,
    Undisturbed,
    campaign,
    each_case,
    impatient,
    other_clock,
    tell,
)
from helpers.runs import command, free_port, tensors

PATIENCE = 10.0  # seconds


def start_pair(data: Path, out: Path, faults: dict[int, list] | None = None) -> list[Run]:
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"ACCELERATE_USE_CPU": "true"}
    return [
        Run(
            command(data, out, *OPTIONS),
            out.with_name(f"{out.name}-{rank}.log"),
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            faults=[partial(impatient, PATIENCE), *(faults or {}).get(rank, [])],
        )
        for rank in (0, 1)
    ]


def assert_finished(data: Path, out: Path) -> None:
    pair = start_pair(data, out)
    assert [run.wait() for run in pair] == [0, 0], [run.lines() for run in pair]
    assert tensors(out, STEPS)


@campaign(sample=1, full=20)
def test_both_ranks_end_or_go_on_as_documented(
    whole: Undisturbed, tmp_path: Path, cases: int
) -> None:
    out, ends = tmp_path / "run", Counter[str]()
    for rng in each_case(cases):
        event = str(rng.choice(["killed", "stopped", "slow", "full disk", "other clock"]))
        rank = int(rng.integers(0, 2))
        print(event, rank)
        faults: dict[int, list] = {}
        if event == "full disk":
            faults = {0: [FullDisk(out, int(rng.integers(1, WRITES + 1)))]}
        elif event == "other clock":
            faults = {rank: [partial(other_clock, 86400.0)]}
        pair = start_pair(whole.data, out, faults)
        victim, other = pair[rank], pair[1 - rank]
        victim.wait(rng.uniform(0, 2 * whole.seconds))
        if event == "killed":
            victim.kill()
        elif event in ("stopped", "slow"):
            victim.signal(signal.SIGSTOP)
        if event == "slow":
            time.sleep(1)
            victim.signal(signal.SIGCONT)
        if event == "stopped":
            other.wait(PATIENCE + LIMIT)
            victim.kill()
        codes = [run.wait() for run in pair]
        ends[f"{event}: {codes}"] += 1
        if event in ("slow", "other clock"):
            assert codes == [0, 0], [run.lines() for run in pair]
        elif event == "full disk":
            assert codes in ([0, 0], [2, 2]), [run.lines() for run in pair]
            assert len([line for run in pair for line in run.lines() if "error: " in line]) <= 1
        else:  # 0: it had finished by then
            assert other.wait() in (0, 1), other.lines()
            if other.wait() == 1:
                assert "lost another rank" in other.error()
        assert_finished(whole.data, out)
        shutil.rmtree(out)
    tell(cases, ends)
