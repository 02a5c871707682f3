"""A continuous code that tells real images apart: the term's value, its gradient, its columns."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.terms import CONFIG, MODES, assert_adds, random_images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.errors import UserError
from fastinfogan.terms.instances import Instances, embedding, info_nce
from fastinfogan.terms.invariance import Invariance
from fastinfogan.terms.photo import PhotoOptions
from fastinfogan.terms.protocol import Address, Extra
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import build_terms

pytestmark = pytest.mark.usefixtures("one_thread")

WARPED = WarpedCopies(Warp(), 0.0)


def embeddings(rows: int, dim: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=draw, dtype=torch.float64)


@given(
    rows=st.integers(1, 30),
    dim=st.integers(2, 40),
    temperature=st.floats(0.05, 5),
    seed=st.integers(0, 2**32),
)
def test_the_value_is_log_b_less_the_cross_entropy_of_a_search(rows, dim, temperature, seed):
    first, second = embeddings(rows, dim, seed), embeddings(rows, dim, seed + 1)
    middle = torch.cat((first, second)).mean(0)
    cosine = F.cosine_similarity((first - middle)[:, None], (second - middle)[None], dim=2)
    cosine = cosine / temperature
    own = torch.arange(rows)
    entropy = (F.cross_entropy(cosine, own) + F.cross_entropy(cosine.T, own)) / 2
    actual = info_nce(first, second, temperature)
    torch.testing.assert_close(actual, math.log(rows) - entropy, atol=1e-9, rtol=1e-9)


def test_the_most_there_is_is_log_b_and_equal_embeddings_tell_nothing():
    apart = torch.eye(16, dtype=torch.float64)
    assert float(info_nce(apart, apart, 0.01)) == pytest.approx(math.log(16))
    equal = torch.ones(16, 4, dtype=torch.float64)
    assert float(info_nce(equal, equal, 0.2)) == pytest.approx(0.0)


def test_neither_the_embeddings_scale_nor_their_mean_matters():
    first, second = embeddings(9, 5, 0), embeddings(9, 5, 1)
    moved = info_nce(1e-3 * first + 5, 1e-3 * second + 5, 0.3)
    torch.testing.assert_close(moved, info_nce(first, second, 0.3))


def test_an_embedding_of_zeros_has_a_finite_gradient():
    first = torch.zeros(4, 3, requires_grad=True)
    info_nce(first, torch.zeros(4, 3), 0.2).backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_instances_adds_its_weight_times_its_gradient_to_ds(mode):
    """Next to the invariance on the same copies, which are made once."""
    real, warped = random_images(2)
    terms = [Invariance(0.0, slice(1, 4), WARPED), Instances(3.0, 0.5, slice(1, 5), WARPED)]
    values = []

    def loss(discriminator) -> Tensor:
        first, second = (discriminator(x, "batch")[1][:, 1:5] for x in (real, warped))
        values.append(info_nce(first, second, 0.5))
        return -3.0 * values[-1]

    record = assert_adds(mode, real, terms, [Extra((warped,), ())], loss)
    assert record.terms["instances"].item() == pytest.approx(values[0].item())


@pytest.mark.parametrize(
    ("codes", "columns"),
    [
        ("cat10,gaussian32*0", slice(10, 42)),
        ("uniform,cat4,uniform3:learned,bernoulli", slice(5, 8)),
        ("gaussian8,cat4,uniform", None),
        ("cat4", None),
    ],
)
def test_the_embedding_is_the_last_continuous_code_s_means(codes, columns):
    config = CONFIG.with_options(codes=codes, instances_weight=1.0)
    assert embedding(config.spec()) == columns
    if columns is None:
        with pytest.raises(UserError, match=r"^--instances.weight: needs a last uniform or gauss"):
            config_module.check(config)
        return
    config_module.check(config)
    (term,) = build_terms(config, config.spec(), 0.0)
    assert isinstance(term, Instances)
    assert term.columns == columns
    assert term.recipe.warp == config.invariance.warp


def test_training_with_it_tells_images_apart():
    """A linear map of noise, each copy of other contrast and brightness."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 8, 8, generator=draw)
    net = torch.nn.Sequential(torch.nn.Flatten(), linear := torch.nn.Linear(64, 8))
    torch.nn.init.normal_(linear.weight, 0.1, 0.02, generator=draw)  # all images alike
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    photo = PhotoOptions(contrast=0.3, brightness=0.2)
    nats = []
    for step in range(200):
        copies = photo.change(images, images, Address(0, step, 0), 0.0)
        value = info_nce(net(images), net(copies), 0.2)
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
        nats.append(value.item())
    assert nats[0] < 0.2
    assert min(nats[-10:]) > 0.7 * math.log(16)
