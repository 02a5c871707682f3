"""The figures on the pages of docs/, against their sources. tests/test_readme.py has README's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch
from helpers.scripts import load_script

from fastinfogan import parallel
from fastinfogan.config import TrainConfig
from fastinfogan.data import row_groups, sampler, streaming, workers
from fastinfogan.evaluation import features, known_factors, measure
from fastinfogan.presets import PRESETS, chairs
from fastinfogan.training.step import build

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MNIST, FIRST, PAPER = "mnist", "mnist, first 1,000 updates", "mnist-paper"
SPRITES = "dsprites-like, upright copies"
Rows = list[list[str]]


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / path).read_text("utf-8").splitlines()]


RECORD = lines("docs/quality.jsonl")
GPU = json.loads((ROOT / "benchmarks" / "results" / "nvidia-h200" / "report.json").read_text())


def runs(name: str) -> list[dict[str, Any]]:
    """Return the runs filed under a name, by their seeds."""
    return sorted((run for run in RECORD if run["name"] == name), key=lambda run: run["seed"])


@pytest.fixture(scope="module")
def quality() -> Any:
    """Return benchmarks/quality.py, which reads a figure off a record."""
    return load_script(ROOT / "benchmarks" / "quality.py")


# What is read off a run


def accuracy(run: dict[str, Any]) -> float:
    return float(run["result"]["code_accuracy"])


def frechet(run: dict[str, Any]) -> float:
    return float(run["result"]["frechet"])


def at(run: dict[str, Any], updates: int) -> float:
    """Return the code accuracy after so many updates."""
    return float(next(line[1] for line in run["accuracies"] if line[0] == updates))


def score(run: dict[str, Any], name: str) -> float:
    return float(run["result"]["disentanglement"][name])


def seconds_to_95(run: dict[str, Any]) -> float:
    """Return infinity where 95 % was not reached, and where it was not timed."""
    return float(run.get("seconds_to_0.95", float("inf")))


# How pages write it


def bare(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


def each(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


@cache
def text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def tables(page: str, header: str) -> Iterator[Rows]:
    """Yield the cells below each header row of a page that begins with these words."""
    for part in text(page).split(f"\n| {header}")[1:]:
        rows = part.split("\n\n")[0].splitlines()[2:]
        yield [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]


def assert_says(page: str, *phrases: str) -> None:
    words = " ".join(text(page).split())
    missing = [phrase for phrase in phrases if phrase not in words]
    assert not missing, f"docs/{page} does not say: {missing}"


# docs/results.md


def test_the_table_of_mnist_is_that_of_the_record(quality: Any) -> None:
    (table,) = (
        rows for rows in tables("results.md", "seed | code accuracy | NMI") if len(rows) > 9
    )
    expected = []
    for run in runs(MNIST):
        result = run["result"]
        expected.append(
            [
                str(run["seed"]),
                bare(accuracy(run), 4),
                bare(result["nmi"]),
                f"{frechet(run):.1f}",
                f"{result['obedience']:.4f}",
                bare(quality.value(run, "slant"), 2),
                bare(quality.value(run, "stroke_width"), 2),
                f"{run['updates_to_0.9']}, {run['updates_to_0.95']}",
                f"{run['peak_mib']:,.0f}",
            ]
        )
    assert table[:-1] == expected
    results = [run["result"] for run in runs(MNIST)]
    slant, width = (
        median(quality.value(run, name) for run in runs(MNIST))
        for name in ("slant", "stroke_width")
    )
    levels = [median(run[f"updates_to_{level}"] for run in runs(MNIST)) for level in (0.9, 0.95)]
    assert table[-1] == [
        "median",
        bare(median(result["code_accuracy"] for result in results), 4),
        bare(median(result["nmi"] for result in results)),
        f"{median(result['frechet'] for result in results):.1f}",
        f"{median(result['obedience'] for result in results):.4f}",
        bare(slant, 2),
        bare(width, 2),
        ", ".join(f"{level:.0f}" for level in levels),
        f"{median(run['peak_mib'] for run in runs(MNIST)):,.0f}",
    ]


def test_the_reached_part_of_mnist_s_targets_is_that_of_the_record(quality: Any) -> None:
    ten, paper = runs(MNIST), runs(PAPER)
    distances, others = [frechet(run) for run in ten], [frechet(run) for run in paper]
    same = distances[: len(others)]
    lower = sum(a < b for a, b in zip(same, others, strict=True))
    rhos = [min(quality.value(run, name) for run in ten) for name in ("slant", "stroke_width")]
    words = {2: "two", 3: "three", 4: "four"}
    assert_says(
        "results.md",
        f"median {percent(round(median(map(accuracy, ten)), 4), 2)} %, least "
        f"{percent(min(map(accuracy, ten)), 2)} %",
        f"({', '.join(f'{d:.1f}' for d in others)} for its seeds 0 to {len(others) - 1}: "
        f"mean {mean(others):.1f}, median {median(others):.1f})",
        f"{', '.join(f'{d:.1f}' for d in same)} for the same seeds: mean {mean(same):.1f}, "
        f"median {median(same):.1f}, lower in {words[lower]} of five; median of ten "
        f"{median(distances):.1f}, range {min(distances):.1f} to {max(distances):.1f}",
        f"{percent(min(run['result']['obedience'] for run in ten), 2)} % and more",
        f"all ten: {bare(rhos[0])} and more, {bare(rhos[1])} and more",
        f"the Fréchet distance is {ten[0]['result']['frechet_floor']:.1f}",
    )
    reached = {run["seed"]: run["updates_to_0.95"] for run in ten}
    assert_says(
        "results.md",
        f"seeds 5 and 9 were at 95 % after {reached[5]} and {reached[9]} updates",
        f"seed 3 separate between updates 1,000 and {reached[3]:,}",
    )


def test_today_s_targets_and_what_is_short_of_them_are_those_of_the_page_of_presets() -> None:
    page = text("experiments.md")
    bounds = {
        words: (bound, short)
        for words, bound, short in re.findall(
            r"\| ([^|]*?) [≥≤] ([\d.]+) \| [\d.]+: (?:short by ([\d.]+)|met)", page
        )
    }
    every, *_ = re.findall(r"\| code accuracy, every seed ≥ ([\d.]+) \|", page)
    middle = re.findall(r"\| code accuracy, median ≥ ([\d.]+) \| [\d.]+: short by ([\d.]+)", page)
    (mnist, mnist_short), (fashion, fashion_short) = [(float(a), float(b)) for a, b in middle]
    distance, far = bounds["Fréchet distance, median"]
    assert_says(
        "results.md",
        f"a median of {100 * mnist:.0f} %, every seed ≥ "
        f"{100 * float(every):.1f} %, and a median Fréchet "
        f"distance ≤ {distance}. The first is short by {bare(100 * mnist_short, 1)} points, the "
        f"last by {bare(float(far), 2)}",
        f"Today's, {100 * fashion:.0f} %, is short by {100 * fashion_short:.1f} points",
        f"| today's | {bare(float(bounds['FactorVAE, every seed'][0]), 2)} | "
        f"{bare(float(bounds['MIG, every seed'][0]), 1)} |",
    )


def test_each_section_names_the_updates_and_the_batch_of_its_preset() -> None:
    words = " ".join(text("results.md").split())
    command = r"train(?: ([\w-]+))?(?: --data \S+ --compile off)? --seed S`"
    named = re.findall(command + r" \(([\d,]+) updates at batch (\d+)", words)
    names = ["", PAPER, "fashion-mnist", "dsprites", "faces", "svhn", "chairs"]
    assert [name for name, *_ in named] == names
    for name, updates, batch in named:
        config = PRESETS[name or MNIST]
        assert (updates, batch) == (f"{config.steps:,}", str(config.batch_size))
    assert_says("results.md", f"`dsprites-paper` has {PRESETS['dsprites-paper'].steps:,} updates")


def test_the_first_updates_of_mnist_are_timed_as_the_record_has_them() -> None:
    first = runs(FIRST)
    ((to_90, to_95),) = tables("results.md", "seed | 0 | 1")
    for row, level in ((to_90, "0.9"), (to_95, "0.95")):
        cells = []
        for run in first:
            updates, took = run.get(f"updates_to_{level}"), run.get(f"seconds_to_{level}")
            cell = f"({updates} updates)" if updates else "later"
            cells.append(f"{took:.0f}" if took else cell)
        assert row[1:] == cells
    rates = [run["images_per_second"] for run in first]
    whole = []
    for run in first:
        if run["seconds"]:
            rest = (PRESETS[MNIST].steps - run["updates"]) * PRESETS[MNIST].batch_size
            whole.append((run["seconds"] + rest / run["images_per_second"]) / 60)
    assert len(whole) == 9
    ends = [f"{100 * accuracy(run):.0f}" for run in first]
    limit = f"median {median(map(seconds_to_95, first)):.0f} s at most; three seeds take more than"
    late = [seconds_to_95(run) for run in first if not run.get("updates_to_0.95")]
    assert len(late) == 3
    assert_says(
        "results.md",
        limit,
        f"The runs made {min(rates):.0f} to {max(rates):.0f} images/s",
        f"the median of ten is at most {median(map(seconds_to_95, first)):.0f} s",
        f"updates take {median(whole):.0f} minutes (median of nine)",
        f"At update 1,000 seeds 3, 5 and 9 are at {ends[3]}, {ends[5]} and {ends[9]} %",
    )
    assert_says("tutorials/mnist.md", f"were at {ends[5]} to {ends[9]} % then")
    low, high = (f(100 * accuracy(run) for run in first[:3]) for f in (min, max))
    assert_says("tutorials/mnist.md", f"Seeds 0, 1 and 2 were at {low:.0f} to {high:.0f} %")
    again = first[2]["updates_to_0.9"] * PRESETS[MNIST].batch_size
    textbook = float(next(tables("notes/performance.md", "| ms per update"))[0][2].split()[0])
    assert_says(
        "notes/performance.md",
        f"`mnist`, {min(rates):.0f} to {max(rates):.0f} images/s over its first 1,000 updates (ten "
        f"seeds, docs/results.md; other runs than the textbook's {textbook:.0f}, so "
        f"{min(rates) / textbook:.1f} to {max(rates) / textbook:.1f} is no more",
        f"The preset: {first[0]['seconds_to_0.9']:.0f} s, {first[1]['seconds_to_0.9']:.0f} s, and "
        f"{first[2]['updates_to_0.9']} updates of an interrupted run, some 105 s at its "
        f"{rates[2]:.0f} images/s",
    )
    assert again / rates[2] < 105  # start-up is in it too
    minutes = {round(run["seconds"] / 60) for run in first if run["seconds"]}
    assert minutes == {4}
    assert_says("tutorials/mnist.md", "with bf16, training took four minutes")


def test_other_runs_of_mnist_are_those_of_the_record() -> None:
    (gpu,) = runs("mnist, one H200")
    for day in ("25", "24"):
        old = runs(f"mnist of {day} November")
        (row,) = re.findall(rf"\n\| {day} November: .* \|(.*)\|(.*)\|\n", text("results.md"))
        assert row[0].strip() == f"{', '.join(percent(accuracy(run), 2) for run in old)} %"
        assert row[1].strip() == ", ".join(f"{frechet(run):.1f}" for run in old)
    assert_says(
        "results.md",
        f"seed 0 alone reached {percent(accuracy(gpu), 2)} %, NMI {bare(gpu['result']['nmi'])}, "
        f"Fréchet {frechet(gpu):.1f} and obedience {bare(gpu['result']['obedience'], 4)}",
        f"at 90 % after {gpu['updates_to_0.9']} updates, at 95 % after {gpu['updates_to_0.95']}",
    )


def test_the_table_of_the_paper_s_recipe_is_that_of_the_record(quality: Any) -> None:
    (table,) = (
        rows for rows in tables("results.md", "seed | code accuracy | NMI | Fréchet | obedience")
        if len(rows) == 6
    )  # fmt: skip
    values = []
    for run in runs(PAPER):
        result = run["result"]
        shares = [accuracy(run), result["nmi"], frechet(run), result["obedience"]]
        values.append([*shares, *(quality.value(run, name) for name in ("slant", "stroke_width"))])
    values.append([median(column) for column in zip(*values, strict=True)])
    for row, run in zip(table, runs(PAPER), strict=False):
        levels = [run.get(f"updates_to_{level}", "–") for level in (0.9, 0.95)]
        assert [row[0], row[7]] == [str(run["seed"]), f"{levels[0]}, {levels[1]}"]
    digits = (4, 3, 1, 3, 2, 2)
    for row, of in zip(table, values, strict=True):
        assert row[1:7] == [
            bare(value, n) if n > 1 else f"{value:.1f}" for value, n in zip(of, digits, strict=True)
        ]
    accuracies = [percent(accuracy(run)) for run in runs(PAPER)]
    for page in ("explanation/seeds.md", "notes/quality.md"):
        assert_says(page, f"seeds 0 to 4 end at {each(accuracies)} %")
    low, high = (f(run["result"]["information"]["c1_categorical"] for run in runs(PAPER))
                 for f in (min, max))  # fmt: skip
    assert_says("explanation/seeds.md", f"ends at {low:.2f} to {high:.2f} of log 10 = 2.30 nats")


def test_the_curves_of_accuracy_are_described_as_the_records_have_them() -> None:
    loop = [percent(run["accuracies"][-1][1]) for run in lines("docs/textbook.jsonl")]
    ends = {}
    for name in (PAPER, MNIST):
        after = [at(run, 1000) for run in runs(name)]
        ends[name] = f"{percent(min(after))} to {percent(max(after))} %"
    assert_says(
        "results.md",
        f"Its seeds 0 and 1 sort {each(loop)} % after 1,200 updates",
        f"sorts {ends[PAPER]} after 1,000, and `mnist` {ends[MNIST]}",
    )
    ratios = re.findall(r"\n\| alternating, eager \| [\d.]+ \|(?: [\d ()–]+ \|)? ([\d.]+) \|",
                        text("notes/performance.md"))  # fmt: skip
    assert_says(
        "results.md",
        f"is {ratios[1]} times as fast as one of the loop with bf16, {ratios[2]} times",
    )


def test_the_table_of_letters_is_that_of_the_record() -> None:
    header = "seed | code accuracy | NMI | ARI | purity | information c1 (nats)"
    (table,) = (rows for rows in tables("results.md", header))
    values = []
    of_letters = runs("EMNIST letters, 13,000 of them")
    for run in of_letters:
        result = run["result"]
        shares = [accuracy(run), *(result[key] for key in ("nmi", "ari", "purity"))]
        values.append([*shares, result["information_calibrated"]["c1_categorical"]])
    values.append([median(column) for column in zip(*values, strict=True)])
    seconds = [run["seconds"] for run in of_letters]
    seconds.append(median(s for s in seconds if s))
    for row, of, took in zip(table, values, seconds, strict=True):
        assert row[0] in ("median", str(table.index(row)))
        shown = [bare(of[0], 4), *(bare(value) for value in of[1:4]), f"{of[4]:.2f}"]
        assert row[1:] == [*shown, f"{took:,.0f}" if took else "–"]
    shares = [percent(accuracy(run)) for run in of_letters]
    assert_says("notes/quality.md", f"Seeds 1 and 2 end at {shares[1]} and {shares[2]} %")
    at_600 = [percent(dict(run["accuracies"])[600]) for run in of_letters]
    assert_says(
        "results.md",
        f"after 600 updates of D and Q alone it had {at_600[1]} %, the others {at_600[0]} and "
        f"{at_600[2]} %",
    )


def test_the_table_of_fashion_mnist_is_that_of_the_record() -> None:
    header = "seed | code accuracy | NMI | ARI | purity | Fréchet"
    (table,) = (rows for rows in tables("results.md", header))
    values = []
    for run in runs("fashion-mnist"):
        result = run["result"]
        shares = [accuracy(run), *(result[key] for key in ("nmi", "ari", "purity")), frechet(run)]
        values.append([*shares, result["information"]["c1_categorical"], run["peak_mib"]])
    values.append([median(column) for column in zip(*values, strict=True)])
    for row, of in zip(table, values, strict=True):
        shown = [bare(of[0], 4), *(bare(value) for value in of[1:4]), f"{of[4]:.1f}"]
        assert row[0] in ("median", str(table.index(row)))
        assert row[1:] == [*shown, f"{of[5]:.2f}", f"{of[6]:,.0f}"]
    old = runs("fashion-mnist, scale=0.2")
    ended = f"{each([percent(accuracy(run)) for run in old])} %"
    assert_says(
        "results.md",
        f"ended at {ended} for seeds 0 to 3 "
        f"(Fréchet {', '.join(f'{frechet(run):.1f}' for run in old)})",
        f"(real against real: {old[0]['result']['frechet_floor']:.1f})",
    )
    assert_says("notes/quality.md", f"after 4,000, {ended} (seeds 0 to 3)")
    scores = [accuracy(run) for run in runs("fashion-mnist")]
    assert_says(
        "notes/quality.md",
        f"five seeds end between {percent(min(scores))} and {percent(max(scores))} %, "
        f"median {percent(median(scores))} %",
    )


def sprites(run: dict[str, Any], digits: int) -> list[str]:
    """Return the cells of a run's row: its scores, and the share of shapes that are sorted."""
    scores = [bare(score(run, "factorvae")), bare(score(run, "mig"))]
    scores += [bare(score(run, "dci"), 2), bare(score(run, "sap"), 2)]
    shapes = run["result"]["code_accuracy"]
    return [
        *scores,
        f"{score(run, 'betavae'):.2f}".removeprefix("0"),
        "–" if shapes is None else f"{percent(shapes, digits)} %",
    ]


