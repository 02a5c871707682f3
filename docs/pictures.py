"""Pictures of the documentation, each made by a command.

    python docs/pictures.py explore runs/mnist    explore.png and explore-reading.png
    python docs/pictures.py accuracy              accuracy.png
    python docs/pictures.py codes runs/mnist      mnist-codes.png

`explore` writes the page of a run and photographs it twice in Chromium. It needs node, chromium and
playwright-core (`npm install --prefix .ci playwright-core@1.65.1`). `accuracy` draws code accuracy
over updates from docs/quality.jsonl and, where it exists, docs/textbook.jsonl
(`benchmarks/textbook_accuracy.py`). `codes` puts the continuous codes of an evaluated run next to
its table of labels and categories. Other pictures of codes come from `fastinfogan sample`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from PIL import Image

DOCS = Path(__file__).resolve().parent
SCRIPT = DOCS / "pictures.cjs"
MODULES = DOCS.parent / ".ci" / "node_modules"
COLOURS = 128  # of a photograph, which has flat areas and gray images

Curve = list[tuple[int, float]]  # (updates, code accuracy)


def photograph(run: Path, out: Path) -> list[Path]:
    """Write the stills of a run's page into the folder `out`, and return their paths.

    Raises SystemExit where node, chromium or playwright-core is missing.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    modules = Path(os.environ.get("NODE_PATH") or MODULES)
    if (
        chromium is None
        or shutil.which("node") is None
        or not (modules / "playwright-core").is_dir()
    ):
        raise SystemExit(
            "expected chromium, node and playwright-core; install them with `apt-get install "
            "chromium nodejs npm` and `npm install --prefix .ci playwright-core@1.65.1`"
        )
    stills = [out / "explore.png", out / "explore-reading.png"]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "explore.html")
        command = [sys.executable, "-m", "fastinfogan", "explore", str(run), "--out", str(page)]
        subprocess.run(command, check=True)
        subprocess.run(
            ["node", str(SCRIPT), f"{page.as_uri()}#seed=3", chromium, *map(str, stills)],
            env={**os.environ, "NODE_PATH": str(modules)},
            check=True,
        )
    for still in stills:
        picture = Image.open(still).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(still, optimize=True)
    return stills


def draw_codes(run: Path, out: Path) -> None:
    """Draw a run's codes next to its contingency table, without the code that the table scores."""
    scored = json.loads((run / "eval.json").read_text("utf-8"))["code_scored"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fastinfogan", "sample", str(run), "--out", folder]
        subprocess.run(command, check=True)
        files = [path for path in sorted(Path(folder).glob("*.png")) if path.stem != scored]
        files.append(run / "samples" / "contingency.png")
        pictures = [Image.open(file).convert("RGB") for file in files]
    whole = Image.new(
        "RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white"
    )
    x = 0
    for picture in pictures:
        whole.paste(picture, (x, 0))
        x += picture.width
    whole.save(out, optimize=True)


def curves(path: Path, name: str) -> list[Curve]:
    """Return the curves of the runs filed under `name`, one per seed; none where the file is not.

    A line of `path` has "name", "seed" and "accuracies", a list of [updates, accuracy].
    """
    if not path.is_file():
        return []
    runs = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        [(int(step), float(accuracy)) for step, accuracy, *_ in sorted(run["accuracies"])]
        for run in sorted((run for run in runs if run["name"] == name), key=lambda run: run["seed"])
    ]


def draw_accuracy(ways: Mapping[str, Sequence[Curve]], out: Path) -> None:
    """Draw each way's curves, thin, and the median where all of its curves have a point."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, runs), colour in zip(
        ways.items(), ("tab:blue", "tab:orange", "tab:green"), strict=False
    ):
        for run in runs:
            steps, accuracies = zip(*run, strict=True)
            axes.plot(steps, [100 * a for a in accuracies], color=colour, alpha=0.3, linewidth=0.8)
        common = sorted(set.intersection(*({step for step, _ in run} for run in runs)))
        middle = [100 * median(dict(run)[step] for run in runs) for step in common]
        axes.plot(
            common, middle, "o-", color=colour, markersize=3, label=f"{name}, n = {len(runs)}"
        )
    axes.set_xlabel("updates at batch 128")
    axes.set_ylabel("code accuracy on MNIST's test images, %")
    axes.set_ylim(20, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    explore = commands.add_parser("explore", help="two stills of a run's page")
    explore.add_argument("run", type=Path, help="the run's folder")
    accuracy = commands.add_parser("accuracy", help="code accuracy over updates")
    codes = commands.add_parser("codes", help="the continuous codes and the table of labels")
    codes.add_argument("run", type=Path, help="the folder of an evaluated run")
    for command in (explore, accuracy, codes):
        command.add_argument("--out", type=Path, default=DOCS, help="the folder to write into")
    options = parser.parse_args()
    if options.command == "explore":
        written = photograph(options.run, options.out)
    elif options.command == "codes":
        written = [options.out / f"{options.run.name}-codes.png"]
        draw_codes(options.run, written[0])
    else:
        ways = {
            "mnist": curves(DOCS / "quality.jsonl", "mnist"),
            "mnist-paper, the textbook's recipe": curves(DOCS / "quality.jsonl", "mnist-paper"),
            "textbook loop": curves(DOCS / "textbook.jsonl", "textbook"),
        }
        written = [options.out / "accuracy.png"]
        draw_accuracy({name: runs for name, runs in ways.items() if runs}, written[0])
    for path in written:
        print(f"wrote {path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
