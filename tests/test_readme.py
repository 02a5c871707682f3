"""The README's commands and code work as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fastinfogan.__main__ import COMMANDS
from fastinfogan.cli import parse
from fastinfogan.config import to_yaml
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


def test_ci_runs_the_readmes_test_command() -> None:
    install, test = re.search(
        r"(pip install -c constraints\.txt -e '\.\[dev\]') && (pytest)\n", README
    ).groups()  # type: ignore[union-attr]
    ci = (ROOT / ".ci" / "run").read_text()
    assert install.replace("pip install", "pip install --quiet") in ci
    assert f"\n{test}\n" in ci


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_readme_has_at_most_900_words_outside_code_blocks() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.S)
    assert len(text.split()) <= 900


def test_every_command_of_the_readme_is_one_that_the_console_script_has() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    commands = re.findall(r"fastinfogan ((?:data check|\w+))", "\n".join(blocks))
    assert set(commands) <= set(COMMANDS)
    assert commands


def test_every_preset_and_option_of_the_readme_exists() -> None:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    for line in re.findall(r"-m fastinfogan\.train(.*)", blocks):
        parse(line.split())