def test_the_tables_of_sprites_are_those_of_the_record() -> None:
    (on_gpu, as_shipped) = tables("results.md", "seed | FactorVAE")
    for row, run in zip(as_shipped, runs("dsprites"), strict=True):
        rate = f"{run['images_per_second']:.0f}"
        shown = [*sprites(run, 1), f"{run['updates']:,}", rate]
        assert row == [str(run["seed"]), *shown]
    nats = [run["result"]["information"]["c2_categorical"] for run in runs("dsprites")]
    assert_says("results.md", f"information in generated images is {bare(nats[0], 2)} of 1.10 nats")
    three = runs(f"{SPRITES} at 10, 6,000 updates, one H200")
    assert [row[1:] for row in on_gpu[:3]] == [sprites(run, 1) for run in three]
    assert [row[0] for row in on_gpu[:3]] == [str(run["seed"]) for run in three]
    nats = [run["result"]["information"]["c2_categorical"] for run in three]
    rate = median(run["images_per_second"] for run in three) / PRESETS["dsprites"].batch_size
    assert_says(
        "results.md",
        f"{bare(min(nats), 2)} to {bare(max(nats), 2)} of 1.10 nats",
        f"three runs next to each other at {rate:.0f} updates per second each",
    )
    (on_cpu,) = tables("results.md", "updates | seed | FactorVAE")
    expected = [
        sprites(run, 0)
        for name in (SPRITES, f"{SPRITES}, 3,000 updates", f"{SPRITES} at 10")
        for run in runs(name)
    ]
    upright = [float(row[0]) for row in expected]
    expected += [sprites(run, 0) for run in runs("dsprites-like, five followed")]
    assert [row[2:] for row in on_cpu] == expected
    short = [round(0.88 - value, 3) for value in upright if value < 0.88]
    assert (len(upright), len(short)) == (6, 4)
    assert_says(
        "results.md",
        "reaches .88 in two of six runs, and misses it by "
        f"{bare(min(short))} to {bare(max(short))} in the others",
    )


