"""The losses and latents install without the trainer's packages, which its commands ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastinfogan import requirements
from fastinfogan.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(needs: list[str]) -> set[str]:
    return {re.split(r"[ <>=;\[]", need)[0] for need in needs}


def test_the_core_needs_torch_and_triton_and_the_extra_the_rest():
    assert names(PROJECT["dependencies"]) == {"torch", "triton"}
    (triton,) = (need for need in PROJECT["dependencies"] if need.startswith("triton"))
    assert "sys_platform == 'linux'" in triton
    extras = PROJECT["optional-dependencies"]
    assert names(extras["train"]) == set(requirements.TRAIN)
    for name in ("dev", "hf", "export"):
        assert "fastinfogan[train]" in extras[name]


def test_nothing_is_missing_here():
    assert requirements.missing() == []


HIDDEN = """
import contextlib, io, runpy, sys
for name in {hidden!r}:
    sys.modules[name] = None  # not installed: an import of it raises ModuleNotFoundError
import fastinfogan
from fastinfogan.__main__ import main
from fastinfogan.losses import info_loss

def attempt(call):
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            code = call()
        except SystemExit as error:
            code = error.code
    print(code, stderr.getvalue(), end="")

for command in {commands!r}:
    attempt(lambda: main(command.split()))
for module in {modules!r}:
    attempt(lambda: runpy.run_module("fastinfogan." + module, run_name="__main__"))
try:
    fastinfogan.load
except ImportError as error:
    print("load", error)
print("help", main(["--help"]))
"""


def run(
    script: str, *, python: str = sys.executable, cwd: Path | None = None, **environment: str
) -> str:
    done = subprocess.run(
        [python, "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_trainer_s_packages_commands_end_in_one_line_and_losses_work():
    commands = list(COMMANDS)
    package = ROOT / "fastinfogan"
    modules = [p.stem for p in package.glob("*.py") if "SystemExit(main())" in p.read_text()]
    assert {"train", "evaluate", "sample"} <= set(modules)
    hidden = ["tyro", "accelerate", "yaml"]
    script = HIDDEN.format(hidden=hidden, commands=commands, modules=modules)
    lines = run(script).splitlines()
    n = len(commands) + len(modules)
    expected = (
        "2 error: not installed: accelerate, PyYAML, tyro; run pip install 'fastinfogan[train]'"
    )
    requested, load, last = lines[:n], lines[n], lines[-1]
    assert requested == [expected] * len(requested)
    assert load.startswith("load fastinfogan.load: not installed: accelerate, PyYAML, tyro;")
    assert last == "help 0"


@pytest.mark.slow
def test_a_source_distribution_holds_the_kernels_once(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "docs")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    subprocess.run([*build, "-o", str(tmp_path), str(source)], check=True, stdout=subprocess.PIPE)
    (archive,) = tmp_path.glob("fastinfogan-*.tar.gz")
    with tarfile.open(archive) as members:
        paths = [Path(*Path(name).parts[1:]) for name in members.getnames()]
    kernels = [str(path) for path in paths if path.name == "head_loss.py"]
    assert kernels == ["kernels/fastinfogan_kernels/head_loss.py"]
    assert Path("kernels/build.toml") in paths
    assert Path("tests/kernels/test_own_copy.py") in paths


TORCH_AND_ITS_OWN = (
    *("torch", "torchgen", "functorch", "triton", "sympy", "mpmath", "networkx", "jinja2"),
    *("markupsafe", "fsspec", "filelock", "typing_extensions", "setuptools", "nvidia"),
)

ALONE = """
import sys, torch, fastinfogan
from fastinfogan import Angle, Categorical, InfoLoss, LatentSpec
spec = LatentSpec(2, (Categorical(10), Categorical(4, probs=[0.1, 0.2, 0.3, 0.4])))
batch = spec.sample(4, seed=0)
out = InfoLoss(spec)(torch.zeros(4, spec.q_dim), batch.categorical, batch.continuous)
print(fastinfogan.__file__, *(f"{x:.4f}" for x in out.per_code.tolist()))
"""


@pytest.mark.slow
def test_the_wheel_without_its_extras_gives_the_losses_next_to_torch(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "docs")
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("fastinfogan-*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)

    shared = tmp_path / "torch"  # torch is gigabytes: linked, with what it needs and no more
    shared.mkdir()
    for name in TORCH_AND_ITS_OWN:
        spec = find_spec(name)
        if spec is not None:
            locations = spec.submodule_search_locations
            path = Path(next(iter(locations)) if locations else str(spec.origin))
            (shared / path.name).symlink_to(path)
    environment = {"PYTHONPATH": str(shared), "PYTHONWARNINGS": "ignore"}
    file, *per_code = run(ALONE, python=python, cwd=tmp_path, **environment).split()
    assert file.startswith(str(tmp_path / "venv"))
    assert per_code == ["2.3026", "1.3863"]
    script = tmp_path / "venv" / "bin" / "fastinfogan"
    for command in ([str(script), "train"], [python, "-m", "fastinfogan.sample", "run"]):
        done = subprocess.run(
            command,
            cwd=tmp_path,  # the current folder comes before what is installed
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: not installed: accelerate, ")
        assert line.endswith("; run pip install 'fastinfogan[train]'")
