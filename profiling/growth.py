"""Growth of costs on a CPU: `python profiling/growth.py [--families batch side codes]`.

Families: the batch, the image's side, the number of heads, each for the alternating and the shared
step; `contention`: settings of OpenMP's threads, alone and with a busy process; `malloc`:
glibc keeping what is freed; `start`: from the start of the trainer to its first update. A point is
a process of its own, which waits for its turn on stdin: rounds go over all points of a family,
forwards and backwards, so that a change of the machine's speed meets all of them. Random images
stand in for real ones.

Memory is the process's peak (ru_maxrss) less what it held before the networks were built: weights,
Adam, working copies, activations, and the library pages that the first update touches. Prints a
table a family, writes growth-FAMILY.png and, between its marks, the table into growth.md.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil
import torch
import tyro
from matplotlib.figure import Figure

from fastinfogan import data, device, parallel
from fastinfogan.config import StepMode
from fastinfogan.presets import PRESETS
from fastinfogan.training.metrics import Metrics
from fastinfogan.training.step import Step

Family = Literal["batch", "side", "codes", "contention", "malloc", "start"]
STEPS: tuple[StepMode, ...] = ("alternating", "shared")
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND", "OMP_NUM_THREADS")
KEEPING = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
LABELS = {"batch": "batch", "side": "side of the image", "codes": "heads of Categorical(10)"}
MIB = 2**20


@dataclass(frozen=True)
class GrowthConfig:
    """Measure how time and memory of an update grow."""

    families: tuple[Family, ...] = ("batch", "side", "codes")
    """What to measure."""
    rounds: int = 5
    """Turns of each point; starts of each command are 3 at most."""
    images: int = 256
    """Images a turn: at least one update."""
    out: Path = Path("docs/notes")
    """Folder of growth.md and the plots."""
    quick: bool = False
    """Tiny points, two rounds: for a test."""
    child: str = ""
    """(For the processes of this script: the point to measure.)"""


@dataclass(frozen=True)
class Point:
    """The measurements of one process."""

    batch: int = 128
    side: int = 28
    heads: int = 0  # of Categorical(10); 0: the preset's codes
    step: StepMode = "alternating"
    threads: int = 0  # 0: the trainer's choice
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """A point and what was measured, a value a turn."""

    point: Point
    facts: dict[str, Any]  # the child's first line
    ms: list[float] = field(default_factory=list)  # per update
    fixed: list[float] = field(default_factory=list)  # of it for Adam, working copies, average
    kernel: list[float] = field(default_factory=list)  # share of the CPU time
    busy: list[float] = field(default_factory=list)  # per update next to a busy process
    peak: float = 0.0  # MiB

    @property
    def rates(self) -> list[float]:
        """images/s"""
        return [1e3 * self.point.batch / ms for ms in self.ms]


# In a child


def child(point: Point) -> None:
    """Say the facts, then measure as many updates as each line of stdin asks for."""
    preset = PRESETS["mnist-paper"].with_options(
        batch_size=point.batch, image_size=point.side, step=point.step
    )
    if point.heads:
        preset = preset.with_options(codes=",".join(["cat10"] * point.heads))
    precision, reason = device.choose_precision(preset.precision, True)
    ranks = parallel.start(device.accelerate_name(precision), True)
    torch.set_num_threads(point.threads or device.cpu_threads())
    images = torch.randint(256, (2 * point.batch, point.side, point.side, 1), dtype=torch.uint8)
    batches = data.BatchSampler(images, batch_size=point.batch, seed=preset.seed)
    before = psutil.Process().memory_info().rss / MIB
    spec = preset.spec()
    step, metrics = Step(preset, spec, ranks), Metrics(spec, ranks)
    flats = (step.d.flat, step.g.flat)
    state = [t for module in step.modules().values() for t in module.state_dict().values()]
    state += [*step.optimizer_tensors().values(), *(flat.grad for flat in flats)]
    state += [flat.working for flat in flats if flat.working is not None]
    facts = device.environment(ranks.device, precision, reason, 1)
    facts |= {
        "parameters": sum(p.numel() for flat in flats for p in flat.params),
        "state": sum(t.nbytes for t in state) / MIB,
        "input": spec.input_dim,
        "q_dim": spec.q_dim,
    }
    print(json.dumps(facts), flush=True)
    done = 0

    def update() -> None:
        nonlocal done
        real = data.to_range(batches(done), step.networks.generator.image_range)
        terms = step(done, real)
        done += 1
        metrics.add(done, *terms)

    def do_fixed_work() -> None:
        for flat, optimizer in zip(flats, (step.d.optimizer, step.g.optimizer), strict=True):
            optimizer.step()
            flat.refresh()
        step.ema.update(done, step.g.flat.value.detach())

    for line in sys.stdin:
        count = int(line)
        cpu = os.times()
        result = {"ms": time_calls(update, count)}
        user, system = (b - a for a, b in zip(cpu[:2], os.times()[:2], strict=True))
        result |= {"kernel": system / (user + system), "fixed": time_calls(do_fixed_work, 2)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["peak"] = peak * (1 if sys.platform == "darwin" else 1024) / MIB - before
        print(json.dumps(result), flush=True)


def time_calls(function: Callable[[], None], count: int) -> float:
    """Return milliseconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count * 1e3


