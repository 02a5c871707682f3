"""A model of data parallelism's cost on many GPUs: `python profiling/scaling_model.py`.

A model, not a measurement: prints the tables of docs/notes/scaling.md from the constants below.
Every rank has its own batch of B images, and N ranks should take no longer than one:

    efficiency(B) = step(B) / (step(B) + exposed_D(B) + exposed_G)

step(B) is one GPU's, measured and put on a line; G's all-reduce is exposed whole, D's as far as
G's latents, which are drawn next to it, take less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastinfogan.presets import PRESETS
from fastinfogan.training.step import build

# Measured on an H200, mnist-paper, alternating, compiled and captured (benchmarks/results): 0.864,
# 1.976 and 5.468 ms at B = 128, 1024 and 4096. A line through the outer two is 4 % low at 1024.
FLOOR = 0.715e-3  # s a step that does not shrink with B
IMAGE = 1.16e-6  # s an image
LATENTS = 4e-6  # s: the sampler's launch
# All below is assumed.
BASE = 15e-6  # s: launching a collective, and its first and last copy
GPUS_A_NODE = 8
BYTES = 4  # of a gradient: fp32


@dataclass(frozen=True)
class Link:
    """One GPU's or node's way to its neighbour."""

    bandwidth: float  # B/s in each direction, as it arrives
    latency: float  # s a message


NVLINK = Link(0.8 * 450e9, 1e-6)  # H100, through NVSwitch
RAIL = Link(0.8 * 400e9 / 8, 5e-6)  # 400 Gb/s a GPU: InfiniBand, or Ethernet with RDMA
ETHERNET = Link(0.8 * 100e9 / 8, 30e-6)  # 100 Gb/s a node: TCP

SIZES = (8, 64, 512)
BATCHES = (128, 512, 2048, 8192)


def all_reduce(size: float, ranks: int, link: Link) -> float:
    """Return seconds for `size` bytes: the better of a ring and a double binary tree."""
    if ranks == 1:
        return 0.0
    ring = 2 * (ranks - 1) * link.latency + 2 * (ranks - 1) / ranks * size / link.bandwidth
    tree = 2 * math.ceil(math.log2(ranks)) * link.latency + 2 * size / link.bandwidth
    return min(ring, tree)


def in_nodes(size: float, gpus: int, link: Link, ways: int) -> float:
    """Return seconds in nodes of eight: NVLink within a node, an all-reduce between nodes.

    `ways`: network cards a node, each of which carries its share.
    """
    within = all_reduce(size, min(gpus, GPUS_A_NODE), NVLINK)
    return BASE + within + all_reduce(size / ways, max(gpus // GPUS_A_NODE, 1), link)


ETHERNET_BETWEEN = "NVLink, 100 Gb/s Ethernet between nodes"
FABRICS = {
    "NVLink, 8×400 Gb/s between nodes": lambda size, n: in_nodes(size, n, RAIL, GPUS_A_NODE),
    ETHERNET_BETWEEN: lambda size, n: in_nodes(size, n, ETHERNET, 1),
    "100 Gb/s Ethernet, one GPU a node": lambda size, n: BASE + all_reduce(size, n, ETHERNET),
}


def step(batch: float) -> float:
    """Return seconds of one rank's update without others."""
    return FLOOR + batch * IMAGE


def efficiency(batch: float, d: float, g: float) -> float:
    """Return the efficiency of N ranks, at `batch` per rank and all-reduces of d and g seconds."""
    return step(batch) / (step(batch) + max(d - LATENTS, 0) + g)


def batch_for(speed: float, d: float, g: float) -> int:
    """Return the smallest batch per rank whose efficiency reaches `wanted`."""
    low, high = 0, 2**30
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if efficiency(middle, d, g) >= speed else (middle, high)
    return high


def parameters() -> tuple[int, int]:
    """Return the parameters of D with Q and of G, counted in the mnist preset's networks."""
    config = PRESETS["mnist-paper"]
    networks = build(config, config.spec())
    d, g = networks.split(config.information.routing)
    return sum(p.numel() for p in d), sum(p.numel() for p in g)


def tables() -> str:
    """Return the tables of docs/notes/scaling.md, in Markdown."""
    d_count, g_count = parameters()
    d_bytes, g_bytes = BYTES * d_count, BYTES * g_count
    lines = [
        "| player | parameters | bytes averaged per update |",
        "|---|---|---|",
        f"| D with Q | {d_count:,} | {d_bytes:,} |",
        f"| G | {g_count:,} | {g_bytes:,} |",
        f"| both | {d_count + g_count:,} | {d_bytes + g_bytes:,} |",
        "",
        "| fabric | GPUs | D's + G's all-reduce, ms | "
        + " | ".join(f"B = {b:,}" for b in BATCHES)
        + " | B for 90 % |",
        "|---|---|---|" + "---|" * (len(BATCHES) + 1),
        "| step of one GPU, ms | 1 | 0 | "
        + " | ".join(f"{step(b) * 1e3:.2f}" for b in BATCHES)
        + " | |",
    ]
    for name, seconds in FABRICS.items():
        for n in SIZES if name != ETHERNET_BETWEEN else SIZES[1:]:  # 8 are one node, as above
            d, g = seconds(d_bytes, n), seconds(g_bytes, n)
            cells = " | ".join(f"{efficiency(b, d, g):.0%}".replace("%", " %") for b in BATCHES)
            needed = batch_for(0.9, d, g)
            unit = 10 ** max(len(str(needed)) - 2, 0)  # the assumptions carry two digits
            batch = math.ceil(needed / unit) * unit
            lines.append(f"| {name} | {n} | {(d + g) * 1e3:.2f} | {cells} | {batch:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
