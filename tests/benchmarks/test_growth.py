"""The growth of cost is measured point by point, and written where the document has its marks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.scripts import load_script
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "profiling" / "growth.py"


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    return load_script(SCRIPT)


@pytest.mark.slow
def test_every_point_is_measured_and_lands_in_table_plot_and_document(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--out", "docs", "--families"]
    done = subprocess.run(
        [*command, "codes", "contention"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    document = (tmp_path / "docs" / "growth.md").read_text()
    codes, contention = re.findall(r"<!-- growth.py \w+ -->\n(.*?)\n<!-- end -->", document, re.S)
    assert codes in done.stdout
    assert contention in done.stdout
    assert "n = 2 turns" in codes
    # noise of 62 columns and ten a head
    rows = [line.strip("| ").split(" | ") for line in codes.splitlines()[-2:]]
    assert [row[:4] for row in rows] == [
        ["alternating", "1", "72", "10"],
        ["shared", "2", "82", "20"],
    ]
    for row in rows:
        times = row[4].replace(",", "").replace("–", " ").strip(")").replace("(", "").split()
        mid, low, high = (float(text) for text in times)
        assert 0 < low <= mid <= high
        state, peak = (float(cell.replace(",", "")) for cell in row[-2:])
        assert 0 < state < peak  # a process that holds all of it has been that large
    assert "| `OMP_WAIT_POLICY=passive` |" in contention
    with Image.open(tmp_path / "docs" / "growth-codes.png") as picture:
        picture.load()


def test_a_new_table_leaves_the_words_around_it(growth: ModuleType) -> None:
    document = growth.merge("# Growth\n\nWhy.\n", "batch", "one")
    document = growth.merge(document, "side", "two") + "\nMore words.\n"
    again = growth.merge(document, "batch", r"new \1")
    assert again == document.replace("one", r"new \1")
    assert again.startswith("# Growth\n\nWhy.\n")
    assert again.endswith("two\n<!-- end -->\n\nMore words.\n")


@pytest.mark.parametrize("family", ["batch", "side", "codes", "contention", "malloc"])
def test_the_document_has_a_row_for_every_point(growth: ModuleType, family: str) -> None:
    document = (ROOT / "docs" / "notes" / "growth.md").read_text()
    (block,) = re.findall(rf"<!-- growth.py {family} -->\n(.*?)\n<!-- end -->", document, re.S)
    rows = [line for line in block.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(growth.points(family, False))
