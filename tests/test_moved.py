"""Import paths of version 0.1 keep working for one release."""

import importlib
import subprocess
import sys

import pytest

from fastinfogan.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_import_path_that_moved_gives_the_module_at_its_new_path_and_warns(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__spec__ is not None
    assert module.__spec__.name == MOVED[old]


def test_a_path_that_never_was_is_still_not_there():
    with pytest.raises(ModuleNotFoundError, match=r"fastinfogan\.nothing"):
        importlib.import_module("fastinfogan.nothing")


def test_the_kernels_old_path_gives_the_kernel_and_warns():
    code = "from fastinfogan_kernels.info_loss import head_loss_kernel as k; print(k.__name__)"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "head_loss_kernel\n"
    assert "fastinfogan_kernels.info_loss has moved to fastinfogan_kernels.head_loss" in done.stderr
