"""Codes that follow a warp: the term's gradient, and which code follows what."""

import pytest
import torch
from helpers.terms import CONFIG, MODES, assert_adds, random_images
from torch import Tensor

from fastinfogan.terms.follow import REACH, Follow
from fastinfogan.terms.invariance import Invariance, mutual_information
from fastinfogan.terms.protocol import Extra
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import build_terms

pytestmark = pytest.mark.usefixtures("one_thread")

WARPED = WarpedCopies(Warp(), 0.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_follow_adds_its_weight_times_its_gradient_to_ds(mode, weight):
    """Alone, and with the invariance on the same copies, which are made once."""
    real, warped = random_images(2)
    change = 2 * torch.rand(8, 6, generator=torch.Generator().manual_seed(3)) - 1
    terms = [Follow(3.0, (0, 5), (1, 0), WARPED)]
    if weight:
        terms = [Invariance(weight, slice(1, 4), WARPED), *terms]  # type: ignore[list-item]
    values = []

    def loss(discriminator) -> Tensor:
        first, second = (discriminator(x, "batch")[1] for x in (real, warped))
        moved = (second - first)[:, [0, 5]]
        miss = (moved - REACH * change[:, [1, 0]]).square().mean(0).sum()
        values.append(miss.item())
        both = mutual_information(*((10 * q[:, 1:4]).softmax(1) for q in (first, second)))
        return 3.0 * miss - weight * both.objective

    record = assert_adds(mode, real, terms, [Extra((warped,), (change,))], loss)
    assert record.terms["follow"].item() == pytest.approx(values[0])


@pytest.mark.parametrize(
    ("codes", "followed", "columns", "changes"),
    [
        ("bernoulli,uniform,cat3,cat4,gaussian2:learned", "slant,width", (1, 9), (0, 1)),
        ("cat3,uniform,uniform", "width", (3,), (1,)),
        ("cat3,uniform", "width, slant", (3,), (1,)),
        ("cat3,uniform3", "size, y", (3, 4), (4, 3)),
    ],
)
def test_the_first_continuous_dimensions_follow_in_order(codes, followed, columns, changes):
    config = CONFIG.with_options(codes=codes, follow=3.0, followed=followed, real_info=1.0)
    invariance, follow = build_terms(config, config.spec(), 0.0)
    assert isinstance(follow, Follow)
    assert (follow.weight, follow.columns, follow.changes) == (3.0, columns, changes)
    assert follow.recipe == invariance.recipe
