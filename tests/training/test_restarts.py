"""Many starts of the categories' layer: what is fitted, what is kept, what a run makes of it."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import assert_same_run, command, records, write_images
from helpers.small_pair import CONFIG, batch
from torch import Tensor, nn

from fastinfogan import train
from fastinfogan.data import streaming
from fastinfogan.errors import UserError
from fastinfogan.networks import pair
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training import restarts
from fastinfogan.training.metrics import Stopwatch
from fastinfogan.training.player import Player
from fastinfogan.training.restarts import Starts, features, fit, output_layer, put
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

WITH = CONFIG.with_options(
    codes="cat3,uniform,cat6*0",
    invariance_weight=3.0,
    invariance_codes="all",
    invariance_restarts=4,
    invariance_restart_at=2,
    gan_start=3,
)


def clusters(kinds: int = 4, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of images [400, 8] of so many kinds, those of their copies, and the kinds."""
    draw = torch.Generator().manual_seed(0)
    kind = torch.arange(400) % kinds
    middle = 2 * torch.randn(kinds, 8, generator=draw)
    first, second = (middle[kind] + noise * torch.randn(400, 8, generator=draw) for _ in range(2))
    return first, second, kind


def agreement(starts: Starts, which: int, first: Tensor, kind: Tensor) -> float:
    """Return the share of images in their kind's category, by the best one-to-one matching."""
    category = (first @ starts.weight[which].T + starts.bias[which]).argmax(1)
    kinds = int(kind.max()) + 1
    return max(
        (torch.tensor(matching)[kind] == category).double().mean().item()
        for matching in itertools.permutations(range(kinds))
    )


@pytest.mark.parametrize("standardise", [False, True])
def test_the_start_of_the_greatest_information_sorts_the_kinds(standardise):
    first, second, kind = clusters()
    starts = fit(first, second, 4, 12, 0, standardise)
    assert starts.weight.shape == (12, 4, 8)
    assert starts.nats.max() == starts.nats[starts.best]
    if not standardise:  # logits of a deviation of 2 are never as sure
        assert starts.nats.max() == pytest.approx(math.log(4), abs=0.1)
    assert agreement(starts, starts.best, first, kind) > 0.99
    if not standardise:  # there was something to choose
        assert agreement(starts, int(starts.nats.argmin()), first, kind) < 0.9


def test_starts_depend_on_their_seed_and_on_no_more_than_the_features(monkeypatch):
    monkeypatch.setattr(restarts, "UPDATES", 20)
    first, second, _ = clusters()
    one, same, other = (fit(first, second, 4, 3, seed, False) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(
    ("networks", "side", "trunk"), [("mnist", 8, "shared"), ("svhn", 32, "own")]
)
def test_features_are_what_the_last_layer_gets_and_leave_the_networks_alone(networks, side, trunk):
    _, discriminator = pair(networks, 9, 7, side, 1, q_trunk=trunk)
    layer = output_layer(discriminator, 7)
    images = torch.rand(300, 1, side, side, generator=torch.Generator().manual_seed(0))
    before = {name: x.clone() for name, x in discriminator.state_dict().items()}
    recipe = WarpedCopies(Warp(shift=0.2), 0.0)
    assert discriminator.training
    first, second = features(discriminator, layer, images, recipe, 0)
    assert discriminator.training
    assert not layer._forward_pre_hooks
    after = discriminator.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    with torch.no_grad():
        _, q = discriminator.eval()(images)
        torch.testing.assert_close(layer(first), q)
    assert first.shape == second.shape == (300, layer.in_features)
    assert (first - second).abs().max() > 1e-3
    again = features(discriminator, layer, images, recipe, 1)
    assert torch.equal(again[0], first)
    assert not torch.equal(again[1], second)


def test_only_the_categories_rows_of_the_layer_are_written():
    layer = nn.Linear(5, 7)
    before = [p.detach().clone() for p in layer.parameters()]
    starts = Starts(torch.randn(3, 2, 5), torch.randn(3, 2), torch.tensor([0.1, 0.3, 0.2]))
    put(starts, layer, slice(1, 3))
    for p, old, new in zip(layer.parameters(), before, starts[:2], strict=True):
        assert torch.equal(p[1:3], new[1])
        assert torch.equal(p[:1], old[:1])
        assert torch.equal(p[3:], old[3:])


@pytest.mark.parametrize(("options", "count"), [({"spectral_norm": True}, 0), ({}, 1)])
def test_networks_without_one_plain_last_layer_are_refused(options, count):
    _, discriminator = pair("svhn", 9, 7, 32, 1, **options)
    if count:
        assert output_layer(discriminator, 7).out_features == 7
    else:
        with pytest.raises(UserError, match=r"nn.Linear of 7 outputs with a bias, .* found 0"):
            output_layer(discriminator, 7)
    with pytest.raises(UserError, match="found 0"):
        output_layer(discriminator, 99)
    twice = nn.ModuleList([nn.Linear(2, 99), nn.Linear(3, 99)])
    with pytest.raises(UserError, match="found 2"):
        output_layer(twice, 99)


def test_a_run_whose_networks_are_refused_does_not_begin(cpu_ranks):
    config = WITH.with_options(networks="svhn", image_size=32, spectral_norm=True)
    with pytest.raises(UserError, match=r"^--invariance.restarts: expected networks"):
        Step(config, config.spec(), cpu_ranks())


def test_rows_that_were_written_anew_get_the_other_rows_second_moment(cpu_ranks):
    ranks = cpu_ranks()
    other, param = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(4, 2))
    player = Player("d", [other, param], torch.float32, 0.1, (0.5, 0.9), ranks)
    for _ in range(3):
        player.start_average([torch.ones(3, 2), torch.ones(4, 2)]).wait()
        player.move()
    moments = player.tensors()
    before = {name: x.clone() for name, x in moments.items()}
    moments["adam_d.01.exp_avg_sq"][1:] *= 3  # the others' mean is then 7/3 of a row's
    player.forget(param, slice(0, 1))
    assert not moments["adam_d.01.exp_avg"][0].any()
    kept = ("adam_d.step", "adam_d.00.exp_avg", "adam_d.00.exp_avg_sq")
    assert all(torch.equal(moments[name], before[name]) for name in kept)
    assert torch.equal(moments["adam_d.01.exp_avg"][1:], before["adam_d.01.exp_avg"][1:])
    of_row = before["adam_d.01.exp_avg_sq"][1:] * 3
    torch.testing.assert_close(moments["adam_d.01.exp_avg_sq"][0], of_row.mean().expand(2))
    assert torch.equal(moments["adam_d.01.exp_avg_sq"][1:], of_row)


