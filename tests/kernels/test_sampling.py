"""The sampling kernel against its PyTorch counterpart, and that counterpart against the priors.

The kernel runs in Triton's interpreter, and is compiled ahead of time for four GPUs.
"""

import itertools
import json
import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import all_specs, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan import philox
from fastinfogan.latents import (
    Angle,
    Bernoulli,
    Categorical,
    Gaussian,
    LatentBatch,
    LatentSpec,
    Uniform,
)
from fastinfogan.latents import spec as spec_module
from fastinfogan.latents.codes import PI
from fastinfogan.philox import Stream

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
from fastinfogan_kernels import sampling  # noqa: E402
from fastinfogan_kernels.sampling import (  # noqa: E402
    _cosine,
    _cosine_of,
    _radius,
    make_plan,
    sample_latents,
)

# the interpreter takes some 10 ms per tile
few = settings(max_examples=12, deadline=None)
numbers = st.integers(0, 2**40)
MNIST = LatentSpec(noise=62, codes=(Categorical(10), Uniform(-1, 1), Uniform(-1, 1)))
MIXED = LatentSpec(
    noise=3,  # an odd number, and a categorical that puts what follows at an odd word
    codes=(
        Categorical(10),
        Gaussian(3, 0.5, dim=3, sigma="learned"),
        Gaussian(3, 0.5, dim=3),
        Bernoulli(0.3),
        Uniform(-2, 5, dim=2),
        Uniform(-2, 5),
    ),
)
EXTENDED = LatentSpec(
    noise=3,
    codes=(
        Categorical(3, probs=(0.5, 0.25, 0.25)),
        Angle(),
        Angle(concentration="learned"),
        *[Categorical(40, probs=[(i % 4) / 60 for i in range(40)])] * 2,
        Bernoulli(0.3),
        Uniform(-2, 5),
    ),
)
ANGLES = LatentSpec(0, (Angle(),))


def same(first: LatentBatch, second: LatentBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def hold_equal(spec: LatentSpec, actual: LatentBatch, expected: LatentBatch) -> None:
    """Check integers and uniforms bit by bit; normals to 1e-6 + 1e-7 before scale and shift."""
    assert torch.equal(actual.categorical, expected.categorical)
    noise = slice(0, spec.noise)
    torch.testing.assert_close(
        actual.input[:, noise], expected.input[:, noise], rtol=1e-6, atol=1e-7
    )
    for code, _, target in spec.slots:
        if isinstance(code, Uniform | Angle):
            assert torch.equal(actual.continuous[:, target], expected.continuous[:, target])
        elif isinstance(code, Gaussian):
            # |std·x| ≤ |value| + |mean|, and each side rounds x·std, then the sum
            a, b = actual.continuous[:, target].double(), expected.continuous[:, target].double()
            scaled = b.abs() + abs(code.mean)
            assert ((a - b).abs() <= (1e-6 + 2**-23) * scaled + 1e-7 * code.std).all()
    # beyond the noise the input repeats the targets
    whole = spec.assemble(actual.input[:, noise], actual.categorical, actual.continuous)
    column = spec.noise
    for code in spec.codes:
        own = slice(column, column := column + code.input_dim)
        near = {"rtol": 1e-6, "atol": 1e-7} if isinstance(code, Angle) else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(actual.input[:, own], whole.input[:, own], **near)
    assert column == spec.input_dim


# The kernel and its counterpart


@few
@given(
    spec=all_specs,
    batch=st.sampled_from([0, 1, 2, 77]),
    seed=seeds,
    step=numbers,
    stream=st.integers(0, 3),
    first_row=numbers,
)
def test_the_kernel_draws_the_rows_of_its_counterpart(spec, batch, seed, step, stream, first_row):
    where = {"seed": seed, "step": step, "stream": stream, "first_row": first_row}
    actual = spec.sample(batch, backend="triton", **where)
    hold_equal(spec, actual, spec.sample(batch, backend="reference", **where))


@pytest.mark.parametrize(
    "place",
    [
        {"seed": 2**64 - 1},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 2**32},
        {"step": 2**31},
        {"step": 2**32 - 1},
        {"step": 2**32 + 5},
        {"first_row": 2**32 - 2},  # the address wraps within the batch
        {"first_row": 2**31 - 2},
    ],
    ids=str,
)
def test_numbers_at_the_ends_of_their_words_give_the_counterpart_s_rows(place):
    for spec in (MIXED, EXTENDED):
        actual = spec.sample(5, backend="triton", **place)
        hold_equal(spec, actual, spec.sample(5, backend="reference", **place))


