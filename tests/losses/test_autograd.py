"""The losses under autograd's less common uses: hooks, create_graph, torch.func, inference mode."""

import pickle

import pytest
import torch
from helpers.strategies import problem
from torch import Tensor, nn
from torch._dynamo.utils import counters

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, compiled, head_loss, info_loss
from fastinfogan.losses import triton as kernel

pytestmark = pytest.mark.usefixtures("compiled_as_graphs")

SPEC = LatentSpec(
    0,
    (
        Categorical(4, weight=0.5),
        Gaussian(dim=2, sigma="learned", weight=2.0),
        Bernoulli(),
        Uniform(),
        Angle(concentration="learned"),
    ),
)
BACKENDS = ["auto", "reference", "compiled"] + (["triton"] if kernel.available() else [])
WITH_COMPILED_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name == "compiled" else name for name in BACKENDS
]


# Hooks on q run once


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("factor", [-1.0, 10.0])
def test_a_hook_on_q_runs_once(backend, create_graph, factor):
    args = problem(SPEC, dtype=torch.float32)
    expected = factor * torch.autograd.grad(info_loss(*args).total, args.q)[0]
    seen = []

    def hook(gradient: Tensor) -> Tensor:
        seen.append(1)
        return factor * gradient

    args.q.register_hook(hook)
    total = info_loss(*args, backend=backend).total
    (actual,) = torch.autograd.grad(total, args.q, create_graph=create_graph)
    torch.testing.assert_close(actual.detach(), expected)
    assert len(seen) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_retain_grad_is_not_doubled_by_create_graph(backend):
    args = problem(SPEC, dtype=torch.float32)
    (expected,) = torch.autograd.grad(info_loss(*args).total, args.q)
    q = args.q * 1
    q.retain_grad()
    info_loss(q, *args[1:], backend=backend).total.backward(create_graph=True)
    assert q.grad is not None
    assert args.q.grad is not None
    torch.testing.assert_close(q.grad.detach(), expected)
    torch.testing.assert_close(args.q.grad.detach(), expected)
    args.q.grad = None  # it holds a graph that holds q


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_a_penalty_on_the_gradient_is_differentiated_through_a_hook_once(backend):
    args = problem(SPEC)
    penalties = []
    for hooked in (False, True):
        q = args.q.detach().requires_grad_()
        if hooked:
            q.register_hook(lambda gradient: 3 * gradient)
        total = info_loss(q, *args[1:], backend=backend).total
        (gradient,) = torch.autograd.grad(total, q, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), q)[0])
    torch.testing.assert_close(penalties[1], 27 * penalties[0])  # 3² and, of the last grad, 3


