"""The kernel behind `info_loss` and `head_loss`: autograd, torch.compile, training with it."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import subprocess
import sys
import warnings
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.host_reads import HOST_READS
from helpers.strategies import Problem, modest, problem, seeds, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan import losses
from fastinfogan.latents import Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, head_loss, info_loss
from fastinfogan.losses import functional as functional_losses
from fastinfogan.losses import triton as kernel
from fastinfogan.losses.reference import Inputs

functional = pytest.importorskip("fastinfogan_kernels.functional", reason="triton is missing")
from fastinfogan_kernels.launch import Call  # noqa: E402
from test_head_loss import ALL_KINDS, NARROW, as_every_third  # noqa: E402

MNIST = LatentSpec(62, (Categorical(10), Uniform(), Uniform(sigma="learned")))
ULP = torch.finfo(torch.float32).eps


def gradient(total, q, upstream=None, **kwargs):
    return torch.autograd.grad(total, q, upstream, **kwargs)[0]


def close(actual, expected, ulps=64):
    """Compare up to some tens of roundings in fp32, or two in a narrower dtype.

    Of the two, dq's is a cut here: the interpreter does not round to bf16, the compiler does.
    """
    eps = max(ulps * ULP, torch.finfo(actual.dtype).eps * 1.51)
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=eps, atol=eps, check_dtype=False
    )


@settings(modest, max_examples=15)
@given(
    specs,
    st.integers(0, 9),
    seeds,
    st.sampled_from(NARROW),
    st.sampled_from(["mean", "sum", "none"]),
    st.data(),
)
def test_both_backends_agree_in_value_and_gradient(spec, batch, seed, dtype, reduction, data):
    args = problem(spec, batch, dtype=dtype, seed=seed)
    numbers = st.floats(0, 8, width=32)
    n = len(spec.codes)
    weights = data.draw(st.none() | st.lists(numbers, min_size=n, max_size=n).map(torch.tensor))
    outs = [
        info_loss(*args, weights=weights, reduction=reduction, backend=backend)
        for backend in ("triton", "reference")
    ]
    assert outs[0].total.shape == outs[1].total.shape
    torch.testing.assert_close(outs[0].total, outs[1].total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outs[0].per_code, outs[1].per_code, rtol=1e-4, atol=1e-4)
    upstream = 1 + torch.rand(outs[0].total.shape)
    ours, theirs = (gradient(out.total, args.q, upstream) for out in outs)
    assert ours.dtype == dtype
    torch.testing.assert_close(
        ours,
        theirs,
        rtol=2 * torch.finfo(dtype).eps + 1e-5,
        atol=1e-5 + (dtype != NARROW[0]) * 1e-7,
    )


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_with_another_upstream_gradient_is_right_too(dtype, reduction):
    args = problem(ALL_KINDS, dtype=dtype)
    total = info_loss(*args, reduction=reduction, backend="triton").total
    exact = args.q.detach().double().requires_grad_()
    truth = info_loss(exact, *args[1:], reduction=reduction).total
    for seed in range(3):
        upstream = torch.randn(total.shape, generator=torch.Generator().manual_seed(seed))
        actual = gradient(total, args.q, upstream, retain_graph=True)
        close(actual, gradient(truth, exact, upstream.double(), retain_graph=True), 256)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_rows_have_gradients_of_their_own(backend):
    args = problem(ALL_KINDS, dtype=torch.float32)
    rows = info_loss(*args, reduction="none", backend=backend).total
    for i in range(3):
        actual = gradient(rows[i], args.q, retain_graph=True)
        assert not actual[torch.arange(8) != i].any()
        alone = Problem(
            args.q[i : i + 1], args.spec, args.categorical[i : i + 1], args.continuous[i : i + 1]
        )
        close(actual[i], gradient(info_loss(*alone).total, args.q)[i])


@pytest.mark.parametrize("by", ["input", "everything"])
def test_a_second_derivative_is_refused_and_the_reference_named(by):
    layer = nn.Linear(5, ALL_KINDS.q_dim)
    args = problem(ALL_KINDS)
    q = layer(torch.randn(8, 5))
    total = info_loss(q, *args[1:], backend="triton").total
    (first,) = torch.autograd.grad(total, q, create_graph=True)
    close(first, gradient(info_loss(q, *args[1:], backend="reference").total, q), 256)
    penalty = first.square().sum()
    expected = [layer.weight] if by == "input" else None
    with pytest.raises(RuntimeError, match='backend="reference"'):
        penalty.backward(inputs=expected)


def test_the_total_may_be_added_to_in_place():
    args = problem(ALL_KINDS, dtype=torch.float32)
    loss = info_loss(*args, backend="triton").total
    expected = gradient(info_loss(*args).total, args.q) + 1
    loss += args.q.sum()
    close(gradient(loss, args.q), expected, 256)


def test_q_may_be_changed_after_the_loss_and_is_not_by_it():
    args = problem(ALL_KINDS, dtype=torch.float32)
    q = args.q * 1
    before = q.detach().clone()
    total = info_loss(q, *args[1:], backend="triton").total
    assert torch.equal(q, before)
    expected = gradient(info_loss(*args).total, args.q)
    with torch.no_grad():
        q.zero_()
    close(gradient(total, args.q), expected, 256)


def test_a_loss_that_is_dropped_frees_q_at_once():
    args = problem(ALL_KINDS, dtype=torch.float32)
    q = args.q * 1
    seen = weakref.ref(q)
    gc.disable()
    try:
        total = info_loss(q, *args[1:], backend="triton").total
        total.backward()
        del q, total
        assert seen() is None
    finally:
        gc.enable()


def test_without_a_gradient_to_give_none_is_computed(monkeypatch):
    calls = []
    launch = functional.launch

    def spy(call):
        calls.append(call.grad)
        return launch(call)

    monkeypatch.setattr(functional, "launch", spy)
    args = problem(ALL_KINDS, dtype=torch.float32)
    with torch.no_grad():
        total = info_loss(*args, backend="triton").total
    assert not total.requires_grad
    assert not info_loss(args.q.detach(), *args[1:], backend="triton").total.requires_grad
    assert info_loss(*args, backend="triton").total.requires_grad
    assert calls == [False, False, True]
    close(total, info_loss(*args).total)


@pytest.mark.parametrize("q_dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_the_arithmetic_alone(q_dtype):
    args = problem(ALL_KINDS, dtype=q_dtype)
    expected = info_loss(*args, backend="triton")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = info_loss(*args, backend="triton")
        actual = gradient(out.total, args.q)
    assert torch.equal(out.total, expected.total)
    assert torch.equal(actual, gradient(expected.total, args.q))


def test_a_loss_scale_keeps_small_fp16_gradients():
    # divided by the batch before the scale is seen, they would be subnormal, or nothing at all
    batch, scale = 4096, 2.0**16
    spec = LatentSpec(0, (Gaussian(weight=2.0**-9),))
    q = torch.full((batch, 1), 0.0625, dtype=torch.float16, requires_grad=True)
    total = info_loss(
        q, spec, torch.empty(batch, 0).long(), torch.zeros(batch, 1), backend="triton"
    ).total
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    actual = gradient(scaler.scale(total), q)
    assert torch.equal(actual, torch.full_like(q, 0.0625 * 2.0**-9 * scale / batch))


def test_a_large_fp16_gradient_is_not_cut_before_the_scale_brings_it_down():
    spec = LatentSpec(0, (Gaussian(sigma="learned"),))
    q = torch.tensor(
        [[2.0, -13.0]], dtype=torch.float16, requires_grad=True
    )  # (μ − c)·e¹³ > 65,504
    total = info_loss(q, spec, torch.empty(1, 0).long(), torch.zeros(1, 1), backend="triton").total
    actual = gradient(total * 2.0**-8, q)
    truth = torch.tensor([[2.0, -13.0]], dtype=torch.float64, requires_grad=True)
    loss = info_loss(truth, spec, torch.empty(1, 0).long(), torch.zeros(1, 1)).total
    close(actual, gradient(loss * 2.0**-8, truth))
    assert torch.isfinite(actual).all()


def test_a_network_trains_under_a_grad_scaler_as_with_the_reference():
    results = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        layer = nn.Linear(6, MNIST.q_dim)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu")
        for step in range(3):
            latents = MNIST.sample(16, step=step)
            total = info_loss(
                layer(latents.input[:, :6]), MNIST, *latents[1:], backend=backend
            ).total
            optimizer.zero_grad()
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(layer.weight.detach())
    close(*results)
    assert not torch.equal(results[0], nn.Linear(6, MNIST.q_dim).weight)


def test_ddp_averages_its_gradients(tmp_path):
    # one rank: the reducer's hooks see the gradients that the function gives
    rendezvous = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        layer = nn.Linear(6, MNIST.q_dim)
        latents = MNIST.sample(16, seed=0)
        loss = InfoLoss(MNIST, backend="triton")
        loss(nn.parallel.DistributedDataParallel(layer)(latents.input[:, :6]), *latents[1:])[
            0
        ].backward()
        expected = gradient(
            InfoLoss(MNIST, backend="reference")(layer(latents.input[:, :6]), *latents[1:]).total,
            layer.weight,
        )
        close(layer.weight.grad, expected)
    finally:
        dist.destroy_process_group()


# The loss of the logits


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("reference", torch.float64), *itertools.product(["triton", "reference"], NARROW)],
)
@pytest.mark.parametrize(
    ("adversarial", "n_real", "player"),
    [
        *((a, 5, "discriminator") for a in ("nonsaturating", "hinge", "lsgan", "wgan")),
        *((a, 0, "generator") for a in ("nonsaturating", "hinge", "lsgan", "wgan")),
        ("relativistic", 8, "discriminator"),
        ("relativistic", 0, "generator"),
    ],
)
@pytest.mark.parametrize("wide", [True, False])
def test_head_loss_is_both_losses_each_with_an_upstream_gradient_of_its_own(
    dtype, adversarial, n_real, player, backend, wide
):
    args = problem(ALL_KINDS, 8, dtype=torch.float32)
    logits = (3 * torch.randn(n_real + 8, 1)).to(dtype).requires_grad_()
    q = torch.randn(n_real, ALL_KINDS.q_dim) if wide else torch.empty(0, ALL_KINDS.q_dim)
    q = torch.cat((q, args.q.detach())).to(dtype).requires_grad_()
    options = {"player": player, "adversarial": adversarial}
    real = None
    if adversarial == "relativistic" and player == "generator":
        options["real"] = real = torch.randn(8, 1).to(dtype)
    for reduction in ("mean", "none"):
        out = head_loss(
            logits, q, *args[1:], **options, reduction=reduction, backend=backend, sigma=0.5
        )
        d_loss, g_loss = losses.adversarial_losses(adversarial)
        exact = [x.detach().double().requires_grad_() for x in (logits, q)]
        flat = exact[0].flatten()
        if player == "generator":
            value = g_loss(flat, None if real is None else real.double().flatten())
        else:
            value = d_loss(flat[:n_real], flat[n_real:])
        info = info_loss(exact[1][-8:], *args[1:], reduction=reduction, sigma=0.5)
        close(out.adversarial, value)
        close(out.information, info.total, 256)
        close(out.per_code, info.per_code, 256)
        a, b = torch.tensor(0.5), torch.rand(info.total.shape)
        actual = torch.autograd.grad(
            (out.adversarial, out.information), (logits, q), (a.to(out.adversarial), b)
        )
        expected = torch.autograd.grad((value, info.total), exact, (a.double(), b.double()))
        for x, y in zip(actual, expected, strict=True):
            assert x.dtype == dtype
            close(x, y, 256)


def test_either_of_the_two_losses_may_be_left_out_of_the_backward_pass():
    args = problem(ALL_KINDS, 8, dtype=torch.float32)
    logits = torch.randn(13, requires_grad=True)
    out = head_loss(logits, *args, player="discriminator", backend="triton")
    both, expected = (out.adversarial, out.information), (logits, args.q)
    for i, loss in enumerate(both):
        actual = torch.autograd.grad(loss, expected, retain_graph=True, allow_unused=True)
        assert actual[1 - i] is None
        assert actual[i].any()


def test_logits_alone_or_q_alone_may_want_a_gradient():
    args = problem(ALL_KINDS, 8, dtype=torch.float32)
    out = head_loss(torch.randn(13), *args, player="discriminator", backend="triton")
    (out.adversarial + out.information).backward()
    assert args.q.grad is not None
    logits = torch.randn(13, requires_grad=True)
    still = args._replace(q=args.q.detach())
    head_loss(logits, *still, player="discriminator", backend="triton").adversarial.backward()
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"player": "q"}, "player: expected discriminator or generator, got q"),
        ({"adversarial": "ls"}, "adversarial: expected nonsaturating or hinge or .*, got ls"),
        ({"adversarial": "relativistic"}, "real rows of relativistic logits: expected 8, got 5"),
        (
            {"adversarial": "relativistic", "player": "generator", "logits": torch.zeros(8)},
            "real: expected D's logits on real images, got None",
        ),
        ({"real": torch.zeros(8)}, "real: expected None for nonsaturating, got a tensor"),
        ({"logits": torch.zeros(8)}, r"discriminator's logits: expected \[R \+ 8 with R ≥ 1\]"),
        ({"logits": torch.zeros(13, 2)}, r"discriminator's logits: .* got \[13, 2\]"),
        ({"player": "generator"}, r"generator's logits: expected \[8\] or \[8, 1\], got \[13\]"),
        ({"logits": torch.zeros(13).long()}, "logits' dtype: .*got torch.int64"),
        ({"logits": torch.zeros(13, device="meta")}, "logits' device: expected cpu, got meta"),
        ({"q": torch.zeros(12, 17)}, r"q: expected|categorical: expected shape \[12, 3\]"),
        ({"categorical": torch.full((8, 3), 9)}, r"expected classes 0 … 3, got"),
    ],
)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_head_loss_refuses_what_does_not_fit(changes, message, backend):
    arguments = {
        "logits": torch.zeros(13),
        **problem(ALL_KINDS, dtype=torch.float32)._asdict(),
        "player": "discriminator",
        "backend": backend,
    }
    with pytest.raises(ValueError, match=message):
        head_loss(**{**arguments, **changes})


# Choosing


def test_auto_is_the_reference_on_the_cpu(monkeypatch):
    monkeypatch.setattr(kernel, "info_loss", None)
    info_loss(*problem(ALL_KINDS, dtype=torch.float32))


class OnCuda:
    """A stand-in for a CUDA tensor, with the attributes that the choice reads."""

    is_cuda, dtype = True, torch.float32
    requires_grad = False

    def __init__(self, **changes):
        self.__dict__.update(changes)


def chosen(q, continuous, weights=None, backend="auto"):
    classes = torch.zeros(1, 1).long()
    inputs = Inputs(q, ALL_KINDS, classes, continuous, weights)
    return functional_losses._choose_backend(inputs, backend)


def test_auto_is_the_kernel_on_a_gpu_for_all_that_the_kernel_supports(monkeypatch):
    def choose(q, continuous=None, weights=None):
        return chosen(q, continuous or OnCuda(), weights)

    assert choose(OnCuda()) == "triton"
    assert choose(OnCuda(dtype=torch.float64)) == "reference"
    assert choose(OnCuda(), OnCuda(requires_grad=True)) == "reference"
    assert choose(OnCuda(), weights=OnCuda(requires_grad=True)) == "reference"
    assert choose(OnCuda(is_cuda=False)) == "reference"
    monkeypatch.setattr(kernel, "available", lambda: False)
    assert choose(OnCuda()) == "reference"


def test_the_kernel_refuses_what_it_does_not_support_with_the_remedy(monkeypatch):
    args = problem(ALL_KINDS)
    with pytest.raises(ValueError, match='no float64; use backend="reference"'):
        info_loss(*args, backend="triton")
    q = args.q.detach().float()
    with pytest.raises(ValueError, match="no gradients of weights and of continuous targets"):
        info_loss(q, *args[1:], weights=torch.ones(7, requires_grad=True), backend="triton")
    values = args.continuous.clone().requires_grad_()
    with pytest.raises(ValueError, match="no gradients of weights and of continuous targets"):
        info_loss(q, args.spec, args.categorical, values, backend="triton")
    monkeypatch.setattr(kernel, "available", lambda: False)
    with pytest.raises(ValueError, match='triton is not installed; use backend="reference"'):
        info_loss(q, *args[1:], backend="triton")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
def test_function_transforms_and_forward_derivatives_are_left_to_the_reference():
    q, spec, categorical, continuous = problem(ALL_KINDS, dtype=torch.float32)
    assert chosen(OnCuda(), OnCuda()) == "triton"
    backends = []

    def loss(x):
        backends.append(chosen(OnCuda(), OnCuda()))
        backends.append(chosen(OnCuda(), OnCuda(), backend="triton"))
        return info_loss(x, spec, categorical, continuous, backend="triton").total

    q = q.detach()
    slope = torch.func.grad(loss)(q)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        derivative = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    close(derivative, slope.sum())
    assert backends == ["reference"] * 4


def test_on_the_cpu_without_the_interpreter_the_kernel_says_what_it_needs():
    script = (
        "import torch\nfrom fastinfogan import LatentSpec, Categorical, info_loss\n"
        "spec = LatentSpec(0, (Categorical(3),))\n"
        "try: info_loss(torch.zeros(2, 3), spec, torch.zeros(2, 1).long(), torch.empty(2, 0),"
        " backend='triton')\nexcept ValueError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=True,
    )
    assert "runs on CUDA and ROCm tensors" in done.stdout
    assert "TRITON_INTERPRET=1" in done.stdout


# torch.compile


def compiling(test):
    """Compile; recompiling is an error, what PyTorch's compilers deprecate of their own is not."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        torch.compiler.reset()
        with (
            torch._dynamo.config.patch(error_on_recompile=True),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            test(*args, **kwargs)

    return run


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@compiling
def test_a_compiled_caller_is_one_graph_for_every_batch(reduction):
    def loss(x, categorical, continuous):
        return info_loss(x.tanh(), MNIST, categorical, continuous, None, reduction, "triton")

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (8, 3, 21):
        q, _, *targets = problem(MNIST, batch, dtype=torch.float32)
        out, expected = compiled(q, *targets), loss(q, *targets)
        assert torch.equal(out.total, expected.total)
        assert torch.equal(out.per_code, expected.per_code)
        upstream = torch.rand_like(out.total)
        close(gradient(out.total, q, upstream), gradient(expected.total, q, upstream))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@compiling
def test_a_compiled_caller_of_head_loss_is_one_graph_too(dtype):
    def loss(logits, x, categorical, continuous):
        return head_loss(
            logits, x * 1, MNIST, categorical, continuous, player="discriminator", backend="triton"
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (8, 3, 21):
        q, _, *targets = problem(MNIST, batch, dtype=dtype)
        logits = torch.randn(batch + 7, 1, dtype=dtype, requires_grad=True)
        out, expected = compiled(logits, q, *targets), loss(logits, q, *targets)
        actual = torch.autograd.grad(out.information + 3 * out.adversarial, (logits, q))
        right = torch.autograd.grad(expected.information + 3 * expected.adversarial, (logits, q))
        for a, b in zip((*out, *actual), (*expected, *right), strict=True):
            close(a, b)


@pytest.mark.slow
@compiling
def test_inductor_compiles_a_caller_with_the_kernel_in_its_graph():
    def loss(x, categorical, continuous):
        return info_loss(x.tanh(), MNIST, categorical, continuous, backend="triton").total * 2

    q, _, *targets = problem(MNIST, 8, dtype=torch.float32)
    compiled = torch.compile(loss, fullgraph=True)
    close(gradient(compiled(q, *targets), q), gradient(loss(q, *targets), q))


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("n_real", [None, 0, 3])
@pytest.mark.parametrize(("dtype", "masked"), [*zip(NARROW, (True, False, False), strict=True)])
def test_the_op_passes_opcheck(reduction, grad, n_real, dtype, masked):
    q, spec, *targets = problem(MNIST, 4, dtype=dtype)
    logits = None if n_real is None else torch.randn(n_real + 4, dtype=dtype)
    layout = kernel.layout_of(spec)
    runs = [n for run in layout.runs for n in (run.kind, run.width, run.n)]
    player: Any = "generator" if n_real == 0 else "discriminator"
    call = Call(
        q.detach(),
        layout,
        targets[0],
        targets[1],
        torch.ones(3),
        logits,
        reduction=reduction,
        adversarial="hinge",
        player=player,
        grad=grad,
        labelled=torch.ones(4, 3, dtype=torch.bool) if masked else None,
    )
    opcheck(torch.ops.fastinfogan_kernels.head_loss.default, (call.q, runs, *call[2:]))


class NoSync(TorchDispatchMode):
    """A mode that refuses waits of the host for a GPU, and counts launches."""

    def __init__(self):
        super().__init__()
        self.launches = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in HOST_READS, func
        assert "_to_copy" not in str(func) or not (kwargs or {}).get("device"), func
        asks = str(func).startswith("prim.") or func.is_view
        if not asks and str(func) not in ("aten.empty_like.default", "aten.detach.default"):
            self.launches.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_traced_with_fake_tensors_nothing_syncs_and_backward_is_one_product(dtype):
    from torch._subclasses.fake_tensor import FakeTensorMode

    args = problem(MNIST, 8, dtype=dtype)
    with FakeTensorMode() as fakes:
        q, categorical, continuous, weights = (
            fakes.from_tensor(x) for x in (args.q, *args[2:], torch.ones(3))
        )
        # leaves nothing fake behind for the calls after it
        info_loss(q, MNIST, categorical, continuous, backend="triton", validate=False)
        with torch.autocast("cpu", dtype=torch.bfloat16), NoSync() as forward:
            total = info_loss(
                q, MNIST, categorical, continuous, weights, backend="triton", validate=False
            ).total
        assert forward.launches == ["fastinfogan_kernels.head_loss.default"]
        upstream = torch.ones_like(total)
        with NoSync() as backward:
            torch.autograd.grad(total, q, upstream)
    info_loss(*args, backend="triton")
    assert backward.launches in (["aten.mul.Tensor"], ["aten.mul.out"])


def test_strided_q_and_narrow_targets_pass_through_autograd():
    args = problem(ALL_KINDS, 9, dtype=torch.float32)
    moved = as_every_third(args.q.detach()).requires_grad_()
    out = info_loss(
        moved, ALL_KINDS, args.categorical.to(torch.uint8), args.continuous, backend="triton"
    )
    close(gradient(out.total, moved), gradient(info_loss(*args).total, args.q))