@few
@given(all_specs, seeds, numbers)
def test_a_step_on_the_device_draws_what_the_number_draws(spec, seed, step):
    where: dict[str, Any] = {"seed": seed}
    drawn = spec.sample(3, backend="triton", step=step, **where)
    on_device = torch.tensor(step)
    assert same(drawn, spec.sample(3, backend="triton", step=on_device, **where))
    reference = spec.sample(3, backend="reference", step=on_device, **where)
    hold_equal(spec, drawn, reference)


@few
@given(all_specs, st.integers(0, 40), st.data())
def test_the_slices_of_all_ranks_make_the_whole(spec, batch, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=3)))
    where: dict[str, Any] = {"seed": 3, "step": 9, "backend": "triton"}
    whole = spec.sample(batch, first_row=1000, **where)
    slices = [
        spec.sample(end - start, first_row=1000 + start, **where)
        for start, end in zip([0, *cuts], [*cuts, batch], strict=True)
    ]
    assert same(whole, LatentBatch(*map(torch.cat, zip(*slices, strict=True))))


WIDE = {
    "the paper's": (MNIST, 128),
    "5,000 classes": (LatentSpec(3, (Uniform(), Categorical(5000), Bernoulli())), 17),
    "65,536 classes": (LatentSpec(0, (Categorical(65_536),)), 1),
    "2,001 noise columns": (LatentSpec(2001, (Categorical(2), Uniform(dim=130))), 2),
    "1,024 codes": (LatentSpec(1, (Categorical(3),) * 1024), 3),
    "512 of two kinds": (LatentSpec(1, (Gaussian(dim=3),) * 512 + (Bernoulli(),) * 512), 3),
    "5,000 classes of a prior": (
        LatentSpec(1, (Categorical(5000, probs=[i / 12_497_500 for i in range(5000)]),) * 2),
        17,
    ),
    "130 angles": (LatentSpec(1, (Angle(),) * 130), 3),
    "200 runs": (LatentSpec(5, (Categorical(3), Gaussian(1, 2), Bernoulli(), Uniform()) * 50), 2),
}


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "65,536 classes" else n for n in WIDE],
)
def test_wide_and_many_codes_are_drawn_in_one_launch(name, monkeypatch):
    spec, batch = WIDE[name]
    launches = []
    kernel = sampling.sample_kernel

    class Counted:
        def __getitem__(self, grid):
            launches.append(grid)
            return kernel[grid]

    monkeypatch.setattr(sampling, "sample_kernel", Counted())
    actual = spec.sample(batch, seed=7, step=2, backend="triton")
    assert len(launches) == 1
    hold_equal(spec, actual, spec.sample(batch, seed=7, step=2, backend="reference"))


def test_a_threshold_may_be_nothing_or_all_of_the_words():
    p = 2.0**-40  # rounds to thresholds 0 and 2³²
    spec = LatentSpec(0, (Bernoulli(p), Bernoulli(1 - p)))
    drawn = spec.sample(40, seed=0, backend="triton")
    assert drawn.categorical.tolist() == [[0, 1]] * 40


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_bit_is_one_where_its_word_is_under_the_threshold_and_not_where_it_is_equal(backend):
    word = int(philox.words(1, 1, seed=4, stream=Stream.SAMPLES))
    for threshold, bit in ((word, 0), (word + 1, 1)):
        spec = LatentSpec(0, (Bernoulli(threshold / 2**32),))
        drawn = spec.sample(1, seed=4, backend=backend)
        assert (drawn.categorical.item(), drawn.input.item()) == (bit, bit)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_class_is_drawn_from_its_first_threshold_on_and_up_to_the_next(backend):
    word = int(philox.words(1, 1, seed=4, stream=Stream.SAMPLES))
    for threshold, drawn in ((word, 1), (word + 1, 0)):
        p = threshold / 2**32
        spec = LatentSpec(0, (Categorical(3, probs=(p, 1 - p, 0)),))
        assert spec.codes[0].thresholds() == (0, threshold, 2**32, 2**32)  # type: ignore[union-attr]
        actual = spec.sample(1, seed=4, backend=backend)
        assert actual.categorical.item() == drawn
        assert actual.input.tolist() == [[float(k == drawn) for k in range(3)]]


