"""The kernels as compiled ahead of time for four GPUs, and what a launch is: one kernel, no more.

What is compiled is what the launchers launch (kernels/resources.py says how); no GPU is needed.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
import fastinfogan_kernels
from fastinfogan_kernels import functional, launch, make_layout, many_rows, sampling

KERNELS = Path(__file__).parents[2] / "kernels"
README = KERNELS / "README.md"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def python(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Return another Python, whose Triton compiles."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,  # nothing depends on it
        env={**os.environ, "TRITON_INTERPRET": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class Compiled(NamedTuple):
    folder: Path
    check: subprocess.CompletedProcess

    def usages(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "usages.json").read_text())

    def texts(self, kind: str, kernel: str = "information") -> Iterator[tuple[str, str]]:
        """Return (name, text) of each compiled kernel, as ttir, ttgir, ptx or amdgcn."""
        paths = sorted((self.folder / "asm").glob(f"{kernel}*.{kind}"))
        assert paths
        return ((path.name, path.read_text()) for path in paths)


def run_resources(folder: Path, *options: str | Path) -> subprocess.CompletedProcess:
    cache = str(folder / "cache")
    return python(KERNELS / "resources.py", *options, cwd=folder, TRITON_CACHE_DIR=cache)


@pytest.fixture(
    scope="module",
    params=[("sm_90", "gfx942"), pytest.param(TARGETS, marks=pytest.mark.slow)],
    ids=["one of each vendor", "all"],
)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Return the quick part of the table, compiled from nothing."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "asm").mkdir()
    options: list[str | Path] = [
        "--quick",
        "--json",
        folder / "usages.json",
        "--asm",
        folder / "asm",
    ]
    options += ["--check"] if request.param == TARGETS else ["--targets", *request.param]
    return Compiled(folder, run_resources(folder, *options))


all_targets = pytest.mark.parametrize(
    "compiled", [pytest.param(TARGETS, marks=pytest.mark.slow)], ids=["all"], indirect=True
)


# Resources


@all_targets
def test_kernels_keep_to_their_budgets_and_take_what_the_readme_says(compiled: Compiled) -> None:
    assert compiled.check.returncode == 0, compiled.check.stderr
    usages = compiled.usages()
    assert len(usages) == 13 * len(TARGETS)
    assert {usage["target"] for usage in usages} == set(TARGETS)
    for usage in usages:
        assert usage["kernels"] == 1, usage
        assert usage["local"] == usage["spills"] == 0, usage
        assert 0 < usage["registers"] <= 128, usage
        assert usage["shared"] <= 2048, usage
        assert usage["seconds"] < 30, usage


@all_targets
def test_another_number_in_the_readme_is_noticed(compiled: Compiled, tmp_path: Path) -> None:
    text = README.read_text()
    if f"triton {version('triton')}" not in text:
        pytest.skip("the table is of another triton")
    row = next(line for line in text.splitlines() if line.startswith("| information, fp32 |"))
    *front, last, end = row.split("|")
    edited = "|".join([*front, re.sub(r"\d+", lambda n: str(int(n[0]) + 1), last, count=1), end])
    assert edited != row
    (tmp_path / "README.md").write_text(text.replace(row, edited))
    done = run_resources(compiled.folder, "--quick", "--check", "--readme", tmp_path / "README.md")
    assert done.returncode == 1
    assert f"expected: {row}" in done.stderr.splitlines()


@pytest.mark.chaos  # nine minutes of a core; the thirteen rows above are of every kernel
def test_the_whole_table_is_what_the_readme_says(tmp_path: Path) -> None:
    done = run_resources(tmp_path, "--check")
    assert done.returncode == 0, done.stderr


# What is in the compiled code


def test_offsets_of_rows_have_64_bits(compiled: Compiled) -> None:
    pointers = {
        "information": ("q", "dq", "cat", "cont"),
        "information and": ("logit", "dlogit"),
        "many rows": ("q", "dq", "cat", "cont"),
    }
    for kernel, names in pointers.items():
        for name, text in compiled.texts("ttir", kernel):
            hold_row_offsets_to_64_bits(name, text, [f"{pointer}_ptr" for pointer in names])
    for name, text in compiled.texts("ttir", "sampling"):
        hold_row_offsets_to_64_bits(name, text, ["input", "categorical", "continuous"])


def hold_row_offsets_to_64_bits(name: str, text: str, pointers: list[str]) -> None:
    for pointer in pointers:
        added = r"tt\.addptr {}, %\w+ : [^,]*, (?:tensor<[\dx]*)?(i\d+)"
        types = set(re.findall(added.format(f"%{pointer}"), text))
        # loops next to each other may give different values one name: the splat's own addition
        for splat in re.finditer(rf"(%\w+) = tt\.splat %{pointer} :", text):
            own = re.search(added.format(splat[1]), text[splat.end() :])
            types.add(own[1] if own else "unknown")
        # a layout without targets of a kind loads none
        optional = pointer in ("cat_ptr", "cont_ptr", "continuous")
        assert types == {"i64"} or (optional and not types), (name, pointer, types)


@pytest.mark.parametrize("kernel", ["information", "many rows"])
def test_a_program_counts_itself_done_after_its_sums_on_nvidia(
    compiled: Compiled, kernel: str
) -> None:
    for name, text in compiled.texts("ptx", kernel):
        lines = text.splitlines()

        def places(pattern: str, lines: list[str] = lines) -> list[int]:
            return [i for i, line in enumerate(lines) if re.search(pattern, line)]

        (counted,) = places(r"\batom\.\S*acq_rel")
        assert "atom.global.gpu.acq_rel.add" in lines[counted], name
        before = [i for i in places(r"\b(st\.global|atom\.)") if i < counted]
        barrier = max(i for i in places(r"\bbar\.sync") if i < counted)
        assert before, name
        assert max(before) < barrier, name
        # other programs' sums, from where they were written and not from this SM's cache
        reads = places(r"\bld\.global\.cg")
        assert reads, name
        assert min(reads) > counted, name


@pytest.mark.parametrize("kernel", ["information", "many rows"])
def test_a_program_counts_itself_done_after_its_sums_on_amd(
    compiled: Compiled, kernel: str
) -> None:
    """The barrier doesn't wait for stores there; the wave that counts does, for its own."""
    for name, text in compiled.texts("amdgcn", kernel):
        code = [line.split(";")[0].split() for line in text.splitlines() if line.startswith("\t")]
        code = [words for words in code if words and not words[0].startswith(".")]
        (counted,) = (i for i, words in enumerate(code) if words[0] == "global_atomic_add")
        around = [" ".join(words) for words in code[counted - 2 : counted + 3]]
        assert around[:2] == ["buffer_wbl2 sc1", "s_waitcnt vmcnt(0)"], name
        assert around[3:] == ["s_waitcnt vmcnt(0)", "buffer_inv sc1"], name
        assert ["s_barrier"] in code[:counted], name


