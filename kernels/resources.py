"""Resources of every kernel on four GPUs, compiled ahead of time; no GPU is needed.

    python kernels/resources.py            prints the table
    python kernels/resources.py --write    puts it into kernels/README.md
    python kernels/resources.py --check    exits 1 where the README says otherwise

The launchers run on small CPU tensors with a recorder in the kernel's place. From the recorded
arguments Triton's own binder derives the types, constants and alignments that it would compile for
on a GPU. Every run exits 1 and writes nothing where a kernel breaks a rule of `violations`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"  # must be set before a kernel is imported

import torch
import triton
from fastinfogan_kernels import adam, launch, make_layout, many_rows, sampling
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- resources.py begins -->", "<!-- resources.py ends -->"
TARGETS = {f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 90, 100)}
TARGETS["gfx942"] = GPUTarget("hip", "gfx942", 64)

MAX_REGISTERS = launch.MAX_REGISTERS  # per thread: at least four programs fit an SM's 65,536
MAX_SHARED = 2048  # bytes per program
MAX_SECONDS = 30  # to compile one kernel

CATEGORICAL, UNIFORM = [("categorical", 10)], [("fixed", 1)]
KINDS = [*CATEGORICAL, ("learned", 2), ("bernoulli", 1), ("fixed", 3)]
LAYOUTS: dict[str, list[tuple[str, int]]] = {
    "MNIST: Cat10, 2 U": CATEGORICAL + 2 * UNIFORM,
    "SVHN: 4 Cat10, 4 U": 4 * CATEGORICAL + 4 * UNIFORM,
    "CelebA: 10 Cat10": 10 * CATEGORICAL,
    "faces: 5 U": 5 * UNIFORM,
    "chairs: 3 Cat20, U": [*3 * [("categorical", 20)], *UNIFORM],
    "every kind": KINDS,
    "every kind, 16 runs": 4 * KINDS,
    "every kind, 20 runs": 5 * KINDS,
    "2 angles, 1 learned": [("angle", 1), ("angle", 1), ("learned_angle", 1)],
    "angles in 20 runs": 4 * [*KINDS, ("learned_angle", 1)],
    "1,024 Cat10": 1024 * CATEGORICAL,
    "Cat257": [("categorical", 257)],
    "Cat65536": [("categorical", 65536)],
    "3,000 dims": [("fixed", 3000), ("learned", 3000)],
}


class Loss(NamedTuple):
    """A way to call the head-loss kernel."""

    dtype: torch.dtype = torch.float32
    targets: torch.dtype = torch.int64
    large: bool = False  # q lies in more than 2 GiB, so that AMD's 32-bit offsets don't reach
    adversarial: launch.Adversarial | None = None
    player: launch.Player = "discriminator"
    grad: bool = True
    per_row: bool = False
    masked: bool = False
    many: bool = False  # by many_rows.py

    def __call__(self, layout_name: str) -> None:
        layout = make_layout(LAYOUTS[layout_name])
        rows = 2  # the compiled kernel does not depend on it
        heads = 2 * rows if self.adversarial and self.player == "discriminator" else rows
        # untouched memory, so its size costs nothing
        numbers = 2**30 if self.large else heads * layout.q_dim
        q = torch.empty(numbers, dtype=self.dtype)[: heads * layout.q_dim].view(heads, -1)
        call = launch.Call(
            q,
            layout,
            torch.empty(rows, layout.n_cat, dtype=self.targets),
            torch.empty(rows, layout.n_cont),
            torch.empty(layout.n_codes),
            reduction="none" if self.per_row else "mean",
            player=self.player,
            grad=self.grad,
        )
        if self.masked:
            call = call._replace(labelled=torch.ones(rows, layout.n_codes, dtype=torch.bool))
        if self.adversarial:
            logits = torch.empty(heads, dtype=self.dtype)
            real = torch.empty(rows, dtype=self.dtype) if self.player == "generator" else None
            call = call._replace(logits=logits, adversarial=self.adversarial, real=real)
        with mock.patch.object(launch, "MANY_ROWS", 1 if self.many else None):
            launch.launch(call)


class Sample(NamedTuple):
    """A way to call the sampling kernel. One serves all layouts of its kinds of codes."""

    on_device: bool

    def __call__(self, layout: str) -> None:
        codes: list[Any] = [("categorical", 10, 0, 0.0), ("uniform", 2, 2.0, -1.0)]
        if layout == PRIORS:
            codes.append(("angle", 1, 6.0, -3.0))
        plan = sampling.make_plan(62, codes)
        step = torch.zeros(1, dtype=torch.int64) if self.on_device else 0
        sampling.sample_latents(plan, 2, device="cpu", step=step)


class Move(NamedTuple):
    """A way to call the kernel of Adam, the cast and the average."""

    working: torch.dtype | None
    average: bool

    def __call__(self, layout: str) -> None:
        size = 64
        value, grad, first, second = (torch.empty(size) for _ in range(4))
        adam.adam_(
            value,
            grad,
            first,
            second,
            torch.empty(()),
            torch.empty((), dtype=torch.int64),
            torch.empty(()),
            betas=(0.5, 0.999),
            working=None if self.working is None else torch.empty(size, dtype=self.working),
            average=torch.empty(size) if self.average else None,
            decay=0.999,
        )


PRIORS = "with priors or angles"
Call: TypeAlias = Loss | Sample | Move
MANY = Loss(many=True)
SOFTPLUS = Loss(torch.bfloat16, adversarial="nonsaturating")
HINGE = Loss(torch.bfloat16, adversarial="hinge")
RELATIVE = HINGE._replace(adversarial="relativistic")
ANGLES = ["2 angles, 1 learned", "angles in 20 runs"]
SOME = ["MNIST: Cat10, 2 U", "every kind"]
PAPERS = [*SOME[:1], "SVHN: 4 Cat10, 4 U", "CelebA: 10 Cat10", "faces: 5 U"]
HARD = [*SOME, "every kind, 16 runs", "every kind, 20 runs"]
GRID: list[tuple[str, Call, list[str]]] = [
    ("information, fp32", Loss(), list(LAYOUTS)),
    ("information, bf16", Loss(torch.bfloat16), SOME),
    ("information, fp16", Loss(torch.float16), SOME),
    ("information, fp32, uint8 targets", Loss(targets=torch.uint8), SOME[:1]),
    ("information, fp32, q in over 2 GiB", Loss(large=True), SOME[:1]),
    ("information, fp32, no gradient", Loss(grad=False), [*SOME, HARD[3]]),
    ("information, fp32, per row", Loss(per_row=True), [*HARD, "Cat65536"]),
    ("information, fp32, masked", Loss(masked=True), [*HARD, "Cat65536", *ANGLES]),
    ("many rows, fp32", MANY, [*PAPERS, "every kind", "1,024 Cat10"]),
    ("many rows, bf16", MANY._replace(dtype=torch.bfloat16), SOME),
    ("many rows, fp32, no gradient", MANY._replace(grad=False), SOME),
    ("information and D's softplus, bf16", SOFTPLUS, list(LAYOUTS)),
    (
        "information and D's softplus, bf16, masked",
        SOFTPLUS._replace(masked=True),
        SOME[1:],
    ),
    ("information and D's softplus, fp32", SOFTPLUS._replace(dtype=torch.float32), SOME),
    ("information and G's softplus, bf16", SOFTPLUS._replace(player="generator"), SOME),
    ("information and D's hinge, bf16", HINGE, [*SOME, HARD[3]]),
    ("information and G's hinge, bf16", HINGE._replace(player="generator"), SOME),
    ("information and D's lsgan, bf16", HINGE._replace(adversarial="lsgan"), SOME),
    ("information and D's wgan, bf16", HINGE._replace(adversarial="wgan"), SOME[1:]),
    ("information and D's relativistic, bf16", RELATIVE, [*SOME, HARD[3]]),
    ("information and G's relativistic, bf16", RELATIVE._replace(player="generator"), SOME[1:]),
    ("sampling, step a number", Sample(False), ["any", PRIORS]),
    ("sampling, step on the device", Sample(True), ["any", PRIORS]),
    ("Adam, fp32", Move(None, False), ["any"]),
    ("Adam, bf16 copy", Move(torch.bfloat16, False), ["any"]),
    ("Adam, bf16 copy and average", Move(torch.bfloat16, True), ["any"]),
]
CASES = {(variant, layout): call for variant, call, layouts in GRID for layout in layouts}
QUICK = [  # the cases that the tests compile each time
    ("information, fp32", "MNIST: Cat10, 2 U"),
    ("information, fp32", "SVHN: 4 Cat10, 4 U"),
    ("information, fp32", "CelebA: 10 Cat10"),
    ("information and D's softplus, bf16", "MNIST: Cat10, 2 U"),
    ("information and D's softplus, bf16", "Cat65536"),
    ("information, fp32, masked", "every kind"),
    ("information, fp32, masked", "angles in 20 runs"),
    ("information and D's relativistic, bf16", "MNIST: Cat10, 2 U"),
    ("information and D's hinge, bf16", "every kind, 20 runs"),
    ("many rows, fp32", "CelebA: 10 Cat10"),
    ("many rows, bf16", "every kind"),
    ("sampling, step a number", "any"),
    ("Adam, bf16 copy and average", "any"),
]


class Usage(NamedTuple):
    """Resources of one compiled kernel."""

    variant: str
    layout: str
    target: str
    registers: int  # per thread
    shared: int  # bytes per program
    local: int  # bytes of local memory (scratch) per thread, spilled registers included
    spills: int  # vector registers that AMD's compiler spilled; NVIDIA's count in `local`
    scalar_spills: int  # AMD's: kept in lanes of a vector register, not in memory
    kernels: int  # in the compiled module
    seconds: float  # to compile


def record(call: Call, layout: str, hip: bool) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return (kernel, args, kwargs) of the one launch that `call` makes on CUDA or ROCm."""
    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    class Recorder(NamedTuple):
        kernel: Any

        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **kwargs: launches.append((self.kernel, args, kwargs))

    with ExitStack() as stack:
        kernels = (
            (launch, "head_loss_kernel"),
            (many_rows, "many_rows_kernel"),
            (sampling, "sample_kernel"),
            (adam, "adam_kernel"),
        )
        for module, name in kernels:
            recorder = Recorder(getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, recorder))
        for module in (launch, sampling, adam):
            stack.enter_context(mock.patch.object(module, "INTERPRETED", True))
        stack.enter_context(mock.patch.object(torch.version, "hip", "7.0" if hip else None))
        call(layout)
    (only,) = launches
    return only