@triton.jit
def _normals_of_every_word(
    radius,
    cosine,
    sine,
    of_theta,
    sine_of_theta,
    N: tl.constexpr,  # type: ignore[name-defined]
):
    i = tl.program_id(0) * N + tl.arange(0, N)
    word = i.to(tl.uint32) << 8
    tl.store(radius + i, _radius(word))
    tl.store(cosine + i, _cosine(word, 0))
    tl.store(sine + i, _cosine(word, 1))
    turn = (word >> 8).to(tl.int32)
    theta = (turn.to(tl.float32) * 5.9604644775390625e-08) * 6.283185005187988 - 3.141592502593994
    quarter = ((turn + 0x200000) >> 22) - 2
    tl.store(of_theta + i, _cosine_of(theta, quarter, 0))
    tl.store(sine_of_theta + i, _cosine_of(theta, quarter, 1))


@pytest.mark.slow
def test_radius_cosine_and_sine_hold_their_bounds_at_all_2_to_the_24_inputs():
    n = 2**24
    outputs = [torch.empty(n) for _ in range(5)]
    block = 2**18
    _normals_of_every_word[(n // block,)](*outputs, N=block, enable_fp_fusion=False)
    radius, cosine, sine, of_theta, sine_of_theta = (out.cpu().double() for out in outputs)
    u = torch.arange(n, dtype=torch.float64) / n
    angle = (u.float() * (2 * math.pi)).double()
    theta = (u.float() * (2 * PI) - PI).double()
    exact_radius = (-2 * torch.log(u + 1 / n)).sqrt()
    for actual, exact, bound in (
        (radius, exact_radius, 9.9e-8),
        (cosine, angle.cos(), 1.31e-7),
        (sine, angle.sin(), 1.31e-7),
        (of_theta, theta.cos(), 1.31e-7),
        (sine_of_theta, theta.sin(), 1.31e-7),
    ):
        # relative, also where the value is smallest; an exact zero stays one
        assert ((actual - exact).abs() <= bound * exact.abs()).all()


# Memory


def embed(width: int, batch: int, poison: float, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a buffer full of poison, and [batch, width] in the middle of it."""
    buffer = torch.full((batch + 2, width + 5), poison, dtype=dtype)
    return buffer, buffer[1:-1, 2 : 2 + width]


@few
@given(all_specs, st.sampled_from([1, 2, 33]), st.integers(0, 2**31))
@pytest.mark.slow
def test_nothing_outside_is_written_or_matters_and_every_output_element_is_written(
    spec, batch, step
):
    plan = spec._plan
    clean = sample_latents(plan, batch, seed=5, step=step)
    table = sampling._table(plan, clean.input.device)
    # no draw is negative where it is an integer, nor NaN or infinite where it is not
    for floating, integer in ((math.nan, -77), (-math.inf, -(2**62))):
        widths, kinds = (spec.input_dim, spec.n_cat, spec.n_cont), (torch.float32, torch.int64)
        buffers = [
            embed(width, batch, integer if i == 1 else floating, kinds[i == 1])
            for i, width in enumerate(widths)
        ]
        steps, around = (torch.full((n,), integer) for n in (7, 31 + table.numel()))
        steps[3] = step
        inside = around[11 : 11 + table.numel()].view(table.shape).copy_(table)
        before = [t.clone() for t in (steps, around)]
        out = sampling.Latents(*(view for _, view in buffers))
        sampling._launch(plan, inside, out, 5, steps[3], 0, 0)
        assert same(LatentBatch(*out), LatentBatch(*clean))
        assert all(map(torch.equal, (steps, around), before))
        for i, (buffer, view) in enumerate(buffers):
            view.fill_(integer if i == 1 else floating)
            expected = torch.full_like(buffer, integer if i == 1 else floating)
            assert torch.equal(buffer.nan_to_num(nan=1.5), expected.nan_to_num(nan=1.5))


def test_rows_may_lie_two_to_the_30_elements_apart():
    # three rows over an untouched buffer: no memory is taken but for the pages of the rows
    buffer = torch.empty(2 * 2**30 + 2**10)
    far = buffer.as_strided((3, MNIST.input_dim), (2**30, 1))
    near = sample_latents(MNIST._plan, 3)
    sample_latents(MNIST._plan, 3, out=(far, near.categorical, near.continuous))
    assert torch.equal(far.clone(), near.input)


class _Recorder:
    """A stand-in for the compiled kernel, which keeps the arguments of its launches."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.calls.append((args, kwargs))


@pytest.fixture
def recorder(monkeypatch):
    recorder = _Recorder()
    monkeypatch.setattr(sampling, "sample_kernel", recorder)
    return recorder


def test_no_seed_step_stream_row_batch_or_spec_needs_another_compilation(recorder, request):
    mangle = triton.runtime.jit.mangle_type
    request.getfixturevalue("monkeypatch").undo()
    cases = list(sampling.compile_cases().values())
    request.getfixturevalue("monkeypatch").setattr(sampling, "sample_kernel", recorder)
    ends = (0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
    kinds = itertools.product((False, True), ((MNIST, MIXED), (EXTENDED, ANGLES)))
    for case, (on_device, drawn) in zip(cases, kinds, strict=True):
        recorder.calls.clear()
        for spec, number, batch in itertools.product(drawn, ends, (1, 16, 77)):
            step = torch.tensor(number % 2**62) if on_device else number
            sample_latents(
                spec._plan,
                batch,
                seed=number,
                step=step,
                stream=number % 4,
                first_row=number,
            )
        # every number is one that is not specialised on its value (held below), so that its
        # type and the constants are all that a compilation depends on
        expected = {n: t for n, t in case["signature"].items() if t != "constexpr"}
        for args, kwargs in recorder.calls:
            assert dict(zip(expected, map(mangle, args), strict=True)) == expected
            assert kwargs == {**case["constexprs"], **case["options"]}
        assert len(recorder.calls) == 60


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Any] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(func)
        return func(*args, **(kwargs or {}))


def test_a_draw_allocates_its_three_outputs_and_does_nothing_else_but_launch(recorder):
    step = torch.tensor(3)
    for _ in range(2):  # the first one may copy the plan to the device
        with _Dispatched() as dispatched:
            MIXED.sample(4, step=step, backend="triton")
    assert dispatched.ops == [torch.ops.aten.empty.memory_format] * 3
    assert len(recorder.calls) == 2


def test_a_first_draw_within_a_capture_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    plan = make_plan(3, [("bernoulli", 1, 12345, 0.0)])
    with pytest.raises(ValueError, match="make one such call before the capture"):
        sampling._table(plan, torch.device("cuda", 0))


# Ahead of time

COMPILE = """
import json, os, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fastinfogan_kernels import sampling

assert not sampling.INTERPRETED
tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
targets = [GPUTarget("cuda", arch, 32) for arch in (80, 90, 100)]
targets.append(GPUTarget("hip", "gfx942", 64))
result = {"specialised": [
    p.name for p in sampling.sample_kernel.params
    if not (p.is_constexpr or p.do_not_specialize_on_alignment or p.do_not_specialize)
]}
for name, case in sampling.compile_cases().items():
    for target in targets:
        source = ASTSource(case["fn"], case["signature"], case["constexprs"])
        kernel = triton.compile(source, target=target, options=case["options"])
        if target.backend == "cuda":
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(kernel.asm["cubin"])
                file.flush()
                text = subprocess.check_output([tool, "-res-usage", file.name], text=True)
            used = dict(re.findall(r"(REG|STACK|LOCAL):(\\d+)", text))
            used["fused"] = len(re.findall(r"fma\\.", kernel.asm["ptx"]))
            used["approximate"] = kernel.asm["ptx"].count("approx")
        else:
            fields = r"\\.(\\w+_spill_count|private_segment_fixed_size): +(\\d+)"
            used = dict(re.findall(fields, kernel.asm["amdgcn"]))
        result[f"{name}, {target.arch}"] = {key: int(value) for key, value in used.items()}
print(json.dumps(result))
"""


@pytest.mark.slow
def test_the_kernel_compiles_for_four_gpus_without_spills_local_memory_or_fused_products(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("specialised") == []
    assert len(result) == 16
    for name, used in result.items():
        clean: tuple[str, ...]
        if "gfx" in name:
            clean = ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
        else:
            clean = ("STACK", "LOCAL", "fused", "approximate")
            # 65,536 registers: at least four programs of 128 threads at a time
            assert 0 < used["REG"] <= 128, (name, used)
        assert {key: used[key] for key in clean} == dict.fromkeys(clean, 0), (name, used)


# The numbers, at 10⁶ draws: of the kernel on a GPU, else of its counterpart

DRAWS = 10**6
PROBS = (0.1, 0.2, 0.65, 0.05)
CODES = (
    Categorical(10),
    Categorical(3),
    Bernoulli(0.3),
    Uniform(-2, 5),
    Gaussian(3, 0.5),
    Categorical(4, probs=PROBS),
    Angle(),
)
PRIORS = LatentSpec(2, CODES)
# With fixed seeds a statistical test passes always or never; over all the tests below together a
# right sampler fails once in a thousand times.
P_VALUE = 1e-3 / 100


def columns(**where: Any) -> dict[str, np.ndarray]:
    """Return each noise column and code as numbers of [0, 1) by its prior, or as classes."""
    drawn = PRIORS.sample(DRAWS, **where)
    noise = drawn.input[:, :2].cpu().numpy()
    classes, values = drawn.categorical.cpu().numpy(), drawn.continuous.cpu().numpy()
    return {
        "noise 0": stats.norm.cdf(noise[:, 0]),
        "noise 1": stats.norm.cdf(noise[:, 1]),
        "ten classes": classes[:, 0],
        "three classes": classes[:, 1],
        "bit": classes[:, 2],
        "uniform": stats.uniform(-2, 7).cdf(values[:, 0]),
        "gaussian": stats.norm(3, 0.5).cdf(values[:, 1]),
        "weighted classes": classes[:, 3],
        "angle": stats.uniform(-math.pi, 2 * math.pi).cdf(values[:, 2]),
    }


def cells(column: np.ndarray) -> np.ndarray:
    """Return cells: classes as they are, numbers of [0, 1] in sixteen."""
    return column if column.dtype == np.int64 else np.minimum((column * 16).astype(np.int64), 15)


def independence(first: np.ndarray, second: np.ndarray) -> float:
    """Return the p-value of a chi-square test of the two columns' table of counts."""
    a, b = cells(first), cells(second)
    table = np.bincount(a * (b.max() + 1) + b, minlength=(a.max() + 1) * (b.max() + 1))
    return float(stats.chi2_contingency(table.reshape(a.max() + 1, b.max() + 1)).pvalue)


@pytest.fixture(scope="module")
def drawn():
    return columns(seed=2024, step=5)


def test_every_prior_has_its_distribution_at_a_million_draws(drawn):
    for name, column in drawn.items():
        if name == "bit":
            p_value = stats.binomtest(int(column.sum()), DRAWS, 0.3).pvalue
        elif "classes" in name:
            probs = {"ten": [0.1] * 10, "three": [1 / 3] * 3, "weighted": PROBS}[name.split()[0]]
            counts = np.bincount(column, minlength=len(probs))
            assert len(counts) == len(probs)
            p_value = stats.chisquare(counts, np.array(probs) * DRAWS).pvalue
        else:
            p_value = stats.kstest(column, "uniform").pvalue
        assert p_value > P_VALUE, name


def test_columns_are_independent(drawn):
    for (name, first), (other, second) in itertools.combinations(drawn.items(), 2):
        assert independence(first, second) > P_VALUE, (name, other)


@pytest.mark.parametrize(
    "place",
    [{"seed": 2024, "step": 6}, {"seed": 2025, "step": 5}, {"seed": 2024, "step": 5, "stream": 0}],
    ids=["steps", "seeds", "streams"],
)
def test_draws_of_other_steps_seeds_and_streams_are_independent(drawn, place):
    other = columns(**place)
    for name, column in drawn.items():
        assert independence(column, other[name]) > P_VALUE, name


def test_rows_are_independent_of_their_neighbours(drawn):
    for name, column in drawn.items():
        assert independence(column[:-1], column[1:]) > P_VALUE, name


# Which backend draws, and what it refuses


def test_auto_is_the_kernel_on_a_gpu_and_pytorch_elsewhere_and_while_compiling(monkeypatch):
    assert spec_module._kernel("auto", "cuda") is sample_latents
    for device in ("cpu", "meta", None):
        assert spec_module._kernel("auto", device) is None
    assert spec_module._kernel("reference", "cuda") is None
    assert spec_module._kernel("triton", "cpu") is sample_latents
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert spec_module._kernel("auto", "cuda") is None


def test_without_the_kernels_auto_is_pytorch_and_triton_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastinfogan_kernels.sampling", None)
    spec_module._import_kernel.cache_clear()
    try:
        assert spec_module._kernel("auto", "cuda") is None
        with pytest.raises(ValueError, match="needs fastinfogan_kernels and triton"):
            MNIST.sample(2, backend="triton")
    finally:
        spec_module._import_kernel.cache_clear()


def test_cpu_tensors_without_the_interpreter_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(sampling, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"CUDA and ROCm devices, got 'cpu'.*TRITON_INTERPRET=1"):
        MNIST.sample(2, backend="triton", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "cuda"}, "\"auto\", \"reference\" or \"triton\", got 'cuda'"),
        ({"batch": -1}, "≥ 0, got -1"),
        ({"batch": 2**31}, "2³¹ − 1, got 2147483648"),
        ({"step": torch.tensor(1.0)}, "one int64 on .*got torch.float32"),
        ({"step": torch.zeros(2, dtype=torch.int64)}, r"one int64 on .*got torch.int64 \[2\]"),
        ({"step": torch.zeros((), dtype=torch.int64, device="meta")}, "one int64 on .* on meta"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_refused_with_what_was_expected_and_what_came(arguments, message):
    arguments = {"batch": 2, "backend": "triton", **arguments}
    with pytest.raises(ValueError, match=message):
        MNIST.sample(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: lambda t: t[:1]}, r"input must be torch.float32 \[2, 74\], got .*\[1, 74\]"),
        ({0: lambda t: t.double()}, r"input must be torch.float32 .*got torch.float64"),
        ({1: lambda t: t.int()}, r"categorical must be torch.int64 \[2, 1\], got torch.int32"),
        ({2: lambda t: t.T.contiguous().T}, "continuous must have contiguous columns, got .* 2"),
        ({2: lambda t: t.to("meta")}, "continuous must be on .*got meta"),
    ],
)  # fmt: skip
def test_an_output_that_does_not_fit_is_refused(change, message):
    out = list(MNIST.sample(2))
    for i, alter in change.items():
        out[i] = alter(out[i])
    with pytest.raises(ValueError, match=message):
        sample_latents(MNIST._plan, 2, out=tuple(out))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "at least one code, got none"),
        ([("poisson", 1, 0, 0.0)], "expected one of .*got 'poisson', 1"),
        ([("categorical", 0, 0, 0.0)], "a width ≥ 1.*got 'categorical', 0"),
        ([("bernoulli", 2, 5, 0.0)], "bernoulli and angle: 1.*got 'bernoulli', 2"),
        ([("angle", 2, 1.0, 0.0)], "bernoulli and angle: 1.*got 'angle', 2"),
        *(
            ([("weighted", 2, thresholds, 0.0)], "expected 3 thresholds that do not fall")
            for thresholds in ((0, 2**32), (0, 5, 4, 2**32), (0, 5, 2**31), (1, 5, 2**32), 0.5)
        ),
        ([("gaussian", 2**31 - 1, 1.0, 0.0)], "fewer than 2³¹ columns and words"),
    ],
)
def test_a_plan_that_cannot_be_drawn_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(4, codes)


def test_a_spec_that_was_drawn_from_stays_equal_and_keeps_its_dict():
    fresh = LatentSpec.from_dict(MIXED.to_dict())
    MIXED.sample(1, seed=0, backend="triton")
    assert (fresh, hash(fresh), fresh.to_dict()) == (MIXED, hash(MIXED), MIXED.to_dict())


def test_the_default_dtype_does_not_matter():
    spec = LatentSpec(3, (Categorical(4), Uniform()))
    expected = spec.sample(4, seed=0, backend="triton")
    torch.set_default_dtype(torch.float64)
    try:
        actual = spec.sample(4, seed=0, backend="triton")
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
