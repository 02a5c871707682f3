"""The page's latents, in JavaScript, are the rows of LatentSpec.sample."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from helpers.networks import EVALUATION, SPEC, untrained

from fastinfogan import philox
from fastinfogan.sharing.description import describe

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node, which runs JavaScript")
SEEDS = (0, 3, 2**32 + 5, 2**53 - 1)
ROWS = (0, 1, 17, 2**31, 2**32 - 1)


def run(expression: str) -> Any:
    """Return the value of a JavaScript expression; `latents` and `facts` are there."""
    source = (files("fastinfogan") / "assets" / "web" / "latents.js").read_text("utf-8")
    facts = json.dumps(describe(untrained(), EVALUATION, title="test", step=1))
    script = f"{source}\nconst facts = {facts};\nconsole.log(JSON.stringify({expression}));"
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_philox_has_the_known_answers_of_its_authors():
    answers = run(
        "[latents.philox4x32([0, 0, 0, 0], [0, 0]),"
        " latents.philox4x32(Array(4).fill(0xffffffff), [0xffffffff, 0xffffffff]),"
        " latents.philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],"
        " [0xa4093822, 0x299f31d0])]"
    )
    assert answers == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_words_are_equal(seed: int):
    rows = run(f"{list(ROWS)}.map(row => latents.words(30, {seed}, row))")
    for row, words in zip(ROWS, rows, strict=True):
        stream = philox.Stream.SAMPLES
        expected = philox.words(1, 30, seed=seed, stream=stream, first_row=row)
        assert words == expected[0].tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_are_equal_and_floats_agree_to_rounding(seed: int):
    call = f"""Array.from({{length: 64}}, (_, row) => {{
        const draw = latents.sample(facts, {seed}, row);
        const input = latents.assemble(facts, draw.noise, draw.values);
        return {{values: draw.values, input: Array.from(input)}};
    }})"""
    rows = run(call)
    expected = SPEC.sample(64, seed=seed)
    inputs = np.array([row["input"] for row in rows], np.float32)
    np.testing.assert_allclose(inputs, expected.input.numpy(), rtol=1e-6, atol=5e-7)
    classes = [[v for v in row["values"] if isinstance(v, int)] for row in rows]
    assert classes == expected.categorical.tolist()


def test_traversals_take_the_values_of_sample():
    traversals = run("facts.codes.map(code => latents.traversal(code))")
    for i, values in enumerate(traversals):
        batch = SPEC.traverse(i, rows=1)
        target = SPEC.slots[i].target
        column = batch.continuous if hasattr(SPEC.codes[i], "traverse_values") else None
        expected = (batch.categorical if column is None else column)[:, target.start]
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-6, atol=1e-7)
