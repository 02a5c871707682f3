"""A saved run loads as the run does, from a folder and from the hub, and runs no code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.loopback_hub import loopback_hub
from helpers.networks import SPEC, untrained
from safetensors.torch import load_file, save_file

import fastinfogan
from fastinfogan import save
from fastinfogan.errors import UserError
from fastinfogan.runs.folder import Loaded
from fastinfogan.runs.hub import load_saved, save_networks, split_name

pytest.importorskip("huggingface_hub")
OPTIONS = {"networks": "mnist", "image_size": 8, "channels": 1}


def assert_same(first: Loaded, second: Loaded) -> None:
    """Check that spec and every tensor are equal."""
    assert first.spec == second.spec
    for ours, theirs in zip(first[:2], second[:2], strict=True):
        a, b = ours.state_dict(), theirs.state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_save_writes_a_folder_that_loads_as_the_run_does(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "saved"
    assert save.main([str(small_run), str(out)]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "codes.png",
        "config.json",
        "model.safetensors",
    ]
    assert_same(fastinfogan.load(out), fastinfogan.load(small_run))
    evaluation = json.loads((small_run / "eval.json").read_text())
    card = (out / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: fastinfogan\n")
    assert f"sorts {evaluation['code_accuracy']:.1%} of the test images" in card
    assert "| updates | 2 |" in card


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_networks(tmp_path / "saved", untrained(), OPTIONS)
    return tmp_path / "saved"


def test_a_missing_tensor_is_refused(saved: Path):
    tensors = load_file(saved / "model.safetensors")
    del tensors["generator.fc1.weight"]
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(UserError, match="generator's tensors do not fit") as caught:
        load_saved(saved)
    assert "\n" not in str(caught.value)


def test_networks_that_a_folder_names_are_never_imported(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    config["networks"] = "evil_module:build"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="never imported from a saved folder"):
        load_saved(saved)
    assert "evil_module" not in sys.modules
    passed = load_saved(saved, networks=lambda **sizes: untrained()[:2])
    assert_same(passed, untrained())


def test_a_folder_of_something_else_is_refused(saved: Path):
    (saved / "config.json").write_text('{"library": "diffusers"}')
    with pytest.raises(UserError, match="expected networks that `fastinfogan save` wrote"):
        load_saved(saved)


@pytest.mark.parametrize("name", ["hf:alone", "hf:a/b/c", "hf:/b", "hf:"])
def test_a_name_that_the_hub_cannot_have_is_refused(name: str):
    with pytest.raises(UserError, match="expected hf:USER/NAME"):
        split_name(name)


SCRIPT = """
import sys
import fastinfogan
from fastinfogan import push
from fastinfogan.errors import UserError
for argument in sys.argv[1:]:
    if argument.startswith("push "):
        print("exit", push.main(argument.split()[1:]))
        continue
    try:
        print("loaded", fastinfogan.load(argument).spec.q_dim)
    except UserError as error:
        print("refused", error)
"""


def run(arguments: list[str], endpoint: str, cache: Path, **environment: str) -> list[str]:
    """Return the output of a process whose hub is the stand-in: huggingface_hub reads it once."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_of_a_test",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


@pytest.mark.slow
def test_a_pushed_run_loads_from_the_hub_and_errors_are_one_line(small_run: Path, tmp_path: Path):
    with loopback_hub() as (endpoint, hub):
        pushed = f"push {small_run} someone/digits --private"
        loads = ["hf:someone/digits", "hf:someone/other", "hf:someone/digits@never"]
        lines = run([pushed, *loads], endpoint, tmp_path / "cache")
        text = "\n".join(lines)
        assert f"pushed {small_run} to {endpoint}/someone/digits" in text
        assert "private" in (hub.created[0].get("visibility"), *hub.created[0])
        assert set(hub.repositories["someone/digits"]) >= {"model.safetensors", "README.md"}
        assert f"loaded {fastinfogan.load(small_run).spec.q_dim}" in lines
        refused = [line for line in lines if line.startswith("refused")]
        assert "hf:someone/other: the hub has no such repository" in refused[0]
        assert "hf:someone/digits@never: the hub has no such revision" in refused[1]

        hub.refuse = True
        text = "\n".join(run([f"push {small_run} someone/digits"], endpoint, tmp_path / "cache"))
        assert "exit 2" in text
        assert "run: hf auth login" in text
    # offline: what is cached loads, all else is refused in one line
    offline = {"HF_HUB_OFFLINE": "1"}
    lines = run(loads[:2], endpoint, tmp_path / "cache", **offline)
    assert lines[0] == f"loaded {fastinfogan.load(small_run).spec.q_dim}"
    assert "cannot be reached" in lines[1]


def test_every_kind_of_code_survives(saved: Path):
    assert load_saved(saved).spec == SPEC
