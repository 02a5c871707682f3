"""Commands in Markdown: found in code, and checked without being run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path

import tyro

from fastinfogan.__main__ import COMMANDS, SHELLS, module_of
from fastinfogan.cli import parse
from fastinfogan.config import TrainConfig
from fastinfogan.presets import PRESETS

_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)")
_ENDS = frozenset({"&&", "||", ";", "|", ">", ">>", "&"})
ROOT = Path(__file__).parents[2]
# Programs that the documentation calls, next to those whose arguments are checked here.
PROGRAMS = frozenset(
    {"accelerate", "apt-get", "cd", "fastinfogan", "git", "hf", "mkdocs", "mypy", "npm"}
    | {"pip-audit", "ruff", "source", "tensorboard", "torchrun", ".ci/run"}
)
PLACEHOLDERS = {"S": "0", "NAME": "mnist"}


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [m["code"] for m in _FENCED.finditer(text) if m["language"] == language]


def lines_in(text: str) -> list[list[str]]:
    """Return the words of each command line in bash blocks, without variables in front."""
    lines = [
        line
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if not line.lstrip().startswith("#")
    ]
    return [words for line in lines for words in _split(line)]


def inline_lines_in(text: str) -> list[list[str]]:
    """Return the words of each command line in inline code, of any code that can be split."""
    prose = _FENCED.sub("", text)
    inline = [" ".join(m["code"].split()) for m in _INLINE.finditer(prose)]
    return [words for code in inline for words in _split(code)]


def commands_in(text: str) -> list[list[str]]:
    """Return the words behind `fastinfogan` of each command in bash blocks and in inline code."""
    lines = [*lines_in(text), *inline_lines_in(text)]
    return [words for line in lines if (words := _of_package(line)) is not None]


def runs_in(text: str) -> list[tuple[int, TrainConfig]]:
    """Return the ranks and the configuration of each training that a page starts."""
    runs = []
    for line in (*lines_in(text), *inline_lines_in(text)):
        words = _of_package(line)
        if words is None or words[:1] != ["train"] or {"--help", "NAME", "…"} & set(words):
            continue
        counts = [
            int(line[line.index(option) + 1])
            for option in ("--nnodes", "--nproc_per_node", "--num_processes")
            if option in line
        ]
        runs.append((prod(counts), parse(words[1:])))
    return runs


def _split(line: str) -> Iterator[list[str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # not a command
        return
    while words:
        end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
        one, words = words[:end], words[end + 1 :]
        while one and re.fullmatch(r"[A-Z_]+=\S*", one[0]):
            one = one[1:]
        if one:
            yield one


def _of_package(words: list[str]) -> list[str] | None:
    if words[:1] == ["fastinfogan"]:
        return words[1:]
    if words[:1] in (["python"], ["accelerate"], ["torchrun"]) and "-m" in words:
        at = words.index("-m") + 1
        module, _, command = words[at].partition(".")
        if module == "fastinfogan":
            return [command.replace("_", " "), *words[at + 1 :]]
    return None


def check_other(words: Sequence[str]) -> None:
    """Raise AssertionError where a command of another program names what does not exist.

    pip: the constraints and the extras; python: the script or module; pytest: files and marks.
    """
    program, args = words[0], list(words[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    if program == "pip":
        for word in args:
            extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
            known = project["project"]["optional-dependencies"]
            assert extras is None or set(extras[1].split(",")) <= set(known), word
            assert not word.endswith(".txt") or (ROOT / word).is_file(), word
    elif program in ("python", "python3"):
        script = next((word for word in args if not word.startswith("-")), "")
        if "-m" in args:
            module = args[args.index("-m") + 1]
            assert find_spec(module.partition(".")[0]) is not None, module
        else:
            assert (ROOT / script).is_file(), script
    elif program == "pytest":
        marks = [
            mark.partition(":")[0] for mark in project["tool"]["pytest"]["ini_options"]["markers"]
        ]
        for option, word in zip(["", *args], args, strict=False):
            assert option != "-m" or word in marks, word
            path = word.partition("::")[0]
            assert "/" not in word or (ROOT / path).exists(), word
    else:
        assert program in PROGRAMS, program


def check_command(words: Sequence[str]) -> None:
    """Raise SystemExit or UserError where a command line cannot be parsed."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if words[:1] in ([], ["COMMAND"], ["--version"]) or "…" in " ".join(words):
        return
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    name, args = " ".join(words[:length]), list(words[length:])
    assert name in COMMANDS, name
    if not args or "--help" in args:
        return
    if name == "train":
        parse(args)
    elif name == "completion":
        assert set(args) <= {*SHELLS, "bash|zsh|fish"}
    elif name == "presets":
        assert set(args) <= {*PRESETS, "[mnist]", "[NAME]"}
    else:
        tyro.cli(config_of(name), args=args)


def config_of(command: str) -> type:
    """Return the dataclass of a command's options."""
    module = import_module(module_of(command))
    return next(
        value
        for name, value in vars(module).items()
        if name.endswith("Config") and value.__module__ == module.__name__
    )
