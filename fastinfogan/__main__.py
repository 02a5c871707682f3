"""The console script: `fastinfogan COMMAND …`."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from importlib import import_module

from .console import prepare, say
from .errors import INTERRUPTED
from .requirements import require_trainer
from .training.openmp import spin_briefly

SHELLS = ("bash", "zsh", "fish")
_POSITIONAL = re.compile("Positional|RunFolder")  # types of arguments without a name
# command: (purpose, an example)
COMMANDS = {
    "train": ("train an InfoGAN, or go on with a run", "train mnist"),
    "evaluate": ("measure a run on its test images", "evaluate runs/mnist"),
    "sample": ("draw pictures of the codes", "sample runs/mnist --ordered"),
    "explore": ("write a page with the codes as controls", "explore runs/mnist"),
    "export": ("write a run's networks as ONNX files", "export runs/mnist"),
    "save": ("write a run as a folder for others", "save runs/mnist digits"),
    "push": ("upload a run to the Hugging Face hub", "push runs/mnist USER/digits"),
    "track": ("send a run to an experiment tracker", "track runs/mnist"),
    "presets": ("list the experiments, or one's options", "presets mnist"),
    "data check": ("look at image data before training on it", "data check folder:photos"),
    "completion": ("print tab completion for bash, zsh or fish", "completion bash"),
}
COMPLETION_HELP = f"""usage: fastinfogan completion {{{",".join(SHELLS)}}}

Print a script with which the shell completes commands and options on Tab.

Example: eval "$(fastinfogan completion bash)"
"""


def module_of(command: str) -> str:
    """Return the name of a command's module."""
    name = {"presets": "presets.table"}.get(command, command.replace(" ", "_"))
    return f"fastinfogan.{name}"


def overview() -> str:
    """Return each command with its purpose and an example."""
    lines = ["usage: fastinfogan COMMAND [OPTIONS]", ""]
    for name, (purpose, example) in COMMANDS.items():
        lines += [f"  {name:12}{purpose:46}fastinfogan {example}"]
    lines += [
        "",
        "Begin with `fastinfogan train mnist`; it needs no data of your own.",
        "`fastinfogan COMMAND --help` lists a command's options.",
    ]
    return "\n".join(lines)


def main(args: list[str]) -> int:
    """Hand the rest of the line to the command; return its exit code."""
    prepare()
    if args[:1] in ([], ["-h"], ["--help"]):
        say(overview())
        return 0
    if args[0] == "--version":
        from fastinfogan import __version__

        say(__version__)
        return 0
    if args[0] == "completion":
        require_trainer()
        return print_completion(args[1:])
    if args[0] == "data" and args[1:2] != ["check"]:
        if args[1:] not in (["-h"], ["--help"]):
            line = " ".join(args)
            say(f"error: expected `fastinfogan data check SPEC`, got {line!r}", sys.stderr)
            return 2
        args = ["data", "check", "--help"]
    words = 2 if " ".join(args[:2]) in COMMANDS else 1
    name = " ".join(args[:words])
    if name not in COMMANDS:
        say(
            f"error: expected one of {', '.join(COMMANDS)}, got {args[0]!r}; "
            "`fastinfogan` alone explains them",
            sys.stderr,
        )
        return 2
    require_trainer()
    spin_briefly()
    return int(import_module(module_of(name)).main(args[words:]))


def options_of(command: str) -> list[str]:
    """Return the words that may follow a command, but for files."""
    from .config import OPTIONS
    from .presets import PRESETS

    if command in ("presets", "train"):
        options = [f"--{name}" for name, item in OPTIONS.items() if not item.rule.positional]
        return [*PRESETS, *(options if command == "train" else [])]
    if command in ("data", "completion"):
        return ["check"] if command == "data" else list(SHELLS)
    module = import_module(module_of(command))
    config = next(
        value
        for name, value in vars(module).items()
        if name.endswith("Config") and value.__module__ == module.__name__
    )
    names = [field.name for field in fields(config) if not _POSITIONAL.search(str(field.type))]
    return [f"--{'with' if name == 'trackers' else name.replace('_', '-')}" for name in names]


def completion(shell: str) -> str:
    """Return the script that completes commands and options in a shell."""
    commands = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    offered = {command: " ".join(options_of(command)) for command in commands}
    if shell == "fish":
        lines = [f"complete -c fastinfogan -n __fish_use_subcommand -a '{' '.join(commands)}'"]
        for command, words in offered.items():
            condition = f"__fish_seen_subcommand_from {command}"
            lines.append(f"complete -c fastinfogan -n '{condition}' -a '{words}'")
        return "\n".join(lines)
    cases = "\n".join(
        f"        {command}) words='{words}' ;;" for command, words in offered.items()
    )
    script = f"""_fastinfogan() {{
    local words=''
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    [ "$COMP_CWORD" -eq 1 ] && words='{" ".join(commands)}'
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _fastinfogan fastinfogan"""
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return start + script


def print_completion(args: list[str]) -> int:
    """Print a shell's completion script: `fastinfogan completion bash`."""
    if args in (["-h"], ["--help"]):
        say(COMPLETION_HELP.rstrip())
        return 0
    if len(args) != 1 or args[0] not in SHELLS:
        words = " ".join(args) or "none"
        say(f"error: expected one shell of {', '.join(SHELLS)}, got {words}", sys.stderr)
        return 2
    say(completion(args[0]))
    return 0


def entry() -> None:
    """Run `fastinfogan`, the entry point in pyproject.toml."""
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # while torch is imported; later the command itself ends
        say("interrupted", sys.stderr)
        code = INTERRUPTED
    raise SystemExit(code)


if __name__ == "__main__":
    entry()