def compile_for(target: GPUTarget, kernel: Any, args: tuple[Any, ...], kwargs: dict) -> Any:
    """Compile as `JITFunction.run` does before the launch, for a GPU that may be absent."""
    kwargs = {**kwargs, "debug": False, "instrumentation_mode": ""}
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = binder(*args, **kwargs)
    options, signature, constants, attributes = kernel._pack_args(
        backend, kwargs, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def measure(variant: str, layout: str, target: str, asm: Path | None = None) -> Usage:
    """Compile one case for one GPU, write its texts to `asm`, and return its resources."""
    launched = record(CASES[variant, layout], layout, TARGETS[target].backend == "hip")
    start = time.perf_counter()
    compiled = compile_for(TARGETS[target], *launched)
    seconds = time.perf_counter() - start
    if asm:
        for kind in ("ttir", "ttgir", "ptx", "amdgcn"):
            if kind in compiled.asm:
                (asm / f"{variant}; {layout}; {target}.{kind}").write_text(compiled.asm[kind])
    if "cubin" in compiled.asm:
        text = _cubin_usage(compiled.asm["cubin"])
        registers, stack, local = (
            int(_only(rf"\b{name}:(\d+)", text)) for name in ("REG", "STACK", "LOCAL")
        )
        # metadata's shared memory: cuobjdump's has 1,024 bytes of the system's from sm_90 on
        used = (registers, compiled.metadata.shared, stack + local, 0, 0)
        kernels = compiled.asm["ptx"].count(".entry")
    else:
        text = compiled.asm["amdgcn"]
        registers, spills, scalars, scratch = (
            int(_only(rf"\.{name}: +(\d+)", text))
            for name in (
                "vgpr_count",
                "vgpr_spill_count",
                "sgpr_spill_count",
                "private_segment_fixed_size",
            )
        )
        used = (registers, compiled.metadata.shared, scratch, spills, scalars)
        kernels = text.count(".amdhsa_kernel ")
    return Usage(variant, layout, target, *used, kernels, round(seconds, 2))


def _cubin_usage(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        return subprocess.check_output([tool, "-res-usage", path], text=True)


def _only(pattern: str, text: str) -> str:
    matches = re.findall(pattern, text)
    if len(matches) != 1:
        raise RuntimeError(f"expected one {pattern}, got {matches} in\n{text[-2000:]}")
    return matches[0]


def measure_all(
    cases: Iterable[tuple[str, str]], asm: Path | None = None, targets: Iterable[str] = TARGETS
) -> list[Usage]:
    """Return the usage of all cases on the targets, in order, compiled anew.

    TRITON_CACHE_DIR, where set, names a cache that is used instead.
    """
    with ExitStack() as stack:
        if "TRITON_CACHE_DIR" not in os.environ:
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(mock.patch.dict(os.environ, TRITON_CACHE_DIR=cache))
        pool = stack.enter_context(ProcessPoolExecutor(mp_context=get_context("spawn")))
        tasks = [
            pool.submit(measure, *case, target, asm=asm) for case in cases for target in targets
        ]
        return [task.result() for task in tasks]


def violations(usages: Iterable[Usage]) -> list[str]:
    """Return a line per figure that exceeds its budget. The budgets hold for any Triton."""
    limits = {
        "registers": MAX_REGISTERS,
        "shared": MAX_SHARED,
        "local": 0,
        "spills": 0,
        "kernels": 1,
        "seconds": MAX_SECONDS,
    }
    return [
        f"{usage.variant}; {usage.layout}; {usage.target}: "
        f"{name} {getattr(usage, name)}, expected at most {limit}"
        for usage in usages
        for name, limit in limits.items()
        if getattr(usage, name) > limit
    ]


def rows(usages: list[Usage]) -> list[str]:
    """Return the rows of the table, one per case."""
    cells: dict[tuple[str, str], list[str]] = {}
    for usage in usages:
        cell = f"{usage.registers} / {usage.shared}"
        cells.setdefault((usage.variant, usage.layout), []).append(cell)
    return [f"| {' | '.join([*case, *numbers])} |" for case, numbers in cells.items()]


def version() -> str:
    """Return the line that names the compiler of the table's numbers."""
    return f"Compiled with triton {triton.__version__}."


def table(usages: list[Usage]) -> str:
    """Return the README's caption and table."""

    def most(name: str, gpu: str) -> int:
        return max(getattr(usage, name) for usage in usages if usage.target.startswith(gpu))

    lanes = max(usages, key=lambda usage: usage.scalar_spills)
    caption = (
        f"{version()} {len(usages)} compilations, one kernel each. In a cell: registers per "
        "thread (AMD: vector registers) / bytes of shared memory per program. At most "
        f"{most('registers', 'sm_')} registers on NVIDIA's and {most('registers', 'gfx')} on "
        f"AMD's, of a budget of {MAX_REGISTERS}; {most('shared', '')} bytes, of {MAX_SHARED:,}. "
        "No local memory (scratch) and no spilled vector register anywhere. "
        f"Scalar registers spilled on gfx942: at most {lanes.scalar_spills} "
        f"({lanes.variant}; {lanes.layout}); they go to lanes of a vector register, "
        "not to memory."
    )
    head = ["kernel", "layout", *TARGETS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *rows(usages)]
    return "\n".join([caption, "", *lines])


def drift(usages: list[Usage], readme: str, whole: bool) -> list[str]:
    """Return the rows in which the README's table, if of this Triton, differs from `usages`."""
    written = readme.split(BEGIN)[1].split(END)[0].strip()
    if not written.startswith(version()):
        print(f"the README's table is of another triton than {triton.__version__}: not compared")
        return []
    expected = table(usages).splitlines() if whole else rows(usages)
    stored = written.splitlines()
    missing = [f"expected: {line}" for line in expected if line not in stored]
    if whole:
        missing += [f"no longer: {line}" for line in stored if line not in expected]
    return missing


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="replace the README's table")
    parser.add_argument("--check", action="store_true", help="compare with the README's table")
    parser.add_argument("--quick", action="store_true", help="compile the rows of the tests alone")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=[*TARGETS], help="compile for these alone"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--asm", type=Path, metavar="DIR", help="write the kernels' texts there")
    parser.add_argument("--readme", type=Path, default=README, help="another README")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write takes all rows")
    if (options.write or options.check) and set(options.targets) != set(TARGETS):
        parser.error("a row of the table is of all targets: --write and --check take them all")
    usages = measure_all(QUICK if options.quick else CASES, options.asm, options.targets)
    if options.json:
        options.json.write_text(json.dumps([usage._asdict() for usage in usages], indent=1))
    errors = violations(usages)
    if options.check:
        errors += drift(usages, options.readme.read_text(), whole=not options.quick)
    elif options.write and not errors:
        readme = options.readme.read_text()
        before, rest = readme.split(BEGIN)
        after = rest.split(END)[1]
        options.readme.write_text(f"{before}{BEGIN}\n{table(usages)}\n{END}{after}")
    else:
        print(table(usages))
    for line in errors:
        print(line, file=sys.stderr)
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
