"""The README's commands and code work as they stand there."""

from __future__ import annotations

import json
import re
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import commands_in
from PIL import Image

from fastinfogan.__main__ import main
from fastinfogan.config import to_yaml
from fastinfogan.evaluation import measure
from fastinfogan.presets import PRESETS
from fastinfogan.runs import checkpoint
from fastinfogan.runs.folder import RunDir
from fastinfogan.training.step import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_loss_example_runs_and_its_body_fits_in_twenty_lines() -> None:
    (example,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "InfoLoss" in b)
    namespace: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), namespace)
    lines = [line for line in example.splitlines() if line.strip()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert len(lines) - len(imports) <= 20


def test_the_example_of_load_gives_a_column_per_category(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "load(" in b)
    run = RunDir(tmp_path / "runs" / "mnist")
    run.make()
    config = PRESETS["mnist"]
    run.config.write_text(to_yaml(config))
    networks = build(config, config.spec())
    tensors = {
        f"{name}.{key}": value
        for name, module in zip(("generator_ema", "discriminator"), networks, strict=True)
        for key, value in module.state_dict().items()
    }
    checkpoint.save(run.checkpoints, 1, {"model": tensors}, {}, keep=1)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), namespace)
    assert namespace["images"].shape == (50, 1, 28, 28)


def test_ci_runs_the_first_two_commands_of_the_readme() -> None:
    """The first with fewer updates, into a folder of CI's own."""
    first, second = re.findall(r"^pip install .*'\.\[(?:train|dev)\]' && .*$", README, re.M)
    ci = (ROOT / ".ci" / "run").read_text().replace("pip install --quiet", "pip install")
    install, train = first.split(" && ")
    assert re.search(rf"^{re.escape(install)}\n{re.escape(train)} --steps \d+ --out ", ci, re.M)
    install, test = second.split(" && ")
    assert f"\n{install}\n" in ci
    assert f"\n{test}\n" in ci


def test_the_readme_has_its_sections_in_order() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "Why",
        "Install and quick start",
        "Your own pictures",
        "The loss in your GAN",
        "Results",
        "Speed",
        "Presets",
        "Several GPUs, several machines",
        "Status",
        "How it is built",
        "Contributing, citing, licence",
    ]


def test_results_and_speed_have_one_table_each_and_the_status_six_rows() -> None:
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
    for title in ("Results", "Speed", "Status"):
        assert len(re.findall(r"^\|[-|]+\|$", sections[title], re.MULTILINE)) == 1
    assert len(re.findall(r"^\|", sections["Status"], re.MULTILINE)) - 2 <= 6


def test_the_badges_are_true() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    python, licence, tests = re.findall(r"img\.shields\.io/badge/([^)]*)\)", README)
    assert python == f"python-{project['requires-python'].removeprefix('>=')}%2B-blue"
    assert licence == "licence-MIT-green"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert tests == "tests-.ci%2Frun-blue"
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_readme_has_at_most_900_words_outside_code_blocks() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.S)
    assert len(text.split()) <= 900


def test_the_readme_shows_how_to_train_evaluate_draw_and_explore() -> None:
    """That each can be parsed is tested in test_docs."""
    shown = {" ".join(words[:1]) for words in commands_in(README)}
    assert {"train", "evaluate", "sample", "explore", "data"} <= shown


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training takes two updates, an evaluation 2,000 images, and `pictures` holds noise."""
    monkeypatch.setattr(measure, "GENERATED", 2000)
    monkeypatch.setattr(measure, "MAX_REAL", 2000)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (64, 40, 48, 3))):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    blocks = re.findall(r"```bash\n.*?```", README, re.DOTALL)
    commands = [words for block in blocks for words in commands_in(block)]
    assert len(commands) == 6
    for words in commands:
        few = ["--steps", "2", "--batch-size", "8"] if words[0] == "train" else []
        assert main([*words, *few]) == 0
    assert (tmp_path / "explore.html").is_file()
    assert (tmp_path / "runs" / "mnist" / "eval.json").is_file()
    assert (tmp_path / "runs" / "own" / "eval.json").is_file()


# The figures, against their sources


def table_under(header: str) -> list[list[str]]:
    """Return the cells of the README's table whose first row begins with `header`."""
    start = README.index(f"\n| {header}") + 1
    lines = README[start:].split("\n\n")[0].splitlines()
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line]


@pytest.mark.parametrize("row", table_under("preset, seeds")[2:], ids=lambda row: row[0])
def test_the_table_of_presets_has_the_figures_of_the_record_of_runs(row: list[str]) -> None:
    name, seeds = row[0].replace("`", "").split(", ")
    lines = (ROOT / "docs" / "quality.jsonl").read_text("utf-8").splitlines()
    runs = [
        run
        for run in map(json.loads, lines)
        if run["name"] == name and run["updates"] == PRESETS[name].steps
    ]
    assert len({run["seed"] for run in runs}) == len(runs) == int(seeds)
    accuracies = [100 * run["result"]["code_accuracy"] for run in runs]
    middle, low, high = statistics.median(accuracies), min(accuracies), max(accuracies)
    assert row[1] == f"{middle:.1f} % ({low:.1f}–{high:.1f})"
    if name == "mnist":
        assert f"sort {low:.1f} to {high:.1f} % of MNIST's test digits" in README
    if row[2]:
        distances = [run["result"]["frechet"] for run in runs]
        middle, low, high = statistics.median(distances), min(distances), max(distances)
        assert row[2] == f"{middle:.1f} ({low:.1f}–{high:.1f})"
        assert f"real against real {runs[0]['result']['frechet_floor']:.1f}" in README


