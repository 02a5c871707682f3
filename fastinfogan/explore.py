"""A page with a run's codes as controls: `fastinfogan explore RUN`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .atomic import write_atomically, writing
from .cli import named, run_command
from .console import say
from .errors import UserError
from .sharing import graphs, page
from .sharing.description import load_described


@dataclass(frozen=True)
class ExploreConfig:
    """Write a page that draws from a run in any browser, offline, with its codes as controls.

    Example: fastinfogan explore runs/mnist --out digits.html
    """

    run: Annotated[tyro.conf.Positional[Path], named("RUN")]
    """The run's folder. The page shows its newest checkpoint, also while it trains."""
    out: Annotated[Path | None, named("PATH")] = None
    """The page, one .html file with everything inside; explore.html by default."""
    folder: Annotated[Path | None, named("PATH")] = None
    """Write a folder of files for a static web server, instead of one file."""
    full: bool = False
    """Keep fp32 weights, which take three times the space. By default
    they have 12 bits (generator: at most one grey level off) or 8 (reader)."""
    reader: bool = True
    """Include the network that reads the code of a picture."""


def explore(config: ExploreConfig) -> None:
    """Run the command."""
    out = config.out or Path("explore.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: expected an .html file; for a folder use --folder {out}")
    networks, facts = load_described(config.run)
    generator = graphs.for_page(networks, facts, "generator", full=config.full)
    reader = graphs.for_page(networks, facts, "reader", full=config.full) if config.reader else None
    if config.folder is not None:
        page.write_folder(config.folder, facts, generator, reader)
        say(f"wrote {config.folder / 'index.html'}; serve it: {_serve(config.folder)}")
        if config.out is None:
            return
    content = page.single_page(facts, generator, reader)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content)
    say(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser")


def _serve(folder: Path) -> str:
    return f"python -m http.server --directory {folder}"


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.explore`."""
    return run_command(explore, ExploreConfig, "fastinfogan explore", args)


if __name__ == "__main__":
    raise SystemExit(main())