@pytest.mark.parametrize("kernel", ["information", "many rows"])
def test_one_warp_writes_all_of_a_programs_sums_each_thread_its_own(
    compiled: Compiled, kernel: str
) -> None:
    """So they are in order with each other, and on AMD with the first warp's counting."""
    for name, text in compiled.texts("ttgir", kernel):
        capacity = {
            layout: int(a) * int(b)
            for layout, a, b in re.findall(
                r"(#\w+) = #ttg\.blocked<\{sizePerThread = \[(\d+)\], threadsPerWarp = \[(\d+)\]",
                text,
            )
        }
        # the two operands after the mode are where to and what, in an order of the target's
        # (and before the type of what is written, Triton 3.9 has the pointer's)
        kind = r"(?:!tt\.ptr<f32> -> )?tensor<(\d+)x(?:!tt\.ptr<f32>|f32), (#\w+)>"
        if kernel == "many rows":  # adds in registers: its stores of a row of `partial` are all
            stores = re.findall(rf"store \S+ [^\n]*: {kind}", text)
            assert stores, name
            assert all(int(size) <= capacity[layout] for size, layout in stores), name
            continue
        added = re.findall(rf"atomic_rmw fadd, relaxed, gpu, (\S+ [^\s,]+),? .*: \(?{kind}", text)
        assert added, name
        for operands, size, layout in added:
            assert int(size) <= capacity[layout], (name, size, layout)
            stores = re.findall(rf"store {re.escape(operands)},? .*: {kind}", text)
            assert set(stores) == {(size, layout)}, (name, operands)


