"""The GPU report: `python benchmarks/gpu_report.py`, on one GPU, in under eight minutes.

Runs from a bare checkout; what it needs is torch, triton, accelerate and matplotlib. In order:

1. correctness: kernel and sampler against fp64 and against the CPU, and how they behave;
2. the whole training step in its modes, eager, compiled and captured, at three batch
   sizes: images/s, peak memory, utilisation; a replayed update against an eager one;
3. the information loss, forward and backward, five ways: microseconds of the device in replayed
   CUDA graphs on cold inputs, and microseconds of an eager call, host and device;
4. the sampler, the same;
5. launches of all these, counted last because the profiler may go on costing time.

A table comes last; report.json, report.txt and report.png go to --out. A failed check or section
makes the exit status 1, and the rest still runs. --only runs some of the sections. --dry-run
walks every path on the CPU with tiny sizes and Triton's interpreter, and gives no number.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "kernels")]
if "--dry-run" in sys.argv:  # to be said before triton is imported
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["ACCELERATE_USE_CPU"] = "true"

import torch  # noqa: E402
import triton  # noqa: E402
from gpu_cases import (  # noqa: E402
    PAPER,
    WAYS,
    Targets,
    draw,
    forward_backward,
    least_bytes,
    own_weights,
    timed_cases,
)
from gpu_checks import kernel_checks, launch_checks, run_checks, sampler_checks  # noqa: E402
from gpu_output import draw_plot, format_tables  # noqa: E402
from gpu_step import product_rate, step  # noqa: E402
from gpu_timing import (  # noqa: E402
    BUFFERS,
    NOTHING,
    ROUNDS,
    Budget,
    Call,
    Machine,
    PlainGraphs,
    Timing,
    capture,
    copy_bandwidth,
    count_launches,
    launch_floor,
    peak_bytes,
    replay_times,
    sync_reason,
    wall_times,
)

import fastinfogan.training.capture  # noqa: E402
import fastinfogan.training.compiler  # noqa: E402
from fastinfogan.losses import compiled  # noqa: E402

SECONDS = 420.0  # --seconds: after which what is optional is left out
COMPILE_UNTIL = 0.7  # of them, after which no further case of the loss is compiled
LOSSES_UNTIL = 0.9  # of them; then come the launches

Report = dict[str, Any]


def header(machine: Machine) -> Report:
    """Return the card, the driver, the versions, and the device's measured best rates."""
    name, driver = "none (dry run on the CPU)", None
    if not machine.dry:
        name, driver = torch.cuda.get_device_name(0), _ask("driver_version")
    return {
        "device": name,
        "driver": driver,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "rounds": ROUNDS,
        "l2_bytes": None if machine.dry else machine.l2_bytes,
        "copy_gb_per_s": copy_bandwidth(machine),
        "launch_floor_us": launch_floor(machine),
        "product_tflop_per_s": product_rate(machine),
    }


def _ask(field: str) -> str:
    """Return nvidia-smi's answer about the first GPU, or "unknown"."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _busy() -> int | None:
    """Return the GPU's utilisation in percent; None where it is not known."""
    answer = _ask("utilization.gpu")
    return int(answer) if answer.isdigit() and torch.cuda.device_count() == 1 else None


def time_ways(
    machine: Machine, what: str, ways: Mapping[str, Sequence[Call]], failures: list[str]
) -> dict[str, dict[str, Any]]:
    """Replay and wall times of ways that do the same, each given as calls on its own buffers.

    A way that raises is left out and noted in `failures`.
    """
    rows: dict[str, dict[str, Any]] = {}
    graphs: dict[str, Call] = {}
    for name, calls in ways.items():
        try:
            calls[0](), calls[0]()  # compile before anything is looked at
        except Exception:  # whatever it is, the other ways are timed
            traceback.print_exc()
            failures.append(f"{what}: {name}")
            continue
        note = sync_reason(machine, calls[0])
        if note is None:
            try:
                graphs[name] = capture(machine, calls)
            except RuntimeError as error:
                note = f"not captured: {str(error).splitlines()[0]}"
        rows[name] = {
            "replay_us": NOTHING,
            "wall_us": NOTHING,
            "note": note,
            "peak_bytes": peak_bytes(machine, calls[0]),
            "launches": partial(count_launches, machine, calls[0]),  # to be called by `launches`
        }
    count = min((len(ways[name]) for name in graphs), default=1)
    for name, timing in replay_times(machine, graphs, count).items():
        rows[name]["replay_us"] = timing
    graphs.clear()
    for name, timing in wall_times(machine, {name: ways[name] for name in rows}).items():
        rows[name]["wall_us"] = timing
    return rows


def kernels(machine: Machine, budget: Budget, report: Report) -> None:
    """Measure the information loss, forward and backward."""
    bandwidth: Timing = report["header"]["copy_gb_per_s"]
    floor: Timing = report["header"]["launch_floor_us"]
    for case in timed_cases(machine.dry):
        if not budget.allows(f"loss, {case.title}", LOSSES_UNTIL):
            continue
        spec, one = PAPER[case.layout], torch.ones((), device=machine.device)
        weights = own_weights(spec, machine.device)
        first = draw(spec, case.batch, machine.device, case.dtype)
        buffers = [
            (first[0].detach().clone().requires_grad_(), Targets(*(t.clone() for t in first[1])))
            for _ in range(2 if machine.dry else BUFFERS)
        ]
        names = list(WAYS)
        if not budget.allows(f"compiled reference, {case.title}", COMPILE_UNTIL):
            names.remove("compiled")
        ways = {
            name: [forward_backward(WAYS[name], q, spec, t, weights, one) for q, t in buffers]
            for name in names
        }
        least = least_bytes(spec, case.batch, case.dtype)
        for name, row in time_ways(machine, case.title, ways, report["failures"]).items():
            time = row["replay_us"].median
            share = bound = None
            if time is not None and bandwidth.median is not None and floor.median is not None:
                ideal = least / (bandwidth.median * 1e3)
                share, bound = ideal / time, max(ideal, floor.median) / time
            report["kernels"].append(
                {
                    "layout": case.layout,
                    "batch": case.batch,
                    "way": name,
                    "dtype": str(case.dtype).removeprefix("torch."),
                    "least_bytes": least,
                    "share_of_copy_bandwidth": share,
                    "share_of_bound": bound,
                    **row,
                }
            )
        done = "walked" if machine.dry else f"timed, {budget.spent():.0f} s"
        print(f"  {case.title}: {done}", flush=True)


