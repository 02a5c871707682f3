"""The loss's examples run, are short, import torch and fastinfogan alone, and have strict types."""

from __future__ import annotations

import ast
import math
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = ("acgan", "angles", "dcgan_heads", "semi_supervised", "wgan_gp")


def load(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return runpy.run_path(str(FOLDER / f"{name}.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_for_a_few_steps(name):
    result = load(name)["train"](3, batch=16)
    numbers = result if isinstance(result, tuple) else (result,)
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_imports_torch_and_fastinfogan_alone(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) < 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["torch"]
        elif isinstance(node, ast.ImportFrom):
            assert node.module in ("torch", "fastinfogan.latents", "fastinfogan.losses")


@pytest.mark.usefixtures("one_thread")
def test_the_direction_of_a_bar_is_read_to_a_tenth_of_a_radian():
    information, error = load("angles")["train"](150)
    assert information > 1.5
    assert error < 0.1


@pytest.mark.usefixtures("one_thread")
def test_the_generator_of_acgan_draws_the_class_it_is_given():
    assert load("acgan")["train"](120) > 0.9  # chance: .25


@pytest.mark.slow
def test_the_examples_have_strict_types():
    done = subprocess.run(
        # torch itself leaves Tensor.backward untyped
        [sys.executable, "-m", "mypy", "--strict", "--untyped-calls-exclude", "torch"]
        + ["--follow-imports", "silent"]
        + [f"examples/{n}.py" for n in (*EXAMPLES, "lightning_module")],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
