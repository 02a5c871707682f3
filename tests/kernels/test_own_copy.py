"""A second copy of the kernels loads in one process: under another name, or from a hub."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton")
import fastinfogan_kernels

# torch.compile's own, where it traces an autograd.Function
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
KERNELS = Path(__file__).parents[2] / "kernels"
SOURCE = KERNELS / "fastinfogan_kernels"
LINK = KERNELS / "torch-ext" / "fastinfogan_kernels"  # for kernel-builder; not in an sdist


def losses(kernels: ModuleType) -> list[torch.Tensor]:
    """Return loss, NLL per code and gradient of a package's kernel, eager and as an operator."""
    draw = torch.Generator().manual_seed(0)
    layout = kernels.make_layout([("categorical", 3), ("fixed", 2)])
    q = torch.randn(5, layout.q_dim, generator=draw).requires_grad_()
    label = torch.randint(3, (5, 1), generator=draw)
    place = torch.randn(5, 2, generator=draw)
    launch = importlib.import_module(f"{kernels.__name__}.launch")
    call = launch.Call(q, layout, label, place, torch.ones(2))
    results = []
    for loss in (
        kernels.functional.info_loss,
        torch.compile(kernels.functional.info_loss, backend="eager", fullgraph=True),
    ):
        total, per_code = loss(call)
        (gradient,) = torch.autograd.grad(total, q)
        results += [total.detach(), per_code, gradient]
    return results


def test_a_copy_under_another_name_gives_the_same_losses_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "othergan" / "borrowed"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    copy = importlib.import_module("othergan.borrowed")
    assert copy.functional.NAMESPACE == "othergan_borrowed"
    assert fastinfogan_kernels.functional.NAMESPACE == "fastinfogan_kernels"
    for ours, theirs in zip(losses(fastinfogan_kernels), losses(copy), strict=True):
        assert torch.equal(ours, theirs)


def test_the_kernels_import_nothing_but_torch_triton_and_themselves():
    script = """
import sys
import tomllib
import torch, triton
known = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import fastinfogan_kernels.functional, fastinfogan_kernels.sampling
new = {name.split(".")[0] for name in set(sys.modules) - known}
print(sorted(new - set(sys.stdlib_module_names) - {"torch", "triton"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(KERNELS)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['fastinfogan_kernels']"


@pytest.mark.skipif(
    not importlib.util.find_spec("kernels.load"), reason="needs the package kernels"
)
def test_huggingface_kernels_loads_the_package_next_to_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = importlib.import_module("kernels")  # by name: this repository has a folder of that name
    importlib.import_module("kernels._rust").Build.open(KERNELS)  # parses and checks build.toml
    general = tomllib.loads((KERNELS / "build.toml").read_text("utf-8"))["general"]
    variant = tmp_path / "build" / "torch-cpu"  # as kernel-builder writes it; here for this machine
    shutil.copytree(SOURCE, variant, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = {
        "id": "_fastinfogan_kernels_cpu_0123abc",
        "name": general["name"],
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "backend": {"type": "cpu"},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata))
    loaded = hub.get_local_kernel(tmp_path, backend="cpu")
    assert loaded is not fastinfogan_kernels
    namespace = loaded.functional.NAMESPACE
    assert namespace == metadata["id"]
    for ours, theirs in zip(losses(fastinfogan_kernels), losses(loaded), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not LINK.exists(), reason="an unpacked source distribution has no link")
def test_kernel_builder_s_folder_is_a_link_to_the_package():
    assert LINK.is_symlink()
    assert LINK.resolve() == SOURCE.resolve()


def test_the_card_has_the_header_that_the_hub_reads():
    text = (KERNELS / "CARD.md").read_text("utf-8")
    assert text.startswith("---\nlibrary_name: kernels\nlicense: mit\n")
    for name in ("make_layout", "info_loss_forward_backward"):
        assert f"`{name}(" in text
        assert hasattr(fastinfogan_kernels, name)
