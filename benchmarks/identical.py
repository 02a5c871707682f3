"""A comparison of what two checkouts train, bit for bit: `python benchmarks/identical.py OLD NEW`.

A refactoring changes no weight. Each case is a short run under either checkout, in a process of its
own, on small image sets that are drawn here, with one CPU thread and one seed. After its last
update, every tensor of the networks (running buffers included) and of the optimizers in the
checkpoint must be equal in every bit, and so must the losses of the log's last record. A run is
ended as soon as that checkpoint is complete: pictures and evaluation change no weight.

    python benchmarks/identical.py OLD_CHECKOUT NEW_CHECKOUT
    python benchmarks/identical.py OLD_CHECKOUT NEW_CHECKOUT --cases mnist ranks --updates 20
    python benchmarks/identical.py --list

Nothing but the command line of `fastinfogan.train` and the files of a run is used, so the layout of
the two checkouts may differ; neither needs to be installed. A row per case is printed as it ends.
Exit code 0: all equal. 1: a tensor or a loss differs, or a run failed. 2: bad arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor

# The files of a checkpoint that are compared, and how the names of their compared tensors begin.
COMPARED = {"model.safetensors": "", "training.safetensors": "adam_"}
RENAMED: dict[str, str] = {}  # tensors that the new checkout documents under another name: old, new
LOSSES = ("d_loss", "g_loss", "nll")  # of metrics.jsonl's last record
SIDES = ("old", "new")

UPDATES = 8
BATCH = 16
IMAGES = 120  # of a set: a few batches, so that a run sees more than one epoch
LIMIT_S = 3600  # seconds for one run, on a machine that is busy with others
STOP_S = 60  # seconds for a launcher to end its ranks
LAST_LINES = 15  # of a failed run's errors


class Case(NamedTuple):
    """A run: the preset and options as typed, the image set, and how the run goes."""

    name: str
    options: str
    images: str = "small"
    resumed: bool = False  # half of the updates, then a second process for the rest
    ranks: int = 1
    optional: bool = False  # run only where --cases names it

    def text(self) -> str:
        """Join the options with what the command line does not say."""
        more = ["resumed"] * self.resumed + [f"{self.ranks} ranks"] * (self.ranks > 1)
        return ", ".join([self.options, *more])


class ImageSet(NamedTuple):
    """Images that are drawn for the cases."""

    side: int
    channels: int
    kind: str = "npz"  # or npy, which can be streamed


IMAGE_SETS = {
    "digits": ImageSet(28, 1),
    "small": ImageSet(16, 1),  # a tenth of the weights that digits' side has
    "small-npy": ImageSet(16, 1, "npy"),
    "gray": ImageSet(32, 1),
    "colour": ImageSet(32, 3),
    "shapes": ImageSet(64, 1),
}

# With 8 updates: without adversarial copies, with them, without them; λ off, rising, at its value;
# learning rates constant, falling, fallen.
_MNIST = (
    "mnist --vat-start 2 --vat-stop 5 --info-start 1 --info-ramp 3 --decay-start 3 --decay-steps 4"
)
# The other experiments by options, not by preset: what a preset stands for may change while its
# name stays.
_SVHN = "mnist-paper --networks svhn --noise 124 --codes cat10,cat10,cat10,cat10,uniform4:learned"
_FACES = "mnist-paper --networks faces --noise 128 --codes uniform5:learned --info-weight 0.2"
_CHAIRS = "mnist-paper --networks chairs --noise 128 --codes cat20,cat20,cat20,uniform:learned*10"
_DSPRITES = "mnist-paper --networks dsprites --noise 5 --info-weight 0.05 --lr-d 2e-3"
_UPRIGHT = (
    "--codes cat3,uniform,uniform,uniform,uniform,uniform --upright 1 --follow 1 "
    "--followed x,y,size,stretch,slant --warp shift=0.18,zoom=0.3,scale=0.25,shear=0.4"
)
_ALL = (
    Case("mnist", _MNIST, images="digits"),
    Case("mnist-bf16", f"{_MNIST} --precision bf16"),
    Case("mnist-shared", f"{_MNIST} --step shared"),
    Case("mnist-reused", f"{_MNIST} --step reused"),
    Case("mnist-head", f"{_MNIST} --routing head"),
    Case("mnist-resumed", _MNIST, images="digits", resumed=True),
    Case("ranks", _MNIST, images="digits", ranks=2),
    Case(
        "warps",
        "mnist --codes cat10,bernoulli,uniform2,gaussian2 --followed x,y,size,stretch "
        "--warp rotate=10,zoom=0.2,scale=0.2,place=0.2,flip=0.5,gamma=0.5,stroke=0.5",
    ),
    Case("paper", "mnist-paper", images="digits"),
    Case("paper-bf16", "mnist-paper --precision bf16"),
    Case("paper-shared", "mnist-paper --step shared"),
    Case("paper-reused", "mnist-paper --step reused"),
    Case("generator-step", "mnist-paper --routing generator-step"),
    Case("generator-step-shared", "mnist-paper --routing generator-step --step shared"),
    Case("streamed", "mnist-paper --stream always", images="small-npy"),
    Case("ramp-down", "mnist-paper --info-from 2 --info-start 2 --info-ramp 4 --ema 0"),
    Case("contiguous", "mnist-paper --memory-format contiguous"),
    Case("codes", "mnist-paper --codes cat5*2,bernoulli,gaussian2:learned,uniform:learned*0.5"),
    Case("penalties", "mnist-paper --r1 1 --r2 0.5"),
    Case("contrastive", "mnist-paper --contrastive 0.5"),
    Case("contrastive-start", "mnist-paper --contrastive 0.5 --contrastive-start 3"),
    Case("balance", "mnist-paper --balance-codes 0.9"),
    Case(
        "additions-resumed",
        "mnist-paper --contrastive 0.5 --balance-codes 0.9 --r1 1 --step shared",
        resumed=True,
    ),
    Case("spectral", "mnist-paper --spectral-norm"),
    Case("hinge", "mnist-paper --objective hinge"),
    Case("lsgan", "mnist-paper --objective lsgan"),
    Case("wgan", "mnist-paper --objective wgan --spectral-norm"),
    Case("relativistic", "mnist-paper --objective relativistic"),
    Case("relativistic-shared", "mnist-paper --objective relativistic --step shared"),
    Case("smoothing", "mnist-paper --label-smoothing 0.1"),
    Case("svhn", _SVHN, images="colour"),
    Case("svhn-bf16", f"{_SVHN} --precision bf16 --batch-size 4", images="colour"),
    Case("faces", _FACES, images="gray"),
    Case("chairs", f"{_CHAIRS} --batch-size 4", images="shapes"),
    Case("dsprites", f"{_DSPRITES} --codes uniform,uniform,uniform,uniform,uniform", "shapes"),
    Case("upright", f"{_DSPRITES} {_UPRIGHT}", images="shapes"),
    Case("compile", "mnist-paper --compile on", optional=True),
)
CASES = {case.name: case for case in _ALL}
NAME_WIDTH = max(map(len, CASES))

# Started with a checkout and the arguments of `fastinfogan.train`: runs that module as `python -m`
# does, once it is known to be the checkout's.
LAUNCHER = """\
import importlib.util, pathlib, runpy, sys

