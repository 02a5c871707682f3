"""The GPU report's tables and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from gpu_timing import Timing

Report = dict[str, Any]


def format_tables(report: Report) -> str:
    """Return all results as text."""
    return "\n\n".join(
        (
            _header(report),
            _checks(report),
            _losses(report),
            _table(
                "Sampler: all latents of a batch",
                ["layout", "B", "way", "replay µs", "eager µs", "launches", "note"],
                [
                    [
                        r["layout"], f"{r['batch']}", r["way"], _range(r["replay_us"]),
                        _range(r["wall_us"]), _launches(r["launches"]), r["note"] or "",
                    ]
                    for r in report["sampler"]
                ],
            ),
            _table(
                "Training step, MNIST's networks, bf16",
                [
                    "B", "mode", "way", "images/s", "utilisation", "peak MiB", "launches",
                    "by the host", "note",
                ],
                [
                    [
                        f"{r['batch']}", r["mode"], r["way"], _range(r["images_per_s"], 0),
                        _percent(r["utilisation"], 1), _mib(r["peak_bytes"]),
                        _launches(r["launches"]), _host(r["launches"]), r["note"] or "",
                    ]
                    for r in report["step"]
                ],
            )
            + "\nutilisation: FLOP that the mode needs over those of the large product in the same "
            "time; launches: kernels on the device; by the host: its calls for them; the peak of a "
            "captured step is that of capturing it.",
        )
    )  # fmt: skip


def _header(report: Report) -> str:
    head = report["header"]
    lines = []
    if report["dry_run"]:
        lines.append("DRY RUN on the CPU: nothing was measured, and nothing here is a GPU's.")
    lines.append(
        f"{head['device']}, driver {head['driver'] or '–'}, torch {head['torch']}, triton "
        f"{head['triton']}, CUDA {head['cuda'] or '–'}, HIP {head['hip'] or '–'}, Python "
        f"{head['python']}, {head['date']}"
    )
    lines.append(
        f"Medians (min–max) over n = {head['rounds']} interleaved rounds, 20 for the step. Copy "
        f"within the device's memory: {_range(head['copy_gb_per_s'], 0)} GB/s, read + written. An "
        f"empty kernel in a replayed graph: {_range(head['launch_floor_us'])} µs. A product of "
        f"8192³ in bf16: {_range(head['product_tflop_per_s'])} TFLOP/s."
    )
    if busy := head.get("busy_percent_before"):
        lines.append(f"NOT ALONE: the GPU was {busy} % busy before; times may be others' too.")
    if report["elapsed_s"] is not None:
        lines.append(f"{report['elapsed_s']} s in all.")
    lines += [head["note"]] if "note" in head else []
    lines += [f"FAILED: {what}" for what in report["failures"]]
    lines += [f"Skipped for time: {what}" for what in report["skipped"]]
    return "\n".join(lines)


def _checks(report: Report) -> str:
    checks = report["correctness"] + report["launch_checks"]
    outcomes = [check["outcome"] for check in checks]
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in ("passed", "FAILED", "skipped"))
    lines = [
        f"  {c['outcome']} {c['check']}: {c['detail']}" for c in checks if c["outcome"] != "passed"
    ]
    return "\n".join([f"Checks: {counts}", *lines])


def _losses(report: Report) -> str:
    rows = [
        [
            r["layout"], f"{r['batch']}", r["dtype"], r["way"], _range(r["replay_us"]),
            _percent(r["share_of_bound"]), _percent(r["share_of_copy_bandwidth"]),
            _range(r["wall_us"]), _launches(r["launches"]), _mib(r["peak_bytes"]), r["note"] or "",
        ]
        for r in report["kernels"]
    ]  # fmt: skip
    note = (
        "of bound: max(one empty kernel, least bytes / copy bandwidth) over the replay time; of "
        "copy: the second alone. Least bytes: q and targets in, gradient out."
    )
    head = ["layout", "B", "q", "way", "replay µs", "of bound", "of copy", "eager µs"]
    title = "Information loss, forward and backward"
    return _table(title, [*head, "launches", "peak MiB", "note"], rows) + f"\n{note}"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([title, *text[:1], "-" * len(text[0]), *text[1:]])


def _range(timing: Timing, digits: int = 1) -> str:
    if timing.median is None:
        return "–"
    return f"{timing.median:.{digits}f} ({timing.low:.{digits}f}–{timing.high:.{digits}f})"


def _percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _mib(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.2f}"


def _launches(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "–"
    more = [f"{n} {what}" for what, n in counts.items() if n and what not in ("kernels", "host")]
    return " + ".join([f"{counts['kernels']}", *more])


def _host(counts: dict[str, int] | None) -> str:
    return "–" if counts is None else f"{counts['host']}"


def draw_plot(report: Report, path: Path) -> None:
    """Replay and eager times of the loss by case, and the step's images/s."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(11, 13), layout="constrained")
    cases = list(dict.fromkeys(_case(r) for r in report["kernels"]))
    for axis, field, title in (
        (axes[0], "replay_us", "replayed CUDA graph, cold inputs: device µs"),
        (axes[1], "wall_us", "eager: host and device µs"),
    ):
        bars = {(_case(r), r["way"]): r[field] for r in report["kernels"]}
        _bars(axis, cases, bars)
        axis.set_title(f"Information loss, forward and backward, {title}")
        if any(timing.median is not None for timing in bars.values()):
            axis.set_yscale("log")
    floor = report["header"]["launch_floor_us"].median
    if floor is not None:
        axes[0].axhline(floor, color="black", linestyle=":", label="empty kernel")
        axes[0].legend()
    steps = {
        (f"B = {r['batch']}", f"{r['mode']}, {r['way']}"): r["images_per_s"] for r in report["step"]
    }
    _bars(axes[2], list(dict.fromkeys(case for case, _ in steps)), steps)
    axes[2].set_title("Training step: images/s")
    head = report["header"]
    figure.suptitle(
        "DRY RUN: nothing was measured" if report["dry_run"] else
        f"{head['device']}, torch {head['torch']}, triton {head['triton']}"
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _case(row: Report) -> str:
    return f"{row['layout']}\nB = {row['batch']}\n{row['dtype']}"


def _bars(axis: Any, cases: list[str], bars: dict[tuple[str, str], Timing]) -> None:
    ways = list(dict.fromkeys(way for _, way in bars))
    width = 0.8 / max(len(ways), 1)
    axis.set_prop_cycle(color=mpl.color_sequences["tab20" if len(ways) > 10 else "tab10"])
    for i, way in enumerate(ways):
        known = [(k, bars.get((case, way))) for k, case in enumerate(cases)]
        points = [(k, t) for k, t in known if t is not None and t.median is not None]
        axis.bar(
            [k + (i - (len(ways) - 1) / 2) * width for k, _ in points],
            [t.median for _, t in points],
            width,
            label=way,
            yerr=[
                [t.median - t.low for _, t in points],  # type: ignore[operator]
                [t.high - t.median for _, t in points],  # type: ignore[operator]
            ],
        )
    axis.set_xticks(range(len(cases)), cases, fontsize=8)
    if ways:
        axis.legend()
