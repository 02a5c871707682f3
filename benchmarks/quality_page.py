"""Page of all measured runs: `python benchmarks/quality_page.py` writes docs/experiments.md.

It is made from docs/quality.jsonl, which benchmarks/quality.py appends to. Each preset has its
command, all of its seeds, its targets with what was reached, what was not run, and a picture if its
data may be shown. The times per update come from docs/preset-times.jsonl, which
benchmarks/preset_times.py appends to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from quality import table, value

from fastinfogan.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "quality.jsonl", ROOT / "docs" / "experiments.md"
TIMES = ROOT / "docs" / "preset-times.jsonl"
# Of data that may be shown.
PICTURES = {
    "mnist": "mnist-codes.png",
    "fashion-mnist": "fashion-mnist.png",
    "dsprites": "dsprites.png",
    "faces": "faces.png",
    "chairs": "chairs.png",
    "svhn": "svhn.png",
}
# Runs under another name whose options a preset has since; they count for its targets.
SAME_OPTIONS = {
    "dsprites": "dsprites-like, upright copies at 10, 6,000 updates, one H200",
    "letters": "EMNIST letters, 13,000 of them",
}
INTRODUCTION = """# Every preset: what was run, and what it reached

*Written by `python benchmarks/quality_page.py` from docs/quality.jsonl. The evaluation alone reads
labels and factors. [Results](results.md) discusses the runs and names their processors.*
"""

Record = dict[str, Any]
Statistic = Callable[[Sequence[float]], float]


class Target(NamedTuple):
    """A figure that a preset is to reach over its seeds."""

    key: str  # of `quality.value`
    words: str
    statistic: Statistic
    bound: float
    at_most: bool = False

    def line(self, records: Sequence[Record]) -> str:
        """Return a row of the table of targets."""
        sign = "≤" if self.at_most else "≥"
        goal = f"| {self.words} {sign} {self.bound:g} |"
        known = [v for r in records if (v := value(r, self.key)) is not None]
        if not known:
            return f"{goal} not measured |"
        reached = self.statistic(known)
        short = reached - self.bound if self.at_most else self.bound - reached
        outcome = f"short by {short:.4f}" if short > 0 else "met"
        runs = "1 run" if len(known) == 1 else f"{len(known)} runs"
        return f"{goal} {reached:.4f}: {outcome}, {runs} |"


class Plan(NamedTuple):
    """The seeds of a preset that are to be run, and what they are to reach."""

    seeds: int
    targets: tuple[Target, ...]


_RHO = tuple(
    Target("factor " + factor, f"absolute ρ of the best code with {factor}, every seed", min, bound)
    for factor, bound in (("azimuth", 0.95), ("elevation", 0.9), ("light_azimuth", 0.9))
)
PLANS = {
    "mnist": Plan(
        10,
        (
            Target("code_accuracy", "code accuracy, median", median, 0.99),
            Target("code_accuracy", "code accuracy, every seed", min, 0.985),
            Target("frechet", "Fréchet distance, median", median, 6.0, at_most=True),
        ),
    ),
    "fashion-mnist": Plan(5, (Target("code_accuracy", "code accuracy, median", median, 0.75),)),
    "faces": Plan(3, _RHO[:1]),
    "faces-elevation": Plan(3, _RHO[1:2]),
    "faces-lighting": Plan(3, _RHO[2:]),
    "chairs": Plan(3, (Target("rotation_fit", "R of the rotation's fit, every seed", min, 0.9),)),
    "chairs-width": Plan(3, (Target("factor width", "absolute ρ of width, every seed", min, 0.9),)),
    "letters": Plan(3, (Target("code_accuracy", "code accuracy, median", median, 0.7),)),
    "svhn": Plan(3, (Target("code_accuracy", "code accuracy, every seed", min, 0.8),)),
    "dsprites": Plan(
        3,
        (
            Target("factorvae", "FactorVAE, every seed", min, 0.95),
            Target("mig", "MIG, every seed", min, 0.5),
        ),
    ),
}


def preset_of(record: Record) -> str:
    """Return the preset of a line; the default one is left out of a recipe, and of early lines.

    Runs that count for a preset under another name are its own.
    """
    for preset, name in SAME_OPTIONS.items():
        if record["name"] == name:
            return preset
    return (record.get("recipe") or {}).get("preset", "mnist")


def twin(preset: str) -> str | None:
    """Return the first preset that has the same options under another name, None without one."""
    if preset not in PRESETS:
        return None
    ours = PRESETS[preset]
    others = [name for name in PRESETS if name != preset]
    return next((n for n in others if PRESETS[n].with_options(preset=preset) == ours), None)


def section(preset: str, records: Sequence[Record], of_twin: Sequence[Record] = ()) -> str:
    """Return a preset's part of the page. `of_twin`: runs of `twin(preset)` as it ships."""
    sets: dict[str, dict[int, Record]] = {}
    for record in records:
        sets.setdefault(record["name"], {})[record["seed"]] = record
    lines = [f"## {preset}", "", f"`accelerate launch -m fastinfogan.train {preset} --seed S`", ""]
    plan, own = PLANS.get(preset), sets.pop(preset, {})
    if own:
        lines += [_updates(own), "", table(own), ""]
    if plan is not None:
        name = SAME_OPTIONS.get(preset, "")
        same = sets.get(name, {})
        of_other = {record["seed"]: record for record in of_twin if record["seed"] not in own}
        counted = [*own.values(), *same.values(), *of_other.values()]
        missing = [str(seed) for seed in range(plan.seeds) if seed not in own | same | of_other]
        if missing:
            lines += [f"Not run as it ships: seeds {', '.join(missing)}.", ""]
        if same:
            lines += [
                f"The targets also count **{name}**, below: the same options, given by hand.",
                "",
            ]
        if of_other:
            lines += [
                f"The targets count the runs of [{preset_of(of_twin[0])}](#{preset_of(of_twin[0])})"
                ", which has the same options under another name.",
                "",
            ]
        lines += ["| target | reached |", "|---|---|", *(t.line(counted) for t in plan.targets), ""]
    elif not own:
        lines += ["Not run as it ships.", ""]
    if preset in PICTURES:
        lines += [f"![Images of {preset}'s codes]({PICTURES[preset]})", ""]
    for name, of in sets.items():
        lines += [f"**{name}**: {_updates(of)}", "", table(of), ""]
    return "\n".join(lines)


