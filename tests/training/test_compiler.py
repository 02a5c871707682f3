"""The place of compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from fastinfogan.training import compiler

# of torch's own imports
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
PLACE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PLACE, default_cache_dir())  # as torch sets it when it is imported
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def compile_something(factor: float) -> None:
    torch._dynamo.reset()
    compiler.compile_whole(lambda x: (x * factor).sin().sum())(torch.ones(7))


def test_compiled_code_is_in_the_user_s_cache(home):
    compile_something(3.25)
    assert list((home / "fastinfogan/compiled").rglob("*.so"))


def test_a_process_in_which_nothing_was_compiled_yet_keeps_its_code_there(home):
    code = (
        "import os, torch, fastinfogan.training.step; from fastinfogan.training import compiler;"
        "compiler.compile_whole(torch.sin); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != PLACE}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(home / "fastinfogan/compiled")


def test_a_place_that_the_user_has_named_stays(home, tmp_path_factory, monkeypatch):
    own = tmp_path_factory.mktemp("own")
    monkeypatch.setenv(PLACE, str(own))
    compile_something(3.5)
    assert list(own.rglob("*.so"))
    assert not (home / "fastinfogan/compiled").exists()


def test_a_cache_that_cannot_be_made_leaves_the_compiler_its_own_place(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    compile_something(3.75)
    assert os.environ[PLACE] == default_cache_dir()