FACES = {
    "3,000, as the preset ships": "faces",
    "3,000, constant rates, no code follows a warp": (
        "faces, no code follows, 3,000 updates at constant rates"
    ),
    "6,000, no code follows a warp": "faces, no code follows, 6,000 updates",
}


def of_faces(run: dict[str, Any]) -> list[str]:
    """Return |ρ| of each factor's best code, and the mean of the matched ones."""
    factors = run["result"]["factors"].values()
    best = [bare(factor["correlation"]) for factor in factors]
    return [*best, bare(mean(factor["matched_correlation"] for factor in factors))]


def test_the_table_of_svhn_is_that_of_the_record() -> None:
    def cells(run: dict[str, Any]) -> list[float]:
        result = run["result"]
        nats = result["information_calibrated"]["c1_categorical"]
        return [accuracy(run), result["nmi"], nats, frechet(run), result["recall"]]

    def shown(values: Sequence[float]) -> list[str]:
        sorted_share, nmi, nats, distance, recall = values
        words = f"{nats:.2f}", f"{distance:.1f}"
        return [bare(sorted_share, 4), bare(nmi), *words, bare(recall, 2)]

    of_svhn = runs("svhn")
    (table,) = tables("results.md", "seed | code accuracy | NMI | information c1 (nats) | Fréchet")
    values = [cells(run) for run in of_svhn]
    expected = [[str(run["seed"]), *shown(row)] for run, row in zip(of_svhn, values, strict=True)]
    medians = [median(column) for column in zip(*values, strict=True)]
    assert table == [*expected, ["median", *shown(medians)]]
    floor = of_svhn[0]["result"]["frechet_floor"]
    assert_says("results.md", f"random features (real against real {floor:.1f}; the recipe")


