"""The vendoring recipe: losses, latents and philox.py copied into another package work there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastinfogan

SOURCE = Path(fastinfogan.__file__).parent
COPIED = ("losses", "latents", "philox.py")

SCRIPT = """
import sys
for name in ("fastinfogan", "fastinfogan_kernels", "triton"):
    sys.modules[name] = None  # an import of it fails
import torch
from othergan.borrowed.latents import Categorical, LatentSpec, Uniform
from othergan.borrowed.losses import InfoLoss, adversarial_losses, info_loss, information

spec = LatentSpec(3, (Categorical(10, name="digit"), Uniform(sigma="learned")))
batch = spec.sample(8, seed=1)
compiled = torch.compile(lambda: spec.sample(8, seed=1), backend="eager", fullgraph=True)()
assert all(map(torch.equal, batch, compiled))
assert spec.sample(8).input.shape == (8, spec.input_dim)
q = torch.zeros(8, spec.q_dim, requires_grad=True)
out = info_loss(q, spec, batch.categorical, batch.continuous)
out.total.backward()
assert q.grad.abs().sum() > 0
assert InfoLoss(spec)(q, batch.categorical, batch.continuous).total.isfinite()
print(*(f"{x:.6f}" for x in information(out.per_code, spec).tolist()), sep=" ")
adversarial_losses("nonsaturating")
"""

BOTH = """
import torch
import fastinfogan.latents as first, othergan.borrowed.latents as second
made = [m.LatentSpec(3, (m.Categorical(10), m.Uniform())) for m in (first, second)]
drawn = [torch.compile(spec.sample, backend="eager")(4, seed=1) for spec in made]
print(all(map(torch.equal, *drawn)))
"""


def run(script: str, folder: Path, *more: Path) -> str:
    path = os.pathsep.join(map(str, (folder, *more)))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy(folder: Path) -> None:
    package = folder / "othergan" / "borrowed"
    package.mkdir(parents=True)
    for init in (package.parent, package):
        (init / "__init__.py").touch()
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, package / name, ignore=ignored)
        else:
            shutil.copy(SOURCE / name, package / name)


def test_the_copied_files_draw_and_give_the_loss_without_fastinfogan(tmp_path):
    copy(tmp_path)
    first, _ = map(float, run(SCRIPT, tmp_path).split())
    assert abs(first) < 1e-6  # H − NLL of a Q that knows nothing of a uniform class


@pytest.mark.slow
def test_a_copy_and_the_original_live_in_one_process(tmp_path):
    copy(tmp_path)
    assert run(BOTH, tmp_path, SOURCE.parent, SOURCE.parent / "kernels") == "True\n"