def sampler(machine: Machine, budget: Budget, report: Report) -> None:
    """Measure latents of a batch: one Triton launch against plain PyTorch."""
    cases = (("mnist", 128), ("celeba", 128), ("mnist", 4096), ("celeba", 65536))
    for name, batch in (("mnist", 3),) if machine.dry else cases:
        if not budget.allows(f"sampler, {name}, B = {batch}"):
            continue
        ways = {
            way: [
                partial(PAPER[name].sample, batch, device=machine.device, step=i, backend=way)
                for i in range(2 if machine.dry else BUFFERS)
            ]
            for way in ("reference", "triton")
        }
        for way, row in time_ways(machine, f"sampler, {name}", ways, report["failures"]).items():
            report["sampler"].append({"layout": name, "batch": batch, "way": way, **row})


def _rows(report: Report) -> list[Report]:
    return [row for name in ("step", "kernels", "sampler") for row in report[name]]


def launches(machine: Machine, budget: Budget, report: Report) -> None:
    """Replace each row's `launches`, so far a call to be made, by its result."""
    rows = _rows(report)
    counts = [row.pop("launches") for row in rows]
    for row in rows:
        row["launches"] = None
    for row, count in zip(rows, counts, strict=True):
        if budget.allows(f"launches, {row['way']}, B = {row['batch']}"):
            row["launches"] = count()
    report["launch_checks"] += run_checks(machine, launch_checks())


def correctness(machine: Machine, budget: Budget, report: Report) -> None:
    """Check the kernel and the sampler."""
    checks = kernel_checks(machine.dry) | sampler_checks(machine.dry)
    report["correctness"] += run_checks(machine, checks)


SECTIONS: dict[str, tuple[str, Callable[[Machine, Budget, Report], None]]] = {
    "correctness": ("correctness", correctness),
    "step": ("whole training step", step),
    "kernels": ("information loss, forward and backward", kernels),
    "sampler": ("sampler", sampler),
    "launch_checks": ("launches", launches),
}


def plain(value: Any) -> Any:
    """Return the report as JSON has it: a timing by the names of its fields."""
    if isinstance(value, Timing):
        return value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if callable(value) else value  # a count that is yet to be made


def main() -> int:
    """Run all sections; 1 if a check or a section failed."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="walk every path on the CPU")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="after which what is optional is left out"
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="run these sections"
    )
    options = parser.parse_args()
    dry: bool = options.dry_run
    if not dry and not torch.cuda.is_available():
        print("no GPU is to be seen; --dry-run walks the report on the CPU", file=sys.stderr)
        return 2
    if dry:
        torch.set_num_threads(1)
        compiled.COMPILER = "aot_eager"  # Inductor takes longer than all the rest
        fastinfogan.training.compiler.COMPILER = "aot_eager"
        fastinfogan.training.capture.CudaGraphs = PlainGraphs  # type: ignore[assignment,misc]
    late = options.seconds + 150
    faulthandler.dump_traceback_later(late, exit=True)  # says where a kernel hangs
    busy = None if dry else _busy()  # with others' work: ours begins below
    machine, budget = Machine(dry), Budget(options.seconds)
    out: Path = options.out or (
        Path(tempfile.mkdtemp(prefix="gpu-report-")) if dry else HERE / "results" / _slug()
    )
    out.mkdir(parents=True, exist_ok=True)
    report: Report = {"dry_run": dry, "header": header(machine)}
    report["header"] |= {"busy_percent_before": busy, "seconds": options.seconds}
    report |= {"failures": [], "skipped": budget.skipped, "elapsed_s": None}
    report |= {name: [] for name in SECTIONS}
    for name in filter(options.only.__contains__, SECTIONS):
        title, section = SECTIONS[name]
        print(title if dry else f"{title}, {budget.spent():.0f} s", flush=True)
        try:
            section(machine, budget, report)
        except Exception:  # one section's failure is reported; the others run
            traceback.print_exc()
            report["failures"].append(f"section {name}")
        report["elapsed_s"] = None if dry else round(budget.spent())
        # after each section: a hang later on must not cost what is known
        (out / "report.json").write_text(json.dumps(plain(report), indent=1, ensure_ascii=False))
    if "launch_checks" not in options.only:
        for row in _rows(report):
            row["launches"] = None
    tables = format_tables(report)
    (out / "report.txt").write_text(tables)
    draw_plot(report, out / "report.png")
    print(f"\n{tables}\nreport.json, report.txt, report.png in {out}")
    faulthandler.cancel_dump_traceback_later()
    outcomes = {check["outcome"] for check in report["correctness"] + report["launch_checks"]}
    return 1 if "FAILED" in outcomes or report["failures"] else 0


def _slug() -> str:
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")


if __name__ == "__main__":
    raise SystemExit(main())