SPECIALISED = """
import resources
from triton.compiler import make_backend

layout = "MNIST: Cat10, 2 U"
for target in resources.TARGETS.values():
    kernel, args, kwargs = resources.record(
        resources.CASES["information, fp32", layout], layout, target.backend == "hip"
    )
    bind = resources.create_function_from_signature(
        kernel.signature, kernel.params, make_backend(target)
    )
    expected = bind(*args, **kwargs)[1]
    counters = resources.torch.zeros(4, dtype=resources.torch.int32)
    for counter in counters.split(1):  # one of a capture's: at any alignment
        found = [counter if arg.dtype == counter.dtype else arg for arg in args[:16]]
        assert bind(*found, *args[16:], **kwargs)[1] == expected, target
    for n_rows in (1, 16, 77, 2**31 - 1):
        found = [n_rows if i == 16 else arg for i, arg in enumerate(args)]
        assert bind(*found, **kwargs)[1] == expected, target
"""


def test_no_batch_size_and_no_captured_counter_compiles_anew(tmp_path: Path) -> None:
    done = python("-c", SPECIALISED, cwd=tmp_path, PYTHONPATH=str(KERNELS))
    assert done.returncode == 0, done.stderr


# Imports


def test_importing_the_kernels_looks_for_no_driver(tmp_path: Path) -> None:
    code = """
import fastinfogan_kernels
from fastinfogan_kernels import functional, info_loss, launch, sampling
from triton.runtime import driver
import torch

assert fastinfogan_kernels.available()
assert not launch.INTERPRETED and not sampling.INTERPRETED
assert driver._active is None and driver._default is None
assert not torch.cuda.is_initialized()
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_triton_the_kernels_are_unavailable_and_nothing_raises(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["triton"] = None
import fastinfogan_kernels
assert fastinfogan_kernels.available() is False
assert "torch" not in sys.modules
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# What a launch is

LAYOUT = make_layout([("categorical", 10), ("fixed", 2), ("learned", 1), ("bernoulli", 1)])
MANY_RUNS = make_layout([("categorical", 3), ("fixed", 1)] * 9)
BATCH = 5


def problem(layout: fastinfogan_kernels.Layout, requires_grad: bool = False) -> Any:
    """Return the positional arguments of a loss."""
    return (
        torch.randn(BATCH, layout.q_dim, requires_grad=requires_grad),
        layout,
        torch.ones(BATCH, layout.n_cat, dtype=torch.int64),
        torch.zeros(BATCH, layout.n_cont),
        torch.ones(layout.n_codes),
    )


def information(layout: fastinfogan_kernels.Layout = LAYOUT, **options: Any) -> list[Tensor]:
    out = functional.info_loss(launch.Call(*problem(layout, True), **options))
    if out[0].requires_grad:
        out[0].sum().backward()
    return [*out]


def heads(real: int, **options: Any) -> list[Tensor]:
    logits = torch.randn(real + BATCH, requires_grad=True)
    call = launch.Call(*problem(LAYOUT, True), **options)._replace(logits=logits)
    total, per_code, adversarial = functional.head_loss(call)
    (total + adversarial).backward()
    return [total, per_code, adversarial]


CALLS: dict[str, Callable[[], object]] = {
    "information": information,
    "per row": lambda: information(reduction="none"),
    "no gradient": torch.no_grad()(information),
    "by table": lambda: information(MANY_RUNS),
    "gradient asked for": lambda: fastinfogan_kernels.info_loss_forward_backward(*problem(LAYOUT)),
    "discriminator": lambda: heads(real=3),
    "generator": lambda: heads(real=0, adversarial="hinge", player="generator"),
    "many rows": information,
    "latents": lambda: sampling.sample_latents(
        sampling.make_plan(3, [("categorical", 10, 0, 0.0)]), BATCH
    ),
}


class Counted:
    """A kernel that counts its launches and keeps the last one's options."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches = kernel, 0
        self.options: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*args: Any, **options: Any) -> None:
            self.launches, self.options = self.launches + 1, options
            self.kernel[grid](*args, **options)

        return run