def test_the_table_of_chairs_is_that_of_the_record() -> None:
    def row(run: dict[str, Any]) -> list[str]:
        result = run["result"]
        turned = result["factors"]["azimuth"]["codes"]["c1_categorical"]
        nats = result["information_calibrated"]["c1_categorical"]
        shown = [bare(result["rotation_fit"]), bare(turned), f"{nats:.2f}", f"{frechet(run):.1f}"]
        return [str(run["seed"]), *shown, bare(result["recall"], 2)]

    of_chairs = runs("chairs")
    (table,) = tables("results.md", "seed | R, all codes")
    assert [[cell.strip("*") for cell in line] for line in table] == [row(r) for r in of_chairs]
    result = of_chairs[0]["result"]
    widths = [bare(run["result"]["factors"]["width"]["correlation"]) for run in of_chairs]
    assert_says(
        "results.md",
        f"on the {result['images']['factors']:,} images of chairs that training never saw",
        f"Real against real the Fréchet distance is {result['frechet_floor']:.1f}, recall "
        f"{bare(result['recall_floor'], 2)}. Width is not found: {each(widths)} by the best code",
    )
    fixed = runs("chairs, Q's trunk fixed")
    assert [run["seed"] for run in fixed] == [0, 1, 2]
    assert {bare(run["result"]["recall"], 2) for run in fixed} == {".00"}
    assert_says(
        "results.md",
        f"R is {each([bare(run['result']['rotation_fit']) for run in fixed])} on seeds 0, 1 and 2",
        f"The Fréchet distance is {each([f'{frechet(run):.1f}' for run in fixed])}, recall .00",
    )