def _updates(records: Mapping[int, Record]) -> str:
    counts = sorted({record["updates"] for record in records.values()})
    return f"{' or '.join(f'{n:,}' for n in counts)} updates."


def page(records: Sequence[Record], timed: Sequence[Record] = ()) -> str:
    """Return the page of all presets; `timed` are the lines of benchmarks/preset_times.py."""
    parts = []
    for name in PRESETS:
        other = twin(name)
        ships = [r for r in records if other and preset_of(r) == other and r["name"] == other]
        parts.append(section(name, [r for r in records if preset_of(r) == name], ships))
    if timed:
        parts.append(times(timed))
    return "\n".join((INTRODUCTION, *parts)).rstrip() + "\n"


def times(lines: Sequence[Record]) -> str:
    """Return the part on times per update; of a preset's lines the last counts."""
    rows = []
    for name, r in {line["preset"]: line for line in lines}.items():
        each = r["seconds"]
        rows.append(
            f"| {name} | {r['data']} | {r['batch']} | {median(each):.3f} "
            f"| {min(each):.3f}–{max(each):.3f} | {r['images_per_second']:,.0f} "
            f"| {r['updates']:,} | {r['minutes']:,.0f} |"
        )
    counts = dict.fromkeys(str(len(line["seconds"])) for line in lines)
    machines = []
    for e in (line["environment"] for line in lines):
        machines.append(
            f"{e['device_name']}, {e['threads']} threads, {e['precision']}, Python {e['python']}, "
            f"torch {e['packages']['torch']}"
        )
    return "\n".join(
        (
            "## Time per update of every preset",
            "",
            f"`python benchmarks/preset_times.py --out docs/{TIMES.name}` on an idle machine: "
            f"{'; '.join(dict.fromkeys(machines))}. Seconds are the median and the range of "
            f"{' or '.join(counts)} updates; minutes are this median times the preset's "
            "updates, those before --gan-start with a median of their own: the training alone, by "
            "estimate. Where a set is missing noise or a stand-in "
            "takes its place, which changes no arithmetic.",
            "",
            "| preset | images | batch | s per update | range | images/s | updates | minutes |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        )
    )


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    records = _read(FIGURES)
    PAGE.write_text(page(records, _read(TIMES)), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(records)} runs")


if __name__ == "__main__":
    main()
