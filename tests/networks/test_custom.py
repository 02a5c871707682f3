"""A user's networks: what they must provide, and what is said where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fastinfogan
from fastinfogan.errors import UserError
from fastinfogan.networks import initialise, pair

SIZES = (5, 3, 8, 1)  # input_dim, q_dim, image_size, channels
MODULE = """
import torch
from torch import nn

class G(nn.Linear):
    def forward(self, z):
        return super().forward(z).view(-1, {channels}, 8, 8)

class D(nn.Module):
    def __init__(self, q_dim):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.d, self.own = nn.Linear(64, 1), nn.Linear(64, q_dim + {extra})
    def trunk(self, images):
        return self.norm(images.flatten(1))
    def logit(self, features):
        return self.d(features){squeeze}
    def {q}(self, features):
        return self.own(features)
    def q_parameters(self):
        return {q_parameters}

def make(*, input_dim, q_dim, image_size, channels):
    {body}

VALUE = 3
"""
RIGHT = {
    "channels": "1",
    "extra": "0",
    "squeeze": "[:, 0]",
    "q": "q",
    "q_parameters": "list(self.own.parameters())",
    "body": "return G(input_dim, 64), D(q_dim)",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a maker of a module of its own name in the working directory, which gives the name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p != str(tmp_path)])

    def make(**changes: str) -> str:
        name = f"own_pair_{abs(hash((str(tmp_path), *changes.items())))}"
        (tmp_path / f"{name}.py").write_text(MODULE.format(**{**RIGHT, **changes}))
        return name

    return make


def test_a_module_in_the_working_directory_is_found(module):
    generator, discriminator = pair(f"{module()}:make", *SIZES)
    logit, q = discriminator(generator(torch.zeros(4, 5)))
    assert (logit.shape, q.shape) == ((4,), (4, 3))
    assert generator.image_range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": "other"}, "the discriminator lacks `q`; it needs trunk"),
        (
            {"channels": "1, 1"},
            r"expected the generator to give \[2, 1, 8, 8\], got \[2, 1, 1, 8, 8",
        ),
        ({"squeeze": ""}, r"expected logit to give \[2\], got \[2, 1\]"),
        ({"extra": "2"}, r"expected q to give \[2, 3\], got \[2, 5\]"),
        ({"q_parameters": "[3]"}, r"expected q_parameters\(\) to give parameters"),
        ({"body": "return G(input_dim, 64)"}, r"expected it to return \(generator, disc.*, got G"),
        ({"body": "return 1, 2"}, "expected the generator to be an nn.Module, got int"),
        ({"body": "raise ValueError('sides of 16')"}, "failed: ValueError: sides of 16"),
        ({"body": "return G(7, 64), D(q_dim)"}, "generator failed: RuntimeError: "),
    ],
)
def test_unsuitable_networks_are_refused_in_one_line(module, changes, message):
    path = f"{module(**changes)}:make"
    with pytest.raises(UserError, match=f"^--networks {path}:? ?.*{message}") as caught:
        pair(path, *SIZES)
    assert "\n" not in str(caught.value)


def test_a_path_that_leads_nowhere_is_refused_in_one_line(module):
    name = module()
    for path, message in (
        ("no_such_module:make", "no module no_such_module on sys.path or in "),
        (f"{name}:mkae", f"module {name} has no mkae; did you mean make?"),
        (f"{name}:VALUE", "expected a function, got int"),
        (f"{name}:", "expected the form module.path:name"),
        (":make", "expected the form module.path:name"),
    ):
        with pytest.raises(UserError) as caught:
            pair(path, *SIZES)
        assert str(caught.value).startswith(f"--networks {path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_module_that_fails_says_how(module, tmp_path):
    (tmp_path / "broken_pair.py").write_text("import no_such_library\n")
    with pytest.raises(UserError, match="importing broken_pair failed: No module named 'no_such_l"):
        pair("broken_pair:make", *SIZES)


def test_each_part_of_a_batch_is_normalised_by_itself(module):
    _, discriminator = pair(f"{module()}:make", *SIZES)
    one, other = torch.rand(4, 1, 8, 8), 5 + torch.rand(4, 1, 8, 8)
    together = discriminator.trunk(torch.cat((one, other)), ("update", "batch"))
    torch.testing.assert_close(together[:4], discriminator.trunk(one), rtol=0, atol=0)
    torch.testing.assert_close(together[4:], discriminator.trunk(other), rtol=0, atol=0)


def test_running_statistics_are_used_on_request_and_the_mode_stays(module):
    _, discriminator = pair(f"{module()}:make", *SIZES)
    images = 3 + torch.rand(4, 1, 8, 8)
    before = {name: b.clone() for name, b in discriminator.named_buffers()}
    out = discriminator.trunk(images, "running")
    assert discriminator.training
    assert all(torch.equal(before[name], b) for name, b in discriminator.named_buffers())
    assert torch.equal(out, discriminator.eval().trunk(images))


def test_a_generator_decides_the_weights_and_leaves_torchs_own_alone(module):
    weights = []
    for seed in (0, 0, 1):
        generator, _ = pair(f"{module()}:make", *SIZES)
        state = torch.get_rng_state()
        initialise(generator, torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(next(generator.parameters()).detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_load_says_what_to_do_where_the_networks_cannot_be_imported(
    module, tmp_path, monkeypatch, one_thread
):
    import numpy as np

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)
    monkeypatch.setattr("fastinfogan.runs.loop.Training._draw", lambda *_: None)
    name = module()
    options = {"codes": "cat3", "noise": 2, "batch_size": 4, "steps": 1, "out": tmp_path / "run"}
    data = np.zeros((40, 8, 8), np.uint8)
    fastinfogan.fit("mnist-paper", data=data, networks=f"{name}:make", **options)
    assert f"networks: {name}:make" in (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / f"{name}.py").unlink()
    import sys

    function = sys.modules.pop(name).make
    with pytest.raises(UserError, match=r"pass networks=FUNCTION to fastinfogan\.load") as caught:
        fastinfogan.load(tmp_path / "run")
    assert f"--networks {name}:make: no module {name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fastinfogan.load(tmp_path / "run", networks=function).spec.input_dim == 5