def test_the_table_of_faces_is_that_of_the_record() -> None:
    (table,) = tables("results.md", "updates | seed | azimuth")
    for row in table[:-1]:
        (run,) = (run for run in runs(FACES[row[0]]) if str(run["seed"]) == row[1])
        rhos = [cell.strip("*") for cell in row[2:7]]
        shown = [*rhos, *row[7:]]
        assert shown == [*of_faces(run), f"{frechet(run):.1f}", bare(run["result"]["recall"], 2)]
    assert {FACES[row[0]] for row in table[:-1]} == set(FACES.values())
    now, longer = runs("faces"), runs(FACES["6,000, no code follows a warp"])[0]
    floors = now[0]["result"]
    assert_says(
        "results.md",
        f"FactorVAE is {each([bare(score(run, 'factorvae')) for run in now])}, "
        f"MIG {each([bare(score(run, 'mig'), 2) for run in now])}; where no "
        f"code follows a warp they are {bare(score(longer, 'factorvae'))} and "
        f"{bare(score(longer, 'mig'), 2)} after 6,000 updates",
        f"the Fréchet distance is {floors['frechet_floor']:.1f} and recall "
        f"{bare(floors['recall_floor'], 2)}",
        f"off the {floors['images']['factors']} test images",
    )
    assert len([row for row in table[:-1] if FACES[row[0]] == "faces"]) == len(runs("faces"))
    (note, _) = tables("notes/faces.md", "updates | azimuth")
    for row in note:
        if row[0] in ("3,000", "6,000"):
            name = next(name for words, name in FACES.items()
                        if words.startswith(row[0]) and "no code" in words)  # fmt: skip
            assert row[1:] == of_faces(runs(name)[0])


def test_the_table_of_elevation_is_that_of_the_record() -> None:
    names = {
        "as it ships": "faces-elevation",
        "with `--q-trunk shared`": "faces-elevation, a shared trunk",
        "with `--q-trunk own`": "faces-elevation, a trunk for Q",
        "before": "faces-elevation, no aside, 1,500 updates",
    }
    expected = []
    for words, name in names.items():
        for run in runs(name):
            scores = bare(score(run, "factorvae")), bare(score(run, "mig"), 2)
            images = f"{frechet(run):.1f}", bare(run["result"]["recall"], 2)
            expected.append([words, str(run["seed"]), *of_faces(run)[:-1], *scores, *images])
    (table,) = tables("results.md", "recipe | seed | azimuth")
    assert [[cell.strip("*") for cell in row] for row in table] == expected
    (own,) = runs(names["with `--q-trunk own`"])
    fixed, shared = (runs(names[words])[0] for words in ("as it ships", "with `--q-trunk shared`"))
    assert fixed["seed"] == shared["seed"]
    distances = f"{frechet(fixed):.1f} in place of {frechet(shared):.1f}"
    recalls = [bare(run["result"]["recall"], 2) for run in (fixed, shared)]
    assert_says(
        "results.md",
        f"{of_faces(fixed)[1]} at the end (seed {fixed['seed']})",
        f"it wears down to {of_faces(own)[1]}",
        f"Fréchet distance {distances}, recall {' in place of '.join(recalls)}",
    )


# The other pages