class Stub:
    """A kernel that does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_launch_that_says_whether_products_are_fused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {
        "head_loss_kernel": launch,
        "many_rows_kernel": many_rows,
        "sample_kernel": sampling,
    }
    kernels = {kernel: Counted(getattr(module, kernel)) for kernel, module in places.items()}
    for kernel, module in places.items():
        monkeypatch.setattr(module, kernel, kernels[kernel])
    monkeypatch.setattr(launch, "MANY_ROWS", 0 if name == "many rows" else None)
    for _ in range(2):
        CALLS[name]()
    other = {"latents": "sample_kernel", "many rows": "many_rows_kernel"}
    expected = other.get(name, "head_loss_kernel")
    assert {k: kernel.launches for k, kernel in kernels.items() if kernel.launches} == {expected: 2}
    # Triton's default changes with 3.10, and 3.9 warns of that.
    assert kernels[expected].options["enable_fp_fusion"] is (name != "latents")


class Dispatched(TorchDispatchMode):
    """A record of each op, and the elements it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.ops.append((func, out.numel()))
        return out


@pytest.mark.parametrize("layout", [LAYOUT, MANY_RUNS], ids=["runs", "table"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grad": False},
        {"reduction": "none"},
        {"adversarial": "nonsaturating"},
        {"adversarial": "hinge", "player": "generator", "grad": False},
    ],
    ids=str,
)
def test_a_launch_allocates_its_outputs_and_nothing_else(
    layout: fastinfogan_kernels.Layout, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "head_loss_kernel", Stub())
    call = launch.Call(*problem(layout), **options)
    if "adversarial" in options:
        real = 0 if "player" in options else 2
        call = call._replace(logits=torch.randn(real + BATCH))
    launch.launch(call)  # the workspace, the table
    with Dispatched() as dispatched:
        out = launch.launch(call)
    outputs = [tensor.numel() for tensor in out if tensor is not None]
    assert {func for func, _ in dispatched.ops} == {torch.ops.aten.empty.memory_format}
    assert sorted(numel for _, numel in dispatched.ops) == sorted(outputs)


def test_rows_may_lie_2_to_the_31_elements_apart() -> None:
    stride, layout = 2**30, make_layout([("categorical", 10), ("fixed", 2)])
    # nothing but the three rows is ever touched, so on a CPU the rest takes no memory
    numbers = torch.empty(2 * stride + 64, dtype=torch.bfloat16)
    classes = torch.empty(2 * stride + 64, dtype=torch.uint8)
    q = numbers.as_strided((3, 12), (stride, 1)).copy_(torch.randn(3, 12))
    continuous = numbers.as_strided((3, 2), (stride, 1), 20).copy_(torch.randn(3, 2))
    logits = numbers.as_strided((3,), (stride,), 40).copy_(torch.randn(3))
    categorical = classes.as_strided((3, 1), (stride, 1)).copy_(torch.tensor([[1], [9], [4]]))
    weights = torch.ones(2)
    far = launch.launch(launch.Call(q, layout, categorical, continuous, weights, logits))
    q, categorical, continuous, logits = (
        x.contiguous() for x in (q, categorical, continuous, logits)
    )
    near = launch.launch(launch.Call(q, layout, categorical, continuous, weights, logits))
    for a, b in zip(far, near, strict=True):
        assert a is not None
        assert math.isfinite(a.float().sum())
        assert b is not None
        assert torch.equal(a, b)