checkout = pathlib.Path(sys.argv.pop(1))
for name in ("fastinfogan", "fastinfogan_kernels"):
    spec = importlib.util.find_spec(name)
    if spec is None and name != "fastinfogan":
        continue
    origin = None if spec is None else spec.origin
    if origin is None or checkout not in pathlib.Path(origin).resolve().parents:
        sys.exit(f"error: expected the package {name} of {checkout}, got {origin}; "
                 "look at PYTHONPATH and at what is installed")
runpy.run_module("fastinfogan.train", run_name="__main__", alter_sys=True)
"""


# The image sets


def draw(n: int, side: int, channels: int) -> Tensor:
    """Draw bright bars, squares, discs and rings on black, uint8 [n, side, side, channels]."""
    generator = torch.Generator().manual_seed(side)
    u = torch.rand(n, 8, generator=generator).view(n, 8, 1, 1)
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    x, y = at.view(1, 1, -1) - 0.6 * (u[:, 0] - 0.5), at.view(1, -1, 1) - 0.6 * (u[:, 1] - 0.5)
    angle, size, ratio = math.pi * u[:, 2], 0.35 + 0.3 * u[:, 3], 0.5 + 0.5 * u[:, 4]
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    x, y = (x / size).abs(), (y / (size * ratio)).abs()
    radius = (x**2 + y**2).sqrt()
    distances = (torch.maximum(x, 3 * y), torch.maximum(x, y), radius, 4 * (radius - 0.8).abs())
    kind = torch.arange(n).view(n, 1, 1) % len(distances)
    distance = torch.stack([d * (kind == i) for i, d in enumerate(distances)]).sum(0)
    bright = torch.sigmoid((1 - distance) * side / 3).unsqueeze(3)
    tint = 1 - 0.6 * torch.rand(n, 1, 1, channels, generator=generator)
    return (255 * bright * tint).round().to(torch.uint8)


def write_images(path: Path, images: Tensor) -> None:
    """Write uint8 images as .npy, or as "images" in an .npz."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(images.shape)}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1")
    content += bytes(images.flatten().tolist())
    if path.suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)


