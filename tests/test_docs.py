"""Code blocks in the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in (DOCS / "embedding.md",)
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_of_the_documentation_runs(block: str) -> None:
    exec(compile(block, "block", "exec"), {"__name__": "block"})