def test_the_first_code_is_compared_from_its_restart_on_and_the_finer_one_always(cpu_ranks):
    spec = WITH.spec()
    step = Step(WITH, spec, cpu_ranks())
    assert [step.active(n).terms for n in range(4)] == [
        *(("finer",), ("finer",)),
        *(("invariance",), ("invariance",)),
    ]
    weight = output_layer(step.networks.discriminator, spec.q_dim).weight
    first, _, finer = (slot.q for slot in spec.slots)
    old = weight.detach().clone()
    for n in range(2):
        step(n, batch(n, WITH.batch_size))
    assert torch.equal(weight[first], old[first])
    assert not torch.equal(weight[finer], old[finer])
    starts = step.restart_categories(torch.rand(40, 1, 8, 8))
    step.took_restart()
    assert torch.equal(weight[first], starts.weight[starts.best])
    step(2, batch(2, WITH.batch_size))
    moved = (weight[first] - starts.weight[starts.best]).abs().max()
    assert 0 < moved < 3 * WITH.optimiser.lr_d  # and not sixteen times the rate


def test_working_copies_have_the_new_layer_as_well(cpu_ranks):
    step = Step(WITH, WITH.spec(), cpu_ranks("bf16"))
    starts = step.restart_categories(torch.rand(40, 1, 8, 8))
    step.took_restart()
    layer = output_layer(step.working.discriminator, WITH.spec().q_dim)
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight[:3], starts.weight[starts.best].bfloat16())


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(restarts, "UPDATES", 20)
    threads = torch.get_num_threads()

    def run(data: Path, out: Path, steps: int, *more: str) -> None:
        AcceleratorState._reset_state(True)
        options = (
            f"--steps {steps} --log-every 2 --codes cat3,uniform,cat6*0 --invariance.codes all "
            "--invariance.restarts 5 --invariance.restart-at 4 --gan-start 6 --info-start 0 "
            "--vat.weight 0"
        )
        assert train.main([*command(data, out), *options.split(), *more]) == 0

    yield run
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


def test_a_run_that_is_stopped_right_before_the_restart_ends_with_the_same_bits(
    run, tmp_path, capsys
):
    data = write_images(tmp_path / "images.npz")
    run(data, tmp_path / "whole", 9)
    output = capsys.readouterr().out
    assert "categories: the best of 5 starts is kept" in output
    held = records(tmp_path / "whole")
    assert [r["step"] for r in held] == [2, 4, 6, 8, 9]
    for record, before in zip(held, [True, True, False, False, False], strict=True):
        assert [record["finer"] is None, record["invariance"] is None] == [not before, before]
    parts = tmp_path / "parts"
    run(data, parts, 8, "--checkpoint-every", "4")
    shutil.rmtree(parts / "checkpoints" / "step-00000008")
    capsys.readouterr()
    run(data, parts, 9)
    assert "starts is kept" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", parts, 9)


def test_images_of_the_training_set_alone_are_fitted_while_no_rate_is_timed(
    run, tmp_path, monkeypatch
):
    data = write_images(tmp_path / "images.npz")
    seen: list[Tensor] = []
    fitted = Step.restart_categories

    def kept(self, images):
        seen.append(images)
        timed.append(watches[-1]._since is not None)
        return fitted(self, images)

    watches: list[Stopwatch] = []
    timed: list[bool] = []
    start = Stopwatch.start

    def seen_start(self):
        watches.append(self)
        start(self)

    monkeypatch.setattr(Stopwatch, "start", seen_start)
    monkeypatch.setattr(Step, "restart_categories", kept)
    monkeypatch.setattr(restarts, "IMAGES", 40)
    run(data, tmp_path / "run", 7)
    (images,) = seen
    assert timed == [False]
    assert images.shape == (40, 1, 8, 8)
    whole = np.load(data)["images"].astype(np.float32) / 255
    rows = [int(np.abs(whole - x[0].numpy()).mean((1, 2)).argmin()) for x in images]
    assert len(set(rows)) == 40
    assert not set(rows) & set(streaming.split_rows(len(whole), held_out=True).tolist())
