"""The GPU report's checks: kernel and sampler against fp64 and the CPU, and how they behave.

A check is a function that asserts, and returns what it saw in a few words. `Skip` says why one
cannot be made here.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
from fastinfogan_kernels import launch
from gpu_cases import HARD, PAPER, PRIORS, Targets, draw, heads, own_weights
from gpu_timing import Machine, capture, count_launches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform
from fastinfogan.losses import adversarial_losses, head_loss, info_loss

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = torch.finfo(torch.float32).eps


class Skip(Exception):
    """A check that cannot be made on this machine."""


Check = Callable[[Machine], str]


def run_checks(machine: Machine, checks: dict[str, Check]) -> list[dict[str, Any]]:
    """Return each check's name, outcome ("passed", "FAILED", "skipped") and detail; print each."""
    results = []
    for name, check in checks.items():
        try:
            detail, outcome = check(machine), "passed"
            machine.wait()
        except Skip as reason:
            detail, outcome = str(reason), "skipped"
        except Exception as error:  # whatever it is, the other checks are made
            lines = str(error).splitlines() or [""]
            detail, outcome = f"{type(error).__name__}: {lines[0]}", "FAILED"
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        print(f"  {outcome:8}{name}: {detail}", flush=True)
        results.append({"check": name, "outcome": outcome, "detail": detail})
    return results