def data_option(name: str, folder: Path) -> str:
    """Write the image set into the folder, if it is not there yet; returns the value of --data."""
    images = IMAGE_SETS[name]
    path = folder / f"{name}.{images.kind}"
    if not path.exists():
        write_images(path, draw(IMAGES, images.side, images.channels))
    return f"{images.kind}:{path}"


# The comparison


class Comparison(NamedTuple):
    """The number of tensors that were compared, and a line per difference."""

    tensors: int
    differences: list[str]


def difference(old: Tensor, new: Tensor) -> str | None:
    """Describe how two tensors differ in dtype, shape or bits; None where they do not."""
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        kinds = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (old, new))
        return "{} in the old checkpoint, {} in the new one".format(*kinds)
    a, b = (t.contiguous().reshape(-1, 1).view(torch.uint8) for t in (old, new))
    differ = (a != b).any(1)
    count = int(differ.sum())
    if not count:
        return None
    gap = (old.double() - new.double()).abs().reshape(-1)[differ]
    largest = f"{float(gap.max()):.3g}"  # nan where one of the elements is
    return f"{count} of {len(differ)} elements differ, the largest difference is {largest}"


def compare_checkpoints(old: Path, new: Path) -> Comparison:
    """Compare the tensors of two checkpoints' folders, in the order of files and names."""
    count, differences = 0, []
    for file, prefix in COMPARED.items():
        paths = {side: folder / file for side, folder in zip(SIDES, (old, new), strict=True)}
        absent = [side for side, path in paths.items() if not path.is_file()]
        if absent:
            differences.append(f"{file}: missing in the {' and the '.join(absent)} checkpoint")
            continue
        tensors = {side: load_file(path) for side, path in paths.items()}
        tensors["old"] = {RENAMED.get(k, k): v for k, v in tensors["old"].items()}
        names = sorted(n for n in tensors["old"].keys() | tensors["new"] if n.startswith(prefix))
        if not names:
            differences.append(
                f"{file}: expected tensors whose names begin with {prefix!r}, got none"
            )
        for name in names:
            lacking = [side for side in SIDES if name not in tensors[side]]
            if lacking:
                differences.append(f"{file}: {name}: missing in the {lacking[0]} checkpoint")
                continue
            count += 1
            words = difference(tensors["old"][name], tensors["new"][name])
            if words:
                differences.append(f"{file}: {name}: {words}")
    return Comparison(count, differences)


def last_record(folder: Path) -> dict[str, Any]:
    """Read the last complete record of a run's metrics.jsonl; empty where there is none."""
    try:
        for line in reversed((folder / "metrics.jsonl").read_text().splitlines()):
            try:
                record: dict[str, Any] = json.loads(line)
            except ValueError:  # not all of it is written yet
                continue
            return record
    except OSError:
        pass
    return {}


def compare_records(old: Path, new: Path) -> list[str]:
    """Compare the losses of two runs' last records; returns a line per difference."""
    before, after = last_record(old), last_record(new)
    differences = []
    for name in LOSSES:
        values = [repr(record.get(name, "missing")) for record in (before, after)]
        if values[0] != values[1] or name not in before:
            differences.append(f"metrics.jsonl: {name}: old {values[0]}, new {values[1]}")
    return differences