def test_the_tables_of_the_shared_step_are_those_of_the_record() -> None:
    page = "notes/performance.md"
    (first,) = tables(page, "seeds 0, 1, 2 | alternating")
    names = (FIRST, "mnist, shared step, first 1,000 updates")
    for row in first:
        key, cells = row[0], []
        for name in names:
            three = runs(name)[:3]
            if level := re.fullmatch(r"(updates|seconds) to (0\.9|0\.95)0?", key):
                values = [run.get(f"{level[1]}_to_{level[2]}") for run in three]
                cells.append(", ".join("–" if v is None else f"{v:.0f}" for v in values))
            elif key.startswith("accuracy"):
                cells.append(", ".join(f"{accuracy(run) + 1e-9:.3f}" for run in three))
            elif key.startswith("Fréchet"):
                cells.append(", ".join(f"{frechet(run):.1f}" for run in three))
            else:
                cells.append(", ".join(f"{run['images_per_second']:.0f}" for run in three))
        assert row[1:] == cells, key
    (full,) = tables(page, "seed | 0 | 1 | 2 | 3 | 4 | 5 | 6 | median")
    shared = runs("mnist, shared step")
    both = [runs(MNIST)[: len(shared)], shared]
    expected = [
        *([run[f"updates_to_{level}"] for run in way] for level in (0.9, 0.95) for way in both),
        *([round(accuracy(run), 4) for run in way] for way in both),
        *([frechet(run) for run in way] for way in both),
        [run["result"]["obedience"] for run in shared],
    ]
    for row, values in zip(full, expected, strict=True):
        for cell, value in zip(row[1:], [*values, median(values)], strict=True):
            digits = len(cell.partition(".")[2])
            assert cell == (bare(value, digits) if cell[0] == "." else f"{value:.{digits}f}"), row
    distances = [[frechet(run) for run in way] for way in both]
    further = sum(b > a for a, b in zip(*distances, strict=True))
    assert (further, len(shared)) == (6, 7)
    assert_says("howto/trouble.md", "further from the real ones in six seeds of seven")
    assert_says(
        page,
        f"a Fréchet distance of {median(distances[1]):.1f} at the median (mean "
        f"{mean(distances[1]):.1f}) over these seeds, {median(distances[0]):.1f} "
        f"({mean(distances[0]):.1f}) with the alternating step",
    )
    paper, preset = ([frechet(run) for run in runs(name)] for name in (PAPER, MNIST))
    assert_says(
        page,
        f"The paper's recipe has {median(paper):.1f} ({mean(paper):.1f}) over its five, the preset "
        f"{median(preset):.1f} ({mean(preset):.1f}) over its ten",
    )


def test_the_table_of_the_literature_s_remedies_is_that_of_the_record() -> None:
    (table,) = tables("notes/quality.md", "`mnist-paper` with")
    for row in table:
        option = re.fullmatch(r"`(--.*)`", row[0])
        if option:
            name = f"{PAPER} {option[1]}, 1,000 updates"
        elif row[0] == "nothing":
            name = PAPER
        elif row[0].startswith("our recipe"):
            name = FIRST
        else:
            continue
        three = runs(name)[:3]
        after = [at(run, 1000) for run in three]
        assert row[1:5] == [bare(value + 1e-9) for value in (*after, mean(after))]
        if name != PAPER:
            assert row[5] == ", ".join(f"{frechet(run):.1f}" for run in three)


def test_the_note_on_codes_repeats_the_scores_of_the_record() -> None:
    days = [runs(f"mnist of {day} November") for day in (24, 25)]
    (old, new) = ([percent(accuracy(run), 2) for run in day] for day in days)
    (far, near) = ([f"{frechet(run):.1f}" for run in day] for day in days)
    followed, tenth = (
        runs(name)[0]
        for name in ("dsprites-like, five followed", f"{SPRITES}, a tenth of the image")
    )
    heavy = runs(f"{SPRITES} at 10")
    on_gpu = [bare(score(run, "factorvae"))
              for run in runs(f"{SPRITES} at 10, 6,000 updates, one H200")]  # fmt: skip
    names = ("dci", "sap", "betavae")
    others = [f"{label} {bare(score(followed, name), 2)}"
              for label, name in zip(("DCI", "SAP", "BetaVAE"), names, strict=True)]  # fmt: skip
    assert_says(
        "notes/quality.md",
        f"reached {each(old)} % with seeds 0 and 1",
        f"took seed 0 from {old[0]} to {new[0]} %, its Fréchet distance from {far[0]} to "
        f"{near[0]}; seed 1 from {old[1]} to {new[1]} % and from {far[1]} to {near[1]}",
        f"**MIG {bare(score(followed, 'mig'))}, FactorVAE {bare(score(followed, 'factorvae'))}**, "
        + ", ".join(others),
        f"{percent(accuracy(tenth), 0)} % of the shapes, "
        f"FactorVAE {bare(score(tenth, 'factorvae'))}, MIG {bare(score(tenth, 'mig'))}",
        f"FactorVAE {', '.join(on_gpu)}, MIG .51",
        f"gave {each([bare(score(run, 'factorvae')) for run in heavy])} (seeds 0, 1; "
        f"{each([percent(accuracy(run), 0) for run in heavy])} % of the shapes)",
    )


def test_all_seeds_of_mnist_lie_where_the_pages_say() -> None:
    scores = [accuracy(run) for run in runs(MNIST)]
    between = f"between {percent(min(scores))} and {percent(max(scores))} %"
    assert_says("tutorials/mnist.md", between)
    assert_says("explanation/seeds.md", between)


