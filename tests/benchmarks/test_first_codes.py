"""The command that times the way to good codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import runs


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def record(seed: int, seconds: float | None, updates: int | None = None) -> dict[str, Any]:
    return {
        "seed": seed,
        "level": 0.95,
        "seconds": seconds,
        "updates": updates,
        "best": 0.9,
        "images_per_second": 1234.5,
    }


def test_a_seed_that_does_not_reach_the_level_counts_as_the_latest():
    import first_codes

    records = [record(2, None), record(0, 41.0, 400), record(1, 52.5, 500)]
    lines = first_codes.table(records).splitlines()
    assert lines[2] == "| 0 | 41.0 | 400 | 0.9000 | 1,234 |"
    assert lines[4] == "| 2 | not reached | – | 0.9000 | 1,234 |"
    assert lines[-1] == ("2 of 3 seeds reached 0.95: median 52.5 s, range 41.0 to not reached s")
    assert first_codes.table([record(0, None)]).splitlines()[-1].startswith("0 of 1 seeds")


@pytest.mark.slow
def test_a_run_is_ended_at_the_first_log_that_reaches_the_level(tmp_path, monkeypatch, capsys):
    import first_codes

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    images = runs.write_images(tmp_path / "images.npz")
    options = [*runs.SMALL, "--threads", "1", "--data", f"npz:{images}"]
    options += ["--gan-start", "4", "--steps", "100000"]
    out = tmp_path / "figures" / "first.jsonl"
    config = first_codes.Config(
        seeds=(3,), level=0.0, log_every=2, options=" ".join(options), out=out
    )
    first_codes.main(config)
    (r,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (r["seed"], r["updates"]) == (3, 2)
    assert r["seconds"] > 0
    assert "1 of 1 seeds reached 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_is_an_error_with_its_seed(tmp_path, monkeypatch):
    import first_codes

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = first_codes.Config(seeds=(3,), options="--steps 0")
    with pytest.raises(SystemExit, match="seed 3: the run ended with 2"):
        first_codes.main(config)
