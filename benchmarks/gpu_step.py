"""The GPU report's training step: MNIST in bf16, its modes, eager, compiled and captured."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

import torch
from attainable import large_product, model_flop
from gpu_checks import run_checks
from gpu_timing import (
    NOTHING,
    Budget,
    Call,
    Machine,
    Timing,
    allocated_bytes,
    capture,
    count_launches,
    peak_bytes,
    replay_times,
    sync_reason,
    wall_times,
)
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastinfogan import device, parallel
from fastinfogan.config import TrainConfig
from fastinfogan.presets import PRESETS
from fastinfogan.training.policy import Policy
from fastinfogan.training.step import Step

Report = dict[str, Any]

BATCHES = (128, 1024, 4096)
COMPILE_UNTIL = 0.6  # of the report's time, after which no further step is compiled
# A replayed update may be so many times as far from fp32 as the eager one in bf16, and so much more
# (of ‖fp32‖). On a CPU eager and compiled gradients in bf16 are both 0.2 to 0.4 from fp32 (random
# images, B = 8 to 128): an absolute tolerance would be bf16's, not the graph's.
TIMES, MORE = 1.5, 0.02


class PlainSampling(Step):
    """The step with latents from plain PyTorch."""

    def _latents(self, step: Any, stream: Any, batch: int) -> Any:
        where = {"seed": self.config.seed, "step": step, "stream": stream}
        return self.spec.sample(batch, device=self.ranks.device, backend="reference", **where)


def product_rate(machine: Machine) -> Timing:
    """Return the TFLOP/s of a large bf16 product, which utilisation is over."""
    product, flop = large_product(machine.device, torch.bfloat16, 16 if machine.dry else 8192)
    graph = capture(machine, [product])
    return replay_times(machine, {"product": graph}, calls=1)["product"].rate(flop / 1e6)


class Section:
    """The rows of one batch size."""

    def __init__(self, machine: Machine, report: Report, ranks: parallel.Ranks, batch: int) -> None:
        self.machine, self.report, self.ranks, self.batch = machine, report, ranks, batch
        real = torch.rand(batch, 1, 28, 28, device=ranks.device)
        self.real = real.contiguous(memory_format=torch.channels_last)
        # In a dry run the CPU's own precision: emulated bf16 takes ten times as long.
        slow = machine.dry and device.choose_precision("auto", True)[0] != "bf16"
        self.dtype = torch.float32 if slow else torch.bfloat16
        self.calls: dict[str, list[Call]] = {}
        self.rows: list[Report] = []

    def config(self, mode: str, backend: str = "triton") -> TrainConfig:
        return PRESETS["mnist-paper"].with_options(
            step=mode,
            backend=backend,
            batch_size=self.batch,
        )

    def add(
        self, mode: str, way: str, call: Call | None, peak: int | None, note: str | None
    ) -> None:
        """Add a row, and its call to be timed, if there is one."""
        row = {"batch": self.batch, "mode": mode, "way": way, "note": note, "peak_bytes": peak}
        row |= {"images_per_s": NOTHING, "utilisation": None, "launches": lambda: None}
        if call is not None:
            row["note"] = note or sync_reason(self.machine, call)
            row["launches"] = partial(count_launches, self.machine, call)  # for `launches`
            self.calls[f"{mode}, {way}"] = [call]
        self.rows.append(row)

    def eager(self, kind: type[Step], backend: str, way: str) -> None:
        """Add the alternating step with other parts."""
        config, base = self.config("alternating", backend), allocated_bytes(self.machine)
        step = kind(config, config.spec(), self.ranks, Policy(self.dtype))
        call = partial(step, 0, self.real)
        self.add(config.execution.step, way, call, peak_bytes(self.machine, call, base), None)

    def modes(self, mode: str, compiled: bool) -> None:
        """Add the step, and the same step captured."""
        config, base = self.config(mode), allocated_bytes(self.machine)
        policy = Policy(self.dtype, compile=compiled, capture=True)
        step = Step(config, config.spec(), self.ranks, policy)
        plain = partial(step._update, 0, self.real, step.active(0))
        replayed = partial(step, 0, self.real)
        way = "compiled" if compiled else "eager"
        self.add(mode, way, plain, peak_bytes(self.machine, plain, base), None)
        way = "compiled and captured" if compiled else "captured"
        problems: list[str] = []
        # of the graph's memory no more is seen later on: the peak is that of capturing it
        peak = peak_bytes(self.machine, lambda: problems.extend(step.prepare(self.real)), base)
        if not step._captured:
            reason = problems[0] if problems else "not captured"
            print(f"  {mode}, {way}, B = {self.batch}: {reason}", flush=True)
            self.add(mode, way, None, None, reason)
            return
        self.add(mode, way, replayed, peak, None)
        check = partial(self.same_as_eager, step)
        name = f"step, {mode}, {way}, B = {self.batch}"
        self.report["correctness"] += run_checks(self.machine, {name: check})

    def same_as_eager(self, step: Step, machine: Machine) -> str:
        """Check that a replayed update is as near to fp32 as an eager one from the same state."""
        config, copies = step.config, []
        for dtype in (torch.float32, self.dtype):
            twin = Step(config, config.spec(), self.ranks, Policy(dtype))
            with torch.no_grad():
                for a, b in zip(_saved_tensors(twin), _saved_tensors(step), strict=True):
                    a.copy_(b)
            twin.refresh()
            copies.append(_outcome(twin, self.real))
        truth, eager = copies
        replayed = _outcome(step, self.real)
        records = []
        for name, true in truth.items():
            by_graph, by_eager = (_apart(gradients[name], true) for gradients in (replayed, eager))
            allowed = TIMES * by_eager + MORE
            assert by_graph <= allowed, (
                f"{name}: {by_graph:.2g} from fp32, eager {by_eager:.2g}, allowed {allowed:.2g}"
            )
            records.append(f"{name} {by_graph:.2g} ({by_eager:.2g})")
        return f"from fp32 (eager): {', '.join(records)}"

    def time(self) -> None:
        """Time all ways in turns."""
        product = self.report["header"]["product_tflop_per_s"].median
        for name, wall in wall_times(self.machine, self.calls, batch=10, rounds=20).items():
            (row,) = (r for r in self.rows if f"{r['mode']}, {r['way']}" == name)
            row["images_per_s"] = rate = wall.rate(self.batch * 1e6)
            if rate.median is not None and product is not None:
                flop = model_flop(self.config(row["mode"]))
                row["utilisation"] = flop * rate.median / (product * 1e12)
        self.report["step"] += self.rows


def _saved_tensors(step: Step) -> list[Tensor]:
    """Return the tensors of a step that a checkpoint has."""
    modules = step.modules().values()
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    return [*step.optimizer_tensors().values(), *tensors]


def _outcome(step: Step, real: Tensor) -> dict[str, Tensor]:
    """Take one update."""
    flats = {"D": step.d.flat, "G": step.g.flat}
    before = {name: flat.value.detach().clone() for name, flat in flats.items()}
    terms = [t.detach().float().reshape(-1) for t in tree_leaves(step(7, real))]
    out = {"losses": torch.cat(terms)}
    for name, flat in flats.items():
        out[f"{name}'s gradient"] = flat.grad.clone()
        out[f"{name}'s move"] = flat.value.detach() - before[name]
    return out


def _apart(measured: Tensor, true: Tensor) -> float:
    return float((measured - true).norm() / true.norm())


def step(machine: Machine, budget: Budget, report: Report) -> None:
    """Measure images/s, memory, launches, utilisation; compare replayed updates with eager ones."""
    ranks = parallel.start("bf16", machine.dry)
    for batch in (8,) if machine.dry else BATCHES:
        if not budget.allows(f"step, B = {batch}"):
            continue
        section = Section(machine, report, ranks, batch)
        works: dict[str, Call] = {
            f"{mode}, {'compiled' if compiled else 'eager'}": partial(section.modes, mode, compiled)
            for compiled in (False, True)
            for mode in ("alternating", "shared", "reused")
            if not (compiled and mode == "reused")  # which is the alternating step
        }
        works |= {
            way: partial(section.eager, kind, "reference", way)
            for kind, way in ((Step, "PyTorch loss"), (PlainSampling, "PyTorch loss and sampler"))
        }
        for name, work in works.items():
            what = f"step, {name}, B = {batch}"
            if "compiled" in name and not budget.allows(what, COMPILE_UNTIL):
                continue
            try:
                work()
            except Exception:  # whatever it is, the other ways are timed
                traceback.print_exc()
                report["failures"].append(what)
        section.time()
        print(f"  B = {batch}: " + ("walked" if machine.dry else f"timed, {budget.spent():.0f} s"))