def checkpoint_of(folder: Path, update: int) -> Path | None:
    """Find the folder of a run's checkpoint of that update, if it is written."""
    for path in (folder / "checkpoints").glob("step-*"):
        if path.name.removeprefix("step-").isdigit() and int(path.name[5:]) == update:
            return path
    return None


# The runs


@dataclass
class Run:
    """One side of a case."""

    side: str
    checkout: Path
    folder: Path
    seconds: float = 0.0
    failure: str = ""

    def is_finished(self, update: int) -> bool:
        """Tell whether all that is compared after that update is written."""
        return bool(
            checkpoint_of(self.folder, update) and last_record(self.folder).get("step") == update
        )

    def errors(self) -> Path:
        """Name the file that its processes write their errors to."""
        return self.folder.with_name(f"{self.side}.stderr")

    def check_ranks(self, expected: int) -> None:
        """Fail where the run had another number of ranks than the case asks for."""
        try:
            ranks = json.loads((self.folder / "environment.json").read_text())["world_size"]
        except (OSError, ValueError, KeyError, TypeError):
            ranks = "no readable number"
        if ranks != expected:
            self.failure = f"expected {expected} ranks in environment.json, got {ranks}"

    def check_exit(self, code: int, update: int) -> None:
        """Fail where a process that ended by itself did not do what it was to do."""
        lines = self.errors().read_text(errors="replace").splitlines()[-LAST_LINES:]
        if code:
            self.failure = "\n    ".join([f"exit code {code}; its last errors:", *lines])
        elif not self.is_finished(update):
            self.failure = f"ended without a checkpoint and a record of update {update}"


def environment(checkout: Path) -> dict[str, str]:
    """Build the variables of a run: its checkout first, one thread, the CPU, no bytecode."""
    paths = [str(checkout), str(checkout / "kernels")]
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "",
    }