def test_the_minutes_of_the_first_run_follow_from_those_of_its_first_updates() -> None:
    """They are of runs of 1,000 updates: the rest is added at each run's own images/s."""
    lines = (ROOT / "docs" / "quality.jsonl").read_text("utf-8").splitlines()
    config, minutes = PRESETS["mnist"], []
    for run in map(json.loads, lines):
        if run["name"] == "mnist, first 1,000 updates" and run["seconds"]:
            rest = (config.steps - run["updates"]) * config.batch_size / run["images_per_second"]
            minutes.append((run["seconds"] + rest) / 60)
    assert len(minutes) == 9
    assert f"{config.steps:,} updates at batch 128, {statistics.median(minutes):.0f} minutes" in (
        " ".join(README.split())
    )


GPU = json.loads((ROOT / "benchmarks" / "results" / "nvidia-h200" / "report.json").read_text())
CPU = json.loads((ROOT / "benchmarks" / "results" / "amd-epyc" / "loss.json").read_text("utf-8"))
SPEEDS = {row[0]: row[1:] for row in table_under("| CPU:")[2:]}


@pytest.mark.parametrize(
    ("label", "way"),
    [
        ("loop, hand-written NLL (CPU: `exp`)", "eager, no sync"),
        ("plain loss, `torch.compile`d", "compiled"),
        ("ours**, one tensor (H200: Triton)", "triton"),
    ],
)
def test_the_table_of_speeds_has_the_figures_of_the_report_of_the_gpu(label: str, way: str) -> None:
    cases = (("mnist", 128), ("celeba", 128), ("mnist", 65536))
    assert SPEEDS[label][3:] == [
        f"{kernel['replay_us']['median']:.1f}"
        for layout, batch in cases
        for kernel in GPU["kernels"]
        if (kernel["layout"], kernel["batch"], kernel["way"], kernel["dtype"])
        == (layout, batch, way, "float32")
    ]


def test_the_table_of_speeds_has_the_figures_of_the_record_of_the_cpu() -> None:
    ways = {
        "loop, `F.gaussian_nll_loss`": "eager loop",
        "loop, hand-written NLL (CPU: `exp`)": "exp loop",
        "loop, `log_prob`": "log_prob loop",
        "cross entropy, MSE, one tensor": "CE + MSE",
        "cross entropy, MSE, separate heads": "CE + MSE, heads",
        "ours**, one tensor (H200: Triton)": "reference",
        "ours**, separate heads": "reference, heads",
    }
    expected = {
        name: [f"{case[way]:,}" for case in CPU["loss and gradient"].values()]
        for name, way in ways.items()
    }
    expected["latents: plain PyTorch, **ours"] = [
        f"{case['randn + randint + one_hot']}/{case['sample']}" for case in CPU["latents"].values()
    ]
    assert {name: row[:3] for name, row in SPEEDS.items() if any(row[:3])} == expected
    text = " ".join(README.split())
    assert f"torch {CPU['torch'].partition('+')[0]}), n = {CPU['n']} blocks in turns" in text


def test_the_headline_speeds_are_those_of_the_report_and_of_the_notes() -> None:
    (fastest,) = (
        step["images_per_s"]["median"]
        for step in GPU["step"]
        if (step["batch"], step["mode"], step["way"])
        == (128, "alternating", "compiled and captured")
    )
    assert f"{fastest // 1000 * 1000:,.0f} images/s on one H200" in README
    notes = (ROOT / "docs" / "notes" / "performance.md").read_text()
    rows = re.findall(r"^\| alternating, eager \|(.*)\|$", notes, re.MULTILINE)
    ratios = {cell.strip() for row in rows for cell in row.split("|")}
    text = " ".join(README.split())
    shown = re.search(r"Speed\*\*: ([\d.]+) times .* with bf16, ([\d.]+) times without", text)
    assert shown is not None
    assert set(shown.groups()) <= ratios


def test_the_speed_of_the_loss_on_a_cpu_is_that_of_the_table() -> None:
    loop, ours = (
        [float(cell.replace(",", "")) for cell in SPEEDS[name][:3]]
        for name in ("loop, `F.gaussian_nll_loss`", "ours**, one tensor (H200: Triton)")
    )
    ratios = [a / b for a, b in zip(loop, ours, strict=True)]
    assert f"{min(ratios):.1f} to {max(ratios):.1f} times as fast" in " ".join(README.split())