STEPS = {
    "eager, loss and sampler in plain PyTorch": ("alternating", "PyTorch loss and sampler"),
    "eager, loss in plain PyTorch": ("alternating", "PyTorch loss"),
    "eager": ("alternating", "eager"),
    "captured": ("alternating", "captured"),
    "compiled": ("alternating", "compiled"),
    "compiled and captured": ("alternating", "compiled and captured"),
    "shared, compiled and captured": ("shared", "compiled and captured"),
    "reused, captured (compiled it is the alternating one)": ("reused", "captured"),
}


def test_the_rates_on_a_gpu_are_those_of_its_report() -> None:
    (table,) = tables("notes/performance.md", "alternating step, images/s")
    shown = {row[0]: row[1:] for row in table}
    for label, (mode, way) in STEPS.items():
        rates = {
            step["batch"]: f"{step['images_per_s']['median']:,.0f}"
            for step in GPU["step"]
            if (step["mode"], step["way"]) == (mode, way)
        }
        assert shown[label] == [rates[batch] for batch in (128, 1024, 4096)]
    assert len(shown) == len(STEPS) + 1  # and the utilisation


LAYOUTS = {
    "Cat10 + 2 U, B = 128": ("mnist", 128),
    "4 Cat10 + 4 U, B = 128": ("svhn", 128),
    "10 Cat10, B = 128": ("celeba", 128),
    "Cat10 + 2 U, B = 65,536": ("mnist", 65536),
    "10 Cat10, B = 65,536": ("celeba", 65536),
}
WAYS = ("eager loop", "eager, no sync", "reference", "compiled", "triton")


def test_the_times_of_the_loss_on_a_gpu_are_those_of_its_report() -> None:
    (table,) = tables("notes/performance.md", "µs of the device, fp32")
    shown = {row[0]: row[1:] for row in table}
    times = {(k["layout"], k["batch"], k["way"]): k["replay_us"] for k in GPU["kernels"]}
    for label, case in LAYOUTS.items():
        cells = []
        for way in WAYS:
            known = times.get((*case, way))  # without a median: the way waits for the device
            us = known and known["median"]
            cells.append("–" if known is None else "waits" if us is None else f"{us:,.1f}")
        assert shown[label] == cells
    us = {way: times["mnist", 128, way]["median"] for way in WAYS[1:]}
    assert_says(
        "explanation/kernels.md",
        f"{us['triton']:.1f} µs for MNIST's loss and gradient at B = 128, where a loop without a "
        f"sync takes {us['eager, no sync']:.1f} µs and the compiled plain loss "
        f"{us['compiled']:.1f} µs",
    )


def test_the_gains_on_a_gpu_are_those_of_both_reports() -> None:
    path = ROOT / "benchmarks" / "results" / "nvidia-h200" / "first.json"
    rates = [
        {
            step["way"]: f"{step['images_per_s']['median']:,.0f}"
            for step in report["step"]
            if (step["batch"], step["mode"]) == (128, "alternating")
        }
        for report in (json.loads(path.read_text("utf-8")), GPU)
    ]
    both = [rate["compiled and captured"] for rate in rates]
    alone = [rate["captured"] for rate in rates]
    assert_says(
        "notes/performance.md",
        f"B = 128, {both[0]} → {both[1]} images/s",
        f"captured alone was {alone[0]} and {alone[1]}",
    )


def test_ratios_and_rates_of_the_step_on_a_cpu_follow_from_its_times() -> None:
    rows = [row for table in tables("notes/performance.md", "| ms per update") for row in table]
    assert len(rows) == 12
    for row in rows:
        ms, ratio = float(row[1]), float(next(cell for cell in row[2:] if cell[1:2] == "."))
        if row[0].startswith("textbook"):
            textbook = ms
        assert ratio == pytest.approx(textbook / ms, abs=0.02)
        if "(" in row[2]:
            assert float(row[2].split()[0]) == pytest.approx(128e3 / ms, abs=1)


def test_counts_of_the_networks_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from attainable import model_flop

    flop = {
        step: f"{model_flop(PRESETS[PAPER].with_options(step=step)) / 1e6:.0f}"
        for step in ("alternating", "reused", "shared")
    }
    assert_says(
        "notes/performance.md",
        f"the model's FLOP ({flop['alternating']} and {flop['shared']} MFLOP an image",
        f"G's images made once ({flop['reused']} MFLOP)",
        f"{flop['shared']} MFLOP an image instead of {flop['alternating']}",
    )
    shares = []
    for side in (28, 64):
        config = PRESETS[MNIST].with_options(image_size=side)
        with torch.device("meta"):
            networks = build(config, config.spec())
        sizes = [p.numel() for network in networks for p in network.parameters()]
        shares.append(f"{100 * sum(sorted(sizes)[-2:]) / sum(sizes):.0f} %")
    assert_says(
        "notes/growth.md", f"they are {shares[0]} of the parameters at 28 and {shares[1]} at 64"
    )


def minutes(limit: timedelta) -> str:
    return f"{limit.total_seconds() / 60:.0f}"


