"""Commands of this package in Markdown: found in code, and parsed without being run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from importlib import import_module

import tyro

from fastinfogan.__main__ import COMMANDS, SHELLS, module_of
from fastinfogan.cli import parse
from fastinfogan.presets import PRESETS

_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)")
_ENDS = frozenset({"&&", "||", ";", "|", ">", ">>", "&"})
PLACEHOLDERS = {"S": "0", "NAME": "mnist"}


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [m["code"] for m in _FENCED.finditer(text) if m["language"] == language]


def commands_in(text: str) -> list[list[str]]:
    """Return the words behind `fastinfogan` of each command in bash blocks and in inline code."""
    prose = _FENCED.sub("", text)
    inline = [" ".join(m["code"].split()) for m in _INLINE.finditer(prose)]
    lines = [
        line
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if not line.lstrip().startswith("#")
    ]
    candidates = [*lines, *(code for code in inline if "fastinfogan" in code)]
    return [words for line in candidates for words in _of_line(line)]


def _of_line(line: str) -> Iterator[list[str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # not a command
        return
    while words:
        end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
        one, words = words[:end], words[end + 1 :]
        while one and re.fullmatch(r"[A-Z_]+=\S*", one[0]):
            one = one[1:]
        if one[:1] == ["fastinfogan"]:
            yield one[1:]
        elif one[:1] in (["python"], ["accelerate"], ["torchrun"]) and "-m" in one:
            at = one.index("-m") + 1
            module, _, command = one[at].partition(".")
            if module == "fastinfogan":
                yield [command.replace("_", " "), *one[at + 1 :]]


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
