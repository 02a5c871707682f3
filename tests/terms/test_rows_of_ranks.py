"""Ranks draw their own rows: together, they draw what one rank draws for the global batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinfogan.config import TrainConfig
from fastinfogan.latents import LatentSpec, parse_codes
from fastinfogan.terms import Address
from fastinfogan.terms.contrastive import PairLatents
from fastinfogan.terms.upright import UprightCopies
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training import step as step_module
from fastinfogan.training.step import Step

B, RANKS = 8, 3
SPEC = LatentSpec(4, parse_codes("cat3,uniform,bernoulli"))
WARP = Warp(
    rotate=10,
    scale=0.2,
    shear=0.1,
    shift=0.1,
    flip=0.5,
    thickness=0.5,
    gamma=0.3,
    stroke=1,
    light=0.5,
    nod=0.2,
)


def batch() -> Tensor:
    images = torch.rand(RANKS * B, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return images * 2 - 1


def address(first_row: int) -> Address:
    return Address(seed=5, step=7, first_row=first_row)


@pytest.mark.parametrize(
    "recipe", [WarpedCopies(WARP, -1.0), UprightCopies(-1.0)], ids=["warped", "upright"]
)
def test_copies_of_a_rank_s_images_are_rows_of_the_global_batch_s_copies(recipe):
    whole = recipe(batch(), address(0))
    for rank, part in enumerate(batch().chunk(RANKS)):
        own = recipe(part, address(rank * B))
        rows = slice(rank * B, (rank + 1) * B)
        for actual, expected in zip(
            (*own.images, *own.tensors), (*whole.images, *whole.tensors), strict=True
        ):
            torch.testing.assert_close(actual, expected[rows], rtol=0, atol=1e-6)


def test_warps_of_two_ranks_differ():
    part = batch()[:B]
    first, second = (
        WarpedCopies(WARP, -1.0)(part, address(rank * B)).tensors[0] for rank in (0, 1)
    )
    assert not torch.isclose(first, second).all(1).any()


def test_pairs_of_a_rank_are_pairs_of_the_global_batch():
    whole_latents, whole_factors = PairLatents(SPEC)(batch(), address(0)).tensors
    pairs = B // 2
    halves = whole_latents.chunk(2)
    for rank, part in enumerate(batch().chunk(RANKS)):
        latents, factors = PairLatents(SPEC)(part, address(rank * B)).tensors
        rows = slice(rank * pairs, (rank + 1) * pairs)
        assert torch.equal(factors, whole_factors[rows])
        assert torch.equal(latents, torch.cat([half[rows] for half in halves]))


@pytest.mark.parametrize("mode", ["alternating", "reused", "shared"])
def test_an_update_s_address_is_that_of_the_rank_s_first_row(cpu_ranks, monkeypatch, mode):
    config = TrainConfig().with_options(codes="cat3", noise=4, step=mode, batch_size=B)
    ranks = cpu_ranks()
    ranks.rank = 2
    s = Step(config, config.spec(), ranks)
    seen: list[Address] = []
    update = step_module.UPDATES[mode]

    def watched(step, work, at, real):
        seen.append(at)
        return update(step, work, at, real)

    monkeypatch.setitem(step_module.UPDATES, mode, watched)
    s(11, torch.rand(B, 1, 28, 28))
    assert (seen[0].seed, int(seen[0].step), seen[0].first_row) == (config.seed, 11, 2 * B)


def test_the_captured_state_holds_the_loss_scale(cpu_ranks):
    config = TrainConfig().with_options(codes="cat3", noise=4, batch_size=B)
    s = Step(config, config.spec(), cpu_ranks())
    without = s._state()
    s.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    s.scaler.scale(torch.zeros(()))
    added = s._state()[len(without) :]
    assert [float(t) for t in added] == [8.0, 0.0]  # the scale, and how long it has held
    assert s.scaler._scale is not None
    assert added[0].data_ptr() == s.scaler._scale.data_ptr()  # itself, to be restored in place