def test_limits_on_the_pages_are_those_of_the_code() -> None:
    assert_says(
        "evaluation.md",
        f"up to {measure.MAX_REAL:,} test images, evenly spaced, and at {measure.GENERATED:,}",
        f"takes {measure.MIN_IMAGES:,} test images",
        f"takes {measure.MIN_RANDOM} test images for the Fréchet distance and "
        f"{measure.MIN_NEIGHBOURS} for the rest",
        f"B up to {features.CHUNK}",
        f"off {measure.RENDERED:,} images of random factors",
        f"two factors that vary, and {known_factors.MIN_SCORED} images",
        f"at most {known_factors.MAX_VALUES} values",
    )
    assert_says("reference/run-folder.md", f"up to {measure.WATCHED:,} test images")
    lost = [minutes(limit) for limit in (parallel.DEVICE_TIMEOUT, parallel.HOST_TIMEOUT)]
    assert_says(
        "howto/ranks.md",
        f"a silent one after {lost[0]} minutes ({lost[1]} while rank 0 evaluates)",
        f"after {minutes(parallel.JOIN_TIMEOUT)} minutes of waiting",
    )
    assert_says(
        "reference/exit-codes.md",
        f"after {lost[0]} minutes without an answer; {lost[1]} where ranks wait",
        f"each prints one line after {minutes(parallel.JOIN_TIMEOUT)} minutes",
    )
    assert_says(
        "howto/large-sets.md",
        f"over {streaming.MAX_RESIDENT / 2**30:.0f} GiB decoded, or over a quarter",
        f"Above {streaming.MAX_HASHED / 2**20:.0f} MiB the checksum covers its shape and "
        f"{streaming.SAMPLE:,} evenly spaced images",
        f"a window of {sampler.WINDOW_BYTES / 2**20:.0f} MiB of encoded images",
        f"two windows: {2 * sampler.WINDOW_BYTES / 2**20:.0f} MiB",
        f"row groups of it with {row_groups.TEST_IMAGES:,} images",
    )
    assert (streaming.SHARE_RESIDENT, sampler.MIN_GROUPS, workers.MAX_WORKERS) == (0.25, 4, 8)
    assert_says("howto/resume.md", f"every {TrainConfig().logging.checkpoint_every:,} updates")
    assert_says("tutorials/mnist.md", f"one line per {TrainConfig().logging.log_every} updates")


def test_pages_repeat_the_figures_of_notes_as_they_are() -> None:
    ranks = [row[-1].split()[0] for table in tables("notes/scaling.md", "| weights after")
             for row in table]  # fmt: skip
    (model,) = tables("notes/scaling.md", "fabric | GPUs")
    nvlink = next(row for row in model if row[:2] == ["NVLink, 8×400 Gb/s between nodes", "8"])
    assert_says(
        "explanation/data-parallelism.md",
        f"{ranks[0]} ms per update against {ranks[1]} with DDP and {ranks[2]} with a tuned DDP",
        f"at {nvlink[3]} of perfect scaling at B = 128 per rank, and at {nvlink[5]} at B = 2,048",
    )
    (files,) = tables("notes/streaming.md", "file | n")
    ratios = [row[-1].split()[0] for row in files]
    assert_says(
        "howto/large-sets.md",
        f"the streamed speed was {min(ratios)} to {max(ratios)} times the resident one",
        "it was 0.90 to 0.91 times",
    )
    assert_says("notes/streaming.md", "26 November: 0.91 and 0.90 of the resident speed")
    tables_of_starts = tables("notes/quality.md", "objective, 10 categories")
    after_400 = {row[0]: [int(n) for n in re.findall(r"\d+(?=,| %)", row[3])]
                 for rows in tables_of_starts for row in rows}  # fmt: skip
    without, started = (
        after_400[objective]
        for objective in ("mutual information, weights from N(0, 0.02)", "logits × 10, entropy × 2")
    )
    assert_says(
        "explanation/seeds.md",
        f"D and Q alone stood at {min(without)} to {max(without)} % after 400 updates; with them "
        f"at {min(started)} to {max(started)} %",
    )


def test_the_images_after_which_compiling_pays_follow_from_the_rates_on_a_gpu() -> None:
    rate = {
        (step["batch"], step["way"]): step["images_per_s"]["median"]
        for step in GPU["step"]
        if step["mode"] == "alternating"
    }
    saved = {
        batch: 1 / rate[batch, "captured"] - 1 / rate[batch, "compiled and captured"]
        for batch in (128, 1024, 4096)
    }
    few, some = (round(s / saved[128] / 1e6) for s in (30, 40))
    least, most = round(30 / saved[1024] / 1e6), round(40 / saved[4096] / 1e6)
    us = [f"{1e6 * s:.1f}" for s in saved.values()]
    assert_says(
        "notes/performance.md",
        f"after {few} to {some} million images at B = 128 ({us[0]} µs per image), "
        f"{least} to {most} million at 1,024 and 4,096 ({us[1]} and {us[2]} µs)",
    )
    assert_says("howto/compile.md", f"has back after {few} to {most} million images")


def test_the_chairs_take_the_time_that_the_page_of_presets_has() -> None:
    minutes = {line["preset"]: line["minutes"] for line in lines("docs/preset-times.jsonl")}
    words = " ".join((chairs.__doc__ or "").split())
    assert f"30,000 updates take {minutes['chairs-paper'] / 60:.0f} hours" in words
    assert f"which take {minutes['chairs']:.0f} minutes" in words