def loss_and_gradient(
    q: Tensor, spec: LatentSpec, targets: Targets, backend: str = "triton", **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (total, NLL per code, gradient of the total's sum by q)."""
    out = info_loss(q, spec, *targets, backend=backend, **options)  # type: ignore[arg-type]
    return out.total.detach(), out.per_code, torch.autograd.grad(out.total.sum(), q)[0]


def by_heads(q: Tensor, spec: LatentSpec, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by the loop over heads; for an fp64 q, the truth."""
    nll = torch.stack(heads(q, spec, targets))
    total = (nll * own_weights(spec, q.device).to(nll.dtype)).sum()
    return total.detach(), nll.detach(), torch.autograd.grad(total, q)[0]


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Return True if all tensors are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def _errors(actual: tuple[Tensor, ...], truth: tuple[Tensor, ...], unit: float) -> list[float]:
    """Return the worst |got − true| / (|true| + gradient's unit) of total, NLL and gradient."""
    errors = []
    for i, (a, b) in enumerate(zip(actual, truth, strict=True)):
        assert bool(a.isfinite().all()), "not finite"
        error = (a.double() - b).abs() / (b.abs() + (unit if i == 2 else 1.0))
        errors.append(float(error.max()))
    return errors


def values(spec: LatentSpec, dtype: torch.dtype, dry: bool) -> Check:
    """Check that the error against fp64 is at most twice the eager loop's, or a few roundings."""

    def check(machine: Machine) -> str:
        worst = 0.0
        for batch in (1, 5) if dry else (1, 77, 128, 4099):
            q, targets = draw(spec, batch, machine.device, dtype, seed=batch)
            wide = q.detach().double().requires_grad_()
            truth = by_heads(wide, spec, targets)
            unit = max(code.weight for code in spec.codes) / batch
            errors = _errors(loss_and_gradient(q, spec, targets), truth, unit)
            eager = _errors(by_heads(q, spec, targets), truth, unit)
            for i, (a, b) in enumerate(zip(errors, eager, strict=True)):
                rounding = torch.finfo(dtype).eps if i == 2 else 0.0
                assert a <= 2 * b + rounding + 16 * EPS, (
                    f"B = {batch}: error {a:.2e} of {('total', 'NLL', 'gradient')[i]}, "
                    f"{b:.2e} of the eager loop"
                )
            worst = max(worst, *errors)
        return f"worst error {worst:.1e}"

    return check


def empty_batch(machine: Machine) -> str:
    """Check that B = 0 gives 0 and an empty gradient."""
    for spec in (*PAPER.values(), *HARD.values()):
        q, targets = draw(spec, 0, machine.device, torch.float32)
        total, nll, gradient = loss_and_gradient(q, spec, targets)
        assert total.item() == 0, f"loss {total.item()}"
        assert not nll.any(), f"NLL {nll.tolist()}"
        assert gradient.shape == (0, spec.q_dim)
    return "loss 0, gradient [0, D]"


def reductions(machine: Machine) -> str:
    """Check that "none" gives the rows that "sum" adds up, and a row the gradient of the sum."""
    spec, batch = HARD["learned σ and Bernoulli"], 9 if machine.dry else 333
    q, targets = draw(spec, batch, machine.device, torch.float32)
    rows, _, by_rows = loss_and_gradient(q, spec, targets, reduction="none")
    total, _, by_sum = loss_and_gradient(q, spec, targets, reduction="sum")
    assert rows.shape == (batch,)
    torch.testing.assert_close(rows.double().sum(), total.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows, by_sum, rtol=1e-6, atol=1e-6)
    return "rows, sum and mean agree"


def views_and_integers(machine: Machine) -> str:
    """Check that column slices of wider tensors and narrow integer targets give the same bits."""
    spec, batch = HARD["learned σ and Bernoulli"], 9 if machine.dry else 333
    q, targets = draw(spec, batch, machine.device, torch.float32)
    expected = loss_and_gradient(q, spec, targets)
    wide = torch.randn(batch, spec.q_dim + 7, device=machine.device)
    wide[:, 3:-4] = q.detach()
    slice_ = wide[:, 3:-4].requires_grad_()
    for dtype in (torch.int32, torch.int16, torch.uint8):
        narrow = Targets(targets.categorical.to(dtype), targets.continuous)
        assert same(loss_and_gradient(slice_, spec, narrow), expected), f"{dtype} differs"
    return "row stride, int32, int16, uint8"


def deterministic(machine: Machine) -> str:
    """Check that each call gives the same bits, with enough rows for every program."""
    spec, batch, times = PAPER["mnist"], 65536, 20
    if machine.dry:
        batch, times = 70, 2
    q, targets = draw(spec, batch, machine.device, torch.bfloat16)
    first = loss_and_gradient(q, spec, targets)
    for _ in range(times):
        assert same(loss_and_gradient(q, spec, targets), first), "differs from run to run"
    return f"{times} runs of B = {batch} equal bit by bit"


def streams(machine: Machine) -> str:
    """Check that launches on several streams at once do not disturb each other's sums."""
    if machine.dry:
        raise Skip("a CPU has no streams")
    spec = PAPER["celeba"]
    problems = [draw(spec, 4096, machine.device, torch.float32, seed=i) for i in range(4)]
    expected = [loss_and_gradient(q, spec, targets) for q, targets in problems]
    machine.wait()
    lanes = [torch.cuda.Stream() for _ in problems]
    for _ in range(25):
        actual = []
        for stream, (q, targets) in zip(lanes, problems, strict=True):
            with torch.cuda.stream(stream):
                actual.append(loss_and_gradient(q, spec, targets))
        machine.wait()
        assert all(same(a, b) for a, b in zip(actual, expected, strict=True)), "sums are mixed up"
    return "4 streams, 25 launches each"


def graph_replay(machine: Machine) -> str:
    """Check that a captured graph gives, on new data in its buffers, the bits of an eager call."""
    batch = 5 if machine.dry else 300
    names = ("mnist", "learned σ and Bernoulli", "18 runs, by table")
    for name in names[: 2 if machine.dry else 3]:
        spec = (PAPER | HARD)[name]
        q, targets = draw(spec, batch, machine.device, torch.float32)
        replay = capture(machine, [partial(loss_and_gradient, q, spec, targets)])
        for seed in (1, 2, 3):
            fresh, fresh_targets = draw(spec, batch, machine.device, torch.float32, seed=seed)
            with torch.no_grad():
                q.copy_(fresh)
            for old, new in zip(targets, fresh_targets, strict=True):
                old.copy_(new)
            (replayed,) = replay()
            machine.wait()
            assert same(replayed, loss_and_gradient(fresh, spec, fresh_targets)), name
    return "3 replays a layout, equal bit by bit"


def stray_class(machine: Machine) -> str:
    """Check that a class that does not exist gives NaN in the loss and its gradient alone."""
    spec = HARD["learned σ and Bernoulli"]
    for place, value in ((0, -1), (0, 4), (1, 2), (2, -7)):
        q, targets = draw(spec, 9, machine.device, torch.float32)
        targets.categorical[4, place] = value
        total, nll, gradient = loss_and_gradient(q, spec, targets, validate=False)
        own = [s for s in spec.slots if isinstance(s.code, Categorical | Bernoulli)][place]
        lost = gradient.isnan()
        assert bool(total.isnan()), f"class {value} gives a loss of {total.item()}"
        assert int(nll.isnan().sum()) == 1, f"class {value} gives an NLL of {nll.tolist()}"
        assert bool(lost[4, own.q].all()), f"class {value} has a gradient"
        assert int(lost.sum()) == own.code.q_dim, "other gradients are lost"
    return "NaN in loss and gradient of that head alone"


def far_rows(machine: Machine) -> str:
    """Check rows that lie 2³⁰ elements apart, with offsets past 2³¹."""
    spec, stride = PAPER["mnist"], 2**30
    size = (2 * stride + spec.q_dim) * 2
    if not machine.dry and machine.free_bytes() < 1.2 * size:
        raise Skip(f"needs {size / 1e9:.1f} GB of free memory")
    q, targets = draw(spec, 3, machine.device, torch.bfloat16)
    expected = loss_and_gradient(q, spec, targets)
    try:  # untouched but for three rows; on a CPU that costs no memory
        buffer = torch.empty(2 * stride + spec.q_dim, dtype=q.dtype, device=machine.device)
    except RuntimeError as error:
        raise Skip(f"no {size / 1e9:.1f} GB: {str(error).splitlines()[0]}") from None
    far = buffer.as_strided((3, spec.q_dim), (stride, 1))
    far.copy_(q.detach())
    # a leaf with that stride; its gradient is made dense
    assert same(loss_and_gradient(far.requires_grad_(), spec, targets), expected)
    return "3 rows at stride 2³⁰ equal 3 dense rows"


def many_elements(machine: Machine) -> str:
    """Check the last rows' gradient of a dense q of more than 2³¹ elements."""
    spec, tail = PAPER["celeba"], 4096
    batch = 2**31 // spec.q_dim + tail
    need = 8 * batch * spec.q_dim
    if machine.free_bytes() < need:
        raise Skip(f"needs {need / 1e9:.0f} GB of free GPU memory")
    q = torch.empty(batch, spec.q_dim, dtype=torch.bfloat16, device=machine.device).normal_()
    classes = torch.zeros(batch, spec.n_cat, dtype=torch.uint8, device=machine.device)
    none = torch.zeros(batch, 0, device=machine.device)
    whole = loss_and_gradient(q.requires_grad_(), spec, Targets(classes, none), reduction="sum")
    last = q.detach()[-tail:].clone().requires_grad_()
    part = loss_and_gradient(last, spec, Targets(classes[-tail:], none[-tail:]), reduction="sum")
    assert torch.equal(whole[2][-tail:], part[2]), "the last rows differ"
    return f"{batch} rows of {spec.q_dim}"


class _NoHostRead(TorchDispatchMode):
    READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.READS, f"{func} reads a value on the host"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_wait(machine: Machine) -> Iterator[None]:
    """Make waiting for the device an error; in a dry run, reading a tensor's value."""
    machine.wait()
    if machine.dry:
        with _NoHostRead():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def never_waits(machine: Machine) -> str:
    """Check that forward, backward and sampling put work on the device and go on."""
    for name in ("mnist", "18 runs, by table"):
        spec = (PAPER | HARD)[name]
        q, targets = draw(spec, 4, machine.device, torch.bfloat16)
        for waiting in (nullcontext(), no_wait(machine)):  # the first call copies the layout
            with waiting:
                loss_and_gradient(q, spec, targets)
                spec.sample(4, device=machine.device, seed=0, backend="triton")
    return "forward, backward, sample"


def compiles(machine: Machine) -> str:
    """Check that torch.compile takes the loss into one graph and changes no bit."""
    spec = PAPER["mnist"]
    q, targets = draw(spec, 4 if machine.dry else 64, machine.device, torch.float32)
    weights = own_weights(spec, machine.device)

    def loss(q: Tensor) -> Tensor:
        return info_loss(q * 1.0, spec, *targets, weights, backend="triton", validate=False).total

    compiler = "aot_eager" if machine.dry else "inductor"
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    totals = [f(q) for f in (loss, compiled)]
    eager, graph = (torch.autograd.grad(total, q)[0] for total in totals)
    assert torch.equal(*totals), f"totals {totals}"
    torch.testing.assert_close(graph, eager, rtol=1e-6, atol=0)
    return f"fullgraph, {compiler}"


def in_graph_trees(machine: Machine) -> str:
    """Check that torch.compile's own CUDA graphs replay the loss; their pool keeps nothing."""
    if machine.dry:
        raise Skip("needs CUDA graphs")
    for runs in (3, 18):  # 18 come from a table
        spec = LatentSpec(0, (Categorical(10), Uniform(), Bernoulli()) * (runs // 3))
        q, targets = draw(spec, 64, machine.device, torch.float32)
        weights = own_weights(spec, machine.device)

        def loss(
            q: Tensor, spec: LatentSpec = spec, targets: Targets = targets, w: Tensor = weights
        ) -> Tensor:
            return info_loss(q * 1.0, spec, *targets, w, backend="triton", validate=False).total

        compiled = torch.compile(loss, fullgraph=True, mode="reduce-overhead")
        (expected,) = torch.autograd.grad(loss(q), q)
        for _ in range(4):  # eagerly, then recorded, then replayed
            torch.compiler.cudagraph_mark_step_begin()
            (grad,) = torch.autograd.grad(compiled(q), q)
            torch.testing.assert_close(grad, expected, rtol=1e-6, atol=0)
    return "reduce-overhead, 3 and 18 runs"


def backward_scales(machine: Machine) -> str:
    """Check any upstream gradient, twice over the same graph."""
    spec = PAPER["svhn"]
    q, targets = draw(spec, 20, machine.device, torch.float16)
    total = info_loss(q, spec, *targets, backend="triton").total
    one = torch.autograd.grad(total, q, retain_graph=True)[0]
    scale = torch.tensor(1024.0, device=machine.device)  # as a loss scale does
    first, second = (torch.autograd.grad(total, q, scale, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second), "a second backward differs"
    torch.testing.assert_close(first.float() / 1024, one.float(), rtol=1e-3, atol=1e-7)
    return "two backwards equal, scale 1024"


def one_launch(machine: Machine) -> str:
    """Check that forward is one kernel and backward another."""
    spec = PAPER["mnist"]
    q, targets = draw(spec, 4 if machine.dry else 128, machine.device, torch.float32)
    weights = own_weights(spec, machine.device)
    one = torch.ones((), device=machine.device)

    def forward() -> Tensor:
        return info_loss(q, spec, *targets, weights, backend="triton", validate=False).total

    total = forward()
    counts = (
        count_launches(machine, forward),
        count_launches(machine, lambda: torch.autograd.grad(total, q, one, retain_graph=True)),
    )
    if machine.dry:
        raise Skip("a CPU launches nothing")
    if None in counts:
        raise Skip("the profiler sees no kernel here")
    only = {"kernels": 1, "copies": 0, "fills": 0}
    assert all(c is not None and c | only == c for c in counts), (
        f"forward {counts[0]}, backward {counts[1]}"
    )
    return "1 kernel forward, 1 backward"


def with_logits(machine: Machine) -> str:
    """Check both losses and gradients against fp64 where the launch takes D's logits too."""
    spec = HARD["learned σ and Bernoulli"]
    q, targets = draw(spec, 21, machine.device, torch.float32)
    logits = torch.linspace(-6, 6, 21 + 13, device=machine.device).requires_grad_()
    names: tuple[Literal["nonsaturating", "hinge"], ...] = ("nonsaturating", "hinge")
    for name in names:
        out = head_loss(
            logits, q, spec, *targets, player="discriminator", adversarial=name, backend="triton"
        )
        grads = torch.autograd.grad(out.information + out.adversarial, (q, logits))
        wide_q, wide = (x.detach().double().requires_grad_() for x in (q, logits))
        nll, _, by_q = by_heads(wide_q, spec, targets)
        d_loss = adversarial_losses(name)[0](wide[:13], wide[13:])
        (by_logits,) = torch.autograd.grad(d_loss, wide)
        results = (out.information.detach(), out.adversarial.detach(), *grads)
        for a, b in zip(results, (nll, d_loss.detach(), by_q, by_logits), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
    return "nonsaturating and hinge"


def _near(actual: Any, expected: Any) -> None:
    """Check the contract of a draw: integers equal, floats within 1e-6 relative + 1e-7."""
    assert torch.equal(actual.categorical.cpu(), expected.categorical), "classes differ"
    for name in ("input", "continuous"):
        a, b = getattr(actual, name).cpu(), getattr(expected, name)
        assert a.shape == b.shape, f"{name} has shape {list(a.shape)}"
        worst = ((a - b).abs() - (1e-6 * b.abs() + 1e-7)).argmax()
        a, b = a.flatten()[worst].item(), b.flatten()[worst].item()
        assert abs(a - b) <= 1e-6 * abs(b) + 1e-7, f"{name}: expected {b:.9g}, got {a:.9g}"


def sampler(spec: LatentSpec, backend: Any, dry: bool) -> Check:
    """Check that the device draws what the CPU draws."""

    def check(machine: Machine) -> str:
        addresses = [(0, 0, 0, 0), (7, 5000, 1, 640), (2**63 - 1, 2**31 + 5, 2, 2**32 - 3)]
        for batch in (1, 3) if dry else (1, 128, 4099):
            for seed, step, stream, row in addresses[: 1 if dry else 3]:
                where: dict[str, Any] = {
                    "seed": seed,
                    "step": step,
                    "stream": stream,
                    "first_row": row,
                }
                expected = spec.sample(batch, device="cpu", backend="reference", **where)
                actual = spec.sample(batch, device=machine.device, backend=backend, **where)
                _near(actual, expected)
        return "classes equal, floats within 1e-6 relative + 1e-7"

    return check


def sampler_in_a_graph(machine: Machine) -> str:
    """Check that a captured draw follows the step that it reads on the device."""
    spec, batch = PAPER["svhn"], 3 if machine.dry else 64
    step = torch.zeros((), dtype=torch.int64, device=machine.device)
    sample = partial(spec.sample, batch, device=machine.device, step=step, backend="triton")
    replay = capture(machine, [sample])
    for number in (3, 2**31 + 1):
        step.fill_(number)
        (drawn,) = replay()
        machine.wait()
        _near(drawn, spec.sample(batch, device="cpu", step=number, backend="reference"))
    return "2 replays at steps of their own"


def sampler_compiled(machine: Machine) -> str:
    """Check that compiled draws on the device and the CPU are the CPU's eager ones."""
    compiler = "aot_eager" if machine.dry else "inductor"
    devices = [machine.device]
    if not machine.dry and shutil.which("g++"):  # Inductor's CPU code needs a C++ compiler
        devices.append(torch.device("cpu"))
    for device in devices:
        fresh = LatentSpec(62, PRIORS.codes)
        draw_at = partial(fresh.sample, 3 if machine.dry else 64, device=device, seed=0)
        compiled = torch.compile(
            lambda step, draw_at=draw_at: draw_at(step=step), fullgraph=True, backend=compiler
        )
        for step in (3, torch.tensor(3, device=device), torch.tensor(2**31 + 1, device=device)):
            expected = fresh.sample(
                3 if machine.dry else 64, device="cpu", seed=0, step=int(step), backend="reference"
            )
            _near(compiled(step), expected)
    return f"{compiler}: {', '.join(str(device) for device in devices)}"


def by_many_rows(check: Check) -> Check:
    """Return the check with the kernel of many rows, of however few."""

    def changed(machine: Machine) -> str:
        with mock.patch.object(launch, "MANY_ROWS", 0):
            return check(machine)

    return changed


def kernel_checks(dry: bool) -> dict[str, Check]:
    """Return all checks of the loss."""
    specs = {"mnist": PAPER["mnist"], **HARD} if dry else PAPER | HARD
    if dry:
        del specs["64 equal heads"], specs["1000 and 1500 classes"]
    checks: dict[str, Check] = {
        f"loss, {name}, {str(dtype).removeprefix('torch.')}": values(spec, dtype, dry)
        for name, spec in specs.items()
        for dtype in (DTYPES[:1] if dry and "table" in name else DTYPES)
    }
    for name, spec in PAPER.items():
        if not dry or name == "mnist":
            checks[f"loss, {name}, many rows"] = by_many_rows(values(spec, DTYPES[0], dry))
    for title, check in {
        "loss, learned σ and Bernoulli": values(HARD["learned σ and Bernoulli"], DTYPES[1], dry),
        "loss, determinism": deterministic,
        "loss, concurrent streams": streams,
        "loss, CUDA graph": graph_replay,
        "loss, class out of range": stray_class,
        "loss, more than 2³¹ elements": many_elements,
        "loss under torch.compile": compiles,
    }.items():
        checks[f"{title}, many rows"] = by_many_rows(check)
    return checks | {
        "loss, B = 0": empty_batch,
        "loss, reductions": reductions,
        "loss, strides and integer types": views_and_integers,
        "loss, determinism": deterministic,
        "loss, concurrent streams": streams,
        "loss, CUDA graph": graph_replay,
        "loss, class out of range": stray_class,
        "loss, offsets past 2³¹": far_rows,
        "loss, more than 2³¹ elements": many_elements,
        "loss and sampler never wait": never_waits,
        "loss under torch.compile": compiles,
        "loss in torch.compile's CUDA graphs": in_graph_trees,
        "loss, upstream gradients": backward_scales,
        "loss with D's logits": with_logits,
    }


def launch_checks() -> dict[str, Check]:
    """Run the profiler, last, since it disturbs the timings."""
    return {"loss, launches": one_launch}


def sampler_checks(dry: bool) -> dict[str, Check]:
    """Return all checks of the sampler."""
    specs = {"mnist": PAPER["mnist"], "mixed": HARD["learned σ and Bernoulli"]}
    if not dry:
        specs = PAPER | HARD
    specs["priors and angles"] = PRIORS
    checks = {
        f"sampler, {name}, {backend}": sampler(spec, backend, dry)
        for name, spec in specs.items()
        for backend in ("triton", "reference")
    }
    return checks | {
        "sampler, CUDA graph": sampler_in_a_graph,
        "sampler under torch.compile": sampler_compiled,
    }