def arguments(case: Case, data: str, folder: Path, updates: int) -> list[str]:
    """Build the arguments of `fastinfogan.train`; the case's own options come last and count."""
    images = IMAGE_SETS[case.images]
    preset, *options = case.options.split()
    return [
        preset,
        *("--data", data, "--image-size", str(images.side), "--channels", str(images.channels)),
        *("--out", str(folder), "--steps", str(updates), "--batch-size", str(BATCH)),
        *("--seed", "1", "--threads", "1", "--precision", "fp32"),
        *("--log-every", "1000000", "--sample-every", "0", "--checkpoint-every", "0"),
        *options,
    ]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(run: Run, case: Case, launcher: Path, train: list[str]) -> subprocess.Popen[bytes]:
    """Start one side's process, or its ranks."""
    command = [sys.executable]
    if case.ranks > 1:
        command += ["-m", "torch.distributed.run", "--nproc_per_node", str(case.ranks)]
        command += ["--master_port", str(free_port())]
    with run.errors().open("ab") as errors:
        return subprocess.Popen(
            [*command, str(launcher), str(run.checkout), *train],
            cwd=launcher.parent,
            env=environment(run.checkout),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def stop(process: subprocess.Popen[bytes], ranks: int) -> None:
    """End a process and the ranks that it launched."""
    if ranks > 1:  # a launcher ends its ranks when it is asked to
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    process.kill()
    process.wait()


def train_to(update: int, runs: list[Run], case: Case, launcher: Path, data: str) -> None:
    """Train all sides side by side until each has written the checkpoint of that update."""
    began = time.monotonic()
    working = [
        (run, start(run, case, launcher, arguments(case, data, run.folder, update))) for run in runs
    ]
    try:
        while working:
            time.sleep(0.05)
            for run, process in list(working):
                code, elapsed = process.poll(), time.monotonic() - began
                if code is not None:
                    run.check_exit(code, update)
                elif elapsed > LIMIT_S:
                    run.failure = f"no checkpoint of update {update} within {LIMIT_S} seconds"
                elif not run.is_finished(update):
                    continue
                run.seconds += elapsed
                stop(process, case.ranks)
                working.remove((run, process))
    finally:
        for _, process in working:
            stop(process, case.ranks)


class Result(NamedTuple):
    """A case's row, and a line per difference."""

    tensors: int
    differences: list[str]
    seconds: list[float]


def run_case(case: Case, checkouts: Sequence[Path], updates: int, folder: Path) -> Result:
    """Train a case under both checkouts, in a folder for all cases, and compare."""
    launcher = folder / "launch_train.py"
    launcher.write_text(LAUNCHER)
    data = data_option(case.images, folder)
    own = folder / case.name
    own.mkdir()
    runs = [Run(side, path, own / side) for side, path in zip(SIDES, checkouts, strict=True)]
    for update in (updates // 2, updates) if case.resumed else (updates,):
        train_to(update, [run for run in runs if not run.failure], case, launcher, data)
    for run in runs:
        if not run.failure:
            run.check_ranks(case.ranks)
    differences = [f"the {run.side} checkout's run: {run.failure}" for run in runs if run.failure]
    tensors = 0
    if not differences:
        checkpoints = [path for run in runs if (path := checkpoint_of(run.folder, updates))]
        tensors, differences = compare_checkpoints(*checkpoints)
        differences += compare_records(*(run.folder for run in runs))
    shutil.rmtree(own)
    return Result(tensors, differences, [run.seconds for run in runs])


# The command


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with 2."""
        self.exit(2, f"error: {message}; --help lists the arguments\n")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with 2 where it is wrong."""
    parser = Parser(description=str(__doc__).splitlines()[0])
    parser.add_argument("old", nargs="?", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("new", nargs="?", type=Path, metavar="NEW_CHECKOUT")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="these cases alone")
    parser.add_argument("--updates", type=int, default=UPDATES, metavar="N", help="of each run")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parsed = parser.parse_args(args)
    if parsed.list:
        return parsed
    if parsed.new is None:
        parser.error("expected the folders of two checkouts")
    for path in (parsed.old, parsed.new):
        if not ((path / "pyproject.toml").is_file() and (path / "fastinfogan").is_dir()):
            parser.error(
                f"expected a checkout with pyproject.toml and fastinfogan/, got {str(path)!r}"
            )
    unknown = [name for name in parsed.cases or () if name not in CASES]
    if unknown:
        parser.error(f"--cases: expected names from --list, got {unknown[0]!r}")
    if parsed.updates < 2:
        parser.error(f"--updates: expected at least 2, got {parsed.updates}")
    return parsed


def print_row(name: str, cells: Sequence[object], options: str) -> None:
    """Print a row of the table: result, tensors and the seconds of both sides are its cells."""
    result, *numbers = cells
    print(f"{name:{NAME_WIDTH}}  {result:7}", *(f"{n:>7}" for n in numbers), f" {options}")
    sys.stdout.flush()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        config = parse(args)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    if config.list:
        for case in CASES.values():
            more = " (only by name)" * case.optional
            print(f"{case.name:{NAME_WIDTH}}  {case.text()}{more}")
        return 0
    cases = [case for case in CASES.values() if not case.optional]
    if config.cases:
        cases = [CASES[name] for name in dict.fromkeys(config.cases)]
    checkouts = [config.old.resolve(), config.new.resolve()]
    began, bad = time.monotonic(), 0
    print_row("case", ("result", "tensors", "old s", "new s"), "options")
    with tempfile.TemporaryDirectory(prefix="identical-") as name:
        folder = Path(name).resolve()
        for case in cases:
            tensors, differences, seconds = run_case(case, checkouts, config.updates, folder)
            cells = ("DIFFERS" if differences else "equal", tensors)
            print_row(case.name, (*cells, *(f"{s:.1f}" for s in seconds)), case.text())
            if differences:
                bad += 1
                more = f" (and {len(differences) - 1} more)" if differences[1:] else ""
                print(f"  {case.name}: {differences[0]}{more}", flush=True)
    print(f"{len(cases)} cases, {bad} differ, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def leave(number: int, _: object) -> NoReturn:
    """Leave on a signal, by which the runs are ended and their folders deleted."""
    print(f"ended by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    raise SystemExit(main())
