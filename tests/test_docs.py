"""The documentation: code runs, commands exist, and the pages name what the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from helpers.commands import (
    blocks,
    check_command,
    check_other,
    commands_in,
    inline_lines_in,
    lines_in,
    runs_in,
)
from helpers.scripts import load_script

from fastinfogan.config import OPTIONS, TrainConfig, differences
from fastinfogan.data.specs import SPECS
from fastinfogan.errors import LostRank, NonFiniteLoss, UserError
from fastinfogan.evaluation.measure import QUALITY
from fastinfogan.latents import parse_codes
from fastinfogan.moved import KERNELS_MOVED, MOVED
from fastinfogan.parallel import Ranks
from fastinfogan.presets import PRESETS
from fastinfogan.training.metrics import Metrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "notes" not in page.parts)
COMMANDS = {
    f"{page.relative_to(ROOT)}: {' '.join(words)}": words
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)
    for words in commands_in(page.read_text())
}
CHECKED = ("pip", "python", "python3", "pytest")
OTHERS = {
    f"{page.relative_to(ROOT)}: {' '.join(words)}": words
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES)
    for words in (
        *lines_in(page.read_text()),
        *(line for line in inline_lines_in(page.read_text()) if line[0] in CHECKED),
    )
    if len(words) > 1 or words[0] in CHECKED
}
BLOCKS = [
    pytest.param(block, id=f"{page}-{i}")
    for page in (
        "embedding",
        "tutorials/semi-supervised",
        "explanation/randomness",
        "howto/extend",
    )
    for i, block in enumerate(blocks((DOCS / f"{page}.md").read_text(), "python"))
]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load_script(DOCS / "site_hooks.py")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_of_the_documentation_runs(block: str) -> None:
    exec(compile(block, "block", "exec"), {"__name__": __name__})


def test_the_loop_of_the_tutorial_on_the_loss_trains_both_networks() -> None:
    namespace: dict[str, object] = {}
    for block in blocks((DOCS / "tutorials" / "loss.md").read_text(), "python"):
        exec(compile(block, "loss.md", "exec"), namespace)
    for name in ("generator", "trunk", "q_head"):
        network = namespace[name]
        assert isinstance(network, torch.nn.Module)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_of_the_documentation_can_be_parsed(words: list[str]) -> None:
    check_command(words)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    (words,) = commands_in("```bash\nA=b fastinfogan train mnist --stepz 3 && ls\n```\n")
    with pytest.raises(SystemExit):
        check_command(words)


def conflicts_in(text: str) -> list[str]:
    """Return what has the second of two trainings in one folder refused."""
    first: dict[Path, tuple[int, TrainConfig]] = {}
    conflicts = []
    for ranks, config in runs_in(text):
        before, other = first.setdefault(config.run_dir, (ranks, config))
        changed = differences(other, config)
        if before != ranks:
            changed.append(f"ranks {before} -> {ranks}")
        if other.data.data != config.data.data:
            changed.append(f"--data {other.data.data} -> {config.data.data}")
        conflicts += [f"{config.run_dir}: {change}" for change in changed]
    return conflicts


# A reader of one of these pages has typed the commands of the README.
STEPS = [
    DOCS / folder / page.name
    for folder in ("tutorials", "howto")
    for page in sorted((DOCS / folder).glob("*.md"))
]


@pytest.mark.parametrize("page", STEPS, ids=lambda page: page.stem)
def test_no_command_of_a_page_is_refused_because_of_the_one_before(page: Path) -> None:
    assert conflicts_in((ROOT / "README.md").read_text() + "\n" + page.read_text()) == []


@pytest.mark.parametrize(
    ("line", "conflict"),
    [
        ("fastinfogan train mnist --noise 30", "--noise 62 -> 30"),
        ("fastinfogan train own --out runs/mnist", "--data mnist -> folder:data/own"),
        ("torchrun --nproc_per_node 2 -m fastinfogan.train", "ranks 1 -> 2"),
    ],
)
def test_a_second_run_in_a_folder_is_noticed(line: str, conflict: str) -> None:
    text = f"```bash\nfastinfogan train mnist\n{line}\n```\n"
    assert f"runs/mnist: {conflict}" in conflicts_in(text)
    assert conflicts_in("```bash\nfastinfogan train\nfastinfogan train --steps 9\n```\n") == []


@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_a_command_of_another_program_names_what_exists(words: list[str]) -> None:
    check_other(words)


@pytest.mark.parametrize(
    "line",
    [
        "pip install '.[trian]'",
        "pip install -c constraint.txt torch",
        "python benchmarks/none.py",
        "pytest tests/test_none.py",
        "pytest -m fast",
        "unknown-program --now",
    ],
)
def test_a_command_that_names_what_does_not_exist_is_noticed(line: str) -> None:
    (words,) = lines_in(f"```bash\n{line}\n```\n")
    with pytest.raises(AssertionError):
        check_other(words)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page(hooks: ModuleType) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    entries = set(re.findall(r"[\w/-]+\.md", str(config["nav"])))
    written = {page.relative_to(DOCS).as_posix() for page in PAGES if "assets" not in page.parts}
    assert entries == written | {
        "reference/command-line.md",
        "reference/moved.md",
        "reference/presets.md",
    }


def test_the_site_loads_no_fonts_or_scripts_from_other_hosts() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert yaml.safe_load(text)["theme"]["font"] is False
    assert "http" not in text


def test_the_page_of_the_command_line_has_every_option_with_its_bounds(hooks: ModuleType) -> None:
    page = "\n".join(hooks.group_tables())
    for name, item in OPTIONS.items():
        assert f"| `{'PRESET' if item.rule.positional else f'--{name}'}` |" in page
        if item.rule.help:
            assert item.rule.help.split(".")[0].replace("|", "\\|") in page
    assert "At least 1." in next(line for line in page.splitlines() if "`--keep`" in line)


def test_the_page_of_presets_has_each_with_its_reasons(hooks: ModuleType) -> None:
    page = hooks.presets()
    for name in PRESETS:
        assert f"## {name}\n" in page
        assert f"fastinfogan train {name}\n" in page


def test_the_page_and_the_changelog_list_every_name_that_moved(hooks: ModuleType) -> None:
    page = hooks.moved()
    changes = " ".join((ROOT / "CHANGELOG.md").read_text("utf-8").split())
    for old, new in {**MOVED, **KERNELS_MOVED}.items():
        assert f"| `{old}` | `{new}` |" in page
        short = [name.removeprefix("fastinfogan.") for name in (old, new)]
        assert f"`{short[0]}` → `{short[1]}`" in changes
    assert "| `--real-info` | `--invariance.weight` |" in page


def test_a_link_out_of_the_documentation_leads_to_a_copy_on_the_site(hooks: ModuleType) -> None:
    pages = hooks.repository_pages()
    assert "source/examples/dcgan_heads.py.md" in pages
    text = hooks.relinked("[x](../../examples/dcgan_heads.py)", "docs/howto/extend.md")
    assert text == "[x](../source/examples/dcgan_heads.py.md)"
    assert hooks.relinked("[x](results.md)", "docs/index.md") == "[x](results.md)"


@pytest.mark.parametrize("picture", sorted(DOCS.glob("*.png")), ids=lambda path: path.name)
def test_a_picture_is_small_shown_on_a_page_and_has_its_command(picture: Path) -> None:
    assert picture.stat().st_size <= 300_000
    shown = re.compile(rf"!\[[^\]]+\]\((?:\.\./)?{picture.name}\)")
    assert any(shown.search(page.read_text()) for page in PAGES)
    results = (DOCS / "results.md").read_text()
    table = results.partition("## How the pictures are made")[2]
    assert re.search(rf"\| [^|`]*\b{picture.name}\b[^|`]* \| `", table)


def test_the_curves_of_the_accuracy_are_those_of_the_record_of_runs(tmp_path: Path) -> None:
    pictures = load_script(DOCS / "pictures.py")
    record = tmp_path / "runs.jsonl"
    lines = [
        {"name": "a", "seed": 1, "accuracies": [[200, 0.5], [100, 0.25]]},
        {"name": "b", "seed": 0, "accuracies": [[100, 1.0]]},
        {"name": "a", "seed": 0, "accuracies": [[100, 0.75, 3.0]]},
    ]
    record.write_text("\n".join(map(json.dumps, lines)))
    assert pictures.curves(record, "a") == [[(100, 0.75)], [(100, 0.25), (200, 0.5)]]
    assert pictures.curves(tmp_path / "none.jsonl", "a") == []
    pictures.draw_accuracy({"a": pictures.curves(record, "a")}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("form", re.findall(r"[a-z][\w-]*(?=[,:]| or)", SPECS))
def test_the_page_of_data_forms_has_every_form(form: str) -> None:
    assert re.search(rf"`[^`]*\b{form}\b", (DOCS / "reference" / "data.md").read_text())


def test_the_page_of_the_run_folder_has_every_field_of_a_record(cpu_ranks) -> None:
    ranks: Ranks = cpu_ranks("no")
    spec = PRESETS["mnist"].with_options(codes="cat2").spec()
    assert spec.codes == parse_codes("cat2")
    metrics = Metrics(spec, ranks, ["vat"])
    metrics.count += 1
    page = (DOCS / "reference" / "run-folder.md").read_text()
    for field in metrics.record(1, 1, None):
        assert f"`{field}`" in page


def test_the_page_of_the_evaluation_has_every_figure_of_the_record_of_runs() -> None:
    lines = (DOCS / "quality.jsonl").read_text("utf-8").splitlines()
    figures = {name for line in lines for name in json.loads(line)["result"]}
    page = (DOCS / "evaluation.md").read_text()
    for name in figures | set(QUALITY):
        assert f"`{name.removesuffix('_floor')}`" in page


def test_the_page_of_exit_codes_has_every_code() -> None:
    rows = (DOCS / "reference" / "exit-codes.md").read_text()
    for error in (UserError, NonFiniteLoss, LostRank):
        assert f"\n| {error.exit_code} | " in rows
    assert "130, 143, 129" in rows
