"""docs/notes/scaling.md says what its scripts print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.scripts import load_script

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "notes" / "scaling.md").read_text()


@pytest.fixture(scope="module")
def model() -> ModuleType:
    return load_script(ROOT / "profiling" / "scaling_model.py")


def test_the_documents_tables_are_what_the_model_prints(model: ModuleType) -> None:
    (table,) = re.findall(r"<!-- scaling_model.py -->\n(.*)\n<!-- end -->", DOC, re.S)
    assert table == model.tables()


def test_an_all_reduce_is_the_better_of_ring_and_tree(model: ModuleType) -> None:
    slow = model.Link(bandwidth=1e9, latency=1e-3)
    # ring: 14 messages and 14/8 of the bytes; tree: 6 messages and twice the bytes
    assert model.all_reduce(1e9, 8, slow) == pytest.approx(0.014 + 1.75)
    assert model.all_reduce(1e3, 8, slow) == pytest.approx(0.006 + 2e-6)
    assert model.all_reduce(1e9, 1, slow) == 0


def test_at_the_batch_for_90_percent_efficiency_passes_it(model: ModuleType) -> None:
    for d, g in ((1e-4, 2e-4), (5e-3, 5e-3)):
        batch = model.batch_for(0.9, d, g)
        assert model.efficiency(batch - 1, d, g) < 0.9 <= model.efficiency(batch, d, g)
    # all of D's is hidden: step = 9 g
    expected = (9e-3 - model.FLOOR) / model.IMAGE
    assert model.batch_for(0.9, 1e-6, 1e-3) == pytest.approx(expected, abs=1)


@pytest.mark.slow
def test_ddp_gives_the_same_weights_and_moves_the_bytes_that_the_document_says() -> None:
    script = ROOT / "profiling" / "ddp.py"
    small = ("--rounds", "2", "--updates", "3", "--batch-size", "16")
    done = subprocess.run(
        [sys.executable, str(script), *small], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "at most 0.0e+00 (DDP), 0.0e+00 (DDP, tuned)" in done.stdout
    for moved in (("flat", "53,344,056", "0", "2"), ("DDP", "53,344,056", "69,120", "6")):
        assert re.search(r"\n" + r" +".join(moved) + " ", done.stdout), done.stdout
