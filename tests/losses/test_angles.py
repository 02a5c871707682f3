"""The von Mises loss of angles, in all backends, against torch and SciPy in fp64."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.distributions import VonMises

from fastinfogan.latents import Angle, Categorical, LatentSpec
from fastinfogan.losses import info_loss, information
from fastinfogan.losses import triton as kernel
from fastinfogan.losses.reference import log_i0

pytestmark = pytest.mark.usefixtures("compiled_as_graphs")

FIXED = LatentSpec(0, (Angle(),))
LEARNED = LatentSpec(0, (Angle(concentration="learned"),))
BOTH = LatentSpec(0, (Angle(), Angle(), Categorical(3), Angle(concentration="learned", weight=2.0)))
EAGER = ["reference", "triton"] if kernel.available() else ["reference"]
COMPILED = pytest.param("compiled", marks=pytest.mark.slow)  # a second or more each


def vectors(n: int = 40, largest: float = 30.0) -> Tensor:
    """Return [n, 2] of lengths from 1e-3 to `largest`, in all directions, fp64."""
    draw = torch.Generator().manual_seed(0)
    length = torch.logspace(-3, math.log10(largest), n, dtype=torch.float64)
    turn = 2 * math.pi * torch.rand(n, generator=draw, dtype=torch.float64)
    return length.unsqueeze(1) * torch.stack((turn.cos(), turn.sin()), 1)


def targets(n: int = 40) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return (torch.rand(n, 1, generator=draw, dtype=torch.float64) * 2 - 1) * math.pi


def truth(q: Tensor, angle: Tensor, learned: bool) -> tuple[Tensor, Tensor]:
    """Return each row's NLL and its gradient by q, by torch's distribution and by hand."""
    kappa = q.norm(dim=1)
    mean = torch.atan2(q[:, 1], q[:, 0])
    of = VonMises(mean, kappa if learned else torch.ones_like(kappa))
    nll = -of.log_prob(angle[:, 0])
    target = torch.cat((angle.cos(), angle.sin()), 1)
    unit = q / kappa.unsqueeze(1)
    if learned:
        ratio = torch.from_numpy(special.ive(1, kappa.numpy()) / special.ive(0, kappa.numpy()))
        return nll, unit * ratio.unsqueeze(1) - target
    across = target - unit * (unit * target).sum(1, keepdim=True)
    return nll, -across / kappa.unsqueeze(1)


@pytest.mark.parametrize("backend", [*EAGER, COMPILED])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_is_torch_s_von_mises_distribution(backend, learned, dtype):
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("the kernel has no fp64")
    q = vectors().to(dtype).requires_grad_()
    angle = targets()
    out = info_loss(
        q, LEARNED if learned else FIXED, None, angle, backend=backend, reduction="none"
    )
    nll, gradient = truth(q.detach().double(), angle, learned)
    # torch's own log I0 is good to some 1e-7
    torch.testing.assert_close(
        out.total.double(), nll, rtol=2e-7, atol=4e-6 * (dtype.itemsize == 4) + 1e-6
    )
    (actual,) = torch.autograd.grad(out.total.sum(), q)
    scale = 1 + gradient.abs() + (1 / q.detach().double().norm(dim=1, keepdim=True)) * (not learned)
    eps = 1e-13 if dtype == torch.float64 else 1e-6
    assert ((actual.double() - gradient).abs() <= eps * scale).all()


def test_log_i0_and_its_first_three_derivatives_are_exact_in_fp64():
    import mpmath  # type: ignore[import-untyped]

    mpmath.mp.dps = 40
    s = torch.tensor(
        [0.0, 1e-9, 0.05, 0.0999999, 0.1, 0.5, 3.0, 20.0, 400.0, 1e4, 1e6], dtype=torch.float64
    )
    x = s.clone().requires_grad_()
    value = log_i0(x)
    actual, grads = [value.detach()], value
    for _ in range(2):
        (grads,) = torch.autograd.grad(grads.sum(), x, create_graph=True)
        actual.append(grads.detach())
    for i, at in enumerate(s.tolist()):
        t = mpmath.mpf(at)
        f = lambda u: mpmath.log(mpmath.hyp0f1(1, u / 4))  # noqa: E731
        expected = [f(t), mpmath.diff(f, t), mpmath.diff(f, t, 2)]
        for order, (ours, right) in enumerate(
            zip([g[i].item() for g in actual], expected, strict=True)
        ):
            tolerance = (1e-14, 1e-11, 1e-8)[order]
            assert ours == pytest.approx(float(right), rel=tolerance, abs=1e-15), (at, order)


@pytest.mark.parametrize("spec", [FIXED, LEARNED], ids=["fixed", "learned"])
def test_gradients_pass_gradcheck_and_gradgradcheck(spec):
    q = vectors(12, 6.0)[4:].requires_grad_()
    angle = targets(8).requires_grad_()

    def total(q: Tensor, angle: Tensor) -> Tensor:
        return info_loss(q, spec, None, angle).total

    assert torch.autograd.gradcheck(total, (q, angle))
    assert torch.autograd.gradgradcheck(total, (q, angle))


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("spec", [FIXED, LEARNED], ids=["fixed", "learned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_at_the_origin_loss_and_gradient_are_finite_and_point_to_the_target(backend, spec, dtype):
    q = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    angle = torch.tensor([[0.0], [math.pi / 2], [-2.5]])
    out = info_loss(q, spec, None, angle, backend=backend, reduction="none")
    constant = math.log(2 * math.pi) + (math.log(special.i0(1)) if spec is FIXED else 0)
    torch.testing.assert_close(out.total, torch.full((3,), constant))
    (actual,) = torch.autograd.grad(out.total.sum(), q)
    expected = -torch.cat((angle.cos(), angle.sin()), 1)
    torch.testing.assert_close(actual, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_the_second_derivative_of_a_learned_concentration_at_the_origin_is_a_half():
    q = torch.zeros(1, 2, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(
        lambda q: info_loss(q, LEARNED, None, torch.tensor([[1.0]])).total, q
    )
    torch.testing.assert_close(hessian.view(2, 2), 0.5 * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("backend", EAGER)
def test_an_angle_across_the_wrap_is_near(backend):
    q = torch.tensor([[-1.0, 1e-3]])
    for angle in (math.pi - 1e-3, -math.pi + 1e-3, 3 * math.pi, 99 * math.pi, -7 * math.pi):
        out = info_loss(q, FIXED, None, torch.tensor([[angle]]), backend=backend)
        expected = math.log(2 * math.pi * special.i0(1)) - 1
        assert out.total.item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("backend", EAGER)
def test_a_large_concentration_does_not_overflow(backend):
    q = torch.tensor([[3000.0, 0.0], [0.0, 1e6]], requires_grad=True)
    angle = torch.tensor([[0.01], [math.pi / 2]])
    out = info_loss(q, LEARNED, None, angle, backend=backend, reduction="none")
    exact = q.detach().double()
    kappa = exact.norm(dim=1)
    along = (exact * torch.cat((angle.double().cos(), angle.double().sin()), 1)).sum(1)
    log_i0e = torch.from_numpy(np.log(special.ive(0, kappa.numpy())))
    expected = math.log(2 * math.pi) + log_i0e + kappa - along
    error = (out.total.detach().double() - expected).abs()
    assert (error <= 4e-7 * kappa + 1e-5).all()  # a difference of two numbers as large as κ
    (gradient,) = torch.autograd.grad(out.total.sum(), q)
    assert torch.isfinite(gradient).all()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("backend", EAGER)
def test_nan_in_angle_or_direction_stays_nan(backend):
    q = torch.tensor([[math.nan, 1.0], [1.0, 1.0], [1.0, 1.0]], requires_grad=True)
    angle = torch.tensor([[0.0], [math.nan], [0.0]])
    for spec in (FIXED, LEARNED):
        out = info_loss(q, spec, None, angle, backend=backend, reduction="none")
        assert out.total.isnan().tolist() == [True, True, False]
        (gradient,) = torch.autograd.grad(out.total.sum(), q)
        assert gradient.isnan().all(1).tolist() == [True, True, False]


def test_angles_lie_among_other_codes_and_their_information_has_log_2_pi():
    batch = BOTH.sample(50, seed=0)
    q = torch.randn(50, BOTH.q_dim, dtype=torch.float64, requires_grad=True)
    out = info_loss(q, BOTH, batch)
    alone = [
        info_loss(q[:, s.q], LatentSpec(0, (s.code,)), None, batch.continuous[:, s.target]).per_code
        for s in BOTH.slots
        if isinstance(s.code, Angle)
    ]
    torch.testing.assert_close(out.per_code[[0, 1, 3]], torch.cat(alone))
    bound = information(torch.zeros(4), BOTH)
    assert bound[0].item() == pytest.approx(math.log(2 * math.pi))
    # a known angle, κ large: the bound grows; κ fixed at 1: it is capped
    theta = batch.continuous[:, :1].double()
    unit = torch.cat((theta.cos(), theta.sin()), 1)
    capped = information(info_loss(unit, FIXED, None, theta).per_code, FIXED)
    assert capped.item() == pytest.approx(1 - math.log(special.i0(1)))
    sharp = information(info_loss(100 * unit, LEARNED, None, theta).per_code, LEARNED)
    assert sharp.item() > 2.5
