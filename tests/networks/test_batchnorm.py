"""BatchNorm by the statistics that its caller names, of a batch's parts too."""

import copy

import pytest
import torch
from test_convolution import BF16, normal
from torch import Tensor, nn

from fastinfogan.networks.batchnorm import BatchNorm, BatchStats, follows

pytestmark = pytest.mark.usefixtures("one_thread")


class TestBatchNormInParts:
    """A tuple of statistics, one for each equal part of the batch."""

    PARTS: tuple[tuple[BatchStats, ...], ...] = (
        ("update", "batch"),
        ("batch", "update"),
        ("running", "batch"),
        ("update", "update"),
        ("batch", "running", "update"),
        ("batch", "batch"),
    )

    @staticmethod
    def norm() -> BatchNorm:
        norm = BatchNorm(5)
        for i, t in enumerate((*norm.parameters(), norm.running_mean)):
            t.data = normal(5, seed=i, dtype=torch.float32)
        return norm

    @pytest.mark.parametrize("shape", [(), (4, 4)], ids=["rows", "maps"])
    @pytest.mark.parametrize("stats", PARTS)
    def test_each_part_is_normalised_by_itself(self, stats, shape):
        whole = self.norm()
        apart = copy.deepcopy(whole)
        x = normal(4 * len(stats), 5, *shape, dtype=torch.float32)
        x += torch.arange(len(x)).view(-1, *[1] * (x.ndim - 1))  # the parts are unlike each other
        dy = normal(*x.shape, seed=1, dtype=torch.float32)
        results = []

        def by_itself(x: Tensor) -> Tensor:
            return torch.cat([apart(part, s) for part, s in zip(x.split(4), stats, strict=True)])

        for function, norm in ((lambda x: whole(x, stats), whole), (by_itself, apart)):
            own = x.clone().requires_grad_()
            y = function(own)
            gradients = torch.autograd.grad(y, [own, *norm.parameters()], dy)
            results.append([y, *gradients, *norm.buffers()])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    @pytest.mark.parametrize("stats", PARTS)
    def test_the_buffers_follow_the_parts_that_update_and_no_other(self, stats):
        norm = self.norm()
        expected = nn.BatchNorm1d(5)
        expected.running_mean = norm.running_mean.clone()
        expected.running_var = norm.running_var.clone()
        x = normal(4 * len(stats), 5, dtype=torch.float32)
        norm.eval()(x, stats)  # whatever the mode
        for part, s in zip(x.split(4), stats, strict=True):
            if s == "update":
                expected(part)
        assert torch.equal(norm.running_mean, expected.running_mean)
        assert torch.equal(norm.running_var, expected.running_var)

    def test_bf16_maps_are_normalised_and_followed_in_fp32(self):
        norm, exact = self.norm(), self.norm().double()
        x = normal(8, 5, 4, 4)
        y, truth = norm(x, ("update", "batch")), exact(x.double(), ("update", "batch"))
        assert y.dtype == BF16
        # one rounding of values up to about 8
        assert (y.double() - truth).abs().max() <= 2**-8 * 8
        for mine, true in zip(norm.buffers(), exact.buffers(), strict=True):
            assert mine.dtype == torch.float32
            torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stats", "training", "follow"),
    [
        ("update", False, True),
        ("batch", True, False),
        ("running", True, False),
        (("update", "batch"), False, True),
        (("batch", "update"), False, True),
        (("batch", "running"), True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_buffers_follow_where_batchnorms_do(stats, training, follow):
    assert follows(stats, training) is follow
    norm = BatchNorm(3).train(training)
    norm(torch.randn(8, 3) + 1, stats)
    assert bool((norm.running_mean != 0).any()) is follow