# In the script


class Child:
    """A point's process."""

    def __init__(self, point: Point) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in OPENMP + KEEPING}
        command = [sys.executable, __file__, "--child", json.dumps(asdict(point))]
        self.process = subprocess.Popen(
            command,
            env=environment | point.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        """Return its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a point's process ended with {self.process.wait()}")
        result: dict[str, Any] = json.loads(line)
        return result

    def turn(self, updates: int) -> dict[str, Any]:
        """Measure so many updates."""
        assert self.process.stdin is not None
        print(updates, file=self.process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy by another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(points: list[Point], rounds: int, images: int, contended: bool = False) -> list[Row]:
    """Measure all points in turns; `contended`: each turn again next to a busy process."""
    with ExitStack() as stack:
        children = []
        for point in points:
            children.append(Child(point))
            stack.callback(children[-1].close)
        rows = [Row(point, c.read()) for point, c in zip(points, children, strict=True)]
        pairs = list(zip(rows, children, strict=True))
        for row, c in pairs:
            c.turn(1 if row.point.batch * 2 > images else 2)  # warms up
        for n in range(rounds):
            for row, c in pairs[:: -1 if n % 2 else 1]:
                count = max(images // row.point.batch, 1)
                result = c.turn(count)
                row.ms.append(result["ms"])
                row.fixed.append(result["fixed"])
                row.kernel.append(result["kernel"])
                row.peak = result["peak"]
                if contended:
                    with busy_process():
                        row.busy.append(c.turn(count)["ms"])
    return rows


def start_up(launcher: list[str]) -> float:
    """Return seconds from the start of the trainer to the record of its first update."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run" / "metrics.jsonl"
        options = ("-m", "fastinfogan.train", "--steps", "1", "--out", str(record.parent))
        start = time.perf_counter()
        process = subprocess.Popen(
            [*launcher, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not record.exists() or not record.stat().st_size:
                if process.poll() is not None:
                    raise RuntimeError(f"the trainer ended with {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# The points


def points(family: Family, quick: bool) -> list[Point]:
    """Return a family's points, in the order of its table."""
    if family == "batch":
        sizes = (4, 8) if quick else (32, 64, 128, 256, 512, 1024, 2048, 4096)
        return [Point(batch=b, step=s) for s in STEPS[: 1 if quick else 2] for b in sizes]
    if family == "side":
        sides = (8,) if quick else (28, 32, 64)
        batch = 4 if quick else 128
        return [Point(batch, side, step=s) for s in STEPS[: 1 if quick else 2] for side in sides]
    if family == "codes":
        if quick:
            return [Point(4, 8, 1, "alternating"), Point(4, 8, 2, "shared")]
        return [Point(heads=h, step=s) for s in STEPS for h in (1, 2, 5, 10, 20, 50, 100)]
    if family == "malloc":
        kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}
        batches = [4] if quick else [128, 1024, 4096]
        return [Point(b, environment=e) for b in batches for e in ({}, kept)]
    tiny = Point(4, 8) if quick else Point()
    settings: list[dict[str, str]] = [
        {},
        {"OMP_WAIT_POLICY": "passive"},
        {"GOMP_SPINCOUNT": "1000"},
        {"GOMP_SPINCOUNT": "3000"},
        {"GOMP_SPINCOUNT": "10000"},
    ]
    if quick:
        return [replace(tiny, environment=e) for e in settings[:2]]
    bound = {"OMP_PROC_BIND": "true"}  # the trainer would see one core, and take one thread
    return [
        *(replace(tiny, environment=e) for e in settings),
        *(replace(tiny, environment=bound | e, threads=2) for e in settings[:2]),
        replace(tiny, threads=1),
    ]


# Tables and plots

Columns = dict[str, Callable[[Row], str]]


def spread(values: list[float], digits: int = 0) -> str:
    """Return "median (least–most)"."""
    low, mid, high = (f"{v:,.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{mid} ({low}–{high})"


def markdown(titles: list[str], lines: list[list[str]]) -> str:
    """Return a table."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def setting(row: Row) -> str:
    """Return the name of a row of the contention table."""
    words = [f"`{k}={v}`" for k, v in row.point.environment.items()]
    words += [f"`torch.set_num_threads({row.point.threads})`"] if row.point.threads else []
    return ", ".join(words) or "as it is"


def of_first(ms: list[float], first: list[float]) -> str:
    """Return median ratio of speeds, within a round."""
    return f"{median(b / a for a, b in zip(ms, first, strict=True)):.2f}"


def table(family: Family, rows: list[Row]) -> str:
    """Return a family's figures."""
    if family == "contention":
        columns: Columns = {
            "setting": setting,
            "alone, images/s": lambda r: spread(r.rates),
            "of as it is": lambda r: of_first(r.ms, rows[0].ms),
            "next to a busy process, images/s": lambda r: spread(
                [1e3 * r.point.batch / ms for ms in r.busy]
            ),
            "of as it is ": lambda r: of_first(r.busy, rows[0].busy),
        }
    else:
        own: dict[Family, Columns] = {
            "batch": {"batch": lambda r: str(r.point.batch)},
            "side": {
                "side": lambda r: str(r.point.side),
                "parameters, M": lambda r: f"{r.facts['parameters'] / 1e6:.1f}",
            },
            "malloc": {
                "batch": lambda r: str(r.point.batch),
                "setting": setting,
            },
            "codes": {
                "heads": lambda r: str(r.point.heads),
                "G's input": lambda r: str(r.facts["input"]),
                "q_dim": lambda r: str(r.facts["q_dim"]),
            },
        }
        columns = {
            "step": lambda r: r.point.step,
            **own[family],
            "ms per update": lambda r: spread(r.ms),
            "images/s": lambda r: spread(r.rates),
            "Adam, copies, average, ms": lambda r: spread(r.fixed, 1),
            "of it": lambda r: f"{median(r.fixed) / median(r.ms):.0%}",
            "in the kernel": lambda r: f"{median(r.kernel):.0%}",
            "state, MiB": lambda r: f"{r.facts['state']:,.0f}",
            "peak, MiB": lambda r: f"{r.peak:,.0f}",
        }
    return markdown(list(columns), [[cell(row) for cell in columns.values()] for row in rows])


def start_table(starts: int) -> str:
    """Return start-up times of the two ways to train."""
    ways = {
        "`python -m fastinfogan.train --steps 1`": [sys.executable],
        "`accelerate launch -m fastinfogan.train --steps 1`": [
            str(Path(sys.executable).parent / "accelerate"),
            "launch",
        ],
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(starts):
        for way, launcher in ways.items():
            times[way].append(start_up(launcher))
    lines = [[way, spread(seconds, 2)] for way, seconds in times.items()]
    return markdown(["command", "first update, s"], lines)


def draw(family: Family, rows: list[Row], path: Path) -> None:
    """Time, images/s and memory over the family's size."""
    x_of = "heads" if family == "codes" else family
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, color in zip(STEPS, ("C0", "C1"), strict=True):
        mine = [row for row in rows if row.point.step == name]
        x = [getattr(row.point, x_of) for row in mine]
        for axes, values in zip(
            panels, ([r.ms for r in mine], [r.rates for r in mine], [[r.peak] for r in mine]),
            strict=True,
        ):  # fmt: skip
            mid = [median(v) for v in values]
            below = [m - min(v) for m, v in zip(mid, values, strict=True)]
            above = [max(v) - m for m, v in zip(mid, values, strict=True)]
            axes.errorbar(x, mid, (below, above), color=color, marker=".", capsize=2, label=name)
    # The same in both steps.
    mine = [row for row in rows if row.point.step == STEPS[0]]
    x = [getattr(row.point, x_of) for row in mine]
    dots = {"color": "gray", "ls": ":", "marker": "."}
    panels[0].plot(x, [median(r.fixed) for r in mine], label="Adam, copies, average", **dots)
    panels[2].plot(x, [r.facts["state"] for r in mine], label="state", **dots)
    ticks = sorted({getattr(row.point, x_of) for row in rows})
    titles = ("ms per update", "images/s", "peak memory, MiB")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(LABELS[family])
        if family != "side":
            axes.set_xscale("log", base=2 if family == "batch" else 10)
        axes.set_xticks(ticks, [str(t) for t in ticks], fontsize="small")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    if family == "batch":
        panels[0].set_yscale("log")
        panels[0].set_ylim(bottom=1)
    legends = [axes.get_legend_handles_labels() for axes in (panels[0], panels[2])]
    entries = {
        word: handle
        for handles, words in legends
        for handle, word in zip(handles, words, strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize="small"
    )
    figure.savefig(path, dpi=90)


def conditions(options: str, facts: dict[str, Any], n: str) -> str:
    """Return the machine and versions of a table."""
    packages = facts["packages"]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"`python profiling/growth.py {options}`; {facts['device_name']}, "
        f"{device.cpu_threads()} cores, {memory:.0f} GiB; Python {facts['python']}, "
        f"torch {packages['torch']}, accelerate {packages['accelerate']}, {facts['precision']}; "
        f"{n}; median (range)."
    )


def merge(document: str, family: Family, block: str) -> str:
    """Return the document with the text between the family's marks replaced, or appended."""
    start, end = f"<!-- growth.py {family} -->", "<!-- end -->"
    text = f"{start}\n{block}\n{end}"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.S)
    if pattern.search(document):
        return pattern.sub(lambda _: text, document)
    return f"{document.rstrip()}\n\n{text}\n".lstrip()


def main(config: GrowthConfig) -> None:
    """Measure family by family; what is done is written before the next."""
    if config.child:
        child(Point(**json.loads(config.child)))
        return
    if config.quick:
        config = replace(config, rounds=2, images=8)
    starts = 1 if config.quick else min(config.rounds, 3)
    config.out.mkdir(parents=True, exist_ok=True)
    document = config.out / "growth.md"
    for family in config.families:
        options = f"--families {family}"
        if config.rounds != GrowthConfig.rounds and not config.quick:
            options += f" --rounds {config.rounds}"
        if family == "start":
            precision, reason = device.choose_precision("auto", True)
            facts = device.environment(torch.device("cpu"), precision, reason, 1)
            block = start_table(starts)
            n = f"n = {starts} starts each"
        else:
            contended = family == "contention"
            what = points(family, config.quick)
            rows = measure(what, config.rounds, config.images, contended)
            n = f"n = {config.rounds} turns of {config.images} images, or of one update"
            facts, block = rows[0].facts, table(family, rows)
            if family in LABELS:
                draw(family, rows, config.out / f"growth-{family}.png")
        block = f"{conditions(options, facts, n)}\n\n{block}"
        print(f"{block}\n", flush=True)
        text = document.read_text() if document.exists() else ""
        document.write_text(merge(text, family, block))


if __name__ == "__main__":
    main(tyro.cli(GrowthConfig))
