"""Damaged files of a run's folder: the run falls back, or says in one line what is wrong."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.chaos import STEPS, Rng, Undisturbed, campaign, each_case, start, tell
from helpers.runs import tensors

import fastinfogan
from fastinfogan.errors import UserError

MORE = STEPS + 4


def damage(path: Path, rng: Rng) -> str:
    """Damage a file and return in which way."""
    content = bytearray(path.read_bytes())
    way = rng.choice(["missing", "truncated", "flipped", "a folder"], p=[0.3, 0.3, 0.3, 0.1])
    if way == "truncated":
        path.write_bytes(content[: rng.integers(0, max(len(content), 1))])
    elif way == "flipped":
        content[rng.integers(0, len(content))] ^= 1 << rng.integers(0, 8)
        path.write_bytes(content)
    else:
        path.unlink()
    if way == "a folder":
        path.mkdir()
    return str(way)


@pytest.fixture(scope="module")
def longer(whole: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights of the undisturbed run some updates later."""
    out = tmp_path_factory.mktemp("chaos") / "longer"
    shutil.copytree(whole.out, out)
    run = start(whole.data, out, "--steps", str(MORE))
    assert run.wait() == 0, run.lines()
    return tensors(out, MORE)


@campaign(sample=4, full=200)
def test_a_run_with_damaged_files_goes_on_to_the_same_weights_or_ends_in_one_line(
    whole: Undisturbed, longer: dict[str, torch.Tensor], tmp_path: Path, cases: int
) -> None:
    out, ends = tmp_path / "run", Counter[str]()
    for rng in each_case(cases):
        shutil.copytree(whole.out, out)
        files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != ".lock")
        for i in rng.choice(len(files), rng.integers(1, 3), replace=False):
            print(files[i].relative_to(out), damage(files[i], rng))
        try:
            fastinfogan.load(out)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        run = start(whole.data, out, "--steps", str(MORE))
        code = run.wait()
        ends[f"exit {code}"] += 1
        if code == 0:
            run.lines()
            saved = tensors(out, MORE)
            assert [k for k in longer if not torch.equal(longer[k], saved[k])] == []
        else:
            assert code == 2, run.lines()
            run.error()
        shutil.rmtree(out)
    tell(cases, ends)
