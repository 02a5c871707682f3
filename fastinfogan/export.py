"""Files for other runtimes: `fastinfogan export RUN`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from .atomic import check_writable, write_atomically, writing
from .cli import RunFolder, named, run_command
from .console import say
from .sharing import graphs
from .sharing.description import load_described
from .sharing.graphs import Part, Weights

PARTS: tuple[Part, ...] = ("generator", "reader")


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's generator (latent to image) and reader (image to code) as ONNX files.

    Example: fastinfogan export runs/mnist --out networks
    """

    run: RunFolder
    out: Annotated[Path | None, named("PATH")] = None
    """The folder to write to; RUN/export by default."""
    format: Literal["onnx", "pt2"] = "onnx"
    """onnx, for onnxruntime and browsers; or pt2, for torch.export.load."""
    full: bool = False
    """Keep ONNX weights in fp32. By default they are stored as fp16, and computed with in fp32."""


def export(config: ExportConfig) -> None:
    """Run the command."""
    folder = config.out or config.run / "export"
    check_writable(folder, "--out")
    networks, facts = load_described(config.run)
    image_range = facts["image"]["range"]
    weights: Weights = "full" if config.full else "half"
    files = {}
    for part in PARTS:
        graph = graphs.graph(part, networks)
        checked = ""
        if config.format == "pt2":
            content = graphs.to_program(graph, facts)
        else:
            content = graphs.to_onnx(graph, facts, weights)
            error = graphs.check(graph, content, image_range, weights)
            checked = (
                ", not checked (onnxruntime is not installed)"
                if error is None
                else f", at most {error:.1g} from torch in onnxruntime"
            )
        path = folder / f"{part}.{config.format}"
        files[path] = (content, checked)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, (content, checked) in files.items():  # all or none: written when all are right
        write_atomically(path, content)
        say(f"wrote {path}: {len(content) / 1e6:.1f} MB{checked}")


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.export`."""
    return run_command(export, ExportConfig, "fastinfogan export", args)


if __name__ == "__main__":
    raise SystemExit(main())
