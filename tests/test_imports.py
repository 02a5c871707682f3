"""Imports of the two modules that other codebases may take on their own."""

import json
import subprocess
import sys

import pytest

from fastinfogan.__main__ import COMMANDS

SCRIPT = """
import json, sys
def loaded():
    return {name.partition(".")[0] for name in sys.modules}
import torch
before = loaded()
import fastinfogan.latents, fastinfogan.losses
after = loaded()
print(json.dumps(sorted(after - before - set(sys.stdlib_module_names))))
"""

ALONE = """
import sys
for name in ("accelerate", "tyro", "triton", "fastinfogan_kernels", "scipy", "einops", "yaml"):
    sys.modules[name] = None  # an import of it raises ImportError
import torch
from fastinfogan import LatentSpec, Categorical, Uniform, info_loss
spec = LatentSpec(noise=2, codes=(Categorical(10), Uniform(-1, 1)))
batch = spec.sample(4, seed=0)
out = info_loss(torch.zeros(4, 11), spec, batch.categorical, batch.continuous)
print(out.per_code[0].item())
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_losses_and_latents_import_nothing_beyond_torch_and_the_standard_library():
    assert json.loads(run(SCRIPT)) == ["fastinfogan"]


def test_the_loss_runs_where_no_other_dependency_can_be_imported():
    assert float(run(ALONE)) == pytest.approx(2.302585, abs=1e-6)  # log 10 in fp32


COMMANDS_AND_WHAT_THEY_IMPORT = """
import importlib, json, sys
from fastinfogan.__main__ import COMMANDS, module_of
importlib.import_module(module_of(sys.argv[1]))
print(json.dumps([name for name in COMMANDS if module_of(name) in sys.modules]))
"""


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
@pytest.mark.slow
def test_a_command_imports_no_other_command(command):
    assert json.loads(run(COMMANDS_AND_WHAT_THEY_IMPORT, command)) == [command]


LAZY = ("scipy", "sklearn", "matplotlib", "datasets", "torchvision", "pandas", "pyarrow")
TRAIN = """
import sys
import fastinfogan.cli, fastinfogan.train
print([name for name in LAZY if name in sys.modules])
"""


def test_packages_that_only_some_sets_or_the_evaluation_need_are_imported_on_first_use():
    assert run(f"LAZY = {LAZY}{TRAIN}") == "[]\n"