# torch.func and forward mode


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("backend", WITH_COMPILED_SLOW)
def test_every_transform_works_with_every_backend(backend):
    args = problem(SPEC, dtype=torch.float32)
    (expected,) = torch.autograd.grad(info_loss(*args).total, args.q)
    q = args.q.detach()

    def total(q: Tensor) -> Tensor:
        return info_loss(q, *args[1:], backend=backend).total

    torch.testing.assert_close(torch.func.grad(total)(q), expected)
    torch.testing.assert_close(torch.func.vjp(total, q)[1](torch.ones(()))[0], expected)
    derivative = torch.func.jvp(total, (q,), (torch.ones_like(q),))[1]
    torch.testing.assert_close(derivative, expected.sum())
    torch.testing.assert_close(torch.func.jacrev(total)(q), expected)
    torch.testing.assert_close(torch.func.jacfwd(total)(q), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        tangent = torch.autograd.forward_ad.unpack_dual(total(dual)).tangent
    torch.testing.assert_close(tangent, expected.sum())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", WITH_COMPILED_SLOW)
@pytest.mark.parametrize("missing", [False, True])
def test_vmap_works_with_the_default_checks(backend, missing):
    q, spec, categorical, continuous = problem(SPEC, dtype=torch.float32)
    q = q.detach()
    mask = torch.arange(8) < 6
    options = {"ignore_index": -1} if missing else {}

    def of_a_row(q: Tensor, categorical: Tensor, continuous: Tensor, mask: Tensor) -> Tensor:
        row = [x.unsqueeze(0) for x in (q, categorical, continuous)]
        if missing:
            options["mask"] = mask.unsqueeze(0)  # type: ignore[assignment]
        return info_loss(row[0], spec, row[1], row[2], backend=backend, **options).total  # type: ignore[arg-type]

    rows = torch.func.vmap(of_a_row)(q, categorical, continuous, mask)
    expected = info_loss(q, spec, categorical, continuous, reduction="none").total
    torch.testing.assert_close(rows, expected * (mask if missing else 1))
    slopes = torch.func.vmap(torch.func.grad(of_a_row))(q, categorical, continuous, mask)
    assert slopes.shape == q.shape
    with pytest.raises(ValueError, match=r"validate: expected None or False under torch.func"):
        torch.func.vmap(
            lambda q: info_loss(q[None], SPEC, categorical[:1], continuous[:1], validate=True)
        )(q)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", WITH_COMPILED_SLOW)
def test_functional_call_differentiates_a_module_s_weights(backend):
    layer = nn.Linear(3, SPEC.q_dim)
    batch, x = SPEC.sample(8, seed=0), torch.randn(8, 3)

    def total(params: dict[str, Tensor]) -> Tensor:
        q = torch.func.functional_call(layer, params, x)
        return InfoLoss(SPEC, backend=backend)(q, batch).total

    params = {name: p.detach() for name, p in layer.named_parameters()}
    actual = torch.func.grad(total)(params)["weight"]
    total(dict(layer.named_parameters())).backward()
    torch.testing.assert_close(actual, layer.weight.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_head_loss_is_transformed_too():
    args = problem(SPEC, dtype=torch.float32)
    logits = torch.randn(8)
    for backend in BACKENDS:

        def both(logits: Tensor, q: Tensor, backend: str = backend) -> Tensor:
            out = head_loss(logits, q, *args[1:], player="generator", backend=backend)  # type: ignore[arg-type]
            return out.information + out.adversarial

        actual = torch.func.grad(both, argnums=(0, 1))(logits, args.q.detach())
        leaf = logits.clone().requires_grad_()
        expected = torch.autograd.grad(both(leaf, args.q), (leaf, args.q))
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b)


# Inference mode, and what makes a compiled loss compile anew


@pytest.mark.parametrize("backend", WITH_COMPILED_SLOW)
def test_targets_drawn_in_inference_mode_serve_a_training_step(backend):
    args = problem(SPEC, dtype=torch.float32)
    (expected,) = torch.autograd.grad(info_loss(*args).total, args.q)
    with torch.inference_mode():
        batch = SPEC.sample(8, seed=0)
        mask = torch.ones(8, dtype=torch.bool)
        weights = torch.tensor([code.weight for code in SPEC.codes])
        info_loss(args.q, SPEC, batch, backend=backend)
    out = info_loss(args.q, SPEC, batch, backend=backend, mask=mask, weights=weights)
    (actual,) = torch.autograd.grad(out.total, args.q)
    torch.testing.assert_close(actual, expected)
    head = head_loss(torch.randn(8), args.q, SPEC, batch, player="generator", backend=backend)
    torch.testing.assert_close(torch.autograd.grad(head.information, args.q)[0], expected)


@pytest.mark.slow
def test_no_dtype_of_the_targets_makes_the_compiled_loss_compile_anew():
    compiled._callable.cache_clear()
    counters.clear()
    args = problem(SPEC, dtype=torch.float32)
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    floats = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for c in integers:
        for x in floats:
            given = args.q, SPEC, args.categorical.to(c), args.continuous.to(x)
            out = info_loss(*given, weights=torch.ones(5, dtype=x), backend="compiled")
            out.total.backward()
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_beyond_the_recompile_limit_the_compiled_loss_is_the_definition():
    compiled._callable.cache_clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        for batch in (8, 5, 3):
            wide = torch.randn(batch, 3 * SPEC.q_dim)
            for step in (1, 2, 3):  # other strides are other programs
                q = wide[:, ::step][:, : SPEC.q_dim].requires_grad_()
                latents = SPEC.sample(batch, seed=step)
                actual = info_loss(q, SPEC, latents, backend="compiled")
                expected = info_loss(q, SPEC, latents)
                torch.testing.assert_close(actual.total, expected.total)


def test_a_module_is_pickled_with_its_options():
    loss = InfoLoss(SPEC, weights=[1, 2, 3, 4, 5], reduction="sum", ignore_index=-1)
    copy = pickle.loads(pickle.dumps(loss))
    args = problem(SPEC)
    assert torch.equal(copy(args.q, *args[2:]).total, loss(args.q, *args[2:]).total)
