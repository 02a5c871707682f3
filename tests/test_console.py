"""The console script teaches its commands, lists experiments and completes words."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.commands import check_command, commands_in, config_of

from fastinfogan import __main__
from fastinfogan.config import OPTIONS, TrainConfig
from fastinfogan.presets import PRESETS, table
from fastinfogan.presets.measured import MEASURED


def test_alone_it_names_every_command_with_an_example(capsys):
    assert __main__.main([]) == 0
    out = capsys.readouterr().out
    for name, (_, example) in __main__.COMMANDS.items():
        assert f"\n  {name} " in out
        assert f"fastinfogan {example}" in out
        assert example.startswith(name)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", [n for n in __main__.COMMANDS if n != "completion"])
def test_the_help_of_a_command_has_an_example_that_can_be_parsed(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(__main__.module_of(name)).main(["--help"])
    assert ended.value.code == 0
    help = " ".join(re.sub("[│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    config = TrainConfig if name == "train" else config_of(name)
    text = " ".join((config.__doc__ or "").split())
    assert text.partition("Example: ")[2] in help
    (words,) = commands_in(f"`{text.partition('Example: ')[2]}`")
    assert words[: len(name.split())] == name.split()
    check_command(words)


@pytest.mark.parametrize("name", [n for n in __main__.COMMANDS if n != "completion"])
def test_each_group_of_a_command_s_help_fits_on_a_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        import_module(__main__.module_of(name)).main(["--help"])
    title = r"(?m)^\W*(?:positional arguments|(?:[\w.]+ )?options)\W*$"
    boxes = re.split(title, capsys.readouterr().out)[1:]
    assert len(boxes) >= 2
    for box in boxes:
        lines = box.splitlines()
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["train", "evaluate", "sample", "explore", "export", "data check"])
def test_the_help_of_a_command_shows_no_default_that_is_no_value(name, capsys):
    with pytest.raises(SystemExit):
        import_module(__main__.module_of(name)).main(["--help"])
    help = capsys.readouterr().out
    assert "{None}" not in help
    assert "None)" not in help
    assert "default: ''" not in help


def test_completion_offers_options_and_no_positional_arguments():
    offered = {command: set(__main__.options_of(command)) for command in ("train", "save", "push")}
    assert "--preset" not in offered["train"]
    assert offered["save"] == {"--onnx", "--page"}
    assert offered["push"] == {"--private", "--onnx", "--space"}


def test_the_help_of_completion_has_an_example(capsys):
    assert __main__.main(["completion", "--help"]) == 0
    assert "usage: fastinfogan completion {bash,zsh,fish}" in (out := capsys.readouterr().out)
    assert 'Example: eval "$(fastinfogan completion bash)"' in out


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    assert __main__.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: expected one of train, evaluate")
    assert "got 'trian'" in error
    assert error.count("\n") == 1


def test_data_alone_says_which_command_there_is(capsys):
    assert __main__.main(["data", "folder:photos"]) == 2
    error = capsys.readouterr().err
    assert error == "error: expected `fastinfogan data check SPEC`, got 'data folder:photos'\n"
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["data", "--help"])
    assert "usage: fastinfogan data check" in capsys.readouterr().out


def test_ctrl_c_while_a_command_is_imported_is_one_line(capsys, monkeypatch):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "import_module", interrupt)
    monkeypatch.setattr(sys, "argv", ["fastinfogan", "train"])
    with pytest.raises(SystemExit, match="130"):
        __main__.entry()
    assert capsys.readouterr().err == "interrupted\n"


def test_presets_lists_each_experiment_on_a_line(capsys):
    assert __main__.main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(PRESETS)]] == list(PRESETS)
    mnist = next(line for line in lines if line.startswith("mnist "))
    assert "28×28" in mnist
    assert "cat10, 2 × uniform" in mnist
    assert f"{PRESETS['mnist'].steps:,}" in mnist


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_reasons_of_a_preset_name_no_option_that_moved(name):
    reasons = table.details(name).partition("Options that differ")[0]
    words = {word.strip("-") for code in re.findall("`([^`]+)`", reasons) for word in code.split()}
    kept = {"", "contrastive", "follow", "upright", "vat", "warp"}  # --warp, and names of terms
    moved = {item.rule.alias for item in OPTIONS.values()} - kept
    assert not {word.replace("_", "-") for word in words} & moved


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_shows_its_reasons_and_its_options(name):
    text = table.details(name)
    assert f"fastinfogan train {name}" in text
    assert name == "mnist" or f"preset: {name}" in text


def test_an_unknown_preset_is_refused_with_the_known_ones(capsys):
    assert __main__.main(["presets", "cifar"]) == 2
    assert "got 'cifar'" in capsys.readouterr().err


def test_completion_covers_every_command():
    script = __main__.completion("fish")
    for name in __main__.COMMANDS:
        assert f"__fish_seen_subcommand_from {name.split()[0]}'" in script
    assert "--steps" in __main__.options_of("train")
    assert __main__.options_of("track") == ["--with", "--project"]


@pytest.mark.parametrize("args", [[], ["tcsh"], ["bash", "zsh"]])
def test_a_shell_without_completion_is_refused(args, capsys):
    assert __main__.main(["completion", *args]) == 2
    assert "expected one shell of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_command_and_its_options():
    script = __main__.completion("bash")
    ask = """
    COMP_WORDS=(fastinfogan ev); COMP_CWORD=1; _fastinfogan; echo "${COMPREPLY[@]}"
    COMP_WORDS=(fastinfogan export --fu); COMP_CWORD=2; _fastinfogan; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script + ask], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["evaluate", "--full"]


def test_the_measured_figures_of_presets_are_those_of_the_record_of_runs():
    record = Path(__file__).parents[1] / "docs" / "quality.jsonl"
    runs = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    assert MEASURED.keys() <= PRESETS.keys()
    for name, config in PRESETS.items():
        own = [
            r
            for r in runs
            if (r["name"], r["updates"]) == (name, config.steps)
            and r["result"]["code_accuracy"] is not None  # of images without labels
        ]
        assert (name in MEASURED) == bool(own), name
        if own:
            seeds, accuracy, minutes = MEASURED[name]
            assert {run["threads"] for run in own} == {1}
            assert seeds == len({run["seed"] for run in own})
            scores = [run["result"]["code_accuracy"] for run in own]
            assert accuracy == (min(scores), max(scores))
            images = config.steps * config.batch_size
            times = [images / run["images_per_second"] / 60 for run in own]
            assert minutes == pytest.approx(statistics.median(times), abs=0.1)
            assert f"{minutes:.0f}  " in next(
                line for line in table.table().splitlines() if line.startswith(f"{name} ")
            )
